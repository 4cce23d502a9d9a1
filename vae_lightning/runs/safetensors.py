"""Writes and reads a model as one .safetensors file: weights and, as metadata, configuration."""

import json
from pathlib import Path

from omegaconf import OmegaConf

from vae_lightning.checks.errors import ConfigError
from vae_lightning.runs.build import build
from vae_lightning.runs.run import Run
from vae_lightning.runs.untrusted import read_config
from vae_lightning.storage.files import write_bytes
from vae_lightning.storage.run_folder import of_run
from vae_lightning.training.checkpoint import read_safetensors_file
from vae_lightning.version import __version__


def write_safetensors(path: Path, run: Run) -> None:
    """Writes the state dict and, as metadata, everything that rebuilds the model.

    The metadata are the configuration, the name and step of the checkpoint, the name of the data
    set and the version of this package.
    """
    from safetensors.torch import save

    config = OmegaConf.to_container(of_run(run.cfg), resolve=True)
    metadata = {"config": json.dumps(config), "checkpoint": run.checkpoint, "step": str(run.step)}
    metadata |= {"data": run.cfg.data.name, "vae_lightning": __version__}
    # clones, because the format does not allow tensors that share memory
    state = {
        name: tensor.detach().clone().contiguous()
        for name, tensor in run.module.state_dict().items()
    }
    write_bytes(path, save(state, metadata))


def read_safetensors(path: Path, trust: bool) -> Run:
    """Loads a run from a file that write_safetensors wrote.

    Raises ConfigError, with a one-line message, if the file is missing, damaged or was written by
    another program.
    """
    state, metadata = read_safetensors_file(path, f"run={path}")
    if not {"config", "checkpoint", "step"} <= set(metadata):
        raise ConfigError(
            f"run={path}: must be a file that export wrote (it contains no configuration)"
        )
    try:
        cfg = read_config(metadata["config"])  # JSON is YAML
    except ConfigError as error:
        raise ConfigError(f"run={path}: its configuration is damaged ({error})") from error
    module = build(cfg, state, f"run={path}", metadata.get("vae_lightning", "unknown"), trust)
    return Run(path, cfg, module, metadata["checkpoint"], int(metadata["step"]))
