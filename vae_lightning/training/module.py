"""The LightningModule: encoder, decoder, prior and objective; trains them and logs every term.

Shapes: K samples, B images, L latent dimensions, C H W of an image. All logged values are in nats
per image.
"""

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
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
from vae_lightning.training.clipping import Clipping
from vae_lightning.training.lightning_progress import set_groups_done
from vae_lightning.training.schedulers import Schedule
from vae_lightning.training.steps import OptimizerSteps
from vae_lightning.training.sums import term_sums

# The noise of validation and test is the same in every run and epoch, so that two runs differ by
# their models alone.
EVALUATION_SEED = 0


class VAE(OptimizerSteps):
    """A variational autoencoder of any encoder, decoder, prior and objective.

    Kingma & Welling 2014, https://arxiv.org/abs/1312.6114.

    Args:
        encoder: x (B, C, H, W) -> q(z|x).
        decoder: z (K, B, L) -> p(x|z).
        prior: encoder -> p(z).
        objective: (Terms, step) -> loss per image (B,); has ``num_samples``, K, and
            ``weights(step)``.
        seed: of the training noise; process, step and part of the step make the noise differ.
        classes: number of labels of a conditional model, 0 for an unconditional one.
        optimizer, scheduler, clipping, skip_gradient_above, log_every_n_steps: see OptimizerSteps.

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
        clipping: Clipping | None = None,
        skip_gradient_above: float | None = None,
        log_every_n_steps: int | None = None,
    ) -> None:
        super().__init__(optimizer, scheduler, clipping, skip_gradient_above, log_every_n_steps)
        self.encoder = encoder
        self.decoder = decoder
        self.prior = prior
        self.objective = objective
        self.seed = seed
        self.classes = classes
        self.latent_dim: int = encoder.latent_dim
        for component in self.components():
            component.check(encoder, prior, classes)
        self.evaluation_noise: dict[str, Tensor] = {}
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

    def loss(self, batch: Batch, step: int, part: int = 0) -> Float[Tensor, ""]:
        """The mean loss of the batch, (): with several processes, its mean over them is that.

        ``part`` counts the batches whose gradients are accumulated for one step.
        """
        terms = self(batch.x, self.training_noise(batch, step, part), batch.condition)
        loss = self.objective(terms, step).sum()
        self.sums["train"].add(term_sums(loss, terms), len(batch.index))
        return loss / batch.share

    def training_noise(self, batch: Batch, step: int, part: int = 0) -> Float[Tensor, "K B L"]:
        """The noise eps (K, B, L) of this process's images at a part of an optimizer step."""
        shape = (self.objective.num_samples, len(batch.index), self.latent_dim)
        stream = (self.global_rank, step, part) if part else (self.global_rank, step)
        return rng.normal(shape, batch.x.device, self.seed, "noise", *stream)

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
        if split == "val" and not self.trainer.sanity_checking:
            self.selecting_value = terms[self.selected_by]
        # the values are the same on every process already: nothing is left to synchronize
        self.log_dict({f"{split}/{name}": value for name, value in terms.items()}, batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Saves the sums of an epoch that other processes may continue, and the skipped steps."""
        checkpoint["epoch_sums"] = self.sums["train"].state(self.trainer.strategy)
        checkpoint["skipped_steps"] = self.skipped_steps

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Continues the sums of an interrupted epoch, after the steps that it has taken."""
        sums = checkpoint["epoch_sums"]
        assert isinstance(sums, Tensor)
        self.sums["train"].load(sums)
        skipped = checkpoint["skipped_steps"]
        assert isinstance(skipped, int)
        self.skipped_steps = skipped
        if self.fast_step is not None:
            data, step = image_data(self.trainer), checkpoint["global_step"]
            assert isinstance(step, int)
            if done := step % data.steps:
                set_groups_done(checkpoint, sum(end <= done for end in data.group_ends))
