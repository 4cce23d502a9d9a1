"""The LightningModule: encoder, decoder, prior and objective; trains them and logs every term.

Shapes: K samples, B images, L latent dimensions, C H W of an image. All logged values are in nats
per image.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from vae_lightning import rng
from vae_lightning.checks.errors import NotFinite
from vae_lightning.data.batches import Batch
from vae_lightning.data.images import ImageData, image_data
from vae_lightning.distributions import kl_divergence
from vae_lightning.distributions.component import Component
from vae_lightning.distributions.likelihood import Likelihood
from vae_lightning.distributions.posterior import PosteriorModule
from vae_lightning.networks import UNCONDITIONAL, Condition
from vae_lightning.objectives import Objective, Terms
from vae_lightning.training.callbacks.step import StepCallback
from vae_lightning.training.lightning_progress import callbacks_of, count_optimizer_steps
from vae_lightning.training.schedulers import Schedule
from vae_lightning.training.sums import EpochSums, term_sums

# The noise of validation and test is the same in every run and epoch, so that two runs differ by
# their models alone.
EVALUATION_SEED = 0
SPLITS = ("train", "val", "test")

# Takes one optimizer step: called with the batch, the optimizer and the number of the step.
StepFunction = Callable[[Batch, Optimizer, int], None]


class VAE(LightningModule):
    """A variational autoencoder of any encoder, decoder, prior and objective.

    Kingma & Welling 2014, https://arxiv.org/abs/1312.6114.

    Args:
        encoder: x (B, C, H, W) -> q(z|x).
        decoder: z (K, B, L) -> p(x|z).
        prior: encoder -> p(z).
        objective: (Terms, step) -> loss per image (B,); has ``num_samples``, K, and
            ``weights(step)``.
        optimizer: called with the parameters.
        scheduler: called with the optimizer, ``total_steps`` and ``epochs``. None: a constant
            learning rate.
        seed: of the training noise; process and step make the noise differ.
        classes: number of labels of a conditional model, 0 for an unconditional one.
        skip_gradient_above: norm of the gradient above which an optimizer step is skipped; None:
            none is skipped.

    Raises:
        ConfigError: a component refuses another one.
    """

    encoder: PosteriorModule
    decoder: Likelihood
    prior: nn.Module
    objective: Objective

    def __init__(
        self,
        encoder: PosteriorModule,
        decoder: Likelihood,
        prior: nn.Module,
        objective: Objective,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., Schedule] | None = None,
        seed: int = 0,
        classes: int = 0,
        skip_gradient_above: float | None = None,
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
        self.skip_gradient_above = skip_gradient_above
        self.skipped_steps = 0
        self.latent_dim: int = encoder.latent_dim
        for component in self.components():
            component.check(encoder, prior, classes)
        self.sums = {split: EpochSums() for split in SPLITS}
        self.evaluation_noise: dict[str, Tensor] = {}
        self.fast_step: StepFunction | None = None
        self.selecting_value: float | None = (
            None  # of the validation of this epoch, if there was one
        )

    @property
    def selected_by(self) -> str:
        """The name of the validation value that selects best.ckpt, see Objective."""
        return getattr(self.objective, "selected_by", "neg_elbo")

    def components(self) -> Iterator[Component]:
        """The components that may refuse others or start from the training images."""
        parts = (self.encoder, self.decoder, self.prior, self.objective)
        return (part for part in parts if isinstance(part, Component))

    def start_from(self, data: ImageData) -> None:
        """Lets the components take what they need from the training images.

        Raises ConfigError if one of them refuses the images.
        """
        for component in self.components():
            component.start_from(data.images["train"], data.binarization != "none")

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        noise: Float[Tensor, "K B L"],
        condition: Condition = UNCONDITIONAL,
    ) -> Terms:
        """Terms of the bound for images x (B, C, H, W) and noise eps (K, B, L)."""
        posterior = self.encoder(x, condition)
        z = posterior.transform(noise)
        return Terms(self.decoder(z, condition).recon(x), z, posterior, self.prior(self.encoder))

    # Training

    def training_step(self, batch: Batch | Iterator[Batch]) -> Tensor | None:
        """The loss of a batch, which Lightning optimizes; on the fast path the steps themselves."""
        if self.fast_step is None:
            return self.loss(batch, self.global_step)  # pyright: ignore[reportArgumentType] - batches are not grouped
        return self.take_steps(batch, self.fast_step)  # pyright: ignore[reportArgumentType] - batches are grouped

    def loss(self, batch: Batch, step: int) -> Float[Tensor, ""]:
        """The mean loss of the batch, (): with several processes, its mean over them is that."""
        terms = self(batch.x, self.training_noise(batch, step), batch.condition)
        loss = self.objective(terms, step).sum()
        self.sums["train"].add(term_sums(loss, terms), len(batch.index))
        return loss / batch.share

    def take_step(self, batch: Batch, optimizer: Optimizer, step: int) -> None:
        """One optimizer step."""
        optimizer.zero_grad()
        self.loss(batch, step).backward()
        if not self.skips(parameter.grad for parameter in self.parameters()):
            optimizer.step()

    def skips(self, gradients: Iterable[Tensor | None]) -> bool:
        """Whether a step with these gradients is skipped, which is counted.

        Waits for the device, but only if steps may be skipped.
        """
        if self.skip_gradient_above is None:
            return False
        norm = get_total_norm([each for each in gradients if each is not None])
        is_skipped = not bool(norm <= self.skip_gradient_above)  # also if it is not a number
        self.skipped_steps += is_skipped
        return is_skipped

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """The step that Lightning takes where it takes the steps one by one."""
        if self.skip_gradient_above is not None and optimizer_closure is not None:
            loss = optimizer_closure()  # computes the gradient
            if self.skips(parameter.grad for parameter in self.parameters()):
                return
            optimizer_closure = lambda: loss  # noqa: E731 - Lightning requires a closure
        optimizer.step(closure=optimizer_closure)

    def take_steps(self, batches: Iterator[Batch], take_step: StepFunction) -> None:
        """One optimizer step for each batch, within a single call by Lightning."""
        (optimizer,), scheduler = self.trainer.optimizers, self.scheduler_in_use()
        step = first = self.global_step
        watching = [each for each in callbacks_of(self.trainer) if isinstance(each, StepCallback)]
        for batch in batches:
            take_step(batch, optimizer, step)
            if scheduler is not None:
                scheduler.step()
            step += 1
            for callback in watching:
                callback.count_step(self, step)
        count_optimizer_steps(self.trainer, step - first)
        self.sums["train"].check()

    def scheduler_in_use(self) -> Schedule | None:
        """The schedule of the learning rate; None if it is constant."""
        found = self.lr_schedulers()
        return found if isinstance(found, Schedule) else None  # a callback may have replaced it

    def use_fast_path(self, take_step: StepFunction) -> None:
        """Lets ``take_step`` do the optimizer steps, several in each call by Lightning.

        The data module must then yield groups of batches. ``compile.accelerate`` decides this.
        """
        self.fast_step = take_step
        self.automatic_optimization = False

    def training_noise(self, batch: Batch, step: int) -> Float[Tensor, "K B L"]:
        """The noise eps (K, B, L) of this process's images at an optimizer step."""
        shape = (self.objective.num_samples, len(batch.index), self.latent_dim)
        return rng.normal(shape, batch.x.device, self.seed, "noise", self.global_rank, step)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and the schedule, which is stepped after every optimizer step."""
        optimizer = self.make_optimizer(self.parameters())
        if self.make_scheduler is None:
            return {"optimizer": optimizer}
        epochs = self.trainer.max_epochs
        assert epochs is not None
        if self.fast_step is None:
            total_steps = int(self.trainer.estimated_stepping_batches)
        else:
            total_steps = epochs * image_data(self.trainer).steps
        scheduler = self.make_scheduler(optimizer, total_steps=total_steps, epochs=epochs)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    # Validation and test

    def validation_step(self, batch: Batch) -> None:
        """Adds the terms of a validation batch to the epoch's sums."""
        self.evaluate(batch, "val")

    def test_step(self, batch: Batch) -> None:
        """Adds the terms of a test batch to the epoch's sums."""
        self.evaluate(batch, "test")

    def evaluate(self, batch: Batch, split: str) -> None:
        """Adds the terms of a batch of a split to the epoch's sums."""
        terms = self(batch.x, self.fixed_noise(split, batch), batch.condition)
        loss = self.objective(terms, self.global_step).sum()
        sums = term_sums(loss, terms)
        bound = self.objective.bound(terms) if isinstance(self.objective, Objective) else None
        if bound is not None:
            sums = torch.cat([sums, bound.sum()[None]])
        self.sums[split].add(sums, len(batch.index))

    def fixed_noise(self, split: str, batch: Batch) -> Float[Tensor, "K B L"]:
        """The noise eps (K, B, L) of these images of a split.

        Each image has its own, whatever the batch size, the epoch or the process.
        """
        if split not in self.evaluation_noise:
            images = image_data(self.trainer).images_in(split)
            shape = (self.objective.num_samples, images, self.latent_dim)
            noise = rng.normal(shape, "cpu", EVALUATION_SEED, "noise", split)
            self.evaluation_noise[split] = noise.to(self.device)
        return self.evaluation_noise[split][:, batch.index]

    def kl_is_exact(
        self, x: Float[Tensor, "B C H W"], condition: Condition = UNCONDITIONAL
    ) -> bool:
        """Whether the KL term of images x (B, C, H, W) has a closed form; else it is estimated."""
        with torch.no_grad():
            return kl_divergence(self.encoder(x, condition), self.prior(self.encoder)) is not None

    # Epochs

    def on_train_epoch_start(self) -> None:
        """Seeds the global generator, from which a network may draw, by seed, process and epoch."""
        stream = ("global", self.global_rank, self.current_epoch)
        torch.manual_seed(rng.stream_seed(self.seed, *stream))

    def on_train_epoch_end(self) -> None:
        """Logs the terms of training, and ends the epoch of the schedule."""
        self.log_means("train")
        if self.skip_gradient_above is not None:
            self.log("train/skipped_steps", float(self.skipped_steps), batch_size=1)
        for name, value in self.objective.weights(self.global_step).items():
            self.log(f"train/{name}", value, batch_size=1)
        schedule = self.scheduler_in_use()
        if schedule is not None:
            schedule.end_epoch(self.selecting_value)
        self.selecting_value = None

    def on_validation_epoch_end(self) -> None:
        """Logs the terms of validation."""
        self.log_means("val")

    def on_test_epoch_end(self) -> None:
        """Logs the terms of the test."""
        self.log_means("test")

    def log_means(self, split: str) -> None:
        """Logs the means over the images of the epoch, of all processes.

        Raises NotFinite if one is not finite: nothing after it could be trusted.
        """
        loss, recon, kl, *others = self.sums[split].finish(self.trainer.strategy)
        if not math.isfinite(loss + recon + kl):
            raise NotFinite(
                f"{split} is not finite in epoch {self.current_epoch + 1}: loss {loss},"
                f" recon {recon}, KL {kl}; a smaller optimizer.lr may help"
            )
        terms = {"loss": loss, "recon": recon, "kl": kl, "neg_elbo": recon + kl}
        if split != "train" and self.selected_by not in terms:
            terms[self.selected_by] = others.pop()
        terms |= {f"kl_{number}": value for number, value in enumerate(others, 1)}
        if split == "val":
            self.selecting_value = terms[self.selected_by]
        # the values are the same on every process already: nothing is left to synchronize
        self.log_dict({f"{split}/{name}": value for name, value in terms.items()}, batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Saves the sums of an epoch that other processes may continue, and the skipped steps."""
        checkpoint["epoch_sums"] = self.sums["train"].state(self.trainer.strategy)
        checkpoint["skipped_steps"] = self.skipped_steps

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Continues the sums of an interrupted epoch, and the count of skipped steps."""
        sums = checkpoint["epoch_sums"]
        assert isinstance(sums, Tensor)
        self.sums["train"].load(sums)
        skipped = checkpoint["skipped_steps"]
        assert isinstance(skipped, int)
        self.skipped_steps = skipped
