"""One experiment: trains and tests the model of a configuration in a run folder."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig

from vae_lightning.config.environment import RESUMES_VARIABLE, RUN_VARIABLE, environment
from vae_lightning.data.images import ImageData
from vae_lightning.storage import run_folder
from vae_lightning.storage.files import write_json
from vae_lightning.storage.lock import claim
from vae_lightning.training import summary, tensorboard, threads
from vae_lightning.training.assembly import build_data, build_module, check_user_classes
from vae_lightning.training.callbacks.interrupt import Interrupt
from vae_lightning.training.callbacks.progress import Progress
from vae_lightning.training.callbacks.recorder import Recorder
from vae_lightning.training.final_table import final_table
from vae_lightning.training.module import VAE
from vae_lightning.training.trainer import build_trainer, silence_notices

log = logging.getLogger(__name__)

# makes training faster within a context, without changing what is computed beyond rounding
Accelerate = Callable[[DictConfig, Trainer, VAE, ImageData], AbstractContextManager[None]]


class Parts(NamedTuple):
    """What trains: made once from a configuration."""

    trainer: Trainer
    module: VAE
    data: ImageData
    recorder: Recorder


class Result(NamedTuple):
    """What an experiment ends with."""

    metrics: dict[str, object]  # the content of metrics.json
    table: str


def run_experiment(
    cfg: DictConfig,
    folder: AbstractContextManager[Path],
    accelerate: Accelerate,
    overrides: Sequence[str] | None = None,
    resumes: bool = False,
) -> Result | None:
    """Trains and tests the model of a configuration; returns None in all processes but the first.

    Args:
        cfg: checked and settled; its data may fall back, which ``cfg.data`` then says.
        folder: a context that yields the run folder. It is entered after data and model were built,
            so that a refused configuration leaves no folder.
        accelerate: see ``Accelerate``.
        overrides: what was typed, to be recorded; None if it is recorded already.
        resumes: continue from last.ckpt, if there is one.

    Raises ConfigError for a configuration that cannot be run, and Interrupted if the run was asked
    to stop.
    """
    start = threads.load()
    silence_notices()
    check_user_classes(cfg)
    data = build_data(cfg)
    module = build_module(cfg)
    module.start_from(data)
    with folder as run:
        checkpoint = (
            run / run_folder.LAST if resumes and (run / run_folder.LAST).is_file() else None
        )
        recorder = Recorder(run)
        callbacks = [Progress(), Interrupt(run, recorder), recorder]
        trainer = build_trainer(cfg, callbacks, tensorboard.tensorboard_logger(run, checkpoint))
        lock = claim(run) if trainer.is_global_zero else nullcontext()
    parts = Parts(trainer, module, data, recorder)
    if not trainer.is_global_zero:
        use_threads(cfg, start)
        train_and_test(cfg, parts, run, checkpoint, accelerate)
        return None
    with lock, run_folder.recorded(run):
        if overrides is not None:
            run_folder.write_overrides(run, cfg, overrides)
        use_threads(cfg, start)
        run_folder.write_config(run, cfg)
        log.info("data: %s", summary.describe_data(cfg, data))
        log.info("KL: %s", summary.describe_kl(module, data))
        test = train_and_test(cfg, parts, run, checkpoint, accelerate)
        return conclude(cfg, parts, run, test)


def use_threads(cfg: DictConfig, start: threads.Load | None) -> None:
    """Uses ``trainer.threads`` threads; ``auto`` is decided here, once, and kept for a resume."""
    if cfg.trainer.threads == "auto":
        processes = cfg.trainer.devices if cfg.accelerator.strategy != "auto" else 1
        cfg.trainer.threads = threads.free_threads(start, processes)
    torch.set_num_threads(cfg.trainer.threads)


def train_and_test(
    cfg: DictConfig, parts: Parts, run: Path, checkpoint: Path | None, accelerate: Accelerate
) -> dict[str, float]:
    """Trains in all processes and tests best.ckpt; returns the test terms."""
    trainer, module, data, _ = parts
    with environment(**{RUN_VARIABLE: str(run), RESUMES_VARIABLE: "1" if checkpoint else ""}):
        tensorboard.begin_hparams(cfg, trainer)
        try:
            with accelerate(cfg, trainer, module, data):
                trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
            trainer.strategy.barrier("best.ckpt")  # rank 0 still links it while the others go on
            best = torch.load(run / run_folder.BEST, weights_only=True, map_location="cpu")
            module.load_state_dict(best["state_dict"])
            (test,) = trainer.test(module, data, verbose=False)
        except BaseException:
            tensorboard.end_hparams(trainer, "FAILURE")
            raise
    return dict(test)


def conclude(cfg: DictConfig, parts: Parts, run: Path, test: dict[str, float]) -> Result:
    """Writes metrics.json and TensorBoard's last values."""
    trainer, module, data, recorder = parts
    device = trainer.strategy.root_device
    metrics = summary.final_metrics(module, data, recorder.rows, recorder.best(), test, device)
    write_json(run / "metrics.json", metrics)
    tensorboard.write_embedding(trainer, module, data)
    tensorboard.end_hparams(trainer, "SUCCESS")
    data_line = summary.describe_data(cfg, data)
    alarm = run_folder.read_status(run).get("alarm")
    table = final_table(metrics, data_line, module.latent_dim, run, alarm)
    logging.getLogger(run_folder.RECORD_LOGGER).info(table)
    return Result(metrics, table)
