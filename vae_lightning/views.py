"""What a model does, as pictures: reconstructions, samples, traversals, interpolations, the latent plane.

Every view is a function of the model, fixed images and a seed alone, so that the same view at two times of training
differs by the weights only. Shapes: N images or points, L latent dimensions, D channels, H W of an image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from vae_lightning import drawing, rng
from vae_lightning.distributions import Posterior, StandardNormal, kl_to_standard_normal
from vae_lightning.module import VAE


@dataclass(frozen=True)
class Viewer:
    """A model in evaluation mode and the images that it is shown with.

    Attributes:
        module: the model.
        images: test images (N, D, H, W), float in [0, 1], on the module's device.
        labels: theirs, (N,).
        about: one line for every picture: data set, model, what it reached.
        seed: of prior samples.
        label: the class that a conditional model draws; None: each class in turn, or that of the image.
    """

    module: VAE
    images: Tensor
    labels: Tensor
    about: str
    seed: int = 0
    label: int | None = None

    def condition(self, labels: Tensor) -> tuple[Tensor, ...]:
        """What the networks are told beside x or z: the labels, or the chosen one; nothing unless conditional."""
        if not self.module.classes:
            return ()
        return (labels if self.label is None else torch.full_like(labels, self.label),)

    def decode(self, z: Tensor, labels: Tensor) -> Tensor:
        """Means of p(x|z) for z (N, L): (N, D, H, W)."""
        return self.module.decoder(z[None], *self.condition(labels)).mean[0]

    @cached_property
    def posterior(self) -> Posterior:
        """q(z|x) of all images, told their own labels: computed once, however many views are drawn."""
        return self.module.encoder(self.images, *((self.labels,) if self.module.classes else ()))

    def reconstructions(self, count: int = 10) -> Image.Image:
        """Images above the decoded means of their posteriors, ten a row."""
        count = min(count, len(self.images))
        x, labels = self.images[:count], self.labels[:count]
        condition = (labels,) if self.module.classes else ()
        decoded = self.module.decoder(self.module.encoder(x, *condition).mean[None], *condition).mean[0]
        pairs = [torch.stack([a, b]) for a, b in zip(x.split(10), decoded.split(10), strict=True)]
        sheet = torch.cat(
            [torch.nn.functional.pad(pair, (0,) * 7 + (10 - pair.shape[1],), value=1.0) for pair in pairs]
        )
        return drawing.grid(sheet, "Test images above their reconstructions", self.about)

    def samples(self, count: int = 100) -> Image.Image:
        """Decoded draws from the prior; a conditional model draws each class in a column of its own."""
        side = max(1, math.isqrt(count))
        generator = rng.generator(self.module.device, self.seed, "samples")
        z = self.module.prior(self.module.encoder).sample(side * side, generator)
        labels = torch.arange(side * side, device=z.device) % side % max(1, self.module.classes)
        images = self.decode(z, labels).unflatten(0, (side, side))
        return drawing.grid(images, f"Samples from the prior{self.of_class()}", self.about)

    def of_class(self) -> str:
        """How a title names the chosen class."""
        return "" if self.label is None or not self.module.classes else f", class {self.label}"

    def traversals(self, steps: int = 11, most: int = 20) -> Image.Image:
        """One latent dimension moved at a time, most informative first, the others at the first image's mean.

        From three standard deviations of the aggregate posterior below its mean to three above.
        """
        kl, order = self.information
        order = order[:most]
        means = self.posterior.mean
        centre, spread = means.mean(0), (means.var(0) + self.within()).sqrt()
        factors = torch.linspace(-3, 3, steps, device=means.device)
        z = means[:1].repeat(len(order) * steps, 1).unflatten(0, (len(order), steps))
        for row, dimension in enumerate(order.tolist()):
            z[row, :, dimension] = centre[dimension] + factors * spread[dimension]
        images = self.decode(z.flatten(0, 1), self.labels[:1].expand(len(order) * steps)).unflatten(0, z.shape[:2])
        names = [f"z{dimension}, {kl[dimension]:.2f} nats" for dimension in order.tolist()]
        columns = [f"{factor:+.1f} sd" if abs(factor) > 1e-3 else "mean" for factor in factors.tolist()]
        return drawing.grid(
            images, f"Latent dimensions by {self.measure()}, from -3 to +3 sd", self.about, names, columns
        )

    def within(self) -> Tensor:
        """Mean posterior variance of each latent dimension, (L,), zero where it has no closed form."""
        if not hasattr(self.posterior, "marginals"):
            return torch.zeros(self.module.latent_dim, device=self.images.device)
        return self.posterior.marginals().std.square().mean(0)

    @cached_property
    def information(self) -> tuple[Tensor, Tensor]:
        """KL to N(0, 1) of each latent dimension's marginal posterior, mean over the images, in nats; and its order.

        For a flow, whose marginals have no closed form, 1/2 E[mean^2], which is at most that KL.
        """
        if hasattr(self.posterior, "marginals"):
            marginals = self.posterior.marginals()
            kl = kl_to_standard_normal(marginals.mean[..., None], marginals.std[..., None]).mean(0)
        else:
            kl = 0.5 * self.posterior.mean.square().mean(0)
        return kl, kl.argsort(descending=True)

    def interpolation(self, start: Tensor, end: Tensor, steps: int) -> Tensor:
        """Spherical interpolation of z (N, L) to z (N, L): (N, steps, L). White 2016, https://arxiv.org/abs/1609.04468.

        sin((1 - t) w)/sin(w) start + sin(t w)/sin(w) end, w the angle between them; straight where they are parallel.
        """
        t = torch.linspace(0, 1, steps, device=start.device)[:, None]
        start, end = start[:, None], end[:, None]
        cosine = torch.nn.functional.cosine_similarity(start, end, dim=-1).clamp(-1, 1)[..., None]
        angle = cosine.acos()
        curved = angle.sin() > 1e-4
        safe = torch.where(curved, angle, 1.0)
        first = torch.where(curved, ((1 - t) * safe).sin() / safe.sin(), 1 - t)
        second = torch.where(curved, (t * safe).sin() / safe.sin(), t)
        return first * start + second * end

    def interpolations(self, count: int = 8, steps: int = 11) -> Image.Image:
        """Rows from one test image to another, through the posterior means of both, along a sphere."""
        return drawing.grid(self.between(count, steps), "From one test image to the next", self.about)

    def between(self, count: int, steps: int) -> Tensor:
        """Decoded interpolations between neighbouring test images: (count, steps, D, H, W)."""
        count = min(count, len(self.images) - 1)
        means = self.posterior.mean[: count + 1]
        z = self.interpolation(means[:-1], means[1:], steps)
        labels = self.labels[:count, None].expand(-1, steps)
        return self.decode(z.flatten(0, 1), labels.flatten()).unflatten(0, z.shape[:2])

    def manifold(self, side: int = 20) -> Image.Image:
        """The decoder over the latent plane, at equal steps of probability under N(0, I): needs two dimensions.

        Kingma & Welling 2014, figure 4, https://arxiv.org/abs/1312.6114.
        """
        assert self.module.latent_dim == 2
        probability = (torch.arange(side, device=self.images.device, dtype=torch.float32) + 0.5) / side
        values = torch.special.ndtri(probability)
        down, right = torch.meshgrid(values.flip(0), values, indexing="ij")
        z = torch.stack([right, down], dim=-1).flatten(0, 1)
        if not isinstance(self.module.prior(self.module.encoder), StandardNormal):
            means = self.posterior.mean
            z = means.mean(0) + z * (means.var(0) + self.within()).sqrt()
        labels = torch.zeros(len(z), dtype=torch.long, device=z.device)
        images = self.decode(z, labels).unflatten(0, (side, side))
        return drawing.grid(images, f"The latent plane, decoded{self.of_class()}", self.about, scale=1)

    def latents(self, projection: str = "pca", count: int = 2000) -> Image.Image:
        """Posterior means by label: the plane itself, or a projection of more dimensions onto one."""
        means, labels = self.posterior.mean[:count].double().cpu(), self.labels[:count].cpu()
        title = "Posterior means"
        if self.module.latent_dim == 1:
            means = torch.cat([means, torch.zeros_like(means)], dim=1)
        elif self.module.latent_dim > 2 and projection == "tsne":
            from sklearn.manifold import TSNE

            perplexity = min(30.0, (len(means) - 1) / 3)
            plane = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(means.numpy())
            means, title = torch.from_numpy(plane).double(), "Posterior means, t-SNE"
        elif self.module.latent_dim > 2:
            centred = means - means.mean(0)
            _, values, directions = torch.linalg.svd(centred, full_matrices=False)
            share = float((values[:2] ** 2).sum() / (values**2).sum())
            title = f"Posterior means, two principal components ({share:.0%} of the variance)"
            means = centred @ directions[:2].T
        return drawing.scatter(means, labels, title, self.about)

    def kl_bars(self) -> Image.Image:
        """KL of each latent dimension, largest first."""
        kl, order = self.information
        names: Sequence[str] = [f"z{dimension}" for dimension in order.tolist()]
        return drawing.bars(kl[order].tolist(), names, f"{self.measure()} of each latent dimension, nats", self.about)

    def measure(self) -> str:
        """What ``information`` is."""
        return "1/2 mean squared" if getattr(self.module.encoder, "sequential", False) else "KL to N(0, 1)"
