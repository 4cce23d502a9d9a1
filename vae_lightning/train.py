"""Train: ``python -m vae_lightning.train key=value ...``. Composes, checks, trains, tests, and says what came out."""

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vae_lightning import cli, config, runs

if TYPE_CHECKING:  # heavy: a command that only prints its help, or starts a sweep, does not need them
    from lightning.pytorch import Trainer

    from vae_lightning.data import ImageData
    from vae_lightning.module import VAE

log = logging.getLogger("vae_lightning.train")  # not __name__: it runs as __main__

RUN_VARIABLE = "VAE_LIGHTNING_RUN"  # tells the processes that DDP starts which run they belong to
RESUMES_VARIABLE = "VAE_LIGHTNING_RESUMES"  # and, if not empty, that it goes on from last.ckpt


def main() -> None:
    """The command line."""
    with cli.exit_codes():
        if RUN_VARIABLE in os.environ and os.environ.get("LOCAL_RANK", "0") != "0":
            join(Path(os.environ[RUN_VARIABLE]))
            return
        args = cli.parse(sys.argv[1:])
        if any(getattr(args, flag) for flag in cli.HYDRA_ONLY):
            cli.hydra_main("config", lambda _: None)
        elif args.multirun:
            from vae_lightning import sweep

            sweep.run(args)
        elif resumed := [o for o in args.overrides if o.startswith("resume=") and o != "resume=null"]:
            others = [o for o in args.overrides if not o.startswith("resume=")]
            resume(Path(resumed[-1].removeprefix("resume=")), others)
        else:
            start(args.overrides, cli.search_path(args))


def start(overrides: Sequence[str], search_path: Sequence[str]) -> None:
    """A new run: everything that can be wrong with the command is found before its folder is made."""
    with cli.usage(ValueError):
        cfg = cli.compose("config", [*search_path, *overrides])
        config.check_keys(cfg)
        config.validate(cfg)
        chosen = any(override.startswith("hydra.run.dir=") for override in overrides)
        if cfg.accelerator.num_nodes > 1:
            check_nodes(cfg, chosen)
        config.settle(cfg)
        cfg.trust = True  # a configuration that its user composes may name the user's classes
        parts = prepare(cfg)
        folder = Path(cfg.hydra.run.dir)
        run = folder.resolve() if rank() else runs.create(folder, exclusive=not chosen)
    if not rank():
        runs.write_overrides(run, cfg, overrides)
    fit_and_test(cfg, *parts, run, None)


def check_nodes(cfg: DictConfig, chosen: bool) -> None:
    """Raises ValueError unless processes on several machines can agree on what this run is."""
    if "RANK" not in os.environ and "SLURM_PROCID" not in os.environ:
        raise ValueError(f"accelerator.num_nodes={cfg.accelerator.num_nodes}: must be started by torchrun or srun")
    if not chosen or cfg.seed is None:
        raise ValueError("accelerator=multi_node: must have hydra.run.dir and a seed given, so that all nodes agree")


def rank() -> int:
    """This process's rank among processes that torchrun or SLURM started, 0 where nobody did."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def resume(run: Path, overrides: Sequence[str]) -> None:
    """Goes on with a run, in its folder, from last.ckpt; only trainer.max_epochs may change, and only grow."""
    with cli.usage(ValueError):
        cfg, stored = runs.read_config(run, "resume")
        run = run.resolve()
        epochs = cfg.trainer.max_epochs
        for override in overrides:
            key, _, value = override.partition("=")
            if key == "trust":
                cfg.trust = value == "true"
            elif key == "trainer.max_epochs" and value.isdigit() and int(value) >= epochs:
                cfg.trainer.max_epochs = int(value)
            elif override not in stored:
                raise ValueError(
                    f"{override}: must not change on resume; only trainer.max_epochs may, to more than {epochs}"
                )
        state = runs.read_json(run / "status.json").get("state")
        if state == "finished" and cfg.trainer.max_epochs == epochs:
            print(f"{run} is finished: {epochs} epochs. To go on: resume={run} trainer.max_epochs={2 * epochs}")
            return
        config.validate(cfg)
        parts = prepare(cfg)
    checkpoint = run / runs.LAST
    fit_and_test(cfg, *parts, run, checkpoint if checkpoint.is_file() else None)


def join(run: Path) -> None:
    """Rank 1 and above of a run that rank 0 has started: trains with it and leaves the rest to it."""
    cfg, _ = runs.read_config(run, RUN_VARIABLE)
    cfg.trust = True  # rank 0 has checked the same configuration
    module, data = prepare(cfg)
    checkpoint = run / runs.LAST
    try:
        fit(cfg, module, data, run, checkpoint if os.environ.get(RESUMES_VARIABLE) else None)
    except runs.Interrupted:
        sys.exit(0)  # rank 0 reports it; another code would make Lightning kill rank 0 before it has


def prepare(cfg: DictConfig) -> tuple["VAE", "ImageData"]:
    """The data (fallen back on if need be, which cfg then says) and the initial model; ValueError for what is wrong."""
    from vae_lightning import trainers

    trainers.quiet()
    data = trainers.build_data(cfg)
    trainers.build_trainer(cfg)  # refuses what Lightning's Trainer does not take or the machine does not have
    module = trainers.build_module(cfg)
    module.start_from(data)
    return module, data


def fit_and_test(cfg: DictConfig, module: "VAE", data: "ImageData", run: Path, checkpoint: Path | None) -> None:
    """Trains, tests the best weights on rank 0, writes what came out."""
    from vae_lightning import results

    if rank():
        fit(cfg, module, data, run, checkpoint)
        return
    with cli.usage(ValueError):
        lock = runs.claim(run)
    try:
        with lock, runs.recorded(run):
            runs.write_config(run, cfg)
            log.info("data: %s", results.describe_data(cfg, data))
            log.info("KL: %s", results.describe_kl(module, data))
            trainer = fit(cfg, module, data, run, checkpoint)
            results.conclude(cfg, trainer, module, data, run)
    except (runs.Interrupted, KeyboardInterrupt):
        print(f"interrupted. To go on: python -m vae_lightning.train resume={shlex.quote(str(run))}", file=sys.stderr)
        raise


def fit(cfg: DictConfig, module: "VAE", data: "ImageData", run: Path, checkpoint: Path | None) -> "Trainer":
    """Trains in this process, and in those that Lightning starts for DDP, which find the run by RUN_VARIABLE."""
    from vae_lightning import onednn, results, trainers

    trainer = trainers.build_trainer(cfg, run, checkpoint)
    data.steps_per_execution = trainers.steps_per_execution(cfg, trainer)
    module.automatic_optimization = data.steps_per_execution == 1
    if trainers.compiles(cfg, trainer, data):
        from vae_lightning import compiled

        module.optimize = compiled.CompiledStep(module, data.batch_size)
    with cli.environment(**{RUN_VARIABLE: str(run), RESUMES_VARIABLE: "1" if checkpoint else ""}):
        results.begin_hparams(cfg, trainer)
        try:
            with onednn.products():
                trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        except BaseException:
            results.end_hparams(trainer, "FAILURE")
            raise
    return trainer


if __name__ == "__main__":
    main()
