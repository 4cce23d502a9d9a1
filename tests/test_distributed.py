"""States of the model that depend on all images of a step, whichever process has them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, multiprocessing

from vae_lightning.distributed import summed_over_processes
from vae_lightning.distributions import StandardNormal
from vae_lightning.distributions.scale import SCALE_FLOOR, OptimalScale
from vae_lightning.objectives import GECO, Terms

PROCESSES = 2
MOMENTS = torch.tensor([[0.1, 0.5, 0.2, 0.9]]).double()  # (K, B)
WEIGHTS = torch.tensor([[1.0, 2.0, 0.5, 0.1]]).double()
RECON = torch.tensor([[30.0, 10.0, 25.0, 22.0]]).double()


def states(own: slice) -> Tensor:
    """The state after one step with some of the images."""
    scale = OptimalScale(2, SCALE_FLOOR).double()
    scale.record(MOMENTS[:, own], WEIGHTS[:, own])
    geco = GECO(target=20.0, rate=0.1, smoothing=0.5).double()
    z = torch.zeros(1, RECON[:, own].shape[1], 2).double()
    terms = Terms(RECON[:, own], z, None, StandardNormal(2))
    terms.kl = torch.zeros(z.shape[1]).double()
    geco(terms, 0)
    return torch.stack([scale.moment, geco.average, geco.log_multiplier])


def process(rank: int, folder: str) -> None:
    """One of several processes, each of which has some of the images."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES
    )
    torch.save(states(slice(rank * 2, rank * 2 + 2)), Path(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_have_the_state_of_a_single_one_with_all_images(tmp_path: Path) -> None:
    multiprocessing.spawn(process, (str(tmp_path),), PROCESSES)
    expected = states(slice(0, 4))
    for rank in range(PROCESSES):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), expected)
    assert not torch.allclose(states(slice(0, 2)), expected), "nothing to sum"


def test_a_single_process_keeps_its_values() -> None:
    values = torch.tensor([1.0, 2.0])
    assert summed_over_processes(values) is values
