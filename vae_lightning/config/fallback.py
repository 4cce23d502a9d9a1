"""Replaces a data set whose files cannot be had."""

from omegaconf import DictConfig, open_dict

from vae_lightning.config.compose import CONF
from vae_lightning.storage.run_folder import read_yaml


def use_fallback(cfg: DictConfig) -> None:
    """Replaces ``cfg.data`` by the data set that ``data.fallback`` names."""
    other = read_yaml(CONF / "data" / f"{cfg.data.fallback}.yaml")
    del other["defaults"]  # the same as those of every data set
    wanted = cfg.data.val_size
    val_size = other.val_size if wanted is None else min(wanted, other.val_size)
    other.update(instead_of=cfg.data.name, mirrors=[], val_size=val_size)
    with open_dict(cfg):
        cfg.data.merge_with(other)
