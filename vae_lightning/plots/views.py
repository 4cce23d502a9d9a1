"""Pictures of a model: reconstructions, samples, traversals, interpolations and the latent plane.

Every view depends only on the model, fixed images and a seed, so that the same view at two stages
of training differs only because of the weights.
Shapes: N images or points, L latent dimensions, D channels, H W of an image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from vae_lightning import rng
from vae_lightning.data.shown import label_names
from vae_lightning.distributions import Posterior, Prior, StandardNormal
from vae_lightning.evaluation.latents import information_per_dim, moments
from vae_lightning.networks import UNCONDITIONAL, Condition
from vae_lightning.plots.picture import Bars, Grid, Scatter
from vae_lightning.training.module import VAE

GRID_SIDE = 2048  # pixels of a grid along a side, about; it shows fewer images if they are large
MOST_BARS = 50


@dataclass(frozen=True)
class Viewer:
    """Draws views of a model in evaluation mode, with fixed test images.

    Attributes:
        module: the model.
        images: test images (N, D, H, W), float in [0, 1], on the module's device.
        labels: labels of the images, (N,).
        subtitle: the second line of every picture: data set, model, -ELBO.
        seed: seed of the samples from the prior.
        label: class that a conditional model draws. With None, samples take each class in turn and
            other views take the label of the image.
        class_names: what each label means; empty: its number.
    """

    module: VAE
    images: Tensor
    labels: Tensor
    subtitle: str
    seed: int = 0
    label: int | None = None
    class_names: Sequence[str] = ()

    def condition(self, labels: Tensor) -> Condition:
        """The condition on the chosen class or, if no class is chosen, on the labels (N,)."""
        return self.label_condition(
            labels if self.label is None else torch.full_like(labels, self.label)
        )

    def label_condition(self, labels: Tensor) -> Condition:
        """The condition on the labels (N,); an unconditional model conditions on nothing."""
        return Condition(labels) if self.module.classes else UNCONDITIONAL

    def decode(self, z: Tensor, labels: Tensor) -> Tensor:
        """The means of p(x|z) for z (N, L): (N, D, H, W)."""
        return self.module.decoder(z[None], self.condition(labels)).mean[0]

    @cached_property
    def posterior(self) -> Posterior:
        """q(z|x) of all images given their labels, computed once for all views."""
        return self.module.encoder(self.images, self.label_condition(self.labels))

    def columns(self, most: int) -> int:
        """How many images stand side by side in a grid: ``most``, or fewer if they are large."""
        return max(1, min(most, GRID_SIDE // self.images.shape[-1]))

    def rows(self, most: int) -> int:
        """How many images stand one above the other: ``most``, or fewer if they are large."""
        return max(1, min(most, GRID_SIDE // self.images.shape[-2]))

    def reconstructions(self, count: int | None = None, most: int = 10) -> Grid:
        """Draws images above the decoded means of their posteriors, ten in a row.

        Without ``count``, they are as many as fit, and at most ``most``.
        """
        columns = self.columns(10)
        count = count or min(most, columns * max(1, self.rows(20) // 2))
        count = min(count, len(self.images))
        columns = min(columns, count)
        x, labels = self.images[:count], self.labels[:count]
        condition = self.label_condition(labels)
        z = self.module.encoder(x, condition).mean
        decoded = self.module.decoder(z[None], condition).mean[0]
        parts = zip(x.split(columns), decoded.split(columns), strict=True)
        pairs = [torch.stack([a, b]) for a, b in parts]
        sheet = torch.cat(
            [
                torch.nn.functional.pad(pair, (0,) * 7 + (columns - pair.shape[1],), value=1.0)
                for pair in pairs
            ]
        )
        title = "Test images above their reconstructions E[x|z], z = E[z|x]"
        return Grid(sheet, title, self.subtitle)

    def samples(self, count: int | None = None, mixture: Prior | None = None) -> Grid:
        """Draws decoded samples from the prior; a conditional model draws one class per column.

        Without ``count``, they are as many as fit, at most 100. With ``mixture``, they are drawn
        from it instead.
        """
        side = math.isqrt(count) if count else min(self.columns(10), self.rows(10))
        generator = rng.generator(self.module.device, self.seed, "samples")
        prior = self.module.prior(self.module.encoder) if mixture is None else mixture
        z = prior.sample(side * side, generator)
        labels = torch.arange(side * side, device=z.device) % side % max(1, self.module.classes)
        images = self.decode(z, labels).unflatten(0, (side, side))
        source = "the prior" if mixture is None else "a Gaussian mixture of the codes"
        density = "p(z)" if mixture is None else "mixture"
        title = f"Samples from {source}{self.class_suffix()}: E[x|z], z ~ {density}"
        return Grid(images, title, self.subtitle)

    def class_suffix(self) -> str:
        """The chosen class as the end of a title, or nothing."""
        return "" if self.label is None or not self.module.classes else f", class {self.label}"

    def traversals(self, steps: int = 11, max_dims: int = 20) -> Grid:
        """Draws one row per latent dimension, in which only that dimension varies.

        It varies from -3 to +3 standard deviations of the aggregate posterior around its mean. The
        other dimensions stay at the posterior mean of the first image. The most informative
        dimension comes first.
        """
        kl, order = self.information
        order = order[: self.rows(max_dims)]
        steps = max(3, (self.columns(steps) - 1) // 2 * 2 + 1)  # odd: the mean is in the middle
        means = self.posterior.mean
        center = means.mean(0)
        spread = self.aggregate_std()
        factors = torch.linspace(-3, 3, steps, device=means.device)
        z = means[:1].repeat(len(order) * steps, 1).unflatten(0, (len(order), steps))
        for row, dimension in enumerate(order.tolist()):
            z[row, :, dimension] = center[dimension] + factors * spread[dimension]
        images = self.decode(z.flatten(0, 1), self.labels[:1].expand(len(order) * steps)).unflatten(
            0, z.shape[:2]
        )
        names = [f"z{dimension}, {kl[dimension]:.2f} nats" for dimension in order.tolist()]
        columns = [
            f"{factor:+.1f}" if abs(factor) > 1e-3 else "mean" for factor in factors.tolist()
        ]
        return Grid(
            images,
            f"Latent dimensions by {self.information_name()}, from -3 to +3 sd",
            self.subtitle,
            names,
            columns,
            "standard deviations (sd) from the mean",
            "dimension",
        )

    def aggregate_std(self) -> Tensor:
        """The standard deviation of each latent dimension under the aggregate posterior, (L,)."""
        means = self.posterior.mean
        between = means.var(0, correction=min(1, len(means) - 1))  # 0 for a single image
        return (between + moments(self.posterior).std.square().mean(0)).sqrt()

    @cached_property
    def information(self) -> tuple[Tensor, Tensor]:
        """Information of each latent dimension about x in nats, (L,), and its descending order."""
        information = information_per_dim(self.posterior, self.module.prior(self.module.encoder))
        return information, information.argsort(descending=True)

    def interpolation(self, start: Tensor, end: Tensor, steps: int) -> Tensor:
        """Spherical interpolation from ``start`` (N, L) to ``end`` (N, L): (N, steps, L).

        sin((1 - t) w)/sin(w) start + sin(t w)/sin(w) end, where w is the angle between start and
        end. The interpolation is linear if they are parallel.
        White 2016, https://arxiv.org/abs/1609.04468.
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

    def interpolations(self, count: int | None = None, steps: int = 11) -> Grid:
        """Draws spherical interpolations between the posterior means of successive test images.

        Without ``count``, they are as many as fit, and at most 8. There must be two images.
        """
        images = self.decoded_interpolations(count, max(2, self.columns(steps)))
        title = "From one test image to the next, along a great circle"
        return Grid(images, title, self.subtitle, x_axis="t from 0 to 1")

    def decoded_interpolations(self, count: int | None, steps: int) -> Tensor:
        """Decoded interpolations between successive test images: (count, steps, D, H, W)."""
        count = min(count or self.rows(8), len(self.images) - 1)
        means = self.posterior.mean[: count + 1]
        z = self.interpolation(means[:-1], means[1:], steps)
        labels = self.labels[:count, None].expand(-1, steps)
        return self.decode(z.flatten(0, 1), labels.flatten()).unflatten(0, z.shape[:2])

    def manifold(self, side: int = 20) -> Grid:
        """Draws the decoded latent plane at equal steps of probability under N(0, I).

        The model must have two latent dimensions. Under another prior, the plane is scaled to the
        mean and the standard deviation of the aggregate posterior. Kingma & Welling 2014,
        figure 4, https://arxiv.org/abs/1312.6114.
        """
        assert self.module.latent_dim == 2
        side = min(self.columns(side), self.rows(side))
        probability = (
            torch.arange(side, device=self.images.device, dtype=torch.float32) + 0.5
        ) / side
        values = torch.special.ndtri(probability)
        down, right = torch.meshgrid(values.flip(0), values, indexing="ij")
        z = torch.stack([right, down], dim=-1).flatten(0, 1)
        end = float(values[-1])
        reach = f"from {-end:.2f} to {end:.2f}"
        if not isinstance(self.module.prior(self.module.encoder), StandardNormal):
            reach += " sd of the aggregate posterior"
            z = self.posterior.mean.mean(0) + z * self.aggregate_std()
        labels = torch.zeros(len(z), dtype=torch.long, device=z.device)
        images = self.decode(z, labels).unflatten(0, (side, side))
        return Grid(
            images,
            f"Decoded latent plane{self.class_suffix()}",
            self.subtitle,
            x_axis=f"z0 {reach}",
            y_axis=f"z1 {reach}",
            size=28,
        )

    def latents(self, projection: str = "pca", count: int | None = None) -> Scatter:
        """Draws posterior means by label; more than two dimensions are projected onto a plane.

        Labels that are no integers are rounded. Without ``count``, they are those of all images.
        There must be two images.
        """
        means, labels = self.posterior.mean[:count].double().cpu(), self.labels[:count].cpu()
        labels = labels.round().long() if labels.is_floating_point() else labels
        title, axes = "Posterior means E[z|x]", ("z0", "z1")
        if self.module.latent_dim == 1:
            means, axes = torch.cat([means, torch.zeros_like(means)], dim=1), ("z0", "")
        elif self.module.latent_dim > 2 and projection == "tsne":
            from sklearn.manifold import TSNE

            perplexity = min(30.0, (len(means) - 1) / 3)
            plane = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(
                means.numpy()
            )
            means, title = torch.from_numpy(plane).double(), "Posterior means E[z|x], t-SNE"
            axes = ("t-SNE 1", "t-SNE 2")
        elif self.module.latent_dim > 2:
            centered = means - means.mean(0)
            _, values, directions = torch.linalg.svd(centered, full_matrices=False)
            total = (values**2).sum().clamp(min=1e-300)  # it is 0 if all means are equal
            shares = (values[:2] ** 2 / total).tolist()
            title = "Posterior means E[z|x], first two principal components"
            axes = tuple(
                f"component {number} ({share:.0%} of the variance)"
                for number, share in enumerate(shares, 1)
            )
            means = centered @ directions[:2].T
        names = label_names(self.class_names, 1 + int(labels.max()))
        return Scatter(means, labels, names, title, self.subtitle, *axes)

    def kl_bars(self) -> Bars:
        """Draws the KL, or the information, of each latent dimension as bars, largest first.

        Of many dimensions, only the largest are drawn.
        """
        kl, order = self.information
        shown = order[:MOST_BARS]
        only = f"the largest {len(shown)} of {len(order):,}; " if len(shown) < len(order) else ""
        names: Sequence[str] = [f"z{dimension}" for dimension in shown.tolist()]
        return Bars(
            kl[shown].tolist(),
            names,
            f"{self.information_name()} of each latent dimension",
            only + self.subtitle,
            f"{self.information_name()}, nats per image",
        )

    def information_name(self) -> str:
        """The name of the quantity in ``information``, as information_per_dim chooses it."""
        prior = self.module.prior(self.module.encoder)
        exact = self.module.encoder.has_marginals and isinstance(prior, StandardNormal)
        return "KL to N(0, 1)" if exact else "information"
