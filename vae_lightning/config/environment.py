"""Environment variables: the names that processes share, and a context manager that sets some."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

# the folder of the run, for the processes that DDP starts
RUN_VARIABLE = "VAE_LIGHTNING_RUN"
# non-empty if these processes continue the run from last.ckpt
RESUMES_VARIABLE = "VAE_LIGHTNING_RESUMES"


# what torchrun, srun and others set in each process; it counts only if a run has several machines
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


def forget_ranks() -> None:
    """Removes the ranks that another program left, before Lightning is imported, which reads them.

    Otherwise a run on one machine would take itself for a part of another one and write nothing.
    """
    for name in RANK_VARIABLES:
        os.environ.pop(name, None)


def is_requeued() -> bool:
    """Whether SLURM starts this job again, after it was preempted or its machine failed."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def is_started_process() -> bool:
    """Whether Lightning started this process for a run of several processes."""
    return RUN_VARIABLE in os.environ and os.environ.get("LOCAL_RANK", "0") != "0"


def rank() -> int:
    """Returns the rank of this process as torchrun or SLURM set it; 0 if neither started it."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Sets environment variables for the body, then restores the whole environment.

    The restored environment also undoes the changes that the body makes.
    """
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
