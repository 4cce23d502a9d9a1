"""Lists the commands, or runs one: ``python -m vae_lightning [NAME ...]``, also as ``vae``."""

import importlib
import os
import sys

from vae_lightning.checks.errors import ConfigError, nearest
from vae_lightning.cli.arguments import program_arguments
from vae_lightning.cli.command import exit_codes
from vae_lightning.config.environment import is_started_process
from vae_lightning.version import __version__

COMMANDS = {
    "train": "train a model, test it, or run a sweep with -m",
    "evaluate": "log p(x), latents and sample quality of a run",
    "encode": "codes of images: mean and standard deviation of q(z|x)",
    "sample": "samples from the prior as images",
    "reconstruct": "images beside their reconstructions",
    "score": "log p(x) and ELBO of each image, and a page of the most unusual ones",
    "pictures": "pictures of reconstructions, samples and the latent space of a run",
    "explore": "an HTML page for exploring the latent space of a run",
    "export": "the model of a run as ONNX, torch.export or safetensors",
    "replay": "repeat a run and say whether every number is the same",
    "report": "tables and plots that compare sweeps and runs",
    "sweep": "continue a sweep, or show how far it is",
    "verify": "the identities behind the package, computed numerically",
}
USAGE = """vae_lightning {version}: train, compare and explain variational autoencoders

  vae COMMAND [key=value ...]     or     python -m vae_lightning.COMMAND [key=value ...]

{commands}

  vae COMMAND --help              the options of a command
  vae --version                   the version of this package"""


def main() -> None:
    """The command line, which finds modules in the current folder like ``python -m``."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    with exit_codes():
        name, *rest = sys.argv[1:] or ["--help"]
        if is_started_process():  # Lightning repeats the arguments of train, without its name
            name, rest = "train", []
        if name in ("--help", "-h"):
            print(usage())
        elif name == "--version":
            print(f"vae_lightning {__version__}")
        elif name in COMMANDS:
            with program_arguments(rest):
                importlib.import_module(f"vae_lightning.{name}").main()
        else:
            allowed = ", ".join(COMMANDS)
            raise ConfigError(f"{name}: must be one of {allowed}{nearest(name, COMMANDS)}")


def usage() -> str:
    """The list of the commands."""
    lines = [f"  {name:<11} {text}" for name, text in COMMANDS.items()]
    return USAGE.format(version=__version__, commands="\n".join(lines))


if __name__ == "__main__":
    main()
