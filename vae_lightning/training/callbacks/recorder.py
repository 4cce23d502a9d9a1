"""The record of a run's epochs: metrics.csv and checkpoints."""

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from vae_lightning.checks.errors import decimals
from vae_lightning.data.images import image_data
from vae_lightning.storage.files import (
    discarded_on_error,
    link,
    replace,
    temporary_path,
    write_csv,
)
from vae_lightning.storage.run_folder import BEST, LAST
from vae_lightning.training.callbacks.averaging import averages_at_end
from vae_lightning.training.callbacks.checkpoints import Checkpoints
from vae_lightning.training.finite import check_parameters
from vae_lightning.training.lightning_progress import batches_done, callbacks_of
from vae_lightning.training.loggers import OncePerStep, remember
from vae_lightning.training.module import VAE

log = logging.getLogger(__name__)


class Recorder(Checkpoint):
    """Writes a row of metrics.csv and last.ckpt after every epoch, and best.ckpt if it is the best.

    The best row has the lowest validation value that the objective selects by, such as
    val/neg_elbo; without validation it is the last one. A validation within an epoch has a row of
    its own, whose epoch is a fraction. The rows are part of the checkpoint, so that the table of a
    resumed run continues where its weights continue. As a Checkpoint this callback is called after
    the module has logged.

    Syncing the files to disk takes longer than writing them. A thread does it while the next epoch
    is trained, in this order: best.ckpt, last.ckpt, metrics.csv.
    """

    def __init__(self, run: Path, selected_by: str) -> None:
        self.run, self.selected_by = run, f"val/{selected_by}"
        self.rows: list[dict[str, float]] = []
        self.started = self.trained = 0.0
        self.elapsed = 0.0  # seconds of an epoch that was interrupted in another process
        self.validating = 0.0  # seconds of the validations within the epoch
        self.is_validated = False  # since the last row
        self.held: Path | None = None  # last.ckpt of a run that stops within an epoch
        self.disk = ThreadPoolExecutor(1, "recorder")
        self.unfinished: Future[None] | None = None  # the files that are being synced

    def state_dict(self) -> dict[str, object]:
        """The table so far, and the seconds that the current epoch has taken."""
        return {"rows": self.rows, "elapsed": time.perf_counter() - self.started}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """The table of the run that goes on."""
        rows, elapsed = state_dict["rows"], state_dict["elapsed"]
        assert isinstance(rows, list)
        assert isinstance(elapsed, float)
        self.rows, self.elapsed = rows, elapsed

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the table of a resumed run, which may have been killed after its checkpoint."""
        if trainer.is_global_zero and self.rows:
            write_csv(self.run / "metrics.csv", self.rows)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock; on_train_epoch_start follows unless an interrupted epoch continues."""
        self.started = self.trained = time.perf_counter() - self.elapsed

    def seconds(self, epoch: int) -> float:
        """Seconds of training, also before a resume, when ``epoch`` epochs are finished."""
        before = sum(row["seconds"] for row in self.rows if row["epoch"] <= epoch)
        return before + time.perf_counter() - self.started

    def best(self) -> dict[str, float]:
        """The row of best.ckpt."""
        rows = [row for row in self.rows if self.selected_by in row]
        return min(rows, key=lambda row: row[self.selected_by]) if rows else self.rows[-1]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.started = self.trained = time.perf_counter()
        self.validating = 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock of the training images."""
        self.trained = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds a row within an epoch; that of the end of an epoch also has the training terms."""
        if trainer.sanity_checking:
            return
        self.is_validated = True
        if not is_within_epoch(trainer):
            return
        if trainer.fit_loop.epoch_loop.done:  # the run ends here
            self.hold(trainer)
            return
        self.validating += time.perf_counter() - self.trained
        row = self.add_row(trainer, "val/")
        terms = {name: value for name, value in row.items() if name.startswith("val/")}
        if trainer.is_global_zero:  # Lightning logs them later, after a run may have been stopped
            for logger in trainer.loggers:
                if isinstance(logger, OncePerStep):
                    logger.log_metrics(terms, trainer.global_step - 1)
        if row is self.best():
            temporary = self.write_checkpoint(trainer)
            if trainer.is_global_zero:
                with discarded_on_error(temporary):
                    replace(temporary, self.run / BEST)
        if trainer.is_global_zero:
            write_csv(self.run / "metrics.csv", self.rows)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the row and saves."""
        assert isinstance(pl_module, VAE)
        is_validated = self.is_validated
        trained = self.trained if is_validated else time.perf_counter()
        images = pl_module.sums["train"].finished_images
        row = self.add_row(trainer)
        row["images_per_second"] = images / (trained - self.started - self.validating)
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        logged = {"optimizer/lr": rate, "speed/images_per_second": row["images_per_second"]}
        logged |= {
            name: float(value)
            for name, value in trainer.logged_metrics.items()
            if is_validated or not name.startswith("val/")
        }
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                if isinstance(logger, OncePerStep):
                    logger.log_epoch(logged, trainer.global_step - 1)
            remember(trainer, self.run, trainer.global_step)
        temporary = self.write_checkpoint(trainer)
        if trainer.is_global_zero:
            rows, is_best = list(self.rows), row is self.best()
            more = [each for each in callbacks_of(trainer) if isinstance(each, Checkpoints)]

            def finish() -> None:
                for checkpoints in more:
                    checkpoints.keep(temporary, rows, self.selected_by)
                self.replace_checkpoints(temporary, is_best)
                write_csv(self.run / "metrics.csv", rows)

            self.unfinished = self.disk.submit(finish)
            log.info(describe_epoch(row, trainer.max_epochs))

    def add_row(self, trainer: Trainer, prefix: str = "") -> dict[str, float]:
        """Adds a row with the terms of which the names begin with the prefix, and returns it.

        Terms of an earlier validation, which Lightning keeps, are left out.
        """
        done, now = trainer.current_epoch, time.perf_counter()
        is_whole = self.held is None and not prefix
        epoch = done + 1 if is_whole else round(epochs_done(trainer), 6)
        row = {"epoch": epoch, "step": trainer.global_step}
        for name, value in sorted(trainer.callback_metrics.items()):
            if name.startswith(prefix) and (self.is_validated or not name.startswith("val/")):
                row[name] = float(value)
        before = sum(other["seconds"] for other in self.rows if other["epoch"] > done)
        row["seconds"] = now - self.started - before
        self.rows.append(row)
        self.is_validated = False
        return row

    def hold(self, trainer: Trainer) -> None:
        """Saves the state within an epoch in which a run ends; every rank must call this.

        It becomes last.ckpt after the validation that follows, so that the run may continue the
        epoch.
        """
        self.held = self.held or self.write_checkpoint(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Waits for the files of the last epoch; best.ckpt gets an average that exists only now."""
        self.wait()
        if averages_at_end(trainer):
            temporary = self.write_checkpoint(trainer)
            if trainer.is_global_zero:
                replace(temporary, self.run / BEST)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Waits for the files of the last epoch that was finished."""
        self.wait()

    def wait(self) -> None:
        """Waits until the files of the last epoch are on disk; raises what went wrong with them."""
        unfinished, self.unfinished = self.unfinished, None
        if unfinished is not None:
            unfinished.result()

    def save(self, trainer: Trainer) -> None:
        """Replaces last.ckpt within an epoch; every rank must call this."""
        temporary = self.write_checkpoint(trainer)
        if trainer.is_global_zero:
            self.replace_checkpoints(temporary, is_best=False)

    def write_checkpoint(self, trainer: Trainer) -> Path:
        """Writes a checkpoint to a temporary path, which it returns; every rank must call this.

        Raises NotFinite instead of saving weights that are not finite.
        """
        check_parameters(trainer.lightning_module, trainer.global_step)
        self.wait()
        if self.held is not None:
            return self.complete(self.held, trainer)
        temporary = temporary_path(self.run / LAST)
        temporary.parent.mkdir(exist_ok=True)
        with discarded_on_error(temporary):
            trainer.save_checkpoint(temporary)  # only rank 0 writes; the others send their state
        return temporary

    def complete(self, held: Path, trainer: Trainer) -> Path:
        """Puts the table so far into a checkpoint that was held; its path."""
        if trainer.is_global_zero:
            with discarded_on_error(held):
                stored = torch.load(held, weights_only=True)
                stored["callbacks"][self.state_key] = self.state_dict()
                torch.save(stored, held)
        return held

    def replace_checkpoints(self, temporary: Path, is_best: bool) -> None:
        """Replaces last.ckpt by the temporary file, and best.ckpt before it."""
        with discarded_on_error(temporary):
            if is_best:
                link(temporary, self.run / BEST)
            replace(temporary, self.run / LAST)


def is_within_epoch(trainer: Trainer) -> bool:
    """Whether batches of the current epoch are left."""
    return not epochs_done(trainer).is_integer()


def epochs_done(trainer: Trainer) -> float:
    """Epochs that the training has taken, with the share of the current one."""
    data = image_data(trainer)
    if data.group_size == 1:  # a callback may change the number of batches in a step
        return trainer.current_epoch + batches_done(trainer) / data.batches_in("train")
    return trainer.global_step / data.steps


def describe_epoch(row: dict[str, float], epochs: int | None) -> str:
    """One line about an epoch."""
    parts = [f"epoch {row['epoch']:>3.4g}/{epochs}"]
    for split in ("train", "val"):
        if f"{split}/recon" in row:
            terms = (row[f"{split}/{name}"] for name in ("recon", "kl", "neg_elbo"))
            recon, kl, neg_elbo = (decimals(term, 3) for term in terms)
            parts.append(f"{split} recon {recon} kl {kl} -elbo {neg_elbo}")
    return "   ".join([*parts, f"{row['seconds']:.1f} s"])
