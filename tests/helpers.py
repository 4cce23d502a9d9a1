"""Helpers that several test modules share: tiny models and data, comparison of run folders."""

import copy
import csv
import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from benchmarks.faults.stops import numbers
from benchmarks.fork_server import Done
from vae_lightning.config.compose import compose
from vae_lightning.data.images import ImageData
from vae_lightning.distributions import DiagonalNormalPosterior, FullNormalPosterior
from vae_lightning.distributions.flows import FlowPosterior
from vae_lightning.networks import UNCONDITIONAL, Condition
from vae_lightning.training.assembly import build_data, build_module
from vae_lightning.training.module import VAE

Command = Callable[..., Done]

IMAGE_SHAPE = [1, 4, 4]
# arguments of a Trainer that writes and prints nothing
QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}
SIZES: dict[str, object] = {
    "model.latent_dim": 2,
    "model.hidden_dims": [8],
    "model.widths": [2, 3],
    "model.blocks": 1,
    "model.activation": "silu",  # with so few units, all of relu's may be dead
    "posterior.hidden_dims": [8],
    "posterior.context": 3,
    "posterior.upper_dims": [1],
    "prior.upper_dims": [1],
    "prior.hidden_dims": [8, 8],
    "prior.pseudo_inputs": 4,
    "prior.components": 3,
    "objective.hidden_dims": [8],
}


@functools.cache
def default() -> DictConfig:
    cfg = compose("config", [f"data.image_shape={IMAGE_SHAPE}".replace(" ", "")])
    cfg.trust = True
    return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])


@functools.cache
def nodes(group: str, name: str) -> dict[str, DictConfig]:
    """The nodes that one option chooses, as composed, without their parents."""

    def plain(cfg: DictConfig, key: str) -> object:
        return OmegaConf.to_container(cfg[key], resolve=False)

    cfg = compose("config", [f"{group}={name}"])
    others = [key for key in ("posterior", "prior") if plain(cfg, key) != plain(default(), key)]
    return {key: OmegaConf.create(plain(cfg, key)) for key in dict.fromkeys([group, *others])}


def option(group: str, name: str) -> DictConfig:
    """The node of one option, as composed, without its parents."""
    return nodes(group, name)[group]


def tiny(*overrides: str) -> DictConfig:
    """The configuration with GROUP=NAME and key=value overrides, and small sizes."""
    cfg = copy.deepcopy(default())
    pairs = [override.split("=", 1) for override in overrides]
    for group, name in pairs:
        if "." not in group:
            for key, node in nodes(group, name).items():
                cfg[key] = node
    for key, value in SIZES.items():
        if OmegaConf.select(cfg, key, default="gated") != "gated":
            OmegaConf.update(cfg, key, value)
    for key, value in pairs:
        if "." in key:
            OmegaConf.update(cfg, key, yaml.safe_load(value))
    return cfg


def images(binary: bool, count: int = 12) -> Tensor:
    """uint8 images, gray or of 0 and 255 only."""
    values = torch.randint(
        0, 256, (count, *IMAGE_SHAPE), generator=torch.Generator().manual_seed(7)
    )
    return ((values > 127) * 255 if binary else values).to(torch.uint8)


def tiny_model(cfg: DictConfig) -> tuple[VAE, Tensor, Condition]:
    """A model that has started from tiny data, a batch of it, and the condition of the batch."""
    data = images(
        cfg.likelihood["_target_"].endswith(".BernoulliLikelihood") and not cfg.likelihood.gray
    )
    model = build_module(cfg)
    model.start_from(SimpleNamespace(images={"train": data}, binarization=cfg.data.binarization))
    condition = Condition(torch.arange(6) % 3) if cfg.model.conditional else UNCONDITIONAL
    return model, data[:6] / 255, condition


def loss_of(model: VAE, x: Tensor, condition: Condition, step: int = 0) -> Tensor:
    """The mean loss of a batch; its noise depends on the step alone."""
    shape = (model.objective.num_samples, len(x), model.latent_dim)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(step))
    return model.objective(model(x, noise, condition), step).mean()


def train_run(train: Command, folder: Path, data: Path, *overrides: str, name: str = "run") -> Path:
    """Trains a run in a new folder; its path."""
    done = train(*overrides, f"hydra.run.dir={name}", cwd=folder, data=data)
    assert done.returncode == 0, done.stderr
    return folder / name


def write_idx(path: Path, values: Tensor) -> None:
    """Writes an IDX file of bytes: the magic number 0x08, the number of dimensions, sizes, data."""
    header = bytes([0, 0, 8, values.ndim]) + b"".join(
        size.to_bytes(4, "big") for size in values.shape
    )
    path.write_bytes(header + values.to(torch.uint8).numpy().tobytes())


def write_tiny_mnist(root: Path, train: int = 600, test: int = 130) -> None:
    """Writes ten kinds of blurred bars with noise, in the files and the layout of MNIST."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for prefix, count in (("train", train), ("t10k", test)):
        labels = torch.arange(count) % 10
        heights = torch.arange(28)[None, :, None]
        bars = torch.exp(-0.1 * (heights - 3 - 2.4 * labels[:, None, None]) ** 2).expand(-1, -1, 28)
        noise = torch.rand(count, 28, 28, generator=generator)
        write_idx(raw / f"{prefix}-images-idx3-ubyte", (230 * bars + 20 * noise).round())
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels)


def configured(*overrides: str, root: Path | None = None) -> DictConfig:
    """A configuration of real sizes that may name any class; with ``root``, of the tiny MNIST."""
    places = () if root is None else (f"data.root={root}", "data.val_size=100", "accelerator=cpu")
    cfg = compose("config", [*places, *overrides])
    cfg.trust = True
    return cfg


def built(*overrides: str, root: Path | None = None) -> tuple[DictConfig, VAE, ImageData]:
    """A configuration, its model and its data."""
    cfg = configured(*overrides, root=root)
    data = build_data(cfg)  # decides the size of the images
    return cfg, build_module(cfg), data


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def assert_same_run(one: Path, other: Path) -> None:
    """Asserts that two runs have the same metrics and the same last weights, bit for bit."""
    assert numbers(one) == numbers(other)
    assert all(torch.equal(weights(one)[name], value) for name, value in weights(other).items())


def some_posterior(kind: str, latent_dim: int = 2, scale: float = 1.0) -> nn.Module:
    """A posterior with random weights, so large that no part of a flow is nearly the identity."""

    def network(outputs: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(4, outputs))

    torch.manual_seed(4)
    posterior = {
        "diagonal": lambda: DiagonalNormalPosterior(network, latent_dim),
        "full": lambda: FullNormalPosterior(network, latent_dim),
        "flow": lambda: FlowPosterior(
            network, latent_dim, transforms=2, hidden_dims=[8], context=3
        ),
    }[kind]().double()
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter.mul_(scale)
    return posterior
