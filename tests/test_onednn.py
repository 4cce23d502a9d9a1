"""Linear layers by oneDNN: the same numbers and gradients, only where they are meant, and nothing left behind."""

import pytest
import torch
from torch import Tensor, nn

from vae_lightning import onednn

pytestmark = pytest.mark.skipif(not onednn.AVAILABLE, reason="PyTorch has no oneDNN for this processor")


class Watched(nn.Module):
    """Two layers, one of them derived from Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(7, 5)
        self.own = type("Own", (nn.Linear,), {})(5, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.own(torch.tanh(self.plain(x)))


def gradients(layer: nn.Linear, x: Tensor) -> list[Tensor]:
    """Of sin(layer(x)).sum() with respect to x and the parameters, and the result itself."""
    x = x.clone().requires_grad_()
    y = layer(x)
    return [y, *torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(784,), (1, 784), (128, 784), (3, 50, 784), (2, 1, 3, 784)], ids=str)
def test_values_and_gradients_are_those_of_float64(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(784, 40, bias=bias)
    exact = nn.Linear(784, 40, bias=bias, dtype=torch.float64)
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(shape)
    with onednn.linear_layers(layer):
        found = gradients(layer, x)
    for value, expected in zip(found, gradients(exact, x.double()), strict=True):
        assert value.shape == expected.shape
        assert torch.allclose(value.double(), expected, rtol=1e-4, atol=1e-4)


def test_it_is_used_for_plain_float32_layers_alone_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    product = onednn.product
    monkeypatch.setattr(onednn, "product", lambda *args: calls.append(args[1].shape) or product(*args))
    model, x = Watched(), torch.randn(4, 7)
    with onednn.linear_layers(model):
        model(x)
        assert calls == [(5, 7)]
        with torch.autocast("cpu", torch.bfloat16):
            assert model(x).dtype == torch.bfloat16
        model.double()(x.double())
        assert calls == [(5, 7)]
    with pytest.raises(RuntimeError, match="shapes"), onednn.linear_layers(model):
        model(x.double().T)
    model.float()(x)
    assert calls == [(5, 7)]
    assert "forward" not in vars(model.plain)


def test_gradients_that_are_not_asked_for_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, calls = nn.Linear(7, 5), []
    product = onednn.product
    monkeypatch.setattr(onednn, "product", lambda *args: calls.append(1) or product(*args))
    with onednn.linear_layers(layer):
        layer(torch.randn(4, 7)).sum().backward()
    assert len(calls) == 2, "the result and the weights' gradient; x needs none"
