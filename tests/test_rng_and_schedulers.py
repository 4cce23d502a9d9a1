"""Random streams and learning-rate schedules."""

import math
from itertools import pairwise

import pytest
import torch

from vae_lightning import rng
from vae_lightning.training.schedulers import Cosine


def test_a_stream_depends_on_its_name_alone() -> None:
    first = rng.normal((4, 5), "cpu", 0, "noise", 0, 7)
    torch.randn(100)
    assert torch.equal(first, rng.normal((4, 5), "cpu", 0, "noise", 0, 7))


@pytest.mark.parametrize(
    "other", [(1, "noise", 0, 7), (0, "noise", 1, 7), (0, "noise", 0, 8), (0, "pixels", 0, 7)]
)
def test_seed_rank_step_and_name_each_change_the_stream(other: tuple[int, str, int, int]) -> None:
    first, second = (
        rng.normal((10_000,), "cpu", 0, "noise", 0, 7),
        rng.normal((10_000,), "cpu", *other),
    )
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 5 / math.sqrt(10_000)


def test_cosine_warms_up_and_ends_at_its_final_factor() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = Cosine(optimizer, total_steps=110, warmup_steps=10, final=0.1)
    rates = []
    for _ in range(111):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(2 / 11)
    assert rates[10] == pytest.approx(2.0)
    assert rates[60] == pytest.approx(2 * 0.55)  # half way: final + (1 - final) / 2
    assert rates[110] == pytest.approx(0.2)
    assert all(a < b for a, b in pairwise(rates[:11]))
    assert all(a > b for a, b in pairwise(rates[10:]))
