"""Networks: shapes, residual blocks, and the label of a conditional model."""

import copy
import math

import pytest
import torch
from torch import nn

from helpers import loss_of, tiny, tiny_model
from vae_lightning.config.compose import choices
from vae_lightning.evaluation.latents import moments
from vae_lightning.networks import (
    UNCONDITIONAL,
    Condition,
    ConditionalDecoder,
    ConditionalEncoder,
    ConvDecoder,
    ConvEncoder,
    ResidualBlock,
    dense,
)
from vae_lightning.networks.conv import SMALL_SIZE, chosen_widths

MODELS = choices("model")


@pytest.mark.parametrize("activation", ["relu", "tanh", "silu"])
def test_a_residual_block_changes_its_input_by_convolutions(activation: str) -> None:
    torch.manual_seed(0)
    block, x = ResidualBlock(3, activation), torch.randn(2, 3, 5, 5)
    assert block(x).shape == x.shape
    assert not torch.equal(block(x), x)
    nn.init.zeros_(block.change[-1].weight)
    nn.init.zeros_(block.change[-1].bias)
    assert torch.equal(block(x), x)


def test_resnet_has_its_blocks_at_each_size_and_is_conv_without() -> None:
    sizes = ([1, 28, 28], [4, 8], [20])
    for blocks in (0, 1, 3):
        encoder, decoder = (
            ConvEncoder(10, *sizes, blocks=blocks),
            ConvDecoder(2, 5, *sizes, blocks=blocks),
        )
        assert encoder(torch.rand(3, 1, 28, 28)).shape == (3, 10)
        assert decoder(torch.rand(3, 5)).shape == (3, 2, 28, 28)
        for network in (encoder, decoder):
            found = [module for module in network.modules() if isinstance(module, ResidualBlock)]
            assert [block.change[1].in_channels for block in found] == [
                width for width in ([4, 8] if network is encoder else [8, 4]) for _ in range(blocks)
            ]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5), (33, 65), (28, 28), (64, 48)])
def test_the_convolutions_of_the_decoder_transpose_those_of_the_encoder(
    size: tuple[int, int],
) -> None:
    """<convolve(x), y> = <x, transpose(y)> for each pair, at odd and even sizes."""
    torch.manual_seed(0)
    shape, (height, width) = [2, *size], size
    encoder = ConvEncoder(3, shape, None, [4]).double()
    decoder = ConvDecoder(1, 3, shape, None, [4]).double()
    down = [layer for layer in encoder.features if isinstance(layer, nn.Conv2d)]
    up = [layer for layer in decoder.images if isinstance(layer, nn.ConvTranspose2d)]
    for convolution, transposed in zip(down, reversed(up), strict=True):
        x = torch.randn(1, convolution.in_channels, height, width).double()
        height, width = math.ceil(height / 2), math.ceil(width / 2)
        y = torch.randn(1, convolution.out_channels, height, width).double()
        transposed.weight.data = convolution.weight.data
        left = (convolution(x) - convolution.bias[:, None, None]) * y
        right = x * (transposed(y) - transposed.bias[:, None, None])
        torch.testing.assert_close(left.sum(), right.sum())
    assert max(height, width) <= SMALL_SIZE
    assert decoder(torch.randn(5, 3).double()).shape == (5, *shape)


def test_the_chosen_widths_fit_the_size_and_are_those_of_mnist() -> None:
    chosen = {size: chosen_widths([1, 3, size], None) for size in (1, 28, 32, 64, 65, 1024)}
    assert chosen[1] == [32]
    assert chosen[28] == chosen[32] == [32, 64]
    assert chosen[64] == [32, 64, 128]
    assert chosen[65] == [32, 64, 128, 256]
    assert chosen[1024] == [32, 64, 128, 256, 256, 256, 256]


@pytest.mark.parametrize("model", MODELS)
def test_the_label_changes_posterior_and_likelihood_of_its_own_image_only(model: str) -> None:
    vae, x, (label,) = tiny_model(tiny(f"model={model}", "model.conditional=true"))
    other = label.clone()
    other[2] = 7
    z = torch.randn(3, len(x), 2)
    for one, two, axis in (
        (vae.encoder(x, Condition(label)).mean, vae.encoder(x, Condition(other)).mean, 0),
        (*(moments(vae.encoder(x, Condition(each))).std for each in (label, other)), 0),
        (vae.decoder(z, Condition(label)).mean, vae.decoder(z, Condition(other)).mean, 1),
    ):
        changed = (one - two).abs().movedim(axis, 0).flatten(1).amax(-1) > 1e-6
        assert changed.tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "likelihood", ["likelihood=squared_error", "likelihood=gaussian likelihood.std=per_pixel"]
)
def test_each_of_many_samples_is_decoded_with_the_label_of_its_image(
    model: str, likelihood: str
) -> None:
    vae, x, (label,) = tiny_model(
        tiny(f"model={model}", "model.conditional=true", *likelihood.split())
    )
    z = torch.randn(4, len(x), 2)
    together = vae.decoder(z, Condition(label)).mean
    for sample in range(4):
        for image in range(len(x)):
            alone = vae.decoder(
                z[sample, image][None, None], Condition(label[image : image + 1])
            ).mean[0, 0]
            torch.testing.assert_close(together[sample, image], alone, rtol=1e-4, atol=1e-5)


def test_conditional_networks_are_those_they_wrap_with_the_label_beside() -> None:
    def network(outputs: int, image_shape: list[int]) -> nn.Module:
        assert image_shape == [2, 2, 2]
        return nn.Sequential(nn.Flatten(), nn.Linear(8, outputs))

    encoder = ConditionalEncoder(3, network, [1, 2, 2], classes=5)
    x, label = torch.rand(4, 1, 2, 2), torch.tensor([0, 4, 4, 1])
    picture = encoder.label_images.weight[label].view(4, 1, 2, 2)
    assert torch.equal(encoder(x, label), encoder.network(torch.cat([x, picture], 1)))
    decoder = ConditionalDecoder(1, lambda _, latent_dim: nn.Identity(latent_dim), 3, classes=5)
    z = torch.rand(8, 3)  # two samples of four images
    assert torch.equal(decoder(z, label)[:, :3], z)
    assert decoder(z, label)[:, 3:].argmax(-1).tolist() == [0, 4, 4, 1, 0, 4, 4, 1]
    assert (decoder(z, label)[:, 3:].sum(-1) == 1).all()


@pytest.mark.parametrize("model", MODELS)
def test_a_conditional_model_learns_what_the_label_tells(model: str) -> None:
    """The label determines the image; conditioning on it lowers the loss after some steps."""
    losses = {}
    for conditional in ("false", "true"):
        vae, x, condition = tiny_model(
            tiny(f"model={model}", f"model.conditional={conditional}", "objective.beta=20")
        )
        label = torch.arange(len(x)) % 3  # those of the condition
        x = torch.tensor([0.1, 0.5, 0.9])[label][:, None, None, None].expand_as(x).contiguous()
        optimizer = torch.optim.Adam(vae.parameters(), lr=0.02)
        for step in range(60):
            loss = loss_of(vae, x, condition, step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[conditional] = float(loss.detach())
    assert losses["true"] < 0.7 * losses["false"]


def test_a_conditional_loss_depends_on_the_label_and_a_plain_model_takes_none() -> None:
    vae, x, (label,) = tiny_model(tiny("model.conditional=true"))
    one, other = Condition(label), Condition(label.roll(1))
    assert not torch.equal(loss_of(vae, x, one), loss_of(vae, x, other))
    plain, x, condition = tiny_model(tiny())
    assert condition == UNCONDITIONAL
    assert (vae.classes, plain.classes) == (10, 0)
    with pytest.raises(TypeError):
        loss_of(plain, x, one)
    copied = copy.deepcopy(plain)
    assert torch.equal(loss_of(copied, x, condition), loss_of(plain, x, UNCONDITIONAL))


def test_a_gated_layer_is_a_map_times_the_sigmoid_of_another_one() -> None:
    network = dense([3, 4, 2], "gated")
    hidden, _, last = network
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    value, gate = hidden.weight[:4], hidden.weight[4:]
    expected = (x @ value.T + hidden.bias[:4]) * (x @ gate.T + hidden.bias[4:]).sigmoid()
    torch.testing.assert_close(network(x), last(expected))
