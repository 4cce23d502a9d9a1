"""The part of a run in the processes that Lightning starts for it."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

from vae_lightning.checks.errors import Interrupted
from vae_lightning.config.environment import RESUMES_VARIABLE, RUN_VARIABLE
from vae_lightning.runs.stored import read_stored
from vae_lightning.training.signals import IgnoredSignals


def join() -> None:
    """Trains as rank 1 or above of a run that rank 0 started; only rank 0 prints results."""
    folder = Path(os.environ[RUN_VARIABLE])
    from vae_lightning.compile import accelerate
    from vae_lightning.training.experiment import run_experiment

    cfg = read_stored(folder, RUN_VARIABLE).cfg
    cfg.trust = True  # rank 0 has checked the same configuration
    signals = IgnoredSignals()
    signals.install()
    resumes = bool(os.environ.get(RESUMES_VARIABLE))
    try:
        run_experiment(cfg, nullcontext(folder), accelerate, signals, resumes=resumes)
    except Interrupted:
        # rank 0 reports the interruption; another code makes Lightning kill rank 0 before that
        sys.exit(0)
