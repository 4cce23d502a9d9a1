"""Starts a model from the weights of another run, ``init_from=RUN``, without executing its code."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vae_lightning.checks.errors import ConfigError
from vae_lightning.storage.run_folder import BEST
from vae_lightning.training.checkpoint import read_checkpoint, read_safetensors_file
from vae_lightning.training.module import VAE

MOST_NAMES = 6  # in a message
# the state of an objective belongs to the training and the data of the other run
OWN_STATE = "objective."


class InitialWeights(NamedTuple):
    """Where the weights of a new run come from."""

    source: str
    sha256: str  # of all tensors of the source
    line: str  # what was loaded and what was not

    def record(self) -> dict[str, str]:
        """What the run records."""
        return {"source": self.source, "sha256": self.sha256}


def start_from_weights(module: VAE, source: Path) -> InitialWeights:
    """Copies the tensors of best.ckpt, or of a .safetensors file, whose name and shape fit.

    All others, and the state of the objective, keep their initial values. Raises ConfigError if the
    file is damaged or no tensor fits.
    """
    key = f"init_from={source}"
    if source.suffix == ".safetensors":
        stored, _ = read_safetensors_file(source, key)
    else:
        stored = read_checkpoint(source / BEST, key)["state_dict"]
    own = {
        name: value for name, value in module.state_dict().items() if not name.startswith(OWN_STATE)
    }
    fitting = {name: stored[name] for name in own if misfit(stored.get(name), own[name]) is None}
    if not fitting:
        raise ConfigError(
            f"{key}: must have a tensor with the name and shape of one of this model; choose the"
            " model, likelihood, posterior and prior of that run"
        )
    module.load_state_dict(fitting, strict=False)
    return InitialWeights(str(source), fingerprint(stored), describe(own, stored))


def misfit(stored: object, own: Tensor) -> str | None:
    """Why a stored value cannot replace a tensor; None if it can."""
    if not isinstance(stored, Tensor):
        return "not there"
    if stored.shape != own.shape:
        return f"{tuple(stored.shape)} instead of {tuple(own.shape)}"
    return None if stored.dtype == own.dtype else f"{stored.dtype} instead of {own.dtype}"


def describe(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> str:
    """One line about which tensors were loaded and which were not, with the reason."""
    reasons = {name: misfit(stored.get(name), value) for name, value in own.items()}
    left = [f"{name} {reason}" for name, reason in reasons.items() if reason]
    line = f"{len(own) - len(left)} of {len(own)} tensors loaded"
    if left:
        line += f"; not loaded: {shortened(left)}"
    unused = [name for name in stored if name not in own and not name.startswith(OWN_STATE)]
    return f"{line}; not used: {shortened(unused)}" if unused else line


def shortened(names: list[str]) -> str:
    """The first names, and how many more there are of each component."""
    text = ", ".join(names[:MOST_NAMES])
    more = Counter(name.partition(".")[0] for name in names[MOST_NAMES:])
    counts = ", ".join(f"{count} of {component}" for component, count in more.items())
    return f"{text}, and {counts}" if more else text


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """The SHA-256 of the names, types, shapes and values of tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
