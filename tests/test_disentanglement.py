"""Measures of disentanglement on planted codes, whose values are known."""

import math

import pytest
import torch
from torch import Tensor

from vae_lightning.data.sources.sprites import FACTORS, Sprites
from vae_lightning.evaluation import disentanglement as measures

GENERATOR = torch.Generator().manual_seed(0)
FACTOR_VALUES = torch.cartesian_prod(torch.arange(4), torch.arange(5), torch.arange(3))
PLANTED = FACTOR_VALUES.repeat(60, 1)  # every combination equally often


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


def test_a_code_that_is_the_factors_is_perfect() -> None:
    codes = torch.cat([PLANTED.double(), torch.zeros(len(PLANTED), 1)], dim=1)  # one unused
    found = measures.measure_factors(codes, PLANTED)
    for name, value in found.items():
        assert value == pytest.approx(1, abs=1e-6), name


def test_a_code_that_is_independent_of_the_factors_has_nothing() -> None:
    found = measures.measure_factors(noise(len(PLANTED), 4), PLANTED)
    for name in ("mig", "sap", "dci_disentanglement", "dci_completeness"):
        assert abs(found[name]) < 0.05, name
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
    found = measures.measure_factors(codes, factors)
    for name in ("mig", "sap", "modularity"):
        assert found[name] == pytest.approx(0, abs=1e-6), name
    for name in ("dci_disentanglement", "dci_completeness"):
        assert found[name] < 0.05, name
    assert found["dci_informativeness"] == 1


def test_a_factor_in_two_dimensions_costs_completeness_and_not_disentanglement() -> None:
    codes = torch.cat([PLANTED.double(), PLANTED.double()], dim=1)
    found = measures.measure_factors(codes, PLANTED)
    assert found["mig"] == found["sap"] == pytest.approx(0, abs=1e-6)
    assert found["modularity"] == pytest.approx(1, abs=1e-6)
    assert found["dci_disentanglement"] == pytest.approx(1, abs=0.02)
    # the importance of a factor is shared by two of six dimensions
    assert found["dci_completeness"] == pytest.approx(1 - math.log(2) / math.log(6), abs=0.05)


def test_the_order_and_signs_of_the_dimensions_make_no_difference() -> None:
    codes = PLANTED.double() @ noise(3, 4) + 0.3 * noise(len(PLANTED), 4)
    other = codes[:, [2, 0, 3, 1]] * torch.tensor([1, -1, -1, 1])
    one, two = (measures.measure_factors(each, PLANTED) for each in (codes, other))
    for name in ("mig", "modularity", "sap", "factor_vae_score"):
        assert one[name] == pytest.approx(two[name], abs=0.02), name
    for name in ("dci_disentanglement", "dci_completeness", "dci_informativeness"):
        assert one[name] == pytest.approx(two[name], abs=0.03), name


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
