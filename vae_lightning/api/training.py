"""Trains from a program, on the same core as the command ``train``: ``fit`` and ``build``."""

import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig

from vae_lightning.api.arrays import Images, given_arrays
from vae_lightning.checks.errors import ConfigError, Interrupted
from vae_lightning.cli.command import ConsoleHandler, console
from vae_lightning.config import options
from vae_lightning.config.compose import compose
from vae_lightning.config.environment import environment
from vae_lightning.config.hydra_table import key_of
from vae_lightning.data.images import ImageData
from vae_lightning.data.sources.arrays import Arrays
from vae_lightning.runs.from_config import check_typed, expanded
from vae_lightning.runs.load import load_run
from vae_lightning.runs.run import Run
from vae_lightning.runs.start import (
    check_initial,
    check_no_sweep,
    check_resumes_alone,
    resume,
    resumed_run,
    start,
)
from vae_lightning.runs.stored import read_stored
from vae_lightning.sweeps.plan import SWEEP_MODE
from vae_lightning.training.assembly import build_data, build_module, check_user_classes
from vae_lightning.training.initial_weights import start_from_weights
from vae_lightning.training.module import VAE
from vae_lightning.training.signals import CallSignals

# PyTorch's generator and number of threads belong to the process: its threads train in turn
TURN = threading.RLock()
# sections whose options a program gives to its own Trainer
OF_TRAINER = ("trainer", "accelerator", "callbacks", "logger", "debug", "hydra", "resume")


class Built(NamedTuple):
    """What a Trainer takes: ``trainer.fit(module, data)``."""

    module: VAE
    data: ImageData


def fit(
    x: Images | None = None,
    overrides: Sequence[str] = (),
    *,
    labels: object = None,
    verbose: bool = True,
) -> Run:
    """Trains and tests a model as the command ``train`` does; returns the loaded run.

    Writes the same run folder, with the same numbers, and x as images.npz. It may be called in any
    thread, in a notebook, and within a program that uses Hydra.

    Args:
        x: images (N, H, W), (N, H, W, C) or (N, C, H, W), or vectors (N, D), as an array or a
            tensor; or a mapping of arrays ``train``, ``val``, ``test``, ``train_labels`` and so on.
            uint8 from 0 to 255 or floats from 0 to 1, or of the range ``data.range``. None: the
            data set that the overrides choose.
        overrides: options as on the command line, such as ``["model.latent_dim=16", "seed=1"]``.
            ``resume=RUN`` continues a run.
        labels: (N,), integers or texts.
        verbose: print a line per epoch and the table of the results, as the command does. A program
            that has set up logging gets the lines in its own log.

    Raises:
        ConfigError: for an invalid option or x; nothing is written.
        KeyboardInterrupt: after Ctrl-C, when the run is saved. A second Ctrl-C does not wait.
        NotFinite: if a term of the loss is not finite.

    >>> x = np.random.default_rng(0).random((60, 8, 8))
    >>> run = fit(x, ["model.latent_dim=2", "trainer.max_epochs=1"], verbose=False)
    >>> run.sample(3).shape
    torch.Size([3, 1, 8, 8])
    """
    words, arrays = checked_words(overrides), given_arrays(x, labels)
    resumed = [run for word in words if (run := resumed_run(word))]
    with TURN, raising_interrupts(), unchanged_process(), lines(verbose), CallSignals() as stop:
        if resumed:
            if arrays is not None:
                raise ConfigError("x: must not be given with resume, which has its images")
            check_resumes_alone(words)
            folder, trust = Path(resumed[-1]), "trust=true" in words
            check_one_process(read_stored(folder, "resume").cfg)
            result = resume(folder, [word for word in words if not resumed_run(word)], stop)
        else:
            cfg, given = composed(words, arrays)
            result = start(cfg, given, stop, arrays)
            folder, trust = result.run if result else Path(cfg.hydra.run.dir), True
        if verbose and result:
            print(result.table)
        return load_run(folder, trust=trust)


def build(
    x: Images | None = None, overrides: Sequence[str] = (), *, labels: object = None
) -> Built:
    """The LightningModule and the LightningDataModule of a configuration, for a Trainer of yours.

    ``trainer.fit(module, data)``, ``trainer.validate`` and ``trainer.test`` then log the terms
    under the same names as a run. The optimizer, the schedule of its learning rate and annealing
    follow the length of training, the accumulation and the clipping of that Trainer.

    Args:
        x: images as in ``fit``; None: the data set that the overrides choose.
        overrides: options as on the command line, except those of the Trainer, its callbacks and
            its loggers.
        labels: as in ``fit``.

    Raises ConfigError for an invalid option or x.

    >>> module, data = build(np.random.default_rng(0).random((60, 8, 8)), ["model.latent_dim=2"])
    >>> module.latent_dim, data.images["train"].shape
    (2, torch.Size([48, 1, 8, 8]))
    """
    words = checked_words(overrides)
    for word in words:
        section = key_of(word).partition(".")[0]
        if section in OF_TRAINER:
            raise ConfigError(f"{word}: must not be given to build; give it to your Trainer")
    arrays = given_arrays(x, labels)
    cfg, _ = composed(words, arrays)
    options.check(cfg)
    check_initial(cfg)
    options.settle(cfg)
    cfg.trust = options.may_name_any_class(cfg)
    check_user_classes(cfg)
    with TURN, kept_generators():
        data = build_data(cfg, arrays)
        module = build_module(cfg)
        module.start_from(data)
    if cfg.init_from is not None:
        start_from_weights(module, Path(cfg.init_from))
    return Built(module, data)


def checked_words(overrides: Sequence[str]) -> list[str]:
    """The overrides; raises ConfigError for what is no list of options."""
    if isinstance(overrides, str) or not all(isinstance(word, str) for word in overrides):
        raise ConfigError(f"overrides={overrides}: must be a list of texts key=value")
    for word in overrides:
        if word.startswith("-"):
            raise ConfigError(f"{word}: must be key=value; flags are for the command line")
    return list(overrides)


def composed(words: Sequence[str], arrays: Arrays | None) -> tuple[DictConfig, list[str]]:
    """The configuration of a new run, and all of its overrides.

    Raises ConfigError for an invalid option, and for what a call cannot do.
    """
    given = list(words)
    if arrays is not None:
        for word in words:
            if key_of(word) == "data.root" or (key_of(word) == "data" and word != "data=arrays"):
                raise ConfigError(f"{word}: must not be given with x, which is the data set")
        given = ["data=arrays", "data.name=images", *given]
    given = expanded(given, None)
    cfg = compose("config", given)
    check_typed(cfg, given)
    if cfg.resume is not None:
        raise ConfigError(f"resume={cfg.resume}: must be typed, not be part of a file")
    if cfg.hydra.mode == SWEEP_MODE:
        raise ConfigError("hydra.mode=MULTIRUN: requires the command train -m")
    check_no_sweep(words)
    check_one_process(cfg)
    return cfg, given


def check_one_process(cfg: DictConfig) -> None:
    """Raises ConfigError for a run of several processes, which would repeat the whole program."""
    if cfg.accelerator.strategy != "auto":
        raise ConfigError(
            f"accelerator.strategy={cfg.accelerator.strategy}: requires the command train, because"
            " each further process would repeat the program"
        )


@contextmanager
def raising_interrupts() -> Iterator[None]:
    """Raises KeyboardInterrupt if a signal stopped a run.

    Other signals than Ctrl-C are sent again first, to what handled them before the run.
    """
    try:
        yield
    except Interrupted as interruption:
        number = getattr(interruption, "number", signal.SIGINT)
        if number != signal.SIGINT:
            signal.raise_signal(number)
        run = interruption.run
        how = f"; fit(overrides=['resume={run}']) continues it" if run else ""
        raise KeyboardInterrupt(f"{interruption}{how}") from interruption


@contextmanager
def unchanged_process() -> Iterator[None]:
    """Restores what a run changes in its process: the environment and the settings of PyTorch."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    with environment(), kept_generators():
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic, warn_only=warns)


@contextmanager
def kept_generators() -> Iterator[None]:
    """Restores the states of PyTorch's generators."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield


@contextmanager
def lines(verbose: bool) -> Iterator[None]:
    """Prints what the package logs, unless the program has set up logging itself."""
    is_set_up = logging.getLogger("vae_lightning").hasHandlers()
    shows = verbose and not is_set_up
    with console(ConsoleHandler(logging.INFO) if shows else logging.NullHandler()):
        yield
