"""Starts a sweep, or continues one in its folder."""

import pickle
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError, Interrupted, counted
from vae_lightning.config import interpolations
from vae_lightning.config.optional import require_extra
from vae_lightning.runs.untrusted import check_links
from vae_lightning.storage.files import TEMPORARY
from vae_lightning.storage.lock import claim
from vae_lightning.storage.run_folder import new_folder, to_dict
from vae_lightning.sweeps.display import Display, make_display
from vae_lightning.sweeps.driver import Driver, entry_of
from vae_lightning.sweeps.launchers.choose import choose, continued
from vae_lightning.sweeps.launchers.cluster import Files
from vae_lightning.sweeps.launchers.launcher import Launcher, Site
from vae_lightning.sweeps.launchers.local import LocalLauncher
from vae_lightning.sweeps.launchers.slots import Need, Room
from vae_lightning.sweeps.plan import (
    KEY,
    SWEEP,
    Job,
    Plan,
    check_trusted,
    configuration,
    extended,
    read_plan,
    read_typed,
)
from vae_lightning.sweeps.results import collect, link_best, write_tables
from vae_lightning.sweeps.search import Search
from vae_lightning.sweeps.study import check_shared, connect
from vae_lightning.sweeps.tables import terminal_table
from vae_lightning.sweeps.work import ENDED, Jobs, Work, make_work, state_of
from vae_lightning.training import threads
from vae_lightning.training.signals import StopSignals

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def list_jobs(typed: Sequence[str], config_dir: str | None) -> str:
    """The jobs of a sweep, one per line: the folder and the overrides. Starts none."""
    plan, _, _ = read_typed(typed, config_dir)
    for job in plan.probes() if plan.search else plan.jobs:
        configuration(job, plan)
    if plan.search:
        drawn = counted(plan.search.trials, "point")
        return f"search={plan.search.kind} draws {drawn} of {shlex.join(plan.search.space)}"
    return "\n".join(f"{job.name}  {shlex.join(job.overrides)}" for job in plan.jobs)


def start_sweep(typed: Sequence[str], config_dir: str | None) -> bool:
    """Runs the sweep of a command line and returns whether all jobs are finished.

    In a folder with a sweep of the same configuration it continues that sweep, and adds values.
    Raises ConfigError before anything is written.
    """
    load = threads.load()
    with preloading() as launcher:
        plan, words, cfg = read_typed(typed, config_dir)
        if words.repeated:
            print(f"{counted(words.repeated, 'value')} given twice: each is run once")
        folder = interpolations.folder(cfg, "sweep")
        is_given = any(word.startswith(f"{KEY}=") for word in words.driver)
        continues = is_given and (folder / SWEEP).is_file()
        if continues:
            plan = extended(read_plan(folder, KEY), plan, folder)
        request = Request(cfg, folder, continues, not is_given, True, load)
        return run_plan(plan, request, launcher)


def resume_sweep(cfg: DictConfig) -> bool:
    """Continues the sweep that ``cfg.resume`` names, as its folder records it."""
    load, folder = threads.load(), Path(cfg.resume)
    plan = read_plan(folder, "resume")
    if not cfg.trust:
        check_trusted(plan, f"resume={folder}")
    if cfg.search.trials is not None:
        if plan.search is None:
            raise ConfigError(f"search.trials={cfg.search.trials}: requires a search, not a grid")
        plan = plan._replace(search=plan.search._replace(trials=cfg.search.trials))
    cfg.launcher = continued(cfg.launcher, plan.launcher, cfg.trust, f"resume={folder}")
    plan = plan._replace(launcher=to_dict(cfg.launcher))
    if plan.search:
        require_extra(f"search={plan.search.kind}", "search", "optuna")
    with preloading() as launcher:
        return run_plan(plan, Request(cfg, folder, True, False, cfg.trust, load), launcher)


@contextmanager
def preloading() -> Iterator[LocalLauncher]:
    """A launcher that imports what the jobs need while the body composes and checks them."""
    with LocalLauncher() as launcher:
        launcher.preload()
        yield launcher


class Request(NamedTuple):
    """How the jobs of a sweep are to be run."""

    cfg: DictConfig  # launcher and sweep.on_error
    folder: Path
    continues: bool  # the folder holds the sweep already
    renames: bool  # a name that is taken gets a suffix, because the user did not choose it
    trust: bool  # the words come from the user
    load: threads.Load | None  # of the machine, when the command began


def run_plan(plan: Plan, request: Request, launcher: LocalLauncher) -> bool:
    """Runs the jobs of a plan that are not finished, and returns whether all are finished now."""
    folder = request.folder
    cores = max(1, threads.most_threads() - threads.cores_taken(request.load))
    with ExitStack() as stack:
        if request.continues:
            stack.enter_context(existing_folder(folder))
        left = [job for job in plan.jobs if state_of(folder / job.name) != "finished"]
        checked = plan.probes() if plan.search else left
        cfgs = {job: configuration(job, plan, request.trust) for job in checked}
        storage = open_storage(request.cfg.search.storage, plan)
        site = choose(request.cfg.launcher, request.trust, launcher, cores, stack)
        needs = [site.need_of(cfg) for cfg in cfgs.values()]
        site.check(needs)
        stop = stack.enter_context(StopSignals())
        if not request.continues:
            folder = stack.enter_context(new_folder(folder, request.renames, KEY))
        plan = find_data(plan, cfgs, launcher)
        if not request.continues:
            stack.enter_context(claim(folder, KEY))
        folder = folder.resolve()
        plan.write(folder)
        works = [
            make_work(job, cfg, plan, folder, need)
            for (job, cfg), need in zip(cfgs.items(), needs, strict=True)
        ]
        works.sort(key=lambda work: not Files(work.task.lock).id.is_file())  # those on a cluster
        room = make_room(plan, needs, site)
        print(first_line(plan, len(left), room, folder))

        def make_jobs(display: Display) -> Jobs:
            if plan.search is None:
                return Jobs(works)

            def make(job: Job, plan: Plan) -> Work:
                cfg = configuration(job, plan, request.trust)
                return make_work(job, cfg, plan, folder, site.need_of(cfg))

            epochs = max(work.epochs for work in works)
            return Search(plan, folder, storage, make, display, epochs)

        entries = [] if plan.search else [entry_of(work) for work in works]
        display = make_display(entries)
        run_jobs(make_jobs, room, display, request.cfg, folder, site.launcher, stop)
        return report(folder, launcher)


def open_storage(url: str | None, plan: Plan) -> "BaseStorage | None":
    """The database of a search; None for a grid and for a study in the sweep folder."""
    if plan.search is None:
        return None
    storage = connect(url, plan.search)
    check_shared(storage, plan.search, plan.identity)
    return storage


def run_jobs(
    make_jobs: Callable[[Display], Jobs],
    room: Room,
    display: Display,
    cfg: DictConfig,
    place: Path,
    launcher: Launcher,
    stop: StopSignals,
) -> None:
    """Runs the jobs, and writes the tables even after a signal or if nobody reads the output."""
    try:
        with display:
            jobs = make_jobs(display)
            Driver(jobs, room, launcher, display, cfg.sweep.on_error == "stop").run(stop)
    except (Interrupted, BrokenPipeError):
        command = f"python -m vae_lightning.sweep resume={shlex.quote(str(place))}"
        if cfg.launcher.kind == "ray":
            command += f" launcher.address={cfg.launcher.address or 'local'}"
        print(f"interrupted. To continue: {command}", file=sys.stderr)
        raise
    finally:
        results = collect([place])
        write_tables(results, place)
        link_best(results, place)


def report(place: Path, launcher: LocalLauncher) -> bool:
    """Writes what compares the jobs, prints the table, and returns whether all have ended well."""
    results = collect([place])
    if any(result.state == "finished" for result in results):
        launcher.report(place)
    print("", terminal_table(results), "", sep="\n")
    print(f"{place}\ntensorboard --logdir {shlex.quote(str(place))}")
    return all(result.state in ENDED for result in results)


@contextmanager
def existing_folder(folder: Path) -> Iterator[None]:
    """Claims the folder of a sweep that continues for this driver alone."""
    check_links(folder, KEY)
    with claim(folder, KEY):
        for path in folder.glob(f"{TEMPORARY}*"):  # not those of jobs, which may still be saving
            path.unlink(missing_ok=True)
        yield


def find_data(plan: Plan, jobs: dict[Job, DictConfig], launcher: LocalLauncher) -> Plan:
    """The plan with the data sets that are used: decided once, for all jobs.

    Raises ConfigError if there are no files and no fallback.
    """
    unknown = {
        (cfg.data.name, cfg.data.root): cfg
        for cfg in jobs.values()
        if cfg.data.name not in plan.replaced
    }
    if not unknown:
        return plan
    answers = launcher.ask([pickle.dumps(cfg) for cfg in unknown.values()])
    replaced = dict(plan.replaced)
    for (name, _), answer in zip(unknown, answers, strict=True):
        if isinstance(answer, ConfigError):
            raise answer
        replaced[name] = answer
    return plan._replace(replaced=replaced)


def make_room(plan: Plan, needs: Sequence[Need], site: Site) -> Room:
    """The room for these jobs; a search may draw the largest one as often as it likes."""
    if plan.search:
        needs = [max(needs, key=lambda need: need.cores)] * plan.search.trials
    return site.make_room(needs)


def first_line(plan: Plan, left: int, room: Room, place: Path) -> str:
    """What is about to be run, and on which data."""
    done = len(plan.jobs) - left
    if plan.search:
        points = f"{plan.search.kind} search of {counted(plan.search.trials, 'point')}"
        before = [f"{len(plan.jobs)} drawn before"] if plan.jobs else []
        parts = [points, *before, f"{room.number} at a time"]
    elif not left:
        return f"sweep: nothing to do, as {counted(done, 'job')} finished before; folder: {place}"
    else:
        parts = [counted(left, "job"), f"{room.number} at a time"]
        if done:
            parts.insert(1, f"{done} finished before")
    data = [
        name if used == name else f"{used} instead of {name}, whose files were not found"
        for name, used in plan.replaced.items()
    ]
    return f"sweep: {', '.join(parts)}; data: {', '.join(data)}; folder: {place}"
