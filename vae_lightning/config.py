"""What a configuration may say: ranges of the values, unknown keys, and choices made once (seed, absolute paths)."""

import difflib
import math
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

PRECISIONS = (32, "32", "bf16-mixed", "16-mixed")
BINARIZATIONS = ("none", "dynamic", "fixed", "threshold")
SECTIONS = (
    *("model", "likelihood", "posterior", "prior", "objective", "annealing", "optimizer", "scheduler", "data"),
    *("accelerator", "trainer", "callbacks", "experiment", "seed", "resume", "trust"),
)


def whole(value: object, least: int, most: float = math.inf) -> bool:
    """Whether the value is an integer (not a bool) in [least, most]."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def number(value: object, least: float, strict: bool = False) -> bool:
    """Whether the value is a finite number >= least (> least if strict)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return value > least if strict else value >= least


def widths(value: object) -> bool:
    """Whether the value is a non-empty list of integers >= 1."""
    return isinstance(value, list) and bool(value) and all(whole(item, 1) for item in value)


def automatic(value: object) -> bool:
    """Whether the value is true, false or auto."""
    return isinstance(value, bool) or value == "auto"


# key -> (is the value allowed, what is allowed); keys that a configuration lacks are not asked for
RULES: dict[str, tuple[Callable[[object], bool], str]] = {
    "model.latent_dim": (lambda v: whole(v, 1), "an integer >= 1"),
    "model.hidden_dims": (widths, "a non-empty list of integers >= 1"),
    "model.widths": (widths, "a non-empty list of integers >= 1"),
    "model.blocks": (lambda v: whole(v, 0), "an integer >= 0"),
    "model.conditional": (lambda v: isinstance(v, bool), "true or false"),
    "objective.beta": (lambda v: number(v, 0), "a finite number >= 0"),
    "objective.num_samples": (lambda v: whole(v, 1), "an integer >= 1"),
    "objective.free_bits": (lambda v: number(v, 0), "a finite number >= 0"),
    "objective.capacity": (lambda v: number(v, 0), "a finite number >= 0"),
    "objective.gamma": (lambda v: number(v, 0), "a finite number >= 0"),
    "objective.weight": (lambda v: number(v, 0), "a finite number >= 0"),
    "objective.target": (lambda v: number(v, 0, strict=True), "a finite number > 0"),
    "objective.rate": (lambda v: number(v, 0, strict=True), "a finite number > 0"),
    "objective.smoothing": (lambda v: number(v, 0) and v < 1, "a number >= 0 and < 1"),
    "annealing.steps": (lambda v: whole(v, 1), "an integer >= 1"),
    "annealing.cycles": (lambda v: whole(v, 1), "an integer >= 1"),
    "prior.components": (lambda v: whole(v, 1), "an integer >= 1"),
    "prior.pseudo_inputs": (lambda v: whole(v, 1), "an integer >= 1"),
    "prior.transforms": (lambda v: whole(v, 1), "an integer >= 1"),
    "prior.hidden_dims": (widths, "a non-empty list of integers >= 1"),
    "posterior.transforms": (lambda v: whole(v, 1), "an integer >= 1"),
    "posterior.hidden_dims": (widths, "a non-empty list of integers >= 1"),
    "posterior.context": (lambda v: whole(v, 1), "an integer >= 1"),
    "likelihood.grey": (lambda v: isinstance(v, bool), "true or false"),
    "likelihood.data_bias": (lambda v: isinstance(v, bool), "true or false"),
    "likelihood.clip": (lambda v: number(v, 0, strict=True) and v < 0.5, "a number > 0 and < 0.5"),
    "posterior.shared_std": (lambda v: isinstance(v, bool), "true or false"),
    "scheduler.warmup_steps": (lambda v: whole(v, 0), "an integer >= 0"),
    "scheduler.final": (lambda v: number(v, 0) and v <= 1, "a number from 0 to 1"),
    "optimizer.lr": (lambda v: number(v, 0, strict=True), "a finite number > 0"),
    "data.root": (lambda v: isinstance(v, str) and v != "", "a folder"),
    "data.batch_size": (lambda v: whole(v, 1), "an integer >= 1"),
    "data.val_size": (lambda v: whole(v, 0), "an integer >= 0"),
    "data.binarization": (lambda v: v in BINARIZATIONS, f"one of {', '.join(BINARIZATIONS)}"),
    "data.fallback": (lambda v: v in (None, "digits"), "digits or null"),
    "trainer.max_epochs": (lambda v: whole(v, 1), "an integer >= 1"),
    "trainer.devices": (lambda v: whole(v, 1), "an integer >= 1"),
    "trainer.steps_per_execution": (lambda v: whole(v, 1), "an integer >= 1"),
    "trainer.compile": (automatic, "auto, true or false"),
    "trainer.precision": (lambda v: v in PRECISIONS, "one of 32, bf16-mixed, 16-mixed"),
    "accelerator.num_nodes": (lambda v: whole(v, 1), "an integer >= 1"),
    "callbacks.gallery.every_n_epochs": (lambda v: whole(v, 1), "an integer >= 1"),
    "callbacks.gallery.images": (lambda v: whole(v, 2), "an integer >= 2"),
    "callbacks.gallery.collapse_below": (lambda v: number(v, 0) and v <= 1, "a number from 0 to 1"),
    "seed": (lambda v: v is None or whole(v, 0, 2**32 - 1), "an integer from 0 to 4294967295, or null"),
    "trust": (lambda v: isinstance(v, bool), "true or false"),
}


def check_keys(cfg: DictConfig) -> None:
    """Raises ValueError for a key that nothing reads, such as one added with a + by mistake."""
    for key in cfg:
        if key not in SECTIONS and key != "hydra":
            raise ValueError(f"{key}: no such key{nearest(key, SECTIONS)}")
    text = OmegaConf.to_yaml(own_part(cfg))
    for key in cfg.model:
        if f"${{model.{key}}}" not in text and key != "conditional":
            raise ValueError(f"model.{key}: is used by nothing{nearest(key, map(str, cfg.model), but=key)}")
    if "${annealing}" not in text and not cfg.annealing["_target_"].endswith(".Constant"):
        raise ValueError("annealing: must be constant, as this objective has nothing to anneal")


def own_part(cfg: DictConfig) -> DictConfig:
    """The configuration without Hydra's node."""
    return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])


def validate(cfg: DictConfig) -> None:
    """Raises ValueError, one line with key, value and what is allowed, for the first value that is wrong."""
    plain = OmegaConf.to_container(own_part(cfg), resolve=True, throw_on_missing=True)
    for key, (allowed, expected) in RULES.items():
        *sections, name = key.split(".")
        place = plain
        for section in sections:
            place = place.get(section, {})
        if name in place and not allowed(place[name]):
            raise ValueError(f"{key}={show(place[name])}: must be {expected}")
    validate_together(cfg)


def validate_together(cfg: DictConfig) -> None:
    """Rules that join several keys."""
    devices, processes = cfg.trainer.devices, cfg.trainer.devices * cfg.accelerator.num_nodes
    if devices > 1 and cfg.accelerator.strategy == "auto":
        raise ValueError(f"trainer.devices={devices}: must be 1 unless accelerator is ddp, ddp_cpu or multi_node")
    if cfg.data.batch_size % processes:
        raise ValueError(f"data.batch_size={cfg.data.batch_size}: must be divisible by the {processes} processes")


def settle(cfg: DictConfig) -> None:
    """Decides once what the configuration leaves open: a drawn seed, absolute paths."""
    if cfg.seed is None:
        cfg.seed = secrets.randbelow(2**32)
    cfg.data.root = str(Path(cfg.data.root).expanduser().resolve())


def nearest(name: str, names: Iterable[str], but: str = "") -> str:
    """'; did you mean ...?' where a valid name is close, else ''."""
    close = difflib.get_close_matches(name, [other for other in names if other != but], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def show(value: object) -> str:
    """A value as one would type it on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
