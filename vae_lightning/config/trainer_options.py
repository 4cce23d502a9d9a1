"""Every argument of lightning.Trainer: an option of the group trainer, or the reason why not.

``python -m vae_lightning.config.describe`` writes docs/trainer.md from these tables.
"""

from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError, nearest, show
from vae_lightning.checks.ranges import (
    AnyOf,
    AutoOrBoolean,
    Boolean,
    Choice,
    Integer,
    Integers,
    Number,
    Option,
    Text,
)
from vae_lightning.checks.texts import Duration

NULL = Choice((None,))
SOME_BATCHES = AnyOf((NULL, Integer(1), Number(above=0, most=1)))
WORDS = "null: all; an integer: batches; a fraction: of the batches"

# arguments of lightning.Trainer that a configuration may give
TRAINER_OPTIONS: dict[str, Option] = {
    "max_epochs": Option("epochs", Integer(1)),
    "min_epochs": Option(
        "epochs that are trained before a callback or max_time may stop the run",
        AnyOf((NULL, Integer(1))),
    ),
    "max_steps": Option(
        "optimizer steps after which the run stops, at the latest after max_epochs; -1: no limit",
        AnyOf((Choice((-1,)), Integer(1))),
    ),
    "min_steps": Option(
        "optimizer steps that are taken before a callback or max_time may stop the run",
        AnyOf((NULL, Integer(1))),
    ),
    "max_time": Option(
        "time of training after which the run stops; time before a resume counts",
        AnyOf((NULL, Duration())),
    ),
    "devices": Option(
        "devices, or processes of accelerator=ddp_cpu; a list chooses GPUs; auto: all",
        AnyOf((Choice(("auto",)), Integer(1), Integers(0))),
    ),
    "precision": Option(
        "precision of the networks; 16-mixed requires a GPU",
        Choice(("32", "bf16-mixed", "16-mixed", 32)),
    ),
    "fast_dev_run": Option(
        "tries a run: one epoch with this number of batches (true: 1) of training, validation and"
        " test",
        AnyOf((Boolean(), Integer(1))),
    ),
    "limit_train_batches": Option(f"training batches of an epoch; {WORDS}", SOME_BATCHES),
    "limit_val_batches": Option(
        f"validation batches of 500 images; {WORDS}; 0: no validation",
        AnyOf((NULL, Integer(0), Number(least=0, most=1))),
    ),
    "limit_test_batches": Option(f"test batches of 500 images; {WORDS}", SOME_BATCHES),
    "overfit_batches": Option(
        "the same training batches in every epoch, without shuffling, and as many validation"
        " batches; an integer: batches; a fraction: of the batches; 0: all batches, shuffled",
        AnyOf((Integer(0), Number(least=0, most=1))),
    ),
    "check_val_every_n_epoch": Option("epochs from one validation to the next", Integer(1)),
    "val_check_interval": Option(
        "training batches from one validation to the next; a fraction: of an epoch",
        AnyOf((Integer(1), Number(above=0, most=1))),
    ),
    "num_sanity_val_steps": Option(
        "validation batches that are tried before the training; -1: all", Integer(-1)
    ),
    "accumulate_grad_batches": Option(
        "training batches whose gradients are averaged for an optimizer step", Integer(1)
    ),
    "gradient_clip_val": Option(
        "largest norm, or absolute value, of the gradient", AnyOf((NULL, Number(above=0)))
    ),
    "gradient_clip_algorithm": Option(
        "norm: of the gradient as a whole; value: of each of its numbers",
        Choice(("norm", "value")),
    ),
    "log_every_n_steps": Option(
        "optimizer steps from one logged value of train/loss_step, train/recon_step and"
        " train/kl_step to the next; null: these are not logged",
        AnyOf((NULL, Integer(1))),
    ),
    "profiler": Option(
        "measures where the time goes, and writes the folder profile/ of the run",
        Choice(("simple", "advanced", "pytorch", None)),
    ),
    "deterministic": Option(
        "PyTorch's deterministic algorithms; an operation without one is an error, or with warn a"
        " warning",
        AnyOf((Boolean(), Choice(("warn",)))),
    ),
    "detect_anomaly": Option(
        "stops at the first gradient that is not a number, and names the operation", Boolean()
    ),
    "default_root_dir": Option(
        "folder in which run folders and sweep folders are made", Text("a folder")
    ),
    "enable_progress_bar": Option("a progress bar, on a terminal", Boolean()),
    "enable_model_summary": Option("prints the parts of the model and their sizes", Boolean()),
}
# keys of the group trainer that lightning.Trainer does not have
OWN_OPTIONS: dict[str, Option] = {
    "steps_per_execution": Option(
        "optimizer steps in one call by Lightning; does not change any result", Integer(1)
    ),
    "compile": Option(
        "whether the optimizer step is compiled; auto: in runs of at least 6,000 steps on a CPU",
        AutoOrBoolean(),
    ),
    "skip_gradient_above": Option(
        "norm of the gradient, before it is clipped, above which an optimizer step is skipped;"
        " null: no step is skipped",
        AnyOf((NULL, Number(above=0))),
    ),
    "threads": Option(
        "CPU threads; auto: as many as there are free cores", AnyOf((Choice(("auto",)), Integer(1)))
    ),
}
# arguments of lightning.Trainer that a configuration must not give -> the reason
REFUSED_TRAINER_KEYS: dict[str, str] = {
    "accelerator": "is chosen by the group accelerator, for example accelerator=cpu",
    "strategy": "is chosen by the group accelerator, for example accelerator=ddp",
    "num_nodes": "is an option of accelerator=multi_node: accelerator.num_nodes",
    "callbacks": "are chosen by the group callbacks; callbacks=none has none",
    "logger": "metrics.csv is always written, and the group logger chooses the others",
    "enable_checkpointing": "every run has best.ckpt, which it tests, and last.ckpt",
    "limit_predict_batches": "a run does not predict",
    "benchmark": "the fastest kernels of cuDNN may differ from start to start, and so would a"
    " resumed run",
    "inference_mode": "validation and test never compute gradients",
    "use_distributed_sampler": "each process takes its own part of a batch, without repetitions",
    "reload_dataloaders_every_n_epochs": "the images do not change during a run",
    "sync_batchnorm": "no network of this package has batch normalization",
    "plugins": "how checkpoints are written and processes are connected is fixed",
    "barebones": "it leaves out checkpoints and logged values; callbacks=none leaves out the"
    " pictures",
    "enable_autolog_hparams": "a run always records its configuration",
    "model_registry": "it uploads checkpoints to a service; export writes a model for sharing",
}
# options of the trainer -> those that would have no effect beside them
EXCLUSIVE = {
    "fast_dev_run": (
        "limit_train_batches",
        "limit_val_batches",
        "limit_test_batches",
        "overfit_batches",
        "max_steps",
        "max_time",
        "min_epochs",
        "min_steps",
        "check_val_every_n_epoch",
        "val_check_interval",
        "num_sanity_val_steps",
    ),
    "overfit_batches": ("limit_train_batches", "limit_val_batches"),
}
# the values of these options that ask for nothing; null does so for the others
NO_EFFECT = {
    "overfit_batches": 0,
    "max_steps": -1,
    "check_val_every_n_epoch": 1,
    "val_check_interval": 1,
    "num_sanity_val_steps": 0,
}


def check_trainer_key(key: str) -> None:
    """Raises ConfigError, with the reason, for a key that must not be in cfg.trainer."""
    if key in REFUSED_TRAINER_KEYS:
        raise ConfigError(f"trainer.{key}: must not be given: {REFUSED_TRAINER_KEYS[key]}")
    if key not in TRAINER_OPTIONS and key not in OWN_OPTIONS:
        close = nearest(
            f"trainer.{key}", [f"trainer.{each}" for each in (*TRAINER_OPTIONS, *OWN_OPTIONS)]
        )
        raise ConfigError(f"trainer.{key}: no such key{close}")


def check_trainer_together(cfg: DictConfig) -> None:
    """Raises ConfigError for options of the trainer of which one would be without effect."""
    trainer = cfg.trainer
    for key, others in EXCLUSIVE.items():
        for other in others if trainer[key] else ():
            if trainer[other] != NO_EFFECT.get(other):
                raise ConfigError(
                    f"trainer.{other}={show(trainer[other])}: must not be given together with"
                    f" trainer.{key}={show(trainer[key])}"
                )
    if trainer.gradient_clip_val is None and trainer.gradient_clip_algorithm != "norm":
        raise ConfigError(
            f"trainer.gradient_clip_algorithm={trainer.gradient_clip_algorithm}: requires"
            " trainer.gradient_clip_val"
        )
    if trainer.gradient_clip_val is not None and trainer.precision == "16-mixed":
        raise ConfigError(
            "trainer.gradient_clip_val: requires trainer.precision=32 or bf16-mixed, because the"
            " gradient of 16-mixed is scaled"
        )
    if (trainer.min_epochs or 0) > trainer.max_epochs:
        raise ConfigError(
            f"trainer.min_epochs={trainer.min_epochs}: must be at most"
            f" trainer.max_epochs={trainer.max_epochs}"
        )
    if trainer.max_steps != -1 and (trainer.min_steps or 0) > trainer.max_steps:
        raise ConfigError(
            f"trainer.min_steps={trainer.min_steps}: must be at most"
            f" trainer.max_steps={trainer.max_steps}"
        )
