"""The launcher that a configuration chooses, also for a sweep that continues."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial

from omegaconf import DictConfig, OmegaConf

from vae_lightning.checks.errors import ConfigError, show
from vae_lightning.checks.ranges import check_value
from vae_lightning.config.compose import compose
from vae_lightning.config.launcher_options import (
    KIND,
    check_words,
    launcher_options,
)
from vae_lightning.storage.run_folder import to_dict
from vae_lightning.sweeps.launchers.launcher import Site
from vae_lightning.sweeps.launchers.local import LocalLauncher
from vae_lightning.sweeps.launchers.slots import Slots, need_of, visible_devices

# what a sweep of somebody else must not decide: where to connect, and how jobs are submitted
UNTRUSTED = {"ray": "address", "slurm": "sbatch"}


def choose(
    options: DictConfig, trust: bool, workers: LocalLauncher, cores: int, stack: ExitStack
) -> Site:
    """Where the jobs of a sweep run.

    Args:
        options: the checked node ``launcher``.
        trust: whether the words of the jobs come from the user.
        workers: starts processes on this machine.
        cores: of this machine that are free.
        stack: closes what the launcher opens.

    Raises ConfigError if the launcher is not available.
    """
    if options.kind == "slurm":
        from vae_lightning.sweeps.launchers import slurm

        return slurm.site(options, trust)
    if options.kind == "ray":
        from vae_lightning.sweeps.launchers import ray_cluster

        return ray_cluster.site(options, trust, stack)
    devices = visible_devices()
    number = None if options.slots == "auto" else options.slots
    make_room = partial(
        Slots, cores=cores, devices=devices, slots=number, per_device=options.per_device
    )
    return Site(workers, partial(need_of, devices=devices), make_room, lambda _: None)


def continued(typed: DictConfig, stored: Mapping[str, object], trust: bool, key: str) -> DictConfig:
    """The options of a sweep that continues: those that are typed, and the stored ones.

    Raises ConfigError for wrong ones, and for stored ones that only the user may decide.
    """
    given = {name: value for name, value in to_dict(typed).items() if value is not None}
    before = dict(stored)
    check_value("launcher.kind", kind := given.get("kind", before.get("kind")), KIND)
    if kind != before.get("kind"):
        before = {}
    name = UNTRUSTED.get(str(kind), "")
    is_asked = kind == "ray" or before.get(name) is not None  # without an address, Ray listens here
    if before and is_asked and name not in given and not trust:
        raise ConfigError(
            f"{key}: launcher.{name}={show(before.get(name))}: must be given again, or set"
            " trust=true if the sweep is yours"
        )
    defaults = to_dict(compose("config", [f"launcher={kind}"]).launcher)
    merged = {"kind": kind} | defaults | before | given
    described = launcher_options(str(kind))
    check_words([f"launcher.{name}" for name in given], str(kind))
    for name, value in merged.items():
        option = described.get(f"launcher.{name}")
        if option is None:
            raise ConfigError(f"{key}: launcher.{name}: no such key")
        check_value(f"launcher.{name}", value, option)
    return OmegaConf.create(merged)
