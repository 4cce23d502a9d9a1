"""Draws the jobs of a search with Optuna, tells it their results, and ends jobs early.

The study and the folders of the jobs hold all state. A trial that a dead driver left open belongs
to the job with the name of its point, which continues.
"""

import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from vae_lightning.checks.errors import ConfigError
from vae_lightning.storage.files import read_csv, read_json, write_text
from vae_lightning.storage.run_folder import STOP, write_failure
from vae_lightning.sweeps.display import Display
from vae_lightning.sweeps.plan import Job, Plan
from vae_lightning.sweeps.study import distributions_of, make_sampler, open_study
from vae_lightning.sweeps.work import ENDED, Jobs, Work, state_of

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

# attributes of a trial: the number of the failed one that it repeats, and the driver that drew it
REPEATS, DRIVER = "repeats", "driver"
ORPHANED_S = 60.0  # after which a trial without a driver was left by one that died


class Search(Jobs):
    """The jobs of a search.

    Args:
        plan: the search; its points are added to sweep.yaml as they are drawn.
        place: the sweep folder.
        storage: the database of the study; None: study.log.
        make: makes the work of a job; raises ConfigError for a point that cannot be run.
        display: shows what happens.
        epochs: the most epochs of a job.
    """

    def __init__(
        self,
        plan: Plan,
        place: Path,
        storage: "BaseStorage | None",
        make: Callable[[Job, Plan], Work],
        display: Display,
        epochs: int,
    ) -> None:
        assert plan.search
        self.plan, self.search, self.place = plan, plan.search, place
        self.make, self.display = make, display
        self.study = open_study(plan.search, place, storage, epochs, plan.identity)
        self.domains = plan.domains
        self.distributions = distributions_of(self.domains)
        self.names = {job.name for job in plan.jobs}
        self.open: dict[str, list[Trial]] = {}  # job -> its trials that have no result yet
        self.failed: dict[str, FrozenTrial] = {}  # job -> its trial of an earlier driver
        self.seen: dict[str, float] = {}  # job -> the time of its metrics.csv when it was read
        self.left = self.read_trials()  # jobs that earlier drivers did not finish
        display.expect(len(self.left) + max(0, plan.search.trials - self.drawn))

    @property
    def drawn(self) -> int:
        """How many points were drawn, by all drivers."""
        return sum(REPEATS not in trial.user_attrs for trial in self.trials())

    def trials(self) -> "list[FrozenTrial]":
        """All trials of the study."""
        return self.study.get_trials(deepcopy=False)

    def read_trials(self) -> list[Job]:
        """Sorts the trials of earlier drivers; the jobs of those that are open or have failed."""
        from optuna import Trial
        from optuna.trial import TrialState

        if self.plan.grids and not self.trials():
            raise ConfigError(f"{self.place}: the study of this search is missing")
        jobs: dict[str, Job] = {}
        done = set()
        for trial in filter(self.is_own, self.trials()):
            params = trial.params
            if trial.state == TrialState.RUNNING:
                live = Trial(self.study, trial._trial_id)
                # a driver may have been killed while it drew the point
                params = {key: live._suggest(key, each) for key, each in self.distributions.items()}
                job = self.job(params)
                self.open.setdefault(job.name, []).append(live)
            else:
                job = self.job(params)
                if trial.state == TrialState.FAIL:
                    self.failed[job.name] = trial
                else:
                    done.add(job.name)
            jobs.setdefault(job.name, job)
        left = [job for name, job in jobs.items() if name in self.open or name not in done]
        return sorted(left, key=lambda job: job.name not in self.open)  # those that may still run

    def is_own(self, trial: "FrozenTrial") -> bool:
        """Whether this driver drew a trial, or one that died before it said so."""
        driver, start = trial.user_attrs.get(DRIVER), trial.datetime_start
        if driver is None and self.search.shared:
            return start is not None and (datetime.now() - start).total_seconds() > ORPHANED_S
        return driver in (None, self.search.driver)

    def job(self, params: dict[str, float | str]) -> Job:
        """The job of a point; it is added to sweep.yaml if it is new."""
        if params.keys() != self.domains.keys():
            raise ConfigError(f"{self.place}: the study of this search is damaged")
        words = [domain.word(params[key]) for key, domain in self.domains.items()]
        job = self.plan.job(words)
        if job.name not in self.names:
            self.names.add(job.name)
            grid = {key: [word] for key, word in zip(self.domains, words, strict=True)}
            self.plan = self.plan._replace(grids=[*self.plan.grids, grid])
            self.plan.write(self.place)
        return job

    def next(self) -> Work | None:
        """The next job to run: one that an earlier driver left, or a new point.

        A point that is drawn again is told its result. If its job still runs, no further point is
        drawn until it has one.
        """
        while self.left:
            job = self.left.pop(0)
            state = state_of(self.place / job.name)
            if state in ENDED:
                self.tell(job, state)
            elif work := self.work(job):
                return work
        while not self.is_held() and self.drawn < self.search.trials:
            job = self.draw()
            if job is None:
                continue
            state = state_of(self.place / job.name)
            if state in (*ENDED, "failed"):
                self.tell(job, state)
                self.drawn_again(job, state)
            elif self.is_held():
                self.drawn_again(job, state)
            elif work := self.work(job):
                return work
        return None

    def drawn_again(self, job: Job, state: str) -> None:
        """Says that a point needs no job of its own."""
        self.display.expect(-1)
        self.display.say(f"{job}: {state}, drawn again")

    def is_held(self) -> bool:
        """Whether a point was drawn again while its job runs."""
        return any(len(trials) > 1 for trials in self.open.values())

    def draw(self) -> Job | None:
        """The job of a new point; None for one that is left to the other drivers."""
        number = len(self.trials())
        self.study.sampler = make_sampler(self.search, number)
        with warnings.catch_warnings(action="ignore"):  # about experimental parts of Optuna
            trial = self.study.ask(self.distributions)
        trial.set_user_attr(DRIVER, self.search.driver)
        if self.search.shared and self.is_left(trial):
            return None
        job = self.job(trial.params)
        self.open.setdefault(job.name, []).append(trial)
        return job

    def is_left(self, trial: "Trial") -> bool:
        """Whether another driver has drawn the last point, or the same one, at the same time."""
        from optuna.trial import TrialState

        before = [each for each in self.trials() if each.number < trial.number]
        if sum(REPEATS not in each.user_attrs for each in before) >= self.search.trials:
            trial.set_user_attr(REPEATS, trial.number)
            self.study.tell(trial, state=TrialState.FAIL)
            return True
        same = [each for each in before if each.params == trial.params and not self.is_own(each)]
        if not same:
            return False
        self.display.expect(-1)
        if same[0].state == TrialState.COMPLETE:
            self.study.tell(trial, same[0].values)
        else:
            self.study.tell(trial, state=TrialState.FAIL)
        return True

    def work(self, job: Job) -> Work | None:
        """The work of a job; None if its options do not fit each other, which counts as failed."""
        try:
            return self.make(job, self.plan)
        except ConfigError as error:
            self.display.say(f"{job}: failed: {error}")
            write_failure(self.place / job.name, str(error))
            self.tell(job, "failed")
            return None

    def watch(self, works: Sequence[Work]) -> None:
        """Reports the epochs of the running jobs, and asks those to end that are to be pruned."""
        if self.search.pruner == "none":
            return
        for work in works:
            table, name = work.task.folder / "metrics.csv", work.job.name
            changed = table.stat().st_mtime if table.is_file() else 0.0
            if changed == self.seen.get(name, 0.0) or name not in self.open:
                continue
            self.seen[name] = changed
            trial, (metric,) = self.open[name][0], self.search.metrics
            known = self.trials()[trial.number].intermediate_values
            epochs = {int(row["epoch"]): float(row[metric]) for row in read_csv(table)}
            for epoch in sorted(epochs.keys() - known.keys()):
                trial.report(epochs[epoch], epoch)
            if max(epochs, default=0) < work.epochs and trial.should_prune():
                write_text(work.task.folder / STOP, "The search has pruned this run.\n")

    def ended(self, work: Work, state: str) -> None:
        """Tells the study the result of a job, unless it was only interrupted."""
        if state != "interrupted":
            self.tell(work.job, state)

    def tell(self, job: Job, state: str) -> None:
        """Gives all trials of a job their result."""
        from optuna.trial import TrialState, create_trial

        values = self.values(job) if state == "finished" else None
        for trial in self.open.pop(job.name, []):
            if values is not None:
                self.study.tell(trial, values)
            else:
                pruned = state == "pruned"
                self.study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)
        before = self.failed.pop(job.name, None)
        if before is not None and values is not None:  # a failed trial cannot be told again
            repeated = create_trial(
                values=values,
                params=before.params,
                distributions=before.distributions,
                user_attrs={REPEATS: before.number, DRIVER: self.search.driver},
            )
            self.study.add_trial(repeated)

    def values(self, job: Job) -> list[float] | None:
        """The metrics of a finished job; None, which is said, if it has not all of them."""
        path = self.place / job.name / "metrics.json"
        try:
            found = [read_json(path)[name] for name in self.search.metrics]
        except (KeyError, ConfigError) as error:
            self.display.say(f"{job}: has no value for the search ({error})")
            return None
        return [float(str(value)) for value in found]
