"""The measures of a trained model on the test images, each computed or left out on its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from vae_lightning.data.images import ImageData
from vae_lightning.data.splits import random_part
from vae_lightning.distributions import Prior
from vae_lightning.evaluation import ais, latents, samples
from vae_lightning.evaluation.batches import TrainingImages, training_images
from vae_lightning.evaluation.classifier import Classifier, accuracy, classifier, features_of
from vae_lightning.evaluation.disentanglement import measure_factors
from vae_lightning.evaluation.mixture import fit_mixture
from vae_lightning.evaluation.needs import LeftOut, need_images, standard_error, with_classes
from vae_lightning.training.module import VAE

Values = Mapping[str, float | int | LeftOut]

LATENTS = ("active_units", *latents.AGGREGATE)
FACTORS = (
    "mig",
    "modularity",
    "sap",
    "dci_disentanglement",
    "dci_completeness",
    "dci_informativeness",
    "factor_vae_score",
)


class Measure(NamedTuple):
    """Some values that are computed, or left out, together."""

    names: tuple[str, ...]
    compute: Callable[[], Values]  # raises LeftOut, with the reason, if it leaves out all of them


@dataclass(frozen=True)
class Measures:
    """What is measured on the test images of a data set; common parts are computed once."""

    module: VAE
    data: ImageData
    pixels: str = "mean"  # see samples.sample_features

    @cached_property
    def labeled(self) -> tuple[TrainingImages, Tensor]:
        """Training images with classes as labels, and test labels; raises LeftOut without them."""
        return with_classes(training_images(self.data), self.data.labels["test"])

    @cached_property
    def codes(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Posterior means and labels of training images and of test images, on the CPU."""
        training, labels = self.labeled
        means = latents.training_means(self.module, training)
        test = latents.posterior_means(self.module, self.data, "test")
        return means.cpu(), training.labels.cpu(), test.cpu(), labels.cpu()

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier whose features compare images; raises LeftOut without classes."""
        return classifier(self.labeled[0], self.data.images["test"].device)

    @cached_property
    def features(self) -> Tensor:
        """The features of the test images, (N, F)."""
        return features_of(self.classifier, self.data.images["test"])

    def of_latents(self) -> list[Measure]:
        """The measures of the latents, and of how well they predict labels and factors."""
        measures = [
            Measure(LATENTS, lambda: latents.measure_latents(self.module, self.data)),
            one("linear_probe_accuracy", lambda: latents.linear_probe(*self.codes)),
            one("nearest_neighbors_accuracy", lambda: latents.nearest_neighbors(*self.codes)),
        ]
        return measures + ([Measure(FACTORS, self.factors)] if self.data.factors else [])

    def factors(self) -> Values:
        """The measures of disentanglement; raises LeftOut without factors of the test images."""
        if "test" not in self.data.factors:
            raise LeftOut("requires factors of the test images")
        codes = latents.posterior_means(self.module, self.data, "test").cpu()
        return measure_factors(codes, self.data.factors["test"], self.data.unordered_factors)

    def of_images(self, with_mixture: bool) -> list[Measure]:
        """The measures of reconstructions and samples, also of those from a fitted mixture."""
        measures = [
            Measure(
                ("mse", "psnr", "ssim"),
                lambda: samples.measure_reconstructions(self.module, self.data),
            ),
            *self.of_samples("", lambda: self.module.prior(self.module.encoder)),
        ]
        if with_mixture:
            measures += self.of_samples("gmm_", self.mixture)
        return [*measures, one("classifier_accuracy", self.classifier_accuracy)]

    def mixture(self) -> Prior:
        """The mixture that is fitted to the codes."""
        need_images(self.data.images_in("train"), 2, "training")
        return fit_mixture(self.module, self.data)

    def of_samples(self, prefix: str, prior: Callable[[], Prior]) -> list[Measure]:
        """The measures of samples of a prior; their names start with the prefix."""
        drawn: list[Tensor] = []

        def features() -> tuple[Tensor, Tensor]:
            """The features of the test images and of the samples, which are drawn once."""
            if not drawn:
                model, prior_now = self.classifier, prior()
                drawn.append(
                    samples.sample_features(self.module, self.data, prior_now, model, self.pixels)
                )
            return self.features, drawn[0]

        def precision_and_recall() -> Values:
            found = samples.overlap(*features())
            return {f"{prefix}precision": found.precision, f"{prefix}recall": found.recall}

        distance = f"{prefix}frechet_distance"
        return [
            one(distance, lambda: samples.frechet_distance(*features())),
            Measure((f"{prefix}precision", f"{prefix}recall"), precision_and_recall),
        ]

    def classifier_accuracy(self) -> float:
        """The accuracy of the classifier on the test images."""
        return accuracy(self.classifier, self.data.images["test"], self.labeled[1])

    def annealed(self, images: int, steps: int, chains: int) -> Values:
        """What annealed importance sampling says of some test images and of simulated ones.

        Of more than ``images`` test images, it uses a random part, always the same one.
        """
        index = random_part(self.data.images_in("test"), images, "ais")
        x, condition = self.data.inputs("test", index)
        nll = -ais.log_p(self.module, x, steps, chains, condition)
        bounds = ais.simulated_bounds(self.module, len(x), steps, chains, condition)
        return {
            "ais_images": len(x),
            "ais_nll": float(nll.mean()),
            "ais_nll_se": standard_error(nll),
            "simulated_log_p_lower": float(bounds.lower.mean()),
            "simulated_log_p_upper": float(bounds.upper.mean()),
        }


def one(name: str, compute: Callable[[], float]) -> Measure:
    """A measure with one value."""
    return Measure((name,), lambda: {name: compute()})
