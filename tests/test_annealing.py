"""Schedules by optimizer step, and the objectives that follow them."""

import math
from itertools import pairwise

import pytest
import torch

from vae_lightning.distributions import DiagonalNormal, StandardNormal
from vae_lightning.objectives import ELBO, IWAE, MMD, TC, Capacity, FreeBits, Terms, elbo
from vae_lightning.objectives.annealing import Annealing, Constant, Cyclical, Linear, Sigmoid

EVERY = [Constant(), Linear(10), Sigmoid(10), Cyclical(10, 3)]


@pytest.mark.parametrize("annealing", EVERY, ids=lambda annealing: type(annealing).__name__)
def test_factors_are_between_zero_and_one_and_end_at_one(annealing: Annealing) -> None:
    factors = [annealing(step) for step in range(200)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[-1] == pytest.approx(1, abs=1e-9)
    assert annealing(10**9) == pytest.approx(1)


def test_linear() -> None:
    assert [Linear(4)(step) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]


def test_sigmoid() -> None:
    values = [Sigmoid(100)(step) for step in range(300)]
    assert all(a < b for a, b in pairwise(values[:200]))
    assert values[50] == 0.5
    assert values[0] == pytest.approx(0.0025, abs=5e-5)
    assert values[100] == pytest.approx(1 - values[0])
    assert values[60] == pytest.approx(1 / (1 + math.exp(-1.2)))


def test_cyclical() -> None:
    assert [Cyclical(4, 2)(step) for step in range(10)] == [0, 0.5, 1, 1, 0, 0.5, 1, 1, 1, 1]
    assert [Cyclical(5, 1)(step) for step in range(6)] == [0, 0.4, 0.8, 1, 1, 1]


def test_a_base_schedule_is_none() -> None:
    with pytest.raises(NotImplementedError):
        Annealing()(0)


@pytest.mark.parametrize(
    "objective",
    [
        ELBO(3.0, annealing=Linear(4)),
        FreeBits(0.0, 3.0, annealing=Linear(4)),
        IWAE(2, beta=3.0, annealing=Linear(4)),
        TC(3.0, annealing=Linear(4)),
        MMD(0.0, 3.0, annealing=Linear(4)),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_beta_is_annealed_by_the_optimizer_step(objective: ELBO) -> None:
    assert [objective.beta_at(step) for step in range(6)] == [0, 0.75, 1.5, 2.25, 3, 3]
    generator = torch.Generator().manual_seed(0)
    q = DiagonalNormal(*torch.rand(2, 5, 3, generator=generator))
    z = q.transform(torch.randn(2, 5, 3, generator=generator))
    terms = Terms(torch.rand(2, 5, generator=generator), z, q, StandardNormal(3))
    if isinstance(objective, TC):
        objective.dataset_size.fill_(5)
    values = [objective(terms, step).mean() for step in range(6)]
    assert all(abs(a - b) > 1e-3 for a, b in pairwise(values[:5]))
    torch.testing.assert_close(values[4], values[5])
    if isinstance(objective, ELBO | FreeBits | MMD):
        torch.testing.assert_close(values[0], terms.recon.mean())
        torch.testing.assert_close(values[2], elbo(terms, 1.5).mean())


def test_a_capacity_grows_and_its_weight_does_not() -> None:
    objective = Capacity(8.0, 100.0, annealing=Linear(4))
    assert objective.weights(0) == {"gamma": 100, "capacity": 0}
    assert objective.weights(9)["capacity"] == objective.capacity
    q = DiagonalNormal(torch.full((1, 1), 4.0), torch.ones(1, 1))  # KL = 8
    terms = Terms(torch.zeros(1, 1), q.mean[None], q, StandardNormal(1))
    assert [float(objective(terms, step)) for step in range(6)] == [800, 600, 400, 200, 0, 0]
