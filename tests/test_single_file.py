"""docs/vae_in_85_lines.py is the package's default model: the same loss and the same gradients."""

import importlib.util
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from vae_lightning.distributions import (
    DiagonalNormalPosterior,
    SquaredErrorLikelihood,
    StandardNormal,
)
from vae_lightning.networks import MLPDecoder, MLPEncoder
from vae_lightning.objectives import Terms, elbo

FILE = Path(__file__).parent.parent / "docs" / "vae_in_85_lines.py"
IMAGE_SHAPE = (1, 28, 28)


@pytest.fixture(scope="module")
def single_file() -> ModuleType:
    spec = importlib.util.spec_from_file_location(FILE.stem, FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package_terms(model: nn.Module, x: Tensor, eps: Tensor) -> tuple[Terms, nn.ModuleList]:
    """The package's terms with the weights of the single file, and the modules behind them."""
    network = partial(MLPEncoder, image_shape=IMAGE_SHAPE, hidden_dims=[400])
    encoder = DiagonalNormalPosterior(network, 16).double()
    network = partial(MLPDecoder, latent_dim=16, image_shape=IMAGE_SHAPE, hidden_dims=[400])
    decoder = SquaredErrorLikelihood(network).double()
    modules = nn.ModuleList([encoder, decoder])
    with torch.no_grad():
        for ours, theirs in zip(modules.parameters(), model.parameters(), strict=True):
            ours.copy_(theirs)
    x = x.view(-1, *IMAGE_SHAPE)
    posterior = encoder(x)
    z = posterior.transform(eps[None])
    return Terms(decoder(z).recon(x), z, posterior, StandardNormal(16)), modules


def test_loss_and_gradients_are_those_of_the_package(single_file: ModuleType) -> None:
    torch.manual_seed(0)
    model = single_file.VAE().double()
    x, eps = torch.rand(9, 784).double(), torch.randn(9, 16).double()
    squared_error, kl = model(x, eps)
    terms, modules = package_terms(model, x, eps)
    torch.testing.assert_close(squared_error, terms.recon[0])
    torch.testing.assert_close(kl, terms.kl)
    torch.testing.assert_close(squared_error + kl, elbo(terms))

    (squared_error + kl).mean().backward()
    elbo(terms).mean().backward()
    for (name, theirs), ours in zip(model.named_parameters(), modules.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad, msg=lambda text, n=name: f"{n}: {text}")


def test_images_are_those_of_the_idx_files(single_file: ModuleType, tiny_root: Path) -> None:
    train, test = single_file.load(str(tiny_root))
    assert (train.shape, test.shape) == ((600, 784), (130, 784))
    content = (tiny_root / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()
    last = torch.tensor(list(content[-784:]))
    torch.testing.assert_close(test[-1], last / 255)


def test_it_trains_and_draws(
    single_file: ModuleType, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single_file.main(str(tiny_root), epochs=2)
    first, second, *drawing = capsys.readouterr().out.splitlines()
    losses = [float(line.split()[-2]) for line in (first, second)]
    assert losses[1] < losses[0]
    assert len(drawing) == 3 * 14
    assert {len(line) for line in drawing} == {28}


def test_it_has_at_most_85_lines() -> None:
    assert len(FILE.read_text().splitlines()) <= 85
