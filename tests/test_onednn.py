"""Products by oneDNN: float32 stays float32, elsewhere nothing changes, and nothing is left behind."""

import pytest
import torch
from torch import Tensor, nn

from vae_lightning import onednn

SETTING = torch.backends.mkldnn.matmul


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
    with onednn.products():
        found = gradients(layer, x)
    for value, expected in zip(found, gradients(exact, x.double()), strict=True):
        assert value.shape == expected.shape
        # a hundredth of what rounding the factors to bfloat16 would leave
        assert torch.allclose(value.double(), expected, rtol=2e-5, atol=2e-5 * expected.detach().abs().max().item())


@pytest.mark.parametrize("shape", [(2, 4, 3), (128, 784, 400), (128, 20, 400), (2000, 200, 784)], ids=str)
def test_no_factor_is_rounded_whatever_the_size(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "PROBE", (min(shape[:2]), *shape[1:]))
    with onednn.products():
        assert onednn.keeps_float32()


def test_rounding_is_noticed_and_then_nothing_is_changed() -> None:
    assert onednn.keeps_float32()
    before = SETTING.fp32_precision
    with torch.autocast("cpu", torch.bfloat16):  # as a processor on which oneDNN rounds
        assert not onednn.keeps_float32()
        with onednn.products():
            assert SETTING.fp32_precision == before


def test_the_setting_is_taken_back() -> None:
    before = SETTING.fp32_precision
    with onednn.products():
        pass
    assert SETTING.fp32_precision == before
    with pytest.raises(ZeroDivisionError), onednn.products():
        _ = 1 / 0
    assert SETTING.fp32_precision == before
