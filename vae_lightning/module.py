"""The LightningModule: holds encoder, decoder, prior and objective, trains them and logs every term of the bound.

Shapes: K samples, B images, L latent dimensions, C H W of an image. All logged values are nats per image.
"""

import functools
import math
from collections.abc import Callable, Iterator

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vae_lightning import rng
from vae_lightning.data import Batch, ImageData
from vae_lightning.distributions import kl_divergence
from vae_lightning.objectives import Terms
from vae_lightning.part import Part

# Validation and test noise: the same for every run and epoch, so that two runs differ by their models alone.
EVALUATION_SEED = 0


class VAE(LightningModule):
    """A variational autoencoder of any encoder, decoder, prior and objective (Kingma & Welling 2014, 1312.6114).

    Args:
        encoder: x (B, C, H, W) -> q(z|x).
        decoder: z (K, B, L) -> p(x|z).
        prior: encoder -> p(z).
        objective: (Terms, step) -> loss per image (B,); has ``num_samples``, K, and ``beta_at(step)``.
        optimizer: called with the parameters.
        scheduler: called with the optimizer and ``total_steps``; stepped after every optimiser step. None: constant.
        seed: names the training noise; rank and step make it differ between processes and steps.
        classes: number of labels of a conditional model, whose encoder and decoder are called with them too; else 0.

    Raises ValueError where one of the parts refuses another.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        prior: nn.Module,
        objective: nn.Module,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler] | None = None,
        seed: int = 0,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.prior = prior
        self.objective = objective
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.seed = seed
        self.classes = classes
        self.latent_dim: int = encoder.latent_dim
        for part in self.parts():
            part.check(encoder, prior, classes)
        self.totals: Tensor | None = None  # sums of (loss, recon, kl, images) over the epoch so far, on the device
        self.evaluation_noise: dict[str, Tensor] = {}

    def parts(self) -> Iterator[Part]:
        """Those of the four parts that may refuse the others, or start from the data."""
        return (part for part in (self.encoder, self.decoder, self.prior, self.objective) if isinstance(part, Part))

    def start_from(self, data: ImageData) -> None:
        """Lets the parts take what they need of the training images; ValueError if one refuses them."""
        for part in self.parts():
            part.start_from(data.images["train"], data.binarization != "none")

    def forward(self, x: Tensor, noise: Tensor, *condition: Tensor) -> Terms:
        """Terms of the bound for x (B, C, H, W) and noise eps (K, B, L); ``condition``: labels (B,), if it has any."""
        posterior = self.encoder(x, *condition)
        z = posterior.rsample(noise)
        return Terms(self.decoder(z, *condition).recon(x), z, posterior, self.prior(self.encoder))

    def kl_is_exact(self, x: Tensor, *condition: Tensor) -> bool:
        """Whether the KL term has a closed form, shown by images x (B, C, H, W); else it is estimated from samples."""
        with torch.no_grad():
            return kl_divergence(self.encoder(x, *condition), self.prior(self.encoder)) is not None

    def training_step(self, batch: Batch | Iterator[Batch]) -> Tensor | None:
        """The loss of a batch, for Lightning to optimise; or an optimiser step for each of many batches.

        The latter divides what Lightning does around a call by their number and changes nothing else: one step is made
        of the same operations, and Lightning counts it.
        """
        if self.automatic_optimization:
            return self.loss(batch)
        optimizer, scheduler, before = self.trainer.optimizers[0], self.lr_schedulers(), self.global_step
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        for part in batch:
            progress.increment_ready()
            self.optimize(part, optimizer)
            progress.increment_completed()
            if scheduler is not None:
                scheduler.step()
        # Lightning numbers what is logged by its own calls: one is still to come
        self.trainer.fit_loop.epoch_loop._batches_that_stepped += self.global_step - before - 1
        return None

    def optimize(self, batch: Batch, optimizer: Optimizer) -> None:
        """One optimiser step."""
        optimizer.step(functools.partial(self.backpropagate, batch, optimizer))

    def backpropagate(self, batch: Batch, optimizer: Optimizer) -> Tensor:
        """The loss of a batch, whose gradients the parameters then have."""
        optimizer.zero_grad()
        loss = self.loss(batch)
        loss.backward()
        return loss

    def loss(self, batch: Batch) -> Tensor:
        """Loss summed over this process's images and divided by the images of a process's fair share of the batch."""
        return self.account(batch, self.training_noise(batch)).sum() / batch.share

    def training_noise(self, batch: Batch) -> Tensor:
        """eps (K, B, L) of this process's images at this optimiser step."""
        shape = (self.objective.num_samples, len(batch.index), self.latent_dim)
        return rng.normal(shape, batch.x.device, self.seed, "noise", self.global_rank, self.global_step)

    def validation_step(self, batch: Batch) -> None:
        """Accumulates the terms of a validation batch."""
        self.account(batch, self.fixed_noise("val", batch))

    def test_step(self, batch: Batch) -> None:
        """Accumulates the terms of a test batch."""
        self.account(batch, self.fixed_noise("test", batch))

    def account(self, batch: Batch, noise: Tensor) -> Tensor:
        """The loss per image, (B,); adds loss, recon, kl and the number of images to the epoch's totals."""
        loss, sums = self.measure(batch, noise, self.global_step)
        self.add(sums, len(batch.index))
        return loss

    def measure(self, batch: Batch, noise: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The loss per image, (B,), at an optimiser step, and the sums of loss, recon and kl over the images, (3,)."""
        terms = self(batch.x, noise, *batch.condition)
        loss = self.objective(terms, step)
        return loss, torch.stack([loss.sum(), terms.recon.mean(0).sum(), terms.kl.sum()]).detach()

    def add(self, sums: Tensor, images: int) -> None:
        """Adds loss, recon and kl of that many images to the epoch's totals."""
        self.totals[:3].add_(sums)  # += would copy the totals to themselves
        self.totals[3].add_(images)

    def fixed_noise(self, split: str, batch: Batch) -> Tensor:
        """eps (K, B, L) of these images: each has its own, whatever the batch size, the epoch or the process."""
        if split not in self.evaluation_noise:
            shape = (self.objective.num_samples, self.trainer.datamodule.images_in(split), self.latent_dim)
            noise = rng.normal(shape, "cpu", EVALUATION_SEED, "noise", split)
            self.evaluation_noise[split] = noise.to(self.device)
        return self.evaluation_noise[split][:, batch.index]

    def start(self) -> None:
        """Sets the totals to zero; float64 where the device has it, so that a sum over an epoch is exact enough."""
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        self.totals = torch.zeros(4, dtype=dtype, device=self.device)

    def finish(self, split: str) -> None:
        """Logs the means over all images of the epoch, of all processes: the only place where terms are reduced.

        Raises FloatingPointError if one is not finite: nothing that comes after it could be trusted.
        """
        totals = self.trainer.strategy.reduce(self.totals.clone(), reduce_op="sum")
        loss, recon, kl = (totals[:3] / totals[3]).tolist()
        if not math.isfinite(loss + recon + kl):
            values = f"loss {loss}, recon {recon}, kl {kl}"
            raise FloatingPointError(
                f"{split} is not finite in epoch {self.current_epoch + 1}: {values}; lower optimizer.lr"
            )
        terms = {"loss": loss, "recon": recon, "kl": kl, "neg_elbo": recon + kl}
        # Already the same on every rank, so nothing is left to synchronise; batch_size is that of one mean.
        self.log_dict({f"{split}/{name}": value for name, value in terms.items()}, batch_size=1)
        if split == "train":
            self.log("train/beta", self.objective.beta_at(self.global_step), batch_size=1)

    def on_train_start(self) -> None:
        """Takes the totals of an interrupted epoch to the device; on_train_epoch_start follows unless there is one."""
        if self.totals is not None:
            self.totals = self.totals.to(self.device)

    def on_train_epoch_start(self) -> None:
        """Starts the epoch; whatever a network draws from the global generator depends on seed, rank and epoch."""
        torch.manual_seed(rng.stream_seed(self.seed, "global", self.global_rank, self.current_epoch))
        self.start()

    def on_validation_epoch_start(self) -> None:
        """Keeps the training totals aside while validation uses its own."""
        self.training_totals = self.totals
        self.start()

    def on_test_epoch_start(self) -> None:
        """Starts the test."""
        self.start()

    def on_train_epoch_end(self) -> None:
        """Logs the terms of training."""
        self.finish("train")

    def on_validation_epoch_end(self) -> None:
        """Logs the terms of validation and takes the training totals back."""
        self.finish("val")
        self.totals = self.training_totals

    def on_test_epoch_end(self) -> None:
        """Logs the terms of the test."""
        self.finish("test")

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """The totals belong to an epoch that may go on in other processes: each takes up an equal share of them."""
        strategy = self.trainer.strategy
        checkpoint["totals"] = strategy.reduce(self.totals.clone(), reduce_op="sum") / self.trainer.world_size

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Takes the totals of an interrupted epoch up again."""
        self.totals = checkpoint["totals"]

    def configure_optimizers(self) -> dict[str, object]:
        """The optimizer, and the scheduler stepped once per optimiser step."""
        optimizer = self.make_optimizer(self.parameters())
        if self.make_scheduler is None:
            return {"optimizer": optimizer}
        if self.automatic_optimization:
            total_steps = int(self.trainer.estimated_stepping_batches)
        else:
            total_steps = self.trainer.max_epochs * self.trainer.datamodule.steps
        scheduler = self.make_scheduler(optimizer, total_steps=total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
