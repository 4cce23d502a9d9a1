"""One experiment: trains and tests the model of a configuration in a run folder."""

import functools
import logging
import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.model_summary.model_summary import ModelSummary
from omegaconf import DictConfig

from vae_lightning.checks.errors import NotFinite, ProcessLost, counted
from vae_lightning.checks.texts import seconds_of
from vae_lightning.config.environment import RESUMES_VARIABLE, RUN_VARIABLE, environment
from vae_lightning.config.options import process_count
from vae_lightning.data.images import ImageData
from vae_lightning.data.sources.arrays import Arrays
from vae_lightning.storage import files, run_folder
from vae_lightning.storage.lock import claim
from vae_lightning.training import loggers, summary, tensorboard, threads
from vae_lightning.training.assembly import (
    build_data,
    build_module,
    check_user_classes,
    epochs,
    limits,
)
from vae_lightning.training.callbacks.averaging import average_of, averages_at_end
from vae_lightning.training.callbacks.checked import CheckedCallback
from vae_lightning.training.callbacks.interrupt import Interrupt
from vae_lightning.training.callbacks.limit import Limit
from vae_lightning.training.callbacks.progress import Progress
from vae_lightning.training.callbacks.recorder import Recorder
from vae_lightning.training.checkpoint import (
    NO_PROGRESS,
    SavedProgress,
    check_space,
    read_checkpoint,
    saved_progress,
)
from vae_lightning.training.final_table import final_table
from vae_lightning.training.finite import locate
from vae_lightning.training.initial_weights import InitialWeights, start_from_weights
from vae_lightning.training.length import check_limits, check_schedules
from vae_lightning.training.lightning_progress import callbacks_of, number_test
from vae_lightning.training.module import VAE
from vae_lightning.training.processes import is_connection_error
from vae_lightning.training.provenance import write_provenance
from vae_lightning.training.signals import StopSignals
from vae_lightning.training.stopped import why_stopped
from vae_lightning.training.trainer import build_trainer, count_devices, silence_notices

log = logging.getLogger(__name__)

# makes training faster within a context, without changing what is computed beyond rounding
Accelerate = Callable[[DictConfig, Trainer, VAE, ImageData], AbstractContextManager[None]]


class Parts(NamedTuple):
    """What an experiment consists of."""

    trainer: Trainer
    module: VAE
    data: ImageData
    recorder: Recorder
    limit: Limit
    run: Path
    saved: SavedProgress  # of a run that continues
    initial: InitialWeights | None  # of another run


class Result(NamedTuple):
    """What an experiment ends with."""

    metrics: dict[str, object]  # the content of metrics.json
    table: str
    run: Path


def run_experiment(
    cfg: DictConfig,
    folder: AbstractContextManager[Path],
    accelerate: Accelerate,
    stop: StopSignals,
    overrides: Sequence[str] | None = None,
    resumes: bool = False,
    arrays: Arrays | None = None,
) -> Result | None:
    """Trains and tests the model of a configuration; returns None in all processes but the first.

    Args:
        cfg: checked and settled; its data may fall back, which ``cfg.data`` then says.
        folder: a context that yields the run folder. It is entered after data and model were built,
            so that a refused configuration leaves no folder.
        accelerate: see ``Accelerate``.
        stop: tells when a signal asks the run to stop.
        overrides: what was typed, to be recorded; None if it is recorded already.
        resumes: continue from last.ckpt; without that file, start again.
        arrays: the images of data=arrays; None: those in the file ``data.root``.

    Raises ConfigError for a configuration that cannot be run and for a damaged last.ckpt, and
    Interrupted if the run was asked to stop.
    """
    start = threads.load()
    silence_notices()
    count_devices(cfg)
    check_user_classes(cfg)
    data = build_data(cfg, arrays)
    module = build_module(cfg)
    module.start_from(data)
    data.limit(limits(cfg))
    check_limits(cfg, data)
    if not resumes and not cfg.trainer.fast_dev_run:
        check_schedules(module, data, epochs(cfg))
    with folder as run:
        parts = make_parts(cfg, data, module, run, stop, resumes)
        lock = claimed(parts)
    if not parts.trainer.is_global_zero:
        use_threads(cfg, start)
        train_and_test(cfg, parts, accelerate, stop)
        return None
    with lock, run_folder.recorded(run), loggers.closing(parts.trainer.loggers):
        if overrides is not None:
            run_folder.write_overrides(run, cfg, overrides)
        use_threads(cfg, start)
        begin(cfg, parts, resumes, arrays)
        test = train_and_test(cfg, parts, accelerate, stop)
        return conclude(cfg, parts, test)


def claimed(parts: Parts) -> AbstractContextManager[object]:
    """The lock of the run folder; none in the processes that do not write.

    Raises ConfigError if another program holds it, or the disk has no room for the checkpoints.
    """
    if not parts.trainer.is_global_zero:  # another machine may not see the folder yet
        return nullcontext()
    check_space(parts.run, parts.module)
    return claim(parts.run)


def begin(cfg: DictConfig, parts: Parts, resumes: bool, arrays: Arrays | None) -> None:
    """Writes what the run depends on, also images that are in no file, and says what they are."""
    run = parts.run
    if arrays is not None:
        cfg.data.root = str(files.write_arrays(run / run_folder.IMAGES, arrays))
    run_folder.write_config(run, cfg)
    write_provenance(run, parts.initial.record() if parts.initial else None)
    log.info("data: %s", summary.describe_data(cfg, parts.data))
    log.info("KL: %s", summary.describe_kl(parts.module, parts.data))
    if cfg.trainer.enable_model_summary:
        log.info("model\n%s", ModelSummary(parts.module))
    if parts.initial:
        log.info("init_from: %s", parts.initial.line)
    if resumes:
        files.remove_temporary(run)
        tensorboard.remove_end(run)
        log.info("%s", describe_progress(parts.saved, epochs(cfg)))


def make_parts(
    cfg: DictConfig, data: ImageData, module: VAE, run: Path, stop: StopSignals, resumes: bool
) -> Parts:
    """Makes the trainer, and starts a new run from the weights of ``init_from``.

    Raises ConfigError if that cannot be done or last.ckpt is damaged.
    """
    recorder = Recorder(run, module.selected_by)
    saved = saved_progress(run, recorder.state_key) if resumes else NO_PROGRESS
    limit = Limit(
        recorder,
        data.limits.max_steps,
        cfg.trainer.max_time and seconds_of(cfg.trainer.max_time),
        cfg.trainer.min_steps or 0,
        cfg.trainer.min_epochs or 0,
    )
    callbacks = [recorder, limit, Interrupt(stop, recorder)]
    if cfg.trainer.enable_progress_bar:
        callbacks.insert(0, Progress())
    built_loggers = loggers.build_loggers(cfg, run, saved.steps if resumes else None)
    trainer = build_trainer(cfg, data, callbacks, built_loggers, run, saved.epochs)
    average_of(trainer)
    for callback in callbacks_of(trainer):
        if isinstance(callback, CheckedCallback):
            callback.check(module)
    initial = None
    if cfg.init_from is not None and saved.path is None:
        initial = start_from_weights(module, Path(cfg.init_from))
    return Parts(trainer, module, data, recorder, limit, run, saved, initial)


def describe_progress(saved: SavedProgress, epochs: int) -> str:
    """A line about where a resumed run continues."""
    if not saved.steps:
        return "resume: the run has no last.ckpt, and starts again from its first step"
    done = counted(saved.epochs, "epoch")
    if saved.epochs >= epochs:
        return f"resume: no further epoch is trained after {done}"
    return f"resume: continues after {done}, at step {saved.steps}"


def describe_continuation(run: Path, option: str) -> str:
    """A line about how a run continues that the limit of an option has ended."""
    no_limit = {"trainer.max_steps": -1, "trainer.max_time": "null"}[option]
    command = f"python -m vae_lightning.train resume={shlex.quote(str(run))} {option}={no_limit}"
    return f"To continue: {command}"


def use_threads(cfg: DictConfig, start: threads.Load | None) -> None:
    """Uses ``trainer.threads`` threads; ``auto`` is decided here, once, and kept for a resume."""
    if cfg.trainer.threads == "auto":
        cfg.trainer.threads = threads.free_threads(start, process_count(cfg))
    torch.set_num_threads(cfg.trainer.threads)


def train_and_test(
    cfg: DictConfig, parts: Parts, accelerate: Accelerate, stop: StopSignals
) -> dict[str, float]:
    """Trains in all processes and tests best.ckpt; returns the test terms."""
    trainer, module, data, run = parts.trainer, parts.module, parts.data, parts.run
    variables = {RUN_VARIABLE: str(run), RESUMES_VARIABLE: "1" if parts.saved.path else ""}
    before_kill = functools.partial(run_folder.write_status, run, "interrupted")
    with environment(**variables), stop.deferred(before_kill):
        begin_hparams(cfg, parts)
        try:
            with accelerate(cfg, trainer, module, data):
                trainer.fit(module, data, ckpt_path=parts.saved.path, weights_only=True)
            trainer.strategy.barrier("best.ckpt")  # rank 0 still links it while the others go on
            best = read_checkpoint(run / run_folder.BEST, f"resume={run}")
            module.load_state_dict(best["state_dict"])
            number_test(trainer)
            validated = {}
            if averages_at_end(trainer) and data.batches_in("val"):
                trainer.validate(module, data, verbose=False)
                validated = dict(trainer.callback_metrics)
            trainer.test(module, data, verbose=False)
        except Exception as error:
            tensorboard.end_hparams(trainer, "FAILURE")
            if isinstance(error, NotFinite):
                saved = saved_progress(run, parts.recorder.state_key)
                raise locate(cfg, data, saved, error) from error
            if trainer.world_size > 1 and is_connection_error(error):
                raise ProcessLost(
                    "another process of this run has ended; its own message is above, unless it"
                    " was killed"
                ) from error
            raise
    found = validated | dict(trainer.callback_metrics)
    return {name: float(value) for name, value in found.items()}


def begin_hparams(cfg: DictConfig, parts: Parts) -> None:
    """Gives all loggers the values of the configuration; a server has them already on resume."""
    tensorboard.begin_hparams(cfg, parts.trainer, parts.run)
    for logger in parts.trainer.loggers:
        if parts.saved.path is None and not isinstance(logger, tensorboard.ScalarLogger):
            logger.log_hyperparams(tensorboard.compared_values(cfg, parts.run))


def conclude(cfg: DictConfig, parts: Parts, test: dict[str, float]) -> Result:
    """Writes metrics.json and TensorBoard's last values."""
    trainer, module, data, recorder, limit, run = parts[:6]
    metrics = summary.final_metrics(
        module,
        data,
        recorder.rows,
        recorder.best(),
        test,
        trainer.strategy.root_device,
        files.read_json(run / run_folder.ENVIRONMENT),
    )
    stopped = why_stopped(trainer, recorder.rows[-1])
    metrics |= {"stopped": stopped, "averaged_by": average_of(trainer)}
    data_line = summary.describe_data(cfg, data)
    alarm = run_folder.read_status(run).get("alarm")
    notes = [f"warning: {alarm}"] if alarm else []
    if stopped and (option := limit.reached()):
        notes.append(describe_continuation(run, option))
    table = final_table(metrics, data_line, module.latent_dim, run, notes)
    logging.getLogger(run_folder.RECORD_LOGGER).info(table)
    try:
        tensorboard.write_embedding(trainer, module, data)
        tensorboard.end_hparams(trainer, "SUCCESS")
        files.write_json(run / "metrics.json", metrics)
    except OSError:
        print(table)  # the results are not lost with the files
        raise
    return Result(metrics, table, run)
