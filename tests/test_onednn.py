"""Products by oneDNN keep float32 precision, and the setting is restored afterwards."""

import pytest
import torch
from torch import Tensor, nn

from vae_lightning.compile import onednn

SETTING = torch.backends.mkldnn.matmul


def gradients(layer: nn.Linear, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of sin(layer(x)).sum() for x and the parameters."""
    x = x.clone().requires_grad_()
    y = layer(x)
    return [y, *torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "shape", [(784,), (1, 784), (128, 784), (3, 50, 784), (2, 1, 3, 784)], ids=str
)
def test_values_and_gradients_agree_with_float64(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(784, 40, bias=bias)
    exact = nn.Linear(784, 40, bias=bias, dtype=torch.float64)
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(shape)
    with onednn.products():
        found = gradients(layer, x)
    for value, expected in zip(found, gradients(exact, x.double()), strict=True):
        assert value.shape == expected.shape
        # a hundredth of the error of factors that are rounded to bfloat16
        assert torch.allclose(
            value.double(), expected, rtol=2e-5, atol=2e-5 * expected.detach().abs().max().item()
        )


@pytest.mark.parametrize(
    "shape", [(2, 4, 3), (128, 784, 400), (128, 20, 400), (2000, 200, 784)], ids=str
)
def test_no_factor_is_rounded_whatever_the_size(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "PROBE", (min(shape[:2]), *shape[1:]))
    with onednn.products():
        assert onednn.keeps_float32()


def test_rounding_is_detected_and_leaves_the_setting_unchanged() -> None:
    assert onednn.keeps_float32()
    before = SETTING.fp32_precision
    with torch.autocast("cpu", torch.bfloat16):  # like a processor on which oneDNN rounds
        assert not onednn.keeps_float32()
        with onednn.products():
            assert SETTING.fp32_precision == before


def test_the_setting_is_restored() -> None:
    before = SETTING.fp32_precision
    with onednn.products():
        pass
    assert SETTING.fp32_precision == before
    with pytest.raises(ZeroDivisionError), onednn.products():
        _ = 1 / 0
    assert SETTING.fp32_precision == before
