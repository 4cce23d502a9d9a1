"""Callbacks of every run: metrics.csv and checkpoints, Ctrl-C, the progress bar."""

import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor
from tqdm import tqdm

from vae_lightning import runs

log = logging.getLogger(__name__)


class Recorder(Checkpoint):
    """After every epoch: a row of metrics.csv, last.ckpt, and best.ckpt if val/neg_elbo is the lowest so far.

    Being a Checkpoint, it is called after the module has logged. The rows are part of the checkpoint, so that the
    table of a resumed run goes on exactly where its weights do. Without validation images, best is last.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.rows: list[dict[str, float]] = []
        self.started = self.trained = 0.0
        self.elapsed = 0.0  # seconds of an epoch that was interrupted in another process

    def state_dict(self) -> dict[str, object]:
        """The table so far, and the seconds that the current epoch has taken."""
        return {"rows": self.rows, "elapsed": time.perf_counter() - self.started}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """The table of the run that goes on."""
        self.rows, self.elapsed = state_dict["rows"], state_dict["elapsed"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of an epoch that goes on; on_train_epoch_start follows unless it does."""
        self.started = self.trained = time.perf_counter() - self.elapsed

    def best(self) -> dict[str, float]:
        """The row of best.ckpt."""
        if "val/neg_elbo" not in self.rows[-1]:
            return self.rows[-1]
        return min(self.rows, key=lambda row: row["val/neg_elbo"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.started = self.trained = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock of the training images."""
        self.trained = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the row and saves."""
        now = time.perf_counter()
        trained = self.trained if self.trained > self.started else now
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        row |= {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        row |= {
            "seconds": now - self.started,
            "images_per_second": trainer.datamodule.images_in("train") / (trained - self.started),
        }
        self.rows.append(row)
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        trainer.logger.log_metrics(
            {"optimizer/lr": rate, "speed/images_per_second": row["images_per_second"]}, trainer.global_step - 1
        )
        self.save(trainer, best=row is self.best())
        if trainer.is_global_zero:
            runs.write_csv(self.run / "metrics.csv", self.rows)
            log.info(describe(row, trainer.max_epochs))

    def save(self, trainer: Trainer, best: bool = False) -> None:
        """Replaces last.ckpt in one step, best.ckpt before it so that it is never behind; every rank calls it."""
        temporary = self.run / "checkpoints" / ".last.tmp"
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            if best:
                runs.share(temporary, self.run / runs.BEST)
            os.replace(temporary, self.run / runs.LAST)


def describe(row: dict[str, float], epochs: int | None) -> str:
    """One line about an epoch."""
    parts = [f"epoch {row['epoch']:>3}/{epochs}"]
    for split in ("train", "val"):
        if f"{split}/recon" in row:
            recon, kl, neg_elbo = (row[f"{split}/{name}"] for name in ("recon", "kl", "neg_elbo"))
            parts.append(f"{split} recon {recon:.3f} kl {kl:.3f} -elbo {neg_elbo:.3f}")
    return "   ".join([*parts, f"{row['seconds']:.1f} s"])


class Interrupt(Callback):
    """First Ctrl-C (or SIGTERM): saves last.ckpt after the current optimiser step, raises Interrupted; second: stops.

    A run that goes on from such a checkpoint gives the numbers of one that was never interrupted.
    """

    def __init__(self, run: Path, recorder: Recorder) -> None:
        self.run, self.recorder, self.received = run, recorder, False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the signals over; other ranks leave them to rank 0."""
        self.handlers = {
            number: signal.signal(number, self.receive if trainer.is_global_zero else signal.SIG_IGN)
            for number in (signal.SIGINT, signal.SIGTERM)
        }

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Notes the first signal; the second ends the process at once, last.ckpt being that of the last epoch."""
        if self.received:
            runs.set_status(self.run, "interrupted")
            os._exit(130)
        self.received = True
        print("\nstopping after this step; once more to stop now", file=sys.stderr)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Stops if any rank was asked to."""
        stop = self.received
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            self.recorder.save(trainer)
            raise runs.Interrupted

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the signals back; one that came after the last step counts now, when everything is saved."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if self.received:
            raise runs.Interrupted


class Progress(Callback):
    """One bar for the whole run: epoch, recon and KL of the epoch so far, the time left; drawn on a terminal only.

    The terms are read from the device only when the bar is redrawn, at most once in INTERVAL_S.
    """

    INTERVAL_S = 0.2

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the bar."""
        total = trainer.datamodule.steps * trainer.max_epochs
        shape = "{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}"
        hidden = not (trainer.is_global_zero and sys.stderr.isatty())
        self.bar = tqdm(total=total, initial=trainer.global_step, disable=hidden, bar_format=shape, leave=False)
        self.drawn = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Tensor, batch: object, batch_idx: int
    ) -> None:
        """Redraws if it is time to."""
        if self.bar.disable or time.monotonic() - self.drawn < self.INTERVAL_S:
            return
        self.drawn = time.monotonic()
        with torch.no_grad():
            _, recon, kl, _ = (pl_module.totals / pl_module.totals[3]).tolist()
        self.bar.n = trainer.global_step
        self.bar.set_description(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", refresh=False)
        self.bar.set_postfix_str(f"recon {recon:.2f}, kl {kl:.2f} nats", refresh=False)
        self.bar.refresh()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the bar."""
        self.bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Closes the bar of a run that ends early."""
        if hasattr(self, "bar"):
            self.bar.close()
