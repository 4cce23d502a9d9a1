"""Reads the checkpoints of a run without executing stored code."""

import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from vae_lightning.checks.errors import ConfigError
from vae_lightning.config.optional import EXPORT_PACKAGES, require_packages
from vae_lightning.storage.files import TEMPORARY, atomic_write
from vae_lightning.storage.run_folder import BEST, LAST

CHECKPOINTS = 3  # last.ckpt, best.ckpt, and the one that is being written
ADAM_TENSORS = 3  # a parameter and its two moments


class StoredCheckpoint(TypedDict):
    """What this package reads of a checkpoint, among other keys of Lightning."""

    state_dict: dict[str, Tensor]
    global_step: int
    callbacks: NotRequired[dict[str, dict[str, Any]]]


class SavedProgress(NamedTuple):
    """How far the training had come when last.ckpt was written."""

    epochs: int  # finished epochs
    steps: int  # optimizer steps, also those of an epoch that was not finished
    path: Path | None  # of last.ckpt; None if there is none


NO_PROGRESS = SavedProgress(0, 0, None)


class DirectCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint to its path without a copy in memory and in TMPDIR.

    Lightning makes these copies so that no partial file is left; the recorder writes to a temporary
    path in the same folder for that reason.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        """Writes the checkpoint; OSError if that is impossible, for example on a full disk."""
        if not Path(path).name.startswith(TEMPORARY):  # a callback of the user writes it
            with atomic_write(Path(path)) as temporary:
                self.save_checkpoint(checkpoint, temporary)
            return
        try:
            with open(path, "wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # PyTorch hides the error of the file behind its own
            cause = error.__context__
            if not isinstance(cause, OSError):
                raise
            raise OSError(cause.errno, cause.strerror, str(path)) from error


def check_space(run: Path, module: nn.Module) -> None:
    """Raises ConfigError if the disk of a run folder cannot hold the checkpoints of a module."""
    values = sum(each.numel() * each.element_size() for each in module.parameters())
    needed = CHECKPOINTS * ADAM_TENSORS * values
    paths = [run / path for path in (LAST, BEST)]
    written = {path.stat().st_ino: path.stat().st_size for path in paths if path.is_file()}
    free = shutil.disk_usage(run).free + sum(written.values())
    if free < needed:
        raise ConfigError(
            f"hydra.run.dir={run}: must have {needed / 1e6:.0f} MB of free space for the"
            f" checkpoints; it has {free / 1e6:.0f} MB"
        )


def read_checkpoint(path: Path, source: str) -> StoredCheckpoint:
    """Reads a checkpoint without executing stored code.

    Args:
        path: the file.
        source: the run as ``run=PATH``, for error messages.

    Raises ConfigError if the file is missing, damaged or not a checkpoint of this package.
    """
    if not path.is_file():
        raise ConfigError(
            f"{source}: must have {path.name}, which is written at the end of the first epoch"
        )
    other = (LAST if path.name == BEST.name else BEST).stem
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not compare the checksums
        if damaged:
            raise zipfile.BadZipFile(damaged)
        stored = torch.load(path, weights_only=True, map_location="cpu")
    except (
        RuntimeError,
        EOFError,
        OSError,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
    ) as error:
        raise ConfigError(
            f"{source}: {path.name} is damaged; checkpoint={other} may be intact"
        ) from error
    if not isinstance(stored, dict) or not {"state_dict", "global_step"} <= set(stored):
        raise ConfigError(
            f"{source}: {path.name} is not a checkpoint of this package; "
            "it has no state_dict or no global_step"
        )
    return stored  # pyright: ignore[reportReturnType] - torch.load declares no keys


def read_safetensors_file(path: Path, source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the tensors and the metadata of a .safetensors file.

    Raises ConfigError, with ``source``, if the file is missing or damaged.
    """
    require_packages(source, EXPORT_PACKAGES["safetensors"])
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ConfigError(
            f"{source}: must be a run folder or a .safetensors file that export wrote"
        )
    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return state, file.metadata() or {}
    except SafetensorError as error:
        advice = "write it again with export run=RUN format=safetensors"
        raise ConfigError(f"{source}: is damaged ({error}); {advice}") from error


def saved_progress(run: Path, recorder: str) -> SavedProgress:
    """How far a run had come; raises ConfigError if its last.ckpt is damaged.

    Args:
        run: the run folder.
        recorder: the name under which the recorder saves its state.
    """
    if not (run / LAST).is_file():
        return NO_PROGRESS
    stored = read_checkpoint(run / LAST, f"resume={run}")
    state = stored.get("callbacks", {}).get(recorder)
    if state is None:
        raise ConfigError(f"resume={run}: {LAST.name} is not a checkpoint of this package")
    epochs = int(state["rows"][-1]["epoch"]) if state["rows"] else 0
    return SavedProgress(epochs, stored["global_step"], run / LAST)
