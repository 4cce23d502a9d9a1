"""Which callbacks of Lightning work here. Imports nothing heavy.

A test tries each entry; docs/options.md shows them.
"""

from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError, show
from vae_lightning.config.compose import choices, default_choices

PACKAGE = "lightning.pytorch.callbacks"
STEPWISE = "optimizer steps are taken one by one"
# name -> what to know about it
WORKING = {
    "DeviceStatsMonitor": f"{STEPWISE}; on a CPU it requires psutil",
    "EarlyStopping": "`callbacks=early_stopping` waits for the end of the annealing",
    "EMAWeightAveraging": f"best.ckpt holds the average; {STEPWISE}; `callbacks=ema` is faster",
    "GradientAccumulationScheduler": f"{STEPWISE}; it requires `scheduler=constant` and "
    "`annealing=constant`",
    "LearningRateMonitor": f"{STEPWISE}; `callbacks=lr_monitor` is faster",
    "ModelCheckpoint": f"writes into checkpoints/ of the run; {STEPWISE}; `callbacks=checkpoints` "
    "is faster",
    "ModelSummary": "prints the layers",
    "OnExceptionCheckpoint": "last.ckpt is written anyway",
    "RichModelSummary": "prints the layers",
    "RichProgressBar": f"replaces the progress bar; {STEPWISE}",
    "StochasticWeightAveraging": "best.ckpt holds the average after the last epoch; "
    f"{STEPWISE}; `callbacks=swa` is faster and validates the average",
    "Timer": f"{STEPWISE}; metrics.json says that it has stopped the training",
    "TQDMProgressBar": f"replaces the progress bar; {STEPWISE}",
    "WeightAveraging": f"best.ckpt holds the average of all steps; {STEPWISE}",
}
# name -> why it is refused
REFUSED = {
    "BackboneFinetuning": "the model has no part named backbone",
    "BaseFinetuning": "it is a base class; derive your own class from it",
    "BasePredictionWriter": "a run does not predict; encode images with load_run",
    "BatchSizeFinder": "it would change data.batch_size, which is part of the result; choose it",
    "Callback": "it is a base class and does nothing",
    "Checkpoint": "it is a base class and does nothing",
    "LambdaCallback": "a configuration contains no functions; write a class",
    "LearningRateFinder": "it would change optimizer.lr, which is part of the result; sweep it",
    "ModelPruning": "it renames the weights, so that the run could not be loaded or resumed",
    "ProgressBar": "it is a base class and shows nothing",
    "SpikeDetection": "it would leave out batches of images; use trainer.skip_gradient_above",
    "ThroughputMonitor": "it requires a function; metrics.csv has images_per_second",
}


def refusal(target: str) -> str | None:
    """Why a class is refused as a callback; None if it is not a refused one of Lightning."""
    package, _, name = target.rpartition(".")
    return REFUSED.get(name) if package.startswith(PACKAGE) else None


def check_named(cfg: DictConfig) -> None:
    """Raises ConfigError for a callback or a logger without a class."""
    for section in ("callbacks", "logger"):
        parts = cfg[section]
        if not isinstance(parts, DictConfig):
            raise ConfigError(f"{section}={show(parts)}: must be names with classes")
        for name, node in parts.items():
            if isinstance(node, DictConfig) and "_target_" in node:
                continue
            place = f"{section}.{name}"
            message = f"{place}: must name its class: +{place}._target_=CLASS"
            if name in choices(section):
                default = default_choices()[section]
                message += f"; {section}=[{default},{name}] adds that of this package"
            raise ConfigError(message)
