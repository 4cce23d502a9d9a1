"""The data and the model that a configuration stands for."""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from vae_lightning import rng
from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import Option
from vae_lightning.config.fallback import use_fallback
from vae_lightning.config.instantiate import (
    Recipe,
    find_class,
    instantiate,
    is_within,
    options_of,
    resolve,
)
from vae_lightning.config.options import check_classes, name_data
from vae_lightning.data import fingerprint
from vae_lightning.data.images import ImageData
from vae_lightning.data.limits import Limits
from vae_lightning.data.sources.arrays import ArrayImages, Arrays, GivenArrays
from vae_lightning.data.sources.folder import FolderImages
from vae_lightning.data.sources.idx import ensure_files, folder_of, missing_files
from vae_lightning.data.sources.read import Division, read
from vae_lightning.data.sources.source import Source
from vae_lightning.data.sources.torchvision import TorchvisionImages
from vae_lightning.storage.run_folder import to_dict
from vae_lightning.training.clipping import Clipping
from vae_lightning.training.memory import MemoryLimit, machine_bytes
from vae_lightning.training.module import VAE
from vae_lightning.training.schedulers import Schedule

log = logging.getLogger(__name__)

# packages whose classes are in config/option_table.py, or describe no options
OWN_PACKAGES = ("vae_lightning", "torch", "torchvision", "lightning")
# data sets that read the options of cfg.data.dataset themselves; all others are classes of images
OWN_SOURCES = (FolderImages, ArrayImages)
# keys of cfg.scheduler that are not arguments of its class
SCHEDULE_KEYS = ("interval", "warmup_steps")
REFUSED_OPTIMIZERS = {
    "LBFGS": "because it evaluates the loss several times in a step",
    "SparseAdam": "because the gradients are not sparse",
}
MANY_STEPS = 10**9  # how many there are is not known before the data
# component -> the argument of VAE; the order decides which initial weights each component draws
ARGUMENTS = {
    "prior": "prior",
    "objective": "objective",
    "optimizer": "optimizer",
    "posterior": "encoder",
    "likelihood": "decoder",
    "scheduler": "scheduler",
}


def plain(node: DictConfig) -> dict[str, Any]:
    """A part of the configuration as plain Python, which nothing can write back through."""
    return to_dict(node)


def check_user_classes(cfg: DictConfig) -> None:
    """Checks the options that classes of other packages describe; raises ConfigError."""

    def lookup(target: str) -> Mapping[str, Option]:
        if is_within(target, OWN_PACKAGES):  # checked already
            return {}
        return options_of(find_class(target, object, cfg.trust))

    check_classes(cfg, lookup)


def build_data(cfg: DictConfig, arrays: Arrays | None = None) -> ImageData:
    """The images of the configuration; ``arrays``, if given, are those of data=arrays.

    If the files can neither be found nor downloaded, the images of ``data.fallback`` are used and
    ``cfg.data`` is changed accordingly. The fingerprint of the images is put into
    ``cfg.data.sha256``; one that is there already must be the same.

    Raises ConfigError if there is no fallback, and for damaged or other files.
    """
    find_files(cfg)
    options = cfg.data
    division = Division(options.val_size, options.test_size, options.in_memory, options.classes)
    found = read(make_source(cfg, arrays), options.name, options.image_shape, division)
    count = len(found.parts["train"].images)
    if options.batch_size > count:
        log.info("data.batch_size=%d: all %d images form one batch", options.batch_size, count)
    data = ImageData(
        options.name,
        found.parts,
        options.batch_size,
        options.binarization,
        cfg.seed,
        is_conditional(cfg),
        list(options.augment),
        found.fingerprints,
        found.in_memory,
        found.class_names,
        found.unordered_factors,
    )
    fingerprint.check_parts(options.name, options.root, data.parts, options.get("sha256"))
    with open_dict(cfg):
        options.sha256, options.in_memory = data.sha256, found.in_memory
        options.image_shape, options.classes = list(found.shape), found.classes
    return data


def make_source(cfg: DictConfig, arrays: Arrays | None = None) -> Source:
    """What finds the images of the configuration."""
    dataset = instantiate(plain(cfg.data)["dataset"], "dataset", cfg.trust)
    if arrays is not None:
        return GivenArrays(arrays, **dataset.keywords)
    if getattr(dataset, "func", None) in OWN_SOURCES:
        return dataset(root=Path(cfg.data.root))
    return TorchvisionImages(dataset, Path(cfg.data.root))


def find_files(cfg: DictConfig) -> None:
    """Downloads the files of the data set if needed, or replaces it by ``data.fallback``.

    Raises ConfigError if the files can neither be found nor downloaded and there is no fallback.
    """
    name_data(cfg)
    dataset = find_class(cfg.data.dataset["_target_"], object, cfg.trust)
    if isinstance(vars(dataset).get("resources"), list):  # as MNIST has them
        find_moved_files(cfg, dataset)
        try:
            ensure_files(dataset, Path(cfg.data.root), list(cfg.data.mirrors))
        except OSError as error:
            fall_back(cfg, dataset, error)


def find_moved_files(cfg: DictConfig, dataset: type) -> None:
    """Lets a run find its files in VAE_LIGHTNING_DATA if its own folder does not hold them.

    Only a run that has recorded the fingerprint of its images may use another folder than its own.
    """
    root = os.environ.get("VAE_LIGHTNING_DATA")
    if root is None or not cfg.data.get("sha256"):
        return
    if missing_files(dataset, Path(cfg.data.root)) and not missing_files(dataset, Path(root)):
        log.info("data.root=%s: has no %s; %s has", cfg.data.root, cfg.data.name, root)
        cfg.data.root = root


def fall_back(cfg: DictConfig, dataset: type, error: OSError) -> None:
    """Replaces cfg.data by the fallback, with a warning; ConfigError if data.fallback=null."""
    root, name = cfg.data.root, cfg.data.name
    if cfg.data.fallback is None:
        folder = folder_of(dataset, Path(root))
        raise ConfigError(
            f"data.root={root}: must contain the files of {name}, as no mirror provides them and"
            f" data.fallback=null; put the IDX files into {folder}, set VAE_LIGHTNING_DATA, or set"
            f" data.fallback=digits ({error})"
        )
    log.warning(
        "%s has no %s files and no mirror provides them: training on scikit-learn's digits instead"
        " (data.fallback=digits). %s",
        root,
        name,
        error,
    )
    use_fallback(cfg)


def is_conditional(cfg: DictConfig) -> bool:
    """Whether the model conditions on the label."""
    return bool(cfg.model.get("conditional", False))


def component_nodes(cfg: DictConfig) -> dict[str, Any]:
    """The configuration of each component; a conditional model's networks also take the label."""
    nodes: dict[str, Any] = {
        name: OmegaConf.to_container(cfg[name], resolve=True) for name in ARGUMENTS
    }
    for name in ("optimizer", "scheduler"):
        nodes[name].pop("name", None)  # it chooses the class
    if is_conditional(cfg):
        sizes = {
            "posterior": ("Encoder", {"image_shape": list(cfg.data.image_shape)}),
            "likelihood": ("Decoder", {"latent_dim": cfg.model.latent_dim}),
        }
        for name, (kind, size) in sizes.items():
            nodes[name]["network"] = {
                "_target_": f"vae_lightning.networks.Conditional{kind}",
                "_partial_": True,
                "network": nodes[name]["network"],
                "classes": cfg.data.classes,
                **size,
            }
    return nodes


def build_module(cfg: DictConfig) -> VAE:
    """The model with its initial weights, which depend on the seed alone.

    Raises ConfigError for a component that cannot be built or does not fit the others.
    """
    nodes = component_nodes(cfg)
    classes = cfg.data.classes if is_conditional(cfg) else 0
    timing = {
        key: nodes["scheduler"].pop(key) for key in SCHEDULE_KEYS if key in nodes["scheduler"]
    }
    components = {ARGUMENTS[name]: resolve(nodes[name], name, cfg.trust) for name in ARGUMENTS}
    components["scheduler"] = schedule(components["scheduler"], timing)
    settings = {
        "seed": cfg.seed,
        "classes": classes,
        "clipping": clipping(cfg),
        "skip_gradient_above": cfg.trainer.skip_gradient_above,
        "log_every_n_steps": cfg.trainer.log_every_n_steps,
    }
    model = Recipe(VAE, components | settings)
    torch.manual_seed(rng.stream_seed(cfg.seed, "weights"))
    with MemoryLimit(machine_bytes()):
        module = model.build()
    try_optimizer(module)
    return module


def clipping(cfg: DictConfig) -> Clipping | None:
    """How the gradient is clipped."""
    limit = cfg.trainer.gradient_clip_val
    return None if limit is None else Clipping(limit, cfg.trainer.gradient_clip_algorithm)


def limits(cfg: DictConfig) -> Limits:
    """Which part of the images the run uses."""
    trainer, overfit = cfg.trainer, cfg.trainer.overfit_batches or None
    amounts = {
        "train": overfit or trainer.limit_train_batches,
        "val": overfit or trainer.limit_val_batches,
        "test": trainer.limit_test_batches,
    }
    if trainer.fast_dev_run:
        amounts = dict.fromkeys(amounts, int(trainer.fast_dev_run))
    return Limits(
        **amounts,
        is_shuffled=overfit is None,
        accumulated=trainer.accumulate_grad_batches,
        val_interval=trainer.val_check_interval,
        max_steps=None if trainer.max_steps == -1 else trainer.max_steps,
    )


def epochs(cfg: DictConfig) -> int:
    """The largest number of epochs."""
    return 1 if cfg.trainer.fast_dev_run else cfg.trainer.max_epochs


def schedule(scheduler: Recipe | dict[str, Any], timing: dict[str, Any]) -> Recipe | None:
    """The schedule that a scheduler follows; it is empty for a constant learning rate.

    ``timing`` holds the interval and the warm-up.
    """
    if isinstance(scheduler, dict) and scheduler:
        raise ConfigError(f"scheduler.{next(iter(scheduler))}: no such key of scheduler=constant")
    if not scheduler and not timing.get("warmup_steps"):
        return None
    return Recipe(Schedule, {"make": scheduler or None} | timing, is_partial=True)


def try_optimizer(module: VAE) -> None:
    """Raises ConfigError for values that torch.optim refuses, before a folder is made."""
    name = class_of(module.make_optimizer).__name__
    if name in REFUSED_OPTIMIZERS:
        raise ConfigError(f"optimizer.name={name}: must be another one, {REFUSED_OPTIMIZERS[name]}")
    try:
        made = module.make_optimizer(module.parameters())
    except (TypeError, ValueError) as error:
        if not is_within(class_of(module.make_optimizer).__module__, ("torch.optim",)):
            raise
        raise ConfigError(f"optimizer: {error}") from error
    if module.make_scheduler:
        module.make_scheduler(made, total_steps=MANY_STEPS, epochs=1)


def class_of(partial: Callable[..., Any]) -> type:
    """The class that a partial of a configuration makes."""
    return getattr(partial, "func", type(partial))
