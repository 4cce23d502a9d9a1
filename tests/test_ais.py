"""Annealed importance sampling against the exact log p(x) of a linear model."""

import pytest
import torch
from torch import distributions

from helpers import tiny, tiny_model
from vae_lightning.evaluation import ais, batches
from vae_lightning.training.module import VAE


def linear() -> VAE:
    torch.manual_seed(0)
    module, _, _ = tiny_model(tiny("model=linear", "likelihood.mean_activation=identity"))
    with torch.no_grad():
        for parameter in module.decoder.parameters():
            parameter.copy_(torch.randn_like(parameter))
        weight, bias = module.decoder.parameters()
        covariance = (2 * weight.T @ weight + torch.eye(2)).inverse()  # of p(z|x)
        outputs, offset = module.encoder.network.parameters()
        outputs[:2], outputs[2:] = 2 * covariance @ weight.T, 0
        offset[:2] = 0.2 - outputs[:2] @ bias  # away from the mean of p(z|x)
        offset[2:] = (1.5 * covariance.diagonal().sqrt()).expm1().log()  # softplus gives the std
    return module.eval()


def exact(module: VAE, x: torch.Tensor) -> torch.Tensor:
    weight, bias = (value.detach().double() for value in module.decoder.parameters())
    covariance = weight @ weight.T + 0.5 * torch.eye(len(bias)).double()
    return distributions.MultivariateNormal(bias, covariance).log_prob(x.flatten(1).double())


def test_both_bounds_are_the_exact_value_of_a_linear_model() -> None:
    module = linear()
    bounds = ais.simulated_bounds(module, 50, steps=100, chains=200)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        z = module.prior(module.encoder).sample(50, generator)
        x = module.decoder(z[None]).sample(generator)[0]
    found = ais.log_p(module, x, steps=100, chains=200)
    assert float((found - exact(module, x)).mean()) == pytest.approx(0, abs=0.01)
    assert float((bounds.upper - bounds.lower).mean()) == pytest.approx(0, abs=0.01)


def test_few_steps_leave_a_gap_and_each_bound_is_on_its_side() -> None:
    bounds = ais.simulated_bounds(linear(), 100, steps=4, chains=1)
    gap = bounds.upper - bounds.lower
    assert float(gap.mean()) > 0.1
    more = ais.simulated_bounds(linear(), 100, steps=40, chains=1)
    assert float((more.upper - more.lower).mean()) < float(gap.mean())


def test_backwards_from_the_exact_posterior_is_log_p_from_above() -> None:
    module = linear()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        z = module.prior(module.encoder).sample(50, generator)
        x = module.decoder(z[None]).sample(generator)[0]
    path, times = ais.Path(module, x), ais.temperatures(100)
    ais.forward_run(path, 100, times, "pilot", adapt=True)
    constant = ais.log_normalizer(module)
    above = ais.backward_run(path, z, 200, times, "test") - constant - exact(module, x)
    below = ais.forward_run(path, 200, times, "test") - constant - exact(module, x)
    assert float(above.mean()) == pytest.approx(0, abs=0.01)
    assert float(below.mean()) == pytest.approx(0, abs=0.01)


def test_a_flow_posterior_is_refused() -> None:
    module, x, _ = tiny_model(tiny("posterior=flow"))
    with pytest.raises(ValueError, match=r"^method=ais: requires posterior=diagonal_normal or"):
        ais.log_p(module, x, 10, 2)


def test_the_bounds_do_not_depend_on_how_many_images_are_decoded_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = linear().double()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(7, 1, 4, 4, generator=generator, dtype=torch.float64)
    decoded: list[int] = []
    module.decoder.register_forward_pre_hook(
        lambda _, args: decoded.append(args[0].shape[0] * args[0].shape[1])
    )

    def found() -> list[torch.Tensor]:
        decoded.clear()
        return [ais.log_p(module, x, 3, 3), *ais.simulated_bounds(module, 7, 3, 3)]

    torch.set_default_dtype(torch.float64)  # that of the noise
    try:
        whole = found()
        assert max(decoded) == 21
        monkeypatch.setattr(ais, "decoded_at_once", lambda _: 6)
        monkeypatch.setattr(batches, "BATCH", 2)
        parts = found()
    finally:
        torch.set_default_dtype(torch.float32)
    assert max(decoded) == 6
    torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-10)


def test_the_chains_of_a_forward_run_do_not_move_after_the_last_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = linear()
    path, times = ais.Path(module, torch.rand(3, 1, 4, 4)), ais.temperatures(6)
    moved: list[float] = []
    move = ais.Path.move

    def counted(
        self: ais.Path, z: torch.Tensor, t: float, step: torch.Tensor, generator: torch.Generator
    ) -> ais.Transition:
        moved.append(t)
        return move(self, z, t, step, generator)

    monkeypatch.setattr(ais.Path, "move", counted)
    ais.forward_run(path, 2, times, "pilot", adapt=True)
    assert moved == times[1:-1]
    assert list(path.step_sizes) == [1, 2, 3, 4, 5, 6]  # the last is that of the way back
    moved.clear()
    ais.forward_run(path, 2, times, "run")
    assert moved == times[1:-1]
