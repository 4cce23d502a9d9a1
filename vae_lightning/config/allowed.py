"""The classes and arguments that the configuration of a run folder may name.

Everything else requires ``trust=true``. The arguments cannot make these classes read or write a
file, use the network, or call a function.
"""

# of this package: all arguments of their constructors
OWN_CLASSES = frozenset(
    f"vae_lightning.{name}"
    for name in (
        "data.images.ImageData",
        "data.sources.arrays.ArrayImages",
        "data.sources.digits.Digits",
        "data.sources.folder.FolderImages",
        "data.sources.sprites.Sprites",
        "distributions.BernoulliLikelihood",
        "distributions.ContinuousBernoulliLikelihood",
        "distributions.DiagonalNormalPosterior",
        "distributions.DiscretizedLogisticLikelihood",
        "distributions.FullNormalPosterior",
        "distributions.GaussianLikelihood",
        "distributions.HierarchicalPosterior",
        "distributions.HierarchicalPrior",
        "distributions.LaplaceLikelihood",
        "distributions.MixturePrior",
        "distributions.SquaredErrorLikelihood",
        "distributions.StandardNormalPrior",
        "distributions.VampPrior",
        "distributions.flows.FlowPosterior",
        "distributions.flows.FlowPrior",
        "evaluation.ppca.ExactOptimum",
        "networks.ConditionalDecoder",
        "networks.ConditionalEncoder",
        "networks.ConvDecoder",
        "networks.ConvEncoder",
        "networks.MLPDecoder",
        "networks.MLPEncoder",
        "objectives.Capacity",
        "objectives.DIP",
        "objectives.ELBO",
        "objectives.Factor",
        "objectives.FreeBits",
        "objectives.GECO",
        "objectives.IWAE",
        "objectives.MMD",
        "objectives.TC",
        "objectives.annealing.Constant",
        "objectives.annealing.Cyclical",
        "objectives.annealing.Linear",
        "objectives.annealing.Sigmoid",
        "plots.gallery.Gallery",
        "training.callbacks.averaging.EMA",
        "training.callbacks.averaging.SWA",
        "training.callbacks.checkpoints.Checkpoints",
        "training.callbacks.early_stopping.EarlyStopping",
        "training.callbacks.learning_rate.LearningRate",
        "training.schedulers.Cosine",
        "training.schedulers.Linear",
        "training.tensorboard.ScalarLogger",
    )
)
# of this package, but they send results to a server that the configuration names
SENDING_CLASSES = frozenset(
    ("vae_lightning.training.loggers.MLflow", "vae_lightning.training.loggers.Wandb")
)
ADAM = frozenset(("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "foreach", "fused"))
COMMON = frozenset(("lr", "weight_decay", "foreach", "maximize"))  # of most optimizers
# of other packages: the arguments that are listed here
OTHER_CLASSES: dict[str, frozenset[str]] = {
    "torch.optim.ASGD": COMMON | {"lambd", "alpha", "t0"},
    "torch.optim.Adadelta": COMMON | {"rho", "eps"},
    "torch.optim.Adafactor": COMMON | {"beta2_decay", "eps", "d"},
    "torch.optim.Adagrad": COMMON | {"lr_decay", "initial_accumulator_value", "eps", "fused"},
    "torch.optim.Adam": ADAM,
    "torch.optim.AdamW": ADAM,
    "torch.optim.Adamax": COMMON | {"betas", "eps"},
    "torch.optim.NAdam": ADAM - {"amsgrad", "fused"} | {"momentum_decay"},
    "torch.optim.RAdam": ADAM - {"amsgrad", "fused"},
    "torch.optim.Rprop": frozenset(("lr", "etas", "step_sizes", "foreach", "maximize")),
    "torch.optim.SGD": frozenset(
        (
            "lr",
            "momentum",
            "dampening",
            "weight_decay",
            "nesterov",
            "maximize",
            "foreach",
            "fused",
        )
    ),
    "torch.optim.RMSprop": frozenset(
        ("lr", "alpha", "eps", "weight_decay", "momentum", "centered", "maximize", "foreach")
    ),
    "torch.optim.lr_scheduler.ConstantLR": frozenset(("factor", "total_iters")),
    "torch.optim.lr_scheduler.CosineAnnealingLR": frozenset(("T_max", "eta_min")),
    "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts": frozenset(("T_0", "T_mult", "eta_min")),
    "torch.optim.lr_scheduler.CyclicLR": frozenset(
        (
            "base_lr",
            "max_lr",
            "step_size_up",
            "step_size_down",
            "mode",
            "gamma",
            "cycle_momentum",
            "base_momentum",
            "max_momentum",
        )
    ),
    "torch.optim.lr_scheduler.ExponentialLR": frozenset(("gamma",)),
    "torch.optim.lr_scheduler.LinearLR": frozenset(("start_factor", "end_factor", "total_iters")),
    "torch.optim.lr_scheduler.MultiStepLR": frozenset(("milestones", "gamma")),
    "torch.optim.lr_scheduler.PolynomialLR": frozenset(("total_iters", "power")),
    "torch.optim.lr_scheduler.ReduceLROnPlateau": frozenset(
        (
            "mode",
            "factor",
            "patience",
            "threshold",
            "threshold_mode",
            "cooldown",
            "min_lr",
            "eps",
        )
    ),
    "torch.optim.lr_scheduler.StepLR": frozenset(("step_size", "gamma")),
    "torch.optim.lr_scheduler.OneCycleLR": frozenset(
        (
            "max_lr",
            "pct_start",
            "anneal_strategy",
            "cycle_momentum",
            "base_momentum",
            "max_momentum",
            "div_factor",
            "final_div_factor",
            "three_phase",
        )
    ),
    # they read no pickles but those whose checksum they know
    "torchvision.datasets.CIFAR10": frozenset(),
    "torchvision.datasets.CIFAR100": frozenset(),
    "torchvision.datasets.EMNIST": frozenset(("split",)),
    "torchvision.datasets.ImageFolder": frozenset(),
    "torchvision.datasets.SVHN": frozenset(("split",)),
    "torchvision.datasets.STL10": frozenset(("split",)),
    "torchvision.datasets.MNIST": frozenset(),
    "torchvision.datasets.FashionMNIST": frozenset(),
    "torchvision.datasets.KMNIST": frozenset(),
    "lightning.pytorch.callbacks.EarlyStopping": frozenset(
        (
            "monitor",
            "min_delta",
            "patience",
            "verbose",
            "mode",
            "strict",
            "check_finite",
            "stopping_threshold",
            "divergence_threshold",
            "check_on_train_epoch_end",
            "log_rank_zero_only",
        )
    ),
    "lightning.pytorch.callbacks.LearningRateMonitor": frozenset(
        ("logging_interval", "log_momentum", "log_weight_decay")
    ),
    "lightning.pytorch.callbacks.StochasticWeightAveraging": frozenset(
        ("swa_lrs", "swa_epoch_start", "annealing_epochs", "annealing_strategy")
    ),
    "lightning.pytorch.callbacks.Timer": frozenset(("duration", "interval", "verbose")),
}


def is_allowed(target: str) -> bool:
    """Whether a stored configuration may name this class."""
    return target in OWN_CLASSES or target in OTHER_CLASSES


def refused_argument(target: str, names: list[str]) -> str | None:
    """The first of these arguments that a stored configuration may not give to an allowed class."""
    if target in OWN_CLASSES:
        return None
    return next((name for name in names if name not in OTHER_CLASSES[target]), None)
