"""Classes of other packages by name, and what some classes need. Imports nothing heavy."""

# classes of torch.optim and of torch.optim.lr_scheduler
OPTIMIZERS = (
    "ASGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "LBFGS",
    "Muon",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
    "SparseAdam",
)
SCHEDULERS = (
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "StepLR",
)
# some classes of torchvision.datasets that need no further arguments
DATASETS = ("CIFAR10", "CIFAR100", "QMNIST", "STL10", "SVHN", "USPS")
NEED_LOGGER = (
    "lightning.pytorch.callbacks.DeviceStatsMonitor",
    "lightning.pytorch.callbacks.LearningRateMonitor",
)
# classes -> packages that they require beyond the dependencies of this package
PACKAGES = {
    "lightning.pytorch.callbacks.DeviceStatsMonitor": ("psutil",),
    "vae_lightning.training.loggers.MLflow": ("mlflow",),
    "vae_lightning.training.loggers.Wandb": ("wandb",),
}
NEED_VALIDATION = (
    "vae_lightning.training.callbacks.early_stopping.EarlyStopping",
    "torch.optim.lr_scheduler.ReduceLROnPlateau",
)
