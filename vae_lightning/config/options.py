"""What a configuration may say: unknown keys, ranges of values, and what is decided once.

The options of classes are described in the classes; ``option_table`` holds a copy of them that can
be read without importing PyTorch. ``general_options`` describes those that belong to no class.
"""

import functools
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from vae_lightning.checks.errors import ConfigError, nearest, show
from vae_lightning.checks.ranges import Option, check_value
from vae_lightning.config.callback_table import check_named, refusal
from vae_lightning.config.class_table import NEED_LOGGER, NEED_VALIDATION, PACKAGES
from vae_lightning.config.compose import CONF, default_choices, unknown_key
from vae_lightning.config.dotted import last_part
from vae_lightning.config.general_options import (
    GENERAL_OPTIONS,
    SEARCH_OPTIONS,
    SEARCHES,
    SECTIONS,
    SWEEP_OPTIONS,
    SWEEP_SECTIONS,
)
from vae_lightning.config.interpolations import check_references
from vae_lightning.config.launcher_options import KIND, launcher_options
from vae_lightning.config.nodes import class_nodes, plain, selected, typed
from vae_lightning.config.option_table import CLASS_OPTIONS
from vae_lightning.config.optional import require_packages
from vae_lightning.config.trainer_options import check_trainer_key, check_trainer_together
from vae_lightning.storage.run_folder import of_run, read_yaml, to_dict

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
            raise ConfigError(unknown_key(str(key), "config"))
    for key in cfg.trainer:
        check_trainer_key(str(key))
    text = OmegaConf.to_yaml(of_run(cfg))
    for key in cfg.data:
        if key not in data_keys() and f"${{data.{key}}}" not in text:
            raise ConfigError(f"data.{key}: no such key{nearest(str(key), data_keys())}")
    for key in cfg.model:
        if f"${{model.{key}}}" not in text and key != "conditional":
            close = nearest(str(key), map(str, cfg.model), exclude=key)
            raise ConfigError(f"model.{key}: is not used by any component{close}")
    if "${annealing}" not in text and not cfg.annealing["_target_"].endswith(".Constant"):
        raise ConfigError(
            f"{typed(cfg, 'annealing')}: must be constant, because {typed(cfg, 'objective')} has no"
            " annealed weight"
        )


@functools.cache
def data_keys() -> frozenset[str]:
    """The keys that every data set has."""
    return frozenset(map(str, read_yaml(CONF / "data" / "_images.yaml")))


def check_sweep_options(cfg: DictConfig) -> None:
    """Raises ConfigError for a wrong option of how the jobs of a sweep are chosen and run."""
    check_value("launcher.kind", selected(cfg, "launcher.kind"), KIND)
    described = launcher_options(cfg.launcher.kind) | SWEEP_OPTIONS | SEARCH_OPTIONS
    for section in SWEEP_SECTIONS:
        given = cfg.get(section)
        keys = [f"{section}.{key}" for key in given or ()]
        for key in keys:
            if key not in described:
                raise ConfigError(f"{key}: no such key{nearest(key, described)}")
        for key, option in described.items():
            if not key.startswith(f"{section}."):
                continue
            if key not in keys:
                default = default_choices().get(section)
                advice = f"; {section}={default} is the default" if default else ""
                raise ConfigError(f"{key}: must not be removed{advice}")
            value = selected(cfg, key)
            if key not in SEARCH_OPTIONS or cfg.search.kind != "grid":
                check_value(key, value, option)
            elif value is not None:
                needed = f"requires search={', '.join(SEARCHES[:-1])} or {SEARCHES[-1]}"
                raise ConfigError(f"{key}={show(value)}: {needed}; a grid runs every combination")


def check_complete(cfg: DictConfig) -> None:
    """Raises ConfigError for an option that was removed and that every run needs."""
    for key in (*REQUIRED_SECTIONS, *GENERAL_OPTIONS):
        section, _, name = key.rpartition(".")
        if section in COMPLETE_SECTIONS and name not in (cfg[section] if section else cfg):
            default = default_choices().get(key)
            advice = f"{key}={default} is the default" if default else "only parts of callbacks may"
            raise ConfigError(f"{key}: must not be removed with ~; {advice}")


def check_values(cfg: DictConfig) -> None:
    """Raises ConfigError, with key, value and what is allowed, for the first wrong value."""
    check_references(of_run(cfg))
    OmegaConf.to_container(of_run(cfg), resolve=True, throw_on_missing=True)
    for key, option in GENERAL_OPTIONS.items():
        section, _, name = key.rpartition(".")
        node = OmegaConf.select(cfg, section) if section else cfg
        if isinstance(node, DictConfig) and name in node:
            check_value(key, plain(node, name), option)
    if cfg.data.dataset is None:
        raise ConfigError(
            "data.dataset: must be the name of a class of torchvision.datasets, for example"
            " data.dataset=CIFAR10"
        )
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


def check_callbacks(cfg: DictConfig) -> None:
    """Raises ConfigError for classes that cannot work, alone or with the rest of the values."""
    check_named(cfg)
    for path, node in class_nodes(of_run(cfg)):
        target = str(node["_target_"]) if "_target_" in node else ""
        if path.startswith("callbacks.") and (reason := refusal(target)):
            raise ConfigError(f"{path}._target_={target}: must be another class; {reason}")
        if target.endswith(".GradientAccumulationScheduler"):
            check_fixed_length(cfg, f"{path}._target_={target}")
        if target in PACKAGES:
            require_packages(path.replace("logger.", "logger="), PACKAGES[target])
        if target in NEED_LOGGER and not cfg.logger:
            raise ConfigError(f"logger=none: must be a logger for {path}, which logs its values")
        if target in NEED_VALIDATION:
            for key in ("data.val_size", "trainer.limit_val_batches"):
                if selected(cfg, key) == 0:
                    reader = typed(cfg, path) if path == "scheduler" else path
                    raise ConfigError(
                        f"{key}=0: must be above 0 for {reader}, which follows a value of the"
                        " validation images"
                    )


def check_sizes(cfg: DictConfig) -> None:
    """Raises ConfigError for a part of the model with other sizes than the rest."""
    nodes = list(class_nodes(of_run(cfg)))
    for key in ("model.latent_dim", "data.image_shape"):
        common, name = selected(cfg, key), last_part(key)
        for path, node in nodes:
            is_own = str(node.get("_target_")).startswith("vae_lightning.")
            if path != "data" and is_own and name in node and plain(node, name) != common:
                value = show(plain(node, name))
                raise ConfigError(
                    f"{path}.{name}={value}: must be the same in all parts of the model; did you"
                    f" mean {key}={value}?"
                )


def check_fixed_length(cfg: DictConfig, callback: str) -> None:
    """Raises ConfigError for schedules, which must know how many steps the training takes."""
    for group in ("scheduler", "annealing"):
        chosen = cfg.hydra.runtime.choices[group]
        if chosen != "constant":
            raise ConfigError(
                f"{group}={chosen}: must be constant for {callback}, which changes the number of"
                " steps of an epoch"
            )


def check_together(cfg: DictConfig) -> None:
    """Raises ConfigError for values that do not fit each other."""
    check_sizes(cfg)
    check_trainer_together(cfg)
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
    name_data(cfg)
    for key in ("init_from", "from_config"):
        if cfg[key] is not None:
            cfg[key] = str(Path(cfg[key]).expanduser().resolve())


def name_data(cfg: DictConfig) -> None:
    """Writes out what the configuration of the data abbreviates.

    ``data.dataset=NAME`` is a class of torchvision, or the dotted name of any class; its arguments
    are ``data.options``. ``data.name=null`` is the name of the class, of the folder or of the file.
    """
    data = cfg.data
    if isinstance(data.dataset, str):
        target = data.dataset if "." in data.dataset else f"torchvision.datasets.{data.dataset}"
        with open_dict(cfg):
            data.dataset = {"_target_": target, "_partial_": True, **(data.options or {})}
    if data.name is None:
        target = data.dataset["_target_"]
        is_own = target.startswith("vae_lightning.")
        data.name = Path(data.root).stem if is_own else target.rpartition(".")[2].lower()


def may_name_any_class(cfg: DictConfig) -> bool:
    """Whether a composed configuration comes from the user, unlike that of another run."""
    return cfg.trust or cfg.from_config is None
