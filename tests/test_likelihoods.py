"""Likelihoods: the scales of their pixels, their supports and their descriptions."""

import math

import pytest
import torch
from torch import Tensor, nn

from vae_lightning.distributions import (
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    DiagonalNormal,
    DiscretizedLogisticLikelihood,
    Gaussian,
    GaussianLikelihood,
    Laplace,
    LaplaceLikelihood,
    SquaredErrorLikelihood,
    StandardNormal,
)
from vae_lightning.distributions.scale import (
    OPTIMAL_SCALE_RATE,
    SCALE_FLOOR,
    FixedScale,
    LearnedScale,
    OptimalScale,
    PerPixelScale,
    RecordsResiduals,
    Scale,
    make_scale,
)
from vae_lightning.objectives import Terms, iwae


class Says(nn.Module):
    """A network that returns the same numbers for every image and for each of its 2x2 pixels."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values).float())

    def forward(self, z: Tensor) -> Tensor:
        return self.values[:, None, None].expand(len(z), -1, 2, 2)


@pytest.mark.parametrize(
    ("kind", "power"),
    [(GaussianLikelihood, 2), (LaplaceLikelihood, 1)],
    ids=["gaussian", "laplace"],
)
def test_the_optimal_scale_is_that_of_the_residuals_and_moves_in_training_only(
    kind: type, power: int
) -> None:
    likelihood = kind(lambda _: Says(0.4), "optimal", "identity")
    z = torch.zeros(2, 3, 5, requires_grad=True)
    x = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    start = likelihood.eval().state_dict()["scale.moment"].clone()
    likelihood(z).recon(x).sum().backward()
    assert torch.equal(likelihood.scale.moment, start)
    likelihood.train()(z)
    assert torch.equal(likelihood.scale.moment, start), "moved without having met an image"
    for _ in range(1000):
        trained = likelihood(z).recon(x)
        trained.sum().backward()
    best = (x - 0.4).abs().pow(power).mean().pow(1 / power)
    pixels = likelihood.eval()(z)
    scale = pixels.std if power == 2 else pixels.scale
    torch.testing.assert_close(scale, best, rtol=1e-5, atol=0)
    torch.testing.assert_close(trained, pixels.recon(x), rtol=1e-5, atol=1e-5)
    for factor in (0.9, 1.1):
        assert kind.family(pixels.mean, factor * best).recon(x).mean() > pixels.recon(x).mean()
    assert "scale.moment" in likelihood.state_dict()


def test_an_optimal_scale_averages_batches_and_does_not_fall_below_its_floor() -> None:
    likelihood, z = (
        GaussianLikelihood(lambda _: Says(0.0), "optimal", "identity"),
        torch.zeros(1, 1, 5, requires_grad=True),
    )
    for number in range(2000):
        x = torch.full((1, 1, 2, 2), 0.2 if number % 2 else 0.6)
        likelihood(z).recon(x).sum().backward()
    # sqrt((0.04 + 0.36) / 2)
    assert float(likelihood(z).distribution.std) == pytest.approx(math.sqrt(0.2), rel=0.01)
    for _ in range(2000):
        likelihood(z).recon(torch.zeros(1, 1, 2, 2)).sum().backward()
    assert float(likelihood(z).distribution.std) == pytest.approx(SCALE_FLOOR)


@pytest.mark.parametrize(
    "kind", [GaussianLikelihood, LaplaceLikelihood, DiscretizedLogisticLikelihood]
)
def test_scales_are_fixed_learned_or_per_pixel(kind: type) -> None:
    z = torch.zeros(2, 3, 5)
    name = "std" if kind is GaussianLikelihood else "scale"
    assert getattr(kind(lambda _: Says(0.4), 0.7)(z), name) == pytest.approx(0.7)
    learned = kind(lambda _: Says(0.4), "learned")
    learned(z).recon(torch.rand(3, 1, 2, 2)).sum().backward()
    assert learned.scale.raw.grad.abs() > 0
    with torch.no_grad():
        learned.scale.raw.fill_(-1000)
    assert float(getattr(learned(z), name).detach()) == pytest.approx(kind.floor)
    colors = kind(lambda outputs: Says(*torch.arange(3.0 * outputs)), "per_pixel", "identity")(
        z
    )  # C = 3
    location = colors.location if kind is DiscretizedLogisticLikelihood else colors.mean
    assert location[0, 0, :, 0, 0].tolist() == [0, 1, 2]
    expected = nn.functional.softplus(torch.tensor([3.0, 4, 5])) + kind.floor
    torch.testing.assert_close(getattr(colors, name)[1, 2, :, 1, 1], expected)


OUTPUTS = torch.linspace(-2, 2, 2 * 3 * 4 * 2 * 2).view(2, 3, 4, 2, 2)  # (K, B, P * C, H, W)


@pytest.mark.parametrize(
    ("value", "kind", "channels"),
    [
        (0.7, FixedScale, 4),
        ("learned", LearnedScale, 4),
        ("optimal", OptimalScale, 4),
        ("per_pixel", PerPixelScale, 2),
    ],
)
def test_a_scale_has_its_value_and_gradients_where_it_is_learned(
    value: float | str, kind: type[Scale], channels: int
) -> None:
    scale = make_scale(value, ("learned", "optimal", "per_pixel"), "scale", 2, SCALE_FLOOR)
    assert type(scale) is kind
    assert channels * scale.outputs_per_pixel == OUTPUTS.shape[-3]
    outputs = OUTPUTS.clone().requires_grad_()
    location, found = scale(outputs)
    assert torch.equal(location, OUTPUTS[..., :channels, :, :])
    softplus = nn.functional.softplus
    expected = {
        FixedScale: torch.tensor(0.7),
        LearnedScale: softplus(torch.tensor(-1.0)) + SCALE_FLOOR,
        OptimalScale: torch.tensor(0.3),
        PerPixelScale: softplus(OUTPUTS[..., channels:, :, :]) + SCALE_FLOOR,
    }[kind]
    torch.testing.assert_close(found.detach(), expected)

    (location.sum() + found.sum()).backward()
    slope = torch.ones_like(OUTPUTS)
    if kind is PerPixelScale:  # the derivative of softplus is sigmoid
        slope[..., channels:, :, :] = OUTPUTS[..., channels:, :, :].sigmoid()
    torch.testing.assert_close(outputs.grad, slope)
    gradients = {name: parameter.grad for name, parameter in scale.named_parameters()}
    if kind is LearnedScale:
        torch.testing.assert_close(gradients, {"raw": torch.tensor(-1.0).sigmoid()})
    else:
        assert gradients == {}
    buffers = {FixedScale: {"value"}, OptimalScale: {"moment"}}.get(kind, set())
    assert set(dict(scale.named_buffers())) == buffers


@pytest.mark.parametrize(("exponent", "family"), [(2, Gaussian), (1, Laplace)])
def test_an_optimal_scale_follows_the_residuals_in_training_only(
    exponent: int, family: type
) -> None:
    """In training, moment <- moment + rate (mean |r|^e - moment); the scale is moment^(1/e)."""
    scale = OptimalScale(exponent, SCALE_FLOOR)
    outputs = OUTPUTS.clone().requires_grad_()
    x = torch.rand(3, 4, 2, 2, generator=torch.Generator().manual_seed(2))
    mean_power = (x - OUTPUTS).abs().pow(exponent).mean()
    scale.eval()
    distribution = family(*scale(outputs))
    assert scale.observe(distribution) is distribution
    scale.observe(distribution).recon(x).sum().backward()
    assert float(scale.moment) == pytest.approx(0.3**exponent)

    scale.train()
    moment = torch.tensor(0.3**exponent)
    for _ in range(3):
        distribution = family(*scale(outputs))
        observed = scale.observe(distribution)
        assert isinstance(observed, RecordsResiduals)
        assert torch.equal(observed.mean, distribution.mean)
        recon = observed.recon(x)
        assert torch.equal(recon, distribution.recon(x))  # with the scale from before
        recon.sum().backward()
        moment = moment + OPTIMAL_SCALE_RATE * (mean_power - moment)
        torch.testing.assert_close(scale.moment, moment)
    torch.testing.assert_close(scale(OUTPUTS)[1], moment ** (1 / exponent))
    assert not scale.moment.requires_grad
    for _ in range(1000):
        scale.observe(family(*scale(outputs))).recon(x).mean().backward()
    torch.testing.assert_close(scale(OUTPUTS)[1], mean_power ** (1 / exponent), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("kind", "exponent"), [(Gaussian, 2), (Laplace, 1)])
def test_an_optimal_scale_maximizes_the_importance_weighted_bound(
    kind: type, exponent: int
) -> None:
    """64 pixels, true scale 0.2, K = 50: the samples have the weights that the bound gives them."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    rows, z_true = normal(64, 2) / 4, normal(20, 2)
    x = (z_true @ rows.T + 0.2 * normal(20, 64)).view(20, 1, 8, 8)
    q = DiagonalNormal(z_true.clone().requires_grad_(), torch.full((20, 2), 0.4).double())
    z = q.transform(normal(50, 20, 2))
    scale = OptimalScale(exponent, SCALE_FLOOR).double()

    def bound(value: Tensor | None = None) -> Tensor:
        location, own = scale((z @ rows.T).view(50, 20, 1, 8, 8))
        pixels = scale.observe(kind(location, own if value is None else value))
        return -iwae(Terms(pixels.recon(x), z, q, StandardNormal(2))).mean()

    for _ in range(1000):
        bound().backward(retain_graph=True)
    scale.eval()
    _, found = scale(torch.zeros(1, 1, 1, 1, 1))
    q, z = q.detach(), z.detach()
    assert float(bound(found)) > max(float(bound(0.97 * found)), float(bound(1.03 * found)))
    with torch.no_grad():
        residuals = (x - (z @ rows.T).view(50, 20, 1, 8, 8)).abs().pow(exponent).mean()
    assert float(residuals ** (1 / exponent)) > 1.2 * float(found), "the weights make no difference"


@pytest.mark.parametrize("value", [0.7, "learned", "per_pixel"])
def test_other_scales_do_not_record_residuals(value: float | str) -> None:
    scale = make_scale(value, ("learned", "per_pixel"), "scale", 1, SCALE_FLOOR).train()
    state = {name: tensor.clone() for name, tensor in scale.state_dict().items()}
    distribution = Laplace(*scale(OUTPUTS))
    assert scale.observe(distribution) is distribution
    distribution.recon(torch.zeros(3, 4 // scale.outputs_per_pixel, 2, 2))
    assert scale.state_dict() == state


@pytest.mark.parametrize(
    ("likelihood", "description"),
    [
        (SquaredErrorLikelihood(Says), "squared error"),
        (GaussianLikelihood(Says, 0.5), "gaussian, std 0.5"),
        (GaussianLikelihood(Says, "per_pixel"), "gaussian, std per pixel, at least 0.01"),
        (LaplaceLikelihood(Says, "optimal"), "laplace, scale optimal, at least 0.01"),
        (
            DiscretizedLogisticLikelihood(Says, "learned"),
            "discretized logistic, scale learned, at least 0.0001",
        ),
        (BernoulliLikelihood(Says, [1, 2, 2]), "bernoulli"),
        (BernoulliLikelihood(Says, [1, 2, 2], gray=True), "gray cross-entropy"),
        (
            ContinuousBernoulliLikelihood(Says, 1e-3),
            "continuous bernoulli, lambda in (0.001, 0.999)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_description_names_what_the_value_depends_on(
    likelihood: nn.Module, description: str
) -> None:
    assert likelihood.description == description
    assert likelihood.discrete == ("logistic" in description)


@pytest.mark.parametrize("scale", [0, -1.0, math.inf, math.nan, "wild", True, None])
def test_a_scale_that_is_none_is_refused_with_what_is_allowed(scale: object) -> None:
    with pytest.raises(
        ValueError,
        match=r"^likelihood.std=.*: must be a finite number > 0 or one of learned, optimal",
    ):
        GaussianLikelihood(Says, scale)
    with pytest.raises(
        ValueError, match=r"^likelihood.scale=optimal: must be .* or one of learned, per_pixel$"
    ):
        DiscretizedLogisticLikelihood(Says, "optimal")


def test_a_discretized_logistic_can_be_certain_of_every_level() -> None:
    """The location reaches the levels 0 and 255, and the scale is far below 1/255."""
    for level in (0.0, 5 / 255, 1.0):
        likelihood = DiscretizedLogisticLikelihood(lambda _, level=level: Says(level), "learned")
        with torch.no_grad():
            likelihood.scale.raw.fill_(-100)
        recon = likelihood(torch.zeros(1, 1, 5)).recon(torch.full((1, 1, 2, 2), level))
        assert float(recon.detach()) < 1e-6, level


def test_lambda_stays_within_its_clip() -> None:
    for output in (-1e4, 1e4):
        logits = ContinuousBernoulliLikelihood(lambda _, output=output: Says(output), 1e-3)(
            torch.zeros(1, 1, 5)
        ).logits
        assert float(logits.detach().sigmoid().flatten()[0]) == pytest.approx(
            0.001 if output < 0 else 0.999, rel=1e-4
        )
    small = ContinuousBernoulliLikelihood(lambda _: Says(0.01), 1e-3)(torch.zeros(1, 1, 5)).logits
    torch.testing.assert_close(small, torch.full_like(small, 0.01), rtol=1e-5, atol=0)


GRAY, BINARY = (
    torch.tensor([0, 100, 255], dtype=torch.uint8),
    torch.tensor([0, 255, 255], dtype=torch.uint8),
)


@pytest.mark.parametrize("binarized", [True, False])
@pytest.mark.parametrize("images", [GRAY, BINARY], ids=["gray", "binary"])
def test_pixels_outside_the_support_are_refused_with_the_option_that_fits(
    images: Tensor, binarized: bool
) -> None:
    images = images[:, None, None, None]
    binary = binarized or not (images == 100).any()
    likelihoods = {
        "likelihood=bernoulli: requires data.binarization=.*gray pixels": BernoulliLikelihood(
            Says, [1, 1, 1]
        ),
        "likelihood.gray=true: must be false": BernoulliLikelihood(Says, [1, 1, 1], gray=True),
        "likelihood=continuous_bernoulli: requires gray pixels": ContinuousBernoulliLikelihood(
            Says, 1e-4
        ),
    }
    for message, likelihood in likelihoods.items():
        if message.startswith("likelihood=bernoulli") == binary:
            likelihood.start_from(images, binarized)
        else:
            with pytest.raises(ValueError, match=message):
                likelihood.start_from(images, binarized)


def test_data_bias_starts_at_the_training_mean() -> None:
    likelihood = BernoulliLikelihood(lambda _: Says(0.0), [1, 2, 2], data_bias=True)
    images = torch.tensor([[0, 255, 51, 0], [0, 255, 204, 255]], dtype=torch.uint8).view(2, 1, 2, 2)
    likelihood.start_from(images, binarized=True)
    expected = torch.tensor([0.001, 0.999, 0.5, 0.5]).view(1, 2, 2)  # clipped
    torch.testing.assert_close(likelihood(torch.zeros(1, 1, 5)).mean[0, 0], expected)
