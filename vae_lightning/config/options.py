"""What a configuration may say: unknown keys, ranges of values, and what is decided once.

The options of classes are described in the classes; ``option_table`` holds a copy of them that can
be read without importing PyTorch. The options that belong to no class are described here.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from vae_lightning.checks.errors import ConfigError, nearest
from vae_lightning.checks.ranges import (
    SEEDS,
    AnyOf,
    AutoOrBoolean,
    Boolean,
    Choice,
    Integer,
    Integers,
    List,
    Number,
    Option,
    Text,
    check_value,
)
from vae_lightning.config.callback_table import refusal
from vae_lightning.config.class_table import (
    NEED_LOGGER,
    NEED_VALIDATION,
    OPTIMIZERS,
    PACKAGES,
    SCHEDULERS,
)
from vae_lightning.config.compose import TRAINING_GROUPS
from vae_lightning.config.option_table import CLASS_OPTIONS
from vae_lightning.config.optional import require_packages
from vae_lightning.storage.run_folder import of_run, to_dict

SECTIONS = (
    *TRAINING_GROUPS,
    "data",
    "accelerator",
    "trainer",
    "callbacks",
    "logger",
    "experiment",
    "seed",
    "resume",
    "trust",
)
# options that belong to no class of this package
GENERAL_OPTIONS: dict[str, Option] = {
    "model.conditional": Option("whether encoder and decoder condition on the label", Boolean()),
    "optimizer.name": Option("class of torch.optim", Choice(OPTIMIZERS)),
    "optimizer.lr": Option("learning rate", Number(above=0)),
    "optimizer.betas": Option("decay of the moments of Adam", List(2, Number(least=0, below=1))),
    "optimizer.eps": Option("added to the denominator of Adam", Number(least=0)),
    "optimizer.weight_decay": Option("weight decay", Number(least=0)),
    "scheduler.name": Option("class of torch.optim.lr_scheduler", Choice(SCHEDULERS)),
    "scheduler.interval": Option(
        "what the scheduler counts after the warm-up", Choice(("step", "epoch"))
    ),
    "scheduler.warmup_steps": Option("optimizer steps of linear warm-up", Integer(0)),
    "scheduler.step_size": Option("epochs or steps with the same learning rate", Integer(1)),
    "scheduler.gamma": Option("factor of the learning rate", Number(above=0)),
    "scheduler.factor": Option("factor of the learning rate", Number(above=0, most=1)),
    "scheduler.patience": Option("epochs without improvement that are accepted", Integer(0)),
    "scheduler.pct_start": Option(
        "fraction of the steps in which the learning rate rises", Number(least=0, most=1)
    ),
    "scheduler.div_factor": Option("optimizer.lr / first learning rate", Number(above=0)),
    "scheduler.final_div_factor": Option("first learning rate / last one", Number(above=0)),
    "scheduler.cycle_momentum": Option(
        "whether the momentum falls while the learning rate rises", Boolean()
    ),
    "data.name": Option("name of the data set in results", Text("a name")),
    "data.image_shape": Option("channels, height, width", List(3, Integer(1))),
    "data.classes": Option("number of labels", Integer(1)),
    "data.root": Option("folder of the image files", Text("a folder")),
    "data.fallback": Option(
        "data set that is used if no files can be found or downloaded", Choice(("digits", None))
    ),
    "data.sha256": Option(
        "fingerprint that the images must have; a run records that of its images",
        AnyOf((Text("a SHA-256"), Choice((None,)))),
    ),
    "trainer.max_epochs": Option("epochs", Integer(1)),
    "trainer.devices": Option(
        "devices, or processes of accelerator=ddp_cpu; a list chooses GPUs; auto: all",
        AnyOf((Choice(("auto",)), Integer(1), Integers(0))),
    ),
    "trainer.precision": Option(
        "precision of the networks; 16-mixed requires a GPU",
        Choice(("32", "bf16-mixed", "16-mixed", 32)),
    ),
    "trainer.steps_per_execution": Option(
        "optimizer steps in one call by Lightning; changes no number", Integer(1)
    ),
    "trainer.compile": Option(
        "whether the optimizer step is compiled; auto: in runs of at least 6,000 steps on a CPU",
        AutoOrBoolean(),
    ),
    "trainer.threads": Option(
        "CPU threads; auto: as many as there are free cores", AnyOf((Choice(("auto",)), Integer(1)))
    ),
    "trainer.skip_gradient_above": Option(
        "norm of the gradient above which an optimizer step is skipped; null: none is",
        AnyOf((Number(above=0), Choice((None,)))),
    ),
    "accelerator.accelerator": Option(
        "kind of device", Choice(("auto", "cpu", "gpu", "cuda", "mps"))
    ),
    "accelerator.num_nodes": Option("machines of accelerator=multi_node", Integer(1)),
    "seed": Option(
        "seed of all random numbers; null draws one and records it",
        AnyOf((SEEDS, Choice((None,)))),
    ),
    "trust": Option("whether a stored configuration may name classes of other packages", Boolean()),
}
# options of how the jobs of a sweep are run; a run has none of them
SWEEP_OPTIONS: dict[str, Option] = {
    "launcher.kind": Option("where jobs run", Choice(("local",))),
    "launcher.slots": Option(
        "jobs at a time; auto: as many as the free cores or the GPUs allow",
        AnyOf((Choice(("auto",)), Integer(1))),
    ),
    "launcher.per_device": Option("jobs of one process that share a GPU", Integer(1)),
    "sweep.on_error": Option(
        "after a failed job, continue with the others or stop them", Choice(("continue", "stop"))
    ),
}
SWEEP_SECTIONS = ("launcher", "sweep")
REQUIRED_SECTIONS = [section for section in SECTIONS if section != "experiment"]
# sections of which no option may be removed; an optional argument of a class may be
COMPLETE_SECTIONS = ("", "data", "trainer", "accelerator")
DATA_CLASS = "vae_lightning.data.images.ImageData"  # its arguments are the keys of cfg.data

Lookup = Callable[[str], Mapping[str, Option]]


def check(cfg: DictConfig) -> None:
    """Raises ConfigError for the first key or value that is wrong."""
    check_complete(cfg)
    check_keys(cfg)
    check_values(cfg)


def check_keys(cfg: DictConfig) -> None:
    """Raises ConfigError for a key that nothing reads, such as one added with a + by mistake."""
    for key in cfg:
        if key not in (*SECTIONS, *SWEEP_SECTIONS, "hydra"):
            raise ConfigError(f"{key}: no such key{nearest(str(key), SECTIONS)}")
    text = OmegaConf.to_yaml(of_run(cfg))
    for key in cfg.model:
        if f"${{model.{key}}}" not in text and key != "conditional":
            close = nearest(str(key), map(str, cfg.model), exclude=key)
            raise ConfigError(f"model.{key}: is not used by any component{close}")
    if "${annealing}" not in text and not cfg.annealing["_target_"].endswith(".Constant"):
        raise ConfigError(
            "annealing: must be constant, because this objective has no annealed weight"
        )


def check_sweep_options(cfg: DictConfig) -> None:
    """Raises ConfigError for a wrong option of how the jobs of a sweep are run."""
    for section in SWEEP_SECTIONS:
        given = cfg.get(section)
        keys = [f"{section}.{key}" for key in given or ()]
        for key in keys:
            if key not in SWEEP_OPTIONS:
                raise ConfigError(f"{key}: no such key{nearest(key, SWEEP_OPTIONS)}")
        for key, option in SWEEP_OPTIONS.items():
            if key.startswith(f"{section}."):
                if key not in keys:
                    raise ConfigError(f"{key}: must not be removed")
                check_value(key, OmegaConf.select(cfg, key), option)


def check_complete(cfg: DictConfig) -> None:
    """Raises ConfigError for an option that was removed and that every run needs."""
    for key in (*REQUIRED_SECTIONS, *GENERAL_OPTIONS):
        section, _, name = key.rpartition(".")
        if section in COMPLETE_SECTIONS and name not in (cfg[section] if section else cfg):
            raise ConfigError(
                f"{key}: must not be removed with ~; only parts of callbacks may be removed"
            )


def check_values(cfg: DictConfig) -> None:
    """Raises ConfigError, with key, value and what is allowed, for the first wrong value."""
    OmegaConf.to_container(of_run(cfg), resolve=True, throw_on_missing=True)
    for key, option in GENERAL_OPTIONS.items():
        section, _, name = key.rpartition(".")
        node = OmegaConf.select(cfg, section) if section else cfg
        if isinstance(node, DictConfig) and name in node:
            check_value(key, plain(node, name), option)
    check_classes(cfg, lambda target: CLASS_OPTIONS.get(target, {}))
    check_callbacks(cfg)
    check_together(cfg)


def check_classes(cfg: DictConfig, lookup: Lookup) -> None:
    """Checks the arguments of every class that the configuration names.

    ``lookup`` gives the described options of a class by its dotted name. Raises ConfigError.
    """
    for key, value, option in class_options(cfg, lookup):
        check_value(key, value, option)


def class_options(cfg: DictConfig, lookup: Lookup) -> Iterator[tuple[str, object, Option]]:
    """Yields key, value and description of each described argument of all classes of ``cfg``.

    The key is what one types on the command line. If the value is a reference, such as
    ``${model.latent_dim}``, the key is the one that it refers to.
    """
    for path, node in class_nodes(of_run(cfg)):
        target = DATA_CLASS if path == "data" else node["_target_"]
        for name, option in lookup(target).items():
            if name in node:
                raw = str(to_dict(node, resolve=False)[name])
                reference = raw.startswith("${") and raw.endswith("}") and ":" not in raw
                key = raw[2:-1] if reference else f"{path}.{name}"
                yield key, plain(node, name), option


def described_options(cfg: DictConfig) -> dict[str, Option]:
    """Key -> description of all described options of a configuration."""
    classes = class_options(cfg, lambda target: CLASS_OPTIONS.get(target, {}))
    return GENERAL_OPTIONS | {key: option for key, _, option in classes}


def class_nodes(node: DictConfig, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """The parts of a configuration that name a class, and cfg.data, with their dotted keys."""
    for key in node:
        place = f"{path}.{key}" if path else str(key)
        if not isinstance(key, str | int) or OmegaConf.is_interpolation(node, key):
            continue
        if not isinstance(node[key], DictConfig):
            continue
        if "_target_" in node[key] or place == "data":
            yield place, node[key]
        yield from class_nodes(node[key], place)


def plain(node: DictConfig, name: str) -> object:
    """A value of a configuration, resolved, as plain Python."""
    value = node[name]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def check_callbacks(cfg: DictConfig) -> None:
    """Raises ConfigError for classes that cannot work, alone or with the rest of the values."""
    for path, node in class_nodes(of_run(cfg)):
        target = str(node["_target_"]) if "_target_" in node else ""
        if path.startswith("callbacks.") and (reason := refusal(target)):
            raise ConfigError(f"{path}._target_={target}: must be another class; {reason}")
        if target in PACKAGES:
            require_packages(path.replace("logger.", "logger="), PACKAGES[target])
        if target in NEED_LOGGER and not cfg.logger:
            raise ConfigError(f"logger=none: must be a logger for {path}, which logs its values")
        if target in NEED_VALIDATION and cfg.data.val_size == 0:
            raise ConfigError(f"data.val_size=0: must be at least 1 for {path}, which reads val/")


def check_together(cfg: DictConfig) -> None:
    """Raises ConfigError for values that do not fit each other."""
    devices, kind = plain(cfg.trainer, "devices"), cfg.accelerator.accelerator
    if devices == "auto":
        return  # checked again when their number is known
    if isinstance(devices, list) and (kind == "cpu" or len(set(devices)) < len(devices)):
        raise ConfigError(
            f"trainer.devices={devices}: must be the numbers of different GPUs, or a single number"
        )
    if cfg.trainer.skip_gradient_above is not None and cfg.trainer.precision == "16-mixed":
        raise ConfigError(
            f"trainer.skip_gradient_above={cfg.trainer.skip_gradient_above}: requires"
            " trainer.precision=32 or bf16-mixed, because 16-mixed scales the gradient"
        )
    processes = process_count(cfg) * cfg.accelerator.num_nodes
    if process_count(cfg) > 1 and cfg.accelerator.strategy == "auto":
        raise ConfigError(
            f"trainer.devices={devices}: must be 1 unless accelerator is ddp, ddp_cpu or multi_node"
        )
    if cfg.data.batch_size % processes:
        size = cfg.data.batch_size
        raise ConfigError(f"data.batch_size={size}: must be divisible by the {processes} processes")


def process_count(cfg: DictConfig) -> int:
    """The processes of a run on this machine, one for each device."""
    devices = cfg.trainer.devices
    assert devices != "auto"
    return devices if isinstance(devices, int) else len(devices)


def settle(cfg: DictConfig) -> None:
    """Decides once what the configuration leaves open: a drawn seed, absolute paths."""
    if cfg.seed is None:
        cfg.seed = secrets.randbelow(2**32)
    cfg.data.root = str(Path(cfg.data.root).expanduser().resolve())
