"""What a configuration may say: unknown keys, ranges of values, and what is decided once.

The options of classes are described in the classes; ``option_table`` holds a copy of them that can
be read without importing PyTorch. The options that belong to no class are described here.
"""

import functools
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from vae_lightning.checks.errors import ConfigError, nearest, show
from vae_lightning.checks.ranges import (
    SEEDS,
    AnyOf,
    Boolean,
    Choice,
    Integer,
    List,
    Number,
    OneOrMore,
    Option,
    Text,
    check_value,
)
from vae_lightning.config.compose import CONF, TRAINING_GROUPS
from vae_lightning.config.option_table import CLASS_OPTIONS
from vae_lightning.config.trainer_options import (
    OWN_OPTIONS,
    REFUSED_TRAINER_KEYS,
    TRAINER_OPTIONS,
)
from vae_lightning.storage.run_folder import of_run, read_yaml, to_dict

SECTIONS = (
    *TRAINING_GROUPS,
    "data",
    "accelerator",
    "trainer",
    "callbacks",
    "experiment",
    "seed",
    "resume",
    "init_from",
    "from_config",
    "trust",
)
NULL = Choice((None,))
SHARE = Number(above=0, below=1)
# options that belong to no class of this package
GENERAL_OPTIONS: dict[str, Option] = {
    "model.conditional": Option("whether encoder and decoder condition on the label", Boolean()),
    "optimizer.lr": Option("learning rate", Number(above=0)),
    "optimizer.betas": Option("decay of the moments of Adam", List(2, Number(least=0, below=1))),
    "optimizer.eps": Option("added to the denominator of Adam", Number(least=0)),
    "optimizer.weight_decay": Option("weight decay", Number(least=0)),
    "data.name": Option(
        "name of the data set in results; null: that of the class, the folder or the file",
        AnyOf((Text("a name"), NULL)),
    ),
    "data.image_shape": Option(
        "channels, height, width; null: those of the images", AnyOf((List(3, Integer(1)), NULL))
    ),
    "data.classes": Option(
        "number of labels; null: as many as there are", AnyOf((Integer(1), NULL))
    ),
    "data.root": Option("folder or file of the images", Text("a path")),
    "data.val_size": Option(
        "images held out for validation, independent of the seed; 0: none; null: a tenth, unless"
        " the data set has validation images",
        AnyOf((Integer(0), SHARE, NULL)),
    ),
    "data.test_size": Option(
        "images held out for the test; null: a tenth, unless the data set has test images",
        AnyOf((Integer(1), SHARE, NULL)),
    ),
    "data.in_memory": Option(
        "whether all images are in memory, or in a file that is mapped into it; null: up to 1 GiB",
        AnyOf((Boolean(), NULL)),
    ),
    "data.fallback": Option(
        "data set that is used if no files can be found or downloaded", Choice(("digits", None))
    ),
    "data.sha256": Option(
        "fingerprint that the images must have; a run records that of its images",
        AnyOf((Text("a SHA-256"), NULL)),
    ),
    **{f"trainer.{key}": option for key, option in (TRAINER_OPTIONS | OWN_OPTIONS).items()},
    "accelerator.accelerator": Option(
        "kind of device", Choice(("auto", "cpu", "gpu", "cuda", "mps"))
    ),
    "accelerator.num_nodes": Option("machines of accelerator=multi_node", Integer(1)),
    "seed": Option(
        "seed of all random numbers; null draws one and records it",
        AnyOf((SEEDS, NULL)),
    ),
    "init_from": Option(
        "run folder, or .safetensors file, from whose weights the run starts",
        AnyOf((Text("a path"), NULL)),
    ),
    "from_config": Option(
        "run folder whose configuration the run uses; other options that are given change it",
        AnyOf((Text("a path"), NULL)),
    ),
    "trust": Option("whether a stored configuration may name classes of other packages", Boolean()),
}
SEARCHES = ("random", "tpe", "gp", "qmc")  # the choices of the group search other than grid
# options of how the jobs of a sweep are run; a run has none of them
SWEEP_OPTIONS: dict[str, Option] = {
    "launcher.kind": Option("where jobs run", Choice(("local",))),
    "launcher.slots": Option(
        "jobs at a time; auto: as many as the free cores or the GPUs allow",
        AnyOf((Choice(("auto",)), Integer(1))),
    ),
    "launcher.per_device": Option("jobs of one process that share a GPU", Integer(1)),
    "search.kind": Option("how the points are chosen", Choice(("grid", *SEARCHES))),
    "sweep.on_error": Option(
        "after a failed job, continue with the others or stop them", Choice(("continue", "stop"))
    ),
}
# terms that every run logs after each epoch; the test images must not decide about an option
METRICS = tuple(
    f"{split}/{term}" for split in ("val", "train") for term in ("neg_elbo", "recon", "kl", "loss")
)
# options of a search; a grid has none of them
SEARCH_OPTIONS: dict[str, Option] = {
    "search.trials": Option("points that are drawn in all", Integer(1)),
    "search.metric": Option(
        "what is minimized; several ask for a Pareto front", OneOrMore(Choice(METRICS))
    ),
    "search.pruner": Option(
        "ends jobs that are worse than others after as many epochs",
        Choice(("none", "median", "hyperband")),
    ),
    "search.seed": Option("seed of the draws", SEEDS),
    "search.storage": Option(
        "URL of a database for the study; null: study.log in the sweep folder",
        AnyOf((Text("a URL"), Choice((None,)))),
    ),
}
SWEEP_SECTIONS = ("launcher", "search", "sweep")
REQUIRED_SECTIONS = [section for section in SECTIONS if section != "experiment"]
# sections of which no option may be removed; an optional argument of a class may be
COMPLETE_SECTIONS = ("", "data", "trainer", "accelerator")
# options of the trainer -> those that would have no effect beside them
EXCLUSIVE = {
    "fast_dev_run": (
        "limit_train_batches",
        "limit_val_batches",
        "limit_test_batches",
        "overfit_batches",
        "max_steps",
        "max_time",
        "min_epochs",
        "min_steps",
        "check_val_every_n_epoch",
        "val_check_interval",
        "num_sanity_val_steps",
    ),
    "overfit_batches": ("limit_train_batches", "limit_val_batches"),
}
# the values of these options that ask for nothing; null does so for the others
NO_EFFECT = {
    "overfit_batches": 0,
    "max_steps": -1,
    "check_val_every_n_epoch": 1,
    "val_check_interval": 1,
    "num_sanity_val_steps": 0,
}
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
            "annealing: must be constant, because this objective has no annealed weight"
        )


@functools.cache
def data_keys() -> frozenset[str]:
    """The keys that every data set has."""
    return frozenset(map(str, read_yaml(CONF / "data" / "_images.yaml")))


def check_trainer_key(key: str) -> None:
    """Raises ConfigError, with the reason, for a key that must not be in cfg.trainer."""
    if key in REFUSED_TRAINER_KEYS:
        raise ConfigError(f"trainer.{key}: must not be given: {REFUSED_TRAINER_KEYS[key]}")
    if key not in TRAINER_OPTIONS and key not in OWN_OPTIONS:
        close = nearest(key, [*TRAINER_OPTIONS, *OWN_OPTIONS])
        raise ConfigError(f"trainer.{key}: no such key{close}")


def check_sweep_options(cfg: DictConfig) -> None:
    """Raises ConfigError for a wrong option of how the jobs of a sweep are chosen and run."""
    described = SWEEP_OPTIONS | SEARCH_OPTIONS
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
                raise ConfigError(f"{key}: must not be removed")
            value = selected(cfg, key)
            if key not in SEARCH_OPTIONS or cfg.search.kind != "grid":
                check_value(key, value, option)
            elif value is not None:
                needed = f"requires search={', '.join(SEARCHES[:-1])} or {SEARCHES[-1]}"
                raise ConfigError(f"{key}={show(value)}: {needed}; a grid runs every combination")


def selected(cfg: DictConfig, key: str) -> object:
    """The value of a dotted key, as plain Python."""
    section, _, name = key.rpartition(".")
    return plain(cfg[section], name)


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
    if cfg.data.dataset is None:
        raise ConfigError(
            "data.dataset: must be the name of a class of torchvision.datasets, for example"
            " data.dataset=CIFAR10"
        )
    check_classes(cfg, lambda target: CLASS_OPTIONS.get(target, {}))
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


def check_together(cfg: DictConfig) -> None:
    """Raises ConfigError for values that do not fit each other."""
    check_trainer_together(cfg)
    devices, kind = plain(cfg.trainer, "devices"), cfg.accelerator.accelerator
    if devices == "auto":
        return  # checked again when their number is known
    if isinstance(devices, list) and (kind == "cpu" or len(set(devices)) < len(devices)):
        raise ConfigError(
            f"trainer.devices={devices}: must be the numbers of different GPUs, or a single number"
        )
    processes = process_count(cfg) * cfg.accelerator.num_nodes
    if process_count(cfg) > 1 and cfg.accelerator.strategy == "auto":
        raise ConfigError(
            f"trainer.devices={devices}: must be 1 unless accelerator is ddp, ddp_cpu or multi_node"
        )
    if cfg.data.batch_size % processes:
        size = cfg.data.batch_size
        raise ConfigError(f"data.batch_size={size}: must be divisible by the {processes} processes")


def check_trainer_together(cfg: DictConfig) -> None:
    """Raises ConfigError for options of the trainer of which one would be without effect."""
    trainer = cfg.trainer
    for key, others in EXCLUSIVE.items():
        for other in others if trainer[key] else ():
            if trainer[other] != NO_EFFECT.get(other):
                raise ConfigError(
                    f"trainer.{other}={show(trainer[other])}: must not be given together with"
                    f" trainer.{key}={show(trainer[key])}"
                )
    if trainer.gradient_clip_val is None and trainer.gradient_clip_algorithm != "norm":
        raise ConfigError(
            f"trainer.gradient_clip_algorithm={trainer.gradient_clip_algorithm}: requires"
            " trainer.gradient_clip_val"
        )
    if trainer.gradient_clip_val is not None and trainer.precision == "16-mixed":
        raise ConfigError(
            "trainer.gradient_clip_val: requires trainer.precision=32 or bf16-mixed, because the"
            " gradient of 16-mixed is scaled"
        )
    if (trainer.min_epochs or 0) > trainer.max_epochs:
        raise ConfigError(
            f"trainer.min_epochs={trainer.min_epochs}: must be at most"
            f" trainer.max_epochs={trainer.max_epochs}"
        )
    if trainer.max_steps != -1 and (trainer.min_steps or 0) > trainer.max_steps:
        raise ConfigError(
            f"trainer.min_steps={trainer.min_steps}: must be at most"
            f" trainer.max_steps={trainer.max_steps}"
        )


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
