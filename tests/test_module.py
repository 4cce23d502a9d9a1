"""Networks and the LightningModule: gradients, and values that do not depend on the batch size."""

import copy
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from helpers import built, configured
from vae_lightning.data import images as data_module
from vae_lightning.data.images import ImageData
from vae_lightning.networks import (
    Condition,
    ConvDecoder,
    ConvEncoder,
    MLPDecoder,
    MLPEncoder,
    dense,
)
from vae_lightning.training.assembly import build_module
from vae_lightning.training.module import VAE
from vae_lightning.training.trainer import build_tester


def evaluated(cfg: DictConfig, module: VAE, data: ImageData) -> dict[str, float]:
    return build_tester(cfg).test(module, data, verbose=False)[0]


def test_shapes_and_widths_of_the_networks() -> None:
    x, z = torch.rand(3, 1, 28, 28), torch.rand(3, 5)
    assert MLPEncoder(10, [1, 28, 28], [30, 20])(x).shape == (3, 10)
    assert MLPDecoder(2, 5, [1, 28, 28], [30, 20])(z).shape == (3, 2, 28, 28)
    assert ConvEncoder(10, [1, 28, 28], [4, 8], [20])(x).shape == (3, 10)
    assert ConvDecoder(2, 5, [1, 28, 28], [4, 8], [20])(z).shape == (3, 2, 28, 28)
    widths = [
        layer.out_features
        for layer in MLPDecoder(1, 5, [1, 28, 28], [30, 20]).modules()
        if hasattr(layer, "bias")
    ]
    assert widths == [20, 30, 784]


def test_networks_refuse_invalid_arguments() -> None:
    with pytest.raises(ValueError, match=r"model.widths=\[1, 2, 3\]: must be 1 to 2 .* the 3x4 im"):
        ConvEncoder(10, [1, 3, 4], [1, 2, 3], [20])
    with pytest.raises(ValueError, match=r"model.widths=\[1, 2\]: must be 1 integer or null,"):
        ConvDecoder(1, 2, [1, 1, 1], [1, 2], [20])
    with pytest.raises(ValueError, match=r"model.activation=step: must be one of relu"):
        dense([2, 2, 2], "step")
    with pytest.raises(ValueError, match=r"model.activation=step: must be one of relu"):
        ConvEncoder(10, [1, 28, 28], [4, 8], [20], "step")


@pytest.mark.parametrize("posterior", ["posterior.shared_std=false", "posterior.shared_std=true"])
@pytest.mark.parametrize("likelihood", ["likelihood=squared_error", "likelihood=bernoulli"])
@pytest.mark.parametrize("model", ["mlp", "gated", "conv", "resnet", "linear"])
def test_every_parameter_has_a_gradient(
    tiny_root: Path, model: str, likelihood: str, posterior: str
) -> None:
    pixels = "data.binarization=threshold"
    module = build_module(
        configured(f"model={model}", likelihood, posterior, pixels, root=tiny_root)
    )
    x = (torch.rand(8, 1, 28, 28) > 0.5).float()
    module.objective(module(x, torch.randn(1, 8, module.latent_dim)), 0).mean().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_logged_terms_are_the_means_over_the_images_and_independent_of_the_batch_size(
    tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, module, data = built("objective.beta=3", root=tiny_root)
    values = {}
    for size in (130, 7, 1):
        monkeypatch.setattr(data_module, "EVALUATION_BATCH_SIZE", size)
        values[size] = evaluated(cfg, module, data)
    assert values[7] == pytest.approx(values[130], rel=1e-6)
    assert values[1] == pytest.approx(values[130], rel=1e-6)
    x = data.images["test"].float() / 255
    with torch.no_grad():
        terms = module(x, module.evaluation_noise["test"])
    recon, kl = float(terms.recon.mean()), float(terms.kl.mean())
    expected = {"recon": recon, "kl": kl, "neg_elbo": recon + kl, "loss": recon + 3 * kl}
    assert values[130] == pytest.approx(
        {f"test/{name}": value for name, value in expected.items()}, rel=1e-5
    )


def test_a_conditional_model_is_evaluated_with_the_labels(tiny_root: Path) -> None:
    cfg, module, data = built("model.conditional=true", root=tiny_root)
    values = evaluated(cfg, module, data)
    x, label = data.images["test"].float() / 255, data.labels["test"]
    with torch.no_grad():
        noise = module.evaluation_noise["test"]
        right, wrong = (module(x, noise, Condition(each)) for each in (label, label.roll(1)))
    assert values["test/recon"] == pytest.approx(float(right.recon.mean()), rel=1e-5)
    assert values["test/kl"] == pytest.approx(float(right.kl.mean()), rel=1e-5)
    assert values["test/kl"] != pytest.approx(float(wrong.kl.mean()), rel=1e-5)


def test_more_samples_average_the_reconstruction_and_leave_the_kl(tiny_root: Path) -> None:
    one, many = (
        evaluated(*built(f"objective.num_samples={samples}", root=tiny_root)) for samples in (1, 50)
    )
    assert many["test/kl"] == one["test/kl"]
    assert many["test/recon"] != one["test/recon"]
    assert many["test/recon"] == pytest.approx(one["test/recon"], rel=0.01)


def test_bfloat16_networks_give_float32_terms_near_the_float32_ones(tiny_root: Path) -> None:
    _, module, data = built(root=tiny_root)
    x, noise = data.images["test"].float() / 255, torch.randn(1, 130, 16)
    with torch.no_grad():
        exact = module(x, noise)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = module(x, noise)
    assert rough.recon.dtype == rough.kl.dtype == torch.float32
    torch.testing.assert_close(rough.recon, exact.recon, rtol=0.02, atol=0)
    torch.testing.assert_close(rough.kl, exact.kl, rtol=0.1, atol=0.05)


def test_the_precision_of_the_configuration_is_used(tiny_root: Path) -> None:
    exact, rough = (
        evaluated(*built(f"trainer.precision={precision}", root=tiny_root))
        for precision in ("32", "bf16-mixed")
    )
    assert exact != rough
    assert rough == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_step_of_several_processes_has_the_gradient_of_one(
    tiny_root: Path, processes: int
) -> None:
    """The sum over the images of a rank, over its share, averages to the mean over the batch."""
    _, module, _ = built(root=tiny_root)
    module.double()
    x, noise = torch.rand(8, 1, 28, 28).double(), torch.randn(1, 8, 16).double()
    whole, parts = copy.deepcopy(module), copy.deepcopy(module)
    whole.objective(whole(x, noise), 0).mean().backward()
    for rank in range(processes):
        own = slice(rank, None, processes)
        loss = parts.objective(parts(x[own], noise[:, own]), 0).sum() / (8 / processes)
        (loss / processes).backward()
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-6, atol=1e-9)


def test_initial_weights_depend_on_the_seed_alone(tiny_root: Path) -> None:
    first, again, other = (
        build_module(configured(f"seed={seed}", root=tiny_root)).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
