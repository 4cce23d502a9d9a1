"""Measures of disentanglement on planted codes, whose values are known."""

import math

import pytest
import torch
from torch import Tensor

from vae_lightning.data.images import ImageData
from vae_lightning.data.sources.source import Part
from vae_lightning.data.sources.sprites import FACTORS, Sprites
from vae_lightning.evaluation import disentanglement as measures
from vae_lightning.evaluation.measures import Measures
from vae_lightning.evaluation.needs import LeftOut
from vae_lightning.training.module import VAE

GENERATOR = torch.Generator().manual_seed(0)
FACTOR_VALUES = torch.cartesian_prod(torch.arange(4), torch.arange(5), torch.arange(3))
PLANTED = FACTOR_VALUES.repeat(60, 1)  # every combination equally often
FEW = FACTOR_VALUES.repeat(5, 1)  # for what needs no exact values


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


def measured(codes: Tensor, factors: Tensor, unordered: tuple[int, ...] = ()) -> dict[str, float]:
    """All measures; none may be left out."""
    found = measures.measure_factors(codes, factors, unordered)
    numbers = {name: value for name, value in found.items() if not isinstance(value, LeftOut)}
    assert numbers.keys() == found.keys()
    return numbers


@pytest.mark.parametrize("unordered", [(), (0,), (0, 2)])
def test_a_code_that_is_the_factors_is_perfect(unordered: tuple[int, ...]) -> None:
    codes = torch.cat([PLANTED.double(), torch.zeros(len(PLANTED), 1)], dim=1)  # one unused
    for name, value in measured(codes, PLANTED, unordered).items():
        assert value == pytest.approx(1, abs=1e-6), name


def test_a_code_that_is_independent_of_the_factors_has_nothing() -> None:
    found = measured(noise(len(PLANTED), 4), PLANTED, unordered=(0,))
    for name in ("mig", "sap", "dci_disentanglement", "dci_completeness"):
        assert abs(found[name]) < 0.05, name
    assert found["modularity"] == 0
    assert found["dci_informativeness"] < 0.4  # the mean of 1/4, 1/5 and 1/3 is 0.26
    assert found["factor_vae_score"] < 0.45  # chance is 1/3; the best of 4 dimensions is chosen


def test_a_rotated_pair_has_its_known_values() -> None:
    """z = (v + w, v - w) of two factors with values +-1: z is -2, 0 or 2.

    I(z_1; v) = H(z_1) - H(z_1|v) = 3/2 log 2 - log 2 = 1/2 log 2, the same for every pair, so that
    no dimension and no factor is preferred. The correlations are all 1/sqrt(2).
    """
    factors = torch.cartesian_prod(torch.arange(2), torch.arange(2)).repeat(500, 1)
    signs = 2.0 * factors - 1
    codes = torch.stack([signs[:, 0] + signs[:, 1], signs[:, 0] - signs[:, 1]], dim=1)
    information = measures.mutual_information(codes, factors)
    torch.testing.assert_close(information, torch.full((2, 2), 0.5 * math.log(2)).double())
    found = measured(codes, factors)
    for name in ("mig", "sap", "modularity"):
        assert found[name] == pytest.approx(0, abs=1e-6), name
    for name in ("dci_disentanglement", "dci_completeness"):
        assert found[name] < 0.05, name
    assert found["dci_informativeness"] == 1


def test_a_factor_in_two_dimensions_costs_completeness_and_not_disentanglement() -> None:
    codes = torch.cat([PLANTED.double(), PLANTED.double()], dim=1)
    found = measured(codes, PLANTED)
    assert found["mig"] == found["sap"] == pytest.approx(0, abs=1e-6)
    assert found["modularity"] == pytest.approx(1, abs=1e-6)
    assert found["dci_disentanglement"] == pytest.approx(1, abs=0.02)
    # the importance of a factor is shared by two of six dimensions
    assert found["dci_completeness"] == pytest.approx(1 - math.log(2) / math.log(6), abs=0.05)


def test_the_order_and_signs_of_the_dimensions_make_no_difference() -> None:
    codes = PLANTED.double() @ noise(3, 4) + 0.3 * noise(len(PLANTED), 4)
    other = codes[:, [2, 0, 3, 1]] * torch.tensor([1, -1, -1, 1])
    one, two = (measured(each, PLANTED, unordered=(2,)) for each in (codes, other))
    for name in ("mig", "modularity", "sap", "factor_vae_score"):
        assert one[name] == pytest.approx(two[name], abs=0.02), name
    for name in ("dci_disentanglement", "dci_completeness", "dci_informativeness"):
        assert one[name] == pytest.approx(two[name], abs=0.03), name


@pytest.mark.parametrize("number", [200, 2764])
def test_histograms_find_no_modularity_in_independent_codes(number: int) -> None:
    """Their bias, (bins - 1)(values - 1)/2N, is largest for the factors with most values."""
    grid = torch.cartesian_prod(*(torch.arange(values) for values in FACTORS.values()))
    factors = grid[torch.randperm(len(grid), generator=GENERATOR)[:number]]
    codes = torch.cat([noise(number, 5), noise(number, 5).exp(), noise(number, 5).sign()], dim=1)
    information = measures.mutual_information(codes, factors)
    assert measures.modularity(information) > 0.3  # all of it is bias
    assert not measures.beyond_chance(information, codes, factors).any()


def test_the_mutual_information_beyond_chance_is_that_of_the_distribution() -> None:
    """A channel of 20 values that replaces a value by any of them with probability 1/2."""
    factor = torch.arange(20).repeat(100)
    other = torch.randint(20, factor.shape, generator=GENERATOR)
    replaced = torch.rand(factor.shape, generator=GENERATOR) < 0.5
    codes, factors = torch.where(replaced, other, factor)[:, None].double(), factor[:, None]
    same = 0.5 + 0.5 / 20  # probability that the value stays
    exact = math.log(20) + same * math.log(same) + (1 - same) * math.log((1 - same) / 19)
    found = measures.mutual_information(codes, factors)
    assert float(found) > exact + 0.05
    assert float(measures.beyond_chance(found, codes, factors)) == pytest.approx(exact, abs=0.04)


def test_dimensions_that_have_collapsed_change_nothing() -> None:
    codes = torch.cat([PLANTED.double(), 1e-3 * noise(len(PLANTED), 5)], dim=1)
    found = measured(codes, PLANTED)
    for name in ("modularity", "dci_disentanglement", "factor_vae_score", "sap"):
        assert found[name] == pytest.approx(1, abs=0.02), name


def test_a_large_dimension_does_not_take_the_vote_of_the_others() -> None:
    codes = PLANTED.double() * torch.tensor([100, 1, 1])
    assert measures.factor_vae_score(codes, PLANTED) == 1
    assert measures.factor_vae_score(0.01 * PLANTED.double(), PLANTED) == 0  # all have collapsed


def test_the_values_of_a_factor_may_be_any_integers() -> None:
    codes = FEW.double() @ noise(3, 4) + 0.3 * noise(len(FEW), 4)
    expected = measured(codes, FEW)
    assert measured(codes, FEW - 2) == expected
    assert measured(codes, FEW * 10**10 - 7) == expected


def test_what_compares_factors_or_dimensions_is_left_out_for_a_single_one() -> None:
    found = measures.measure_factors(noise(len(FEW), 4), FEW[:, :1])
    left_out = {name for name, value in found.items() if isinstance(value, LeftOut)}
    assert left_out == {"modularity", "dci_disentanglement", "factor_vae_score"}
    assert {str(found[name]) for name in left_out} == {"requires at least 2 factors"}
    found = measures.measure_factors(noise(len(FEW), 1), FEW)
    left_out = {name: str(value) for name, value in found.items() if isinstance(value, LeftOut)}
    assert left_out == {"dci_completeness": "requires at least 2 latent dimensions"}


def test_factors_with_one_value_or_nearly_one_per_image_are_left_out() -> None:
    count = len(FEW)  # 300: up to 30 values are allowed
    single, many = torch.zeros(count, 1).long(), torch.arange(count)[:, None] % 31
    codes, factors = noise(count, 3), torch.cat([single, FEW, many], dim=1)
    found = measures.measure_factors(codes, factors, unordered=(1,))
    assert str(found.pop("factor 0")) == "requires 2 to 30 different values, it has 1"
    assert str(found.pop("factor 4")) == "requires 2 to 30 different values, it has 31"
    assert found == measured(codes, FEW, unordered=(0,))
    with pytest.raises(LeftOut, match="requires a factor with 2 to 30 different values"):
        measures.measure_factors(codes, torch.cat([single, many], dim=1))
    with pytest.raises(LeftOut, match="at least 20 test images, there are 19"):
        measures.measure_factors(codes[:19], FEW[:19])


def test_factors_of_the_training_images_alone_are_left_out() -> None:
    images, labels = torch.zeros(300, 1, 2, 2, dtype=torch.uint8), torch.zeros(300).long()
    parts = {"train": Part(images, labels, FEW), "test": Part(images, labels)}
    data = ImageData("x", parts, batch_size=10, binarization="none", seed=0)
    with pytest.raises(LeftOut, match="requires factors of the test images"):
        Measures(VAE.__new__(VAE), data).of_latents()[-1].compute()


def test_the_numbering_of_an_unordered_factor_makes_no_difference_to_sap() -> None:
    numbering = torch.tensor([1, 3, 0, 2])  # uncorrelated with 0, 1, 2, 3
    codes = torch.stack([numbering[PLANTED[:, 0]].double(), PLANTED[:, 1].double()], dim=1)
    factors = PLANTED[:, :2]
    assert measures.separated_attribute_predictability(codes, factors) == pytest.approx(0.5)
    assert measures.separated_attribute_predictability(codes, factors, (0,)) == pytest.approx(1)


def test_the_classifier_of_sap_has_the_accuracy_of_the_best_threshold() -> None:
    """Values at 0 with N(-1, 1) and at 1 with N(1, 1), ten times as many: the threshold is 0."""
    factor = (torch.arange(22_000) >= 2_000).long()
    code = noise(len(factor)) + 2 * factor - 1
    accuracy = 0.5 + 0.5 * math.erf(1 / math.sqrt(2))  # Phi(1) for either value
    assert measures.threshold_accuracy(code, factor) == pytest.approx(2 * accuracy - 1, abs=0.03)


def test_sprites_have_one_image_for_each_combination_of_factors() -> None:
    parts = [Sprites("", train=train) for train in (True, False)]
    factors = torch.cat([part.factors for part in parts])
    images = torch.cat([part.data for part in parts])
    assert len(factors) == math.prod(FACTORS.values()) == len(factors.unique(dim=0))
    assert images.shape == (len(factors), 64, 64)
    assert len(images.flatten(1).unique(dim=0)) == len(images), "two combinations look the same"
    area = images.double().mean((1, 2)) / 255
    assert 0.005 < float(area.min()) < float(area.max()) < 0.3
    edge = torch.cat([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]])
    assert int(edge.max()) == 0, "a shape is cut off"
    # the center of mass follows x and y
    weight = images.double() / images.double().sum((1, 2), keepdim=True)
    center = (weight.sum(1) * torch.arange(64)).sum(1)
    for shape in range(3):
        chosen = factors[:, 0] == shape
        assert torch.corrcoef(torch.stack([center[chosen], factors[chosen, 3]]))[0, 1] > 0.98
