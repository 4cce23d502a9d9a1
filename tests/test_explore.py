"""The page of explore, in a real browser: every decoder gives PyTorch's pixels and can be moved."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from browser import Browser
from helpers import tiny, tiny_model
from vae_lightning import explore
from vae_lightning.config.compose import compose
from vae_lightning.distributions import SquaredErrorLikelihood
from vae_lightning.explorer import translate as translation
from vae_lightning.explorer.encoded import encode
from vae_lightning.explorer.page import decoder_content
from vae_lightning.explorer.translate import translate
from vae_lightning.networks import UNCONDITIONAL, Condition
from vae_lightning.runs.load import load_run
from vae_lightning.storage import run_folder as folder
from vae_lightning.training.assembly import build_module

PIXEL = 1e-3  # how far a decoded pixel may be from PyTorch's
READY = "typeof difference === 'number'"  # the page has compared itself with PyTorch


def untrained(run: Path, *overrides: str) -> Path:
    """A run folder as training leaves it, with large weights."""
    cfg = compose("config", ["data=digits", "model.hidden_dims=[30]", *overrides])
    folder.write_config(run, cfg)
    folder.write_overrides(run, cfg, [])
    (run / "checkpoints").mkdir()
    module = lively(build_module(cfg))
    torch.save({"state_dict": module.state_dict(), "global_step": 0}, run / folder.BEST)
    folder.write_status(run, "finished")
    return run


def lively(module: nn.Module) -> nn.Module:
    """The module with larger weights, so that the pixels depend on z and are not all near 1/2."""
    with torch.no_grad():
        for parameter in module.decoder.network.parameters():
            parameter.mul_(4)
    return module


def command(*overrides: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code."""
    monkeypatch.setattr(sys, "argv", ["explore", *overrides])
    try:
        explore.main()
    except SystemExit as exit_:
        return exit_.code
    return 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional model with three latent dimensions."""
    return untrained(
        tmp_path_factory.mktemp("runs") / "run", "model.latent_dim=3", "model.conditional=true"
    )


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        assert command(f"run={run}", "count=60", monkeypatch=patch) == 0
    return run / "pictures" / "explore.html"


DECODERS = [
    *(("likelihood=squared_error", f"model={model}") for model in ("linear", "conv", "resnet")),
    *(
        ("model=mlp", f"model.activation={name}", "model.hidden_dims=[9,7]")
        for name in ("relu", "tanh", "silu")
    ),
    *(
        (f"model={model}", "model.conditional=true", "likelihood=bernoulli")
        for model in ("mlp", "conv", "resnet")
    ),
    ("likelihood=squared_error", "likelihood.mean_activation=identity"),
    *(
        ("likelihood=gaussian", f"likelihood.std={kind}")
        for kind in ("0.3", "learned", "optimal", "per_pixel")
    ),
    ("likelihood=laplace", "likelihood.scale=per_pixel", "model=conv"),
    *(
        ("likelihood=discretized_logistic", f"likelihood.scale={kind}")
        for kind in ("0.002", "0.5", "learned")
    ),
    (
        "likelihood=discretized_logistic",
        "likelihood.scale=per_pixel",
        "likelihood.mean_activation=identity",
    ),
    ("likelihood=bernoulli", "likelihood.data_bias=true"),
    ("likelihood=continuous_bernoulli",),
    ("posterior=flow", "prior=flow", "model.latent_dim=5"),
]


class OwnDecoder(nn.Module):
    """A user's network of supported layers."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(2, 24), nn.BatchNorm1d(24), nn.GELU(), nn.Dropout())
        self.up = nn.ConvTranspose2d(6, 5, 3, stride=2, padding=1, output_padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.wide = nn.Conv2d(5, 5, (1, 3), padding=(0, 1), bias=False)
        self.out = nn.Conv2d(5, outputs, 1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.stem(z)
        x = self.up(x.view(x.shape[0], 6, 2, 2))
        x = torch.relu(self.norm(x) + x)
        return self.out(torch.tanh(self.wide(x)) + x)


def own() -> nn.Module:
    network = OwnDecoder(1)
    for _ in range(3):  # running statistics
        network(torch.randn(30, 2))
    return SquaredErrorLikelihood(lambda _: network).eval()


def assert_same_pixels(
    browser: Browser, likelihood: nn.Module, latents: int, conditional: bool
) -> None:
    """Decodes z in the page and by PyTorch."""
    ops, classes = translate(likelihood, latents)
    assert bool(classes) == conditional
    content = json.dumps(decoder_content(ops))
    decoder = f"makeDecoder(c.ops, floats(c.weights), {latents}, {classes})"
    browser.js(f"{{ const c = {content}; globalThis.d = {decoder}; }} 0")
    z = 2 * torch.randn(6, latents, generator=torch.Generator().manual_seed(0))
    label = torch.arange(6) % 3
    condition = Condition(label) if conditional else UNCONDITIONAL
    with torch.no_grad():
        expected = likelihood(z.unsqueeze(0), condition).mean[0].flatten(1)
    found = [
        browser.js(f"Array.from(d({row}, {number}))")
        for row, number in zip(z.tolist(), label.tolist(), strict=True)
    ]
    assert expected.std(0).max() > 0.02, "the pixels do not depend on z"
    assert float((torch.tensor(found) - expected).abs().max()) < PIXEL / 10


@pytest.mark.usefixtures("unchecked_shapes")  # torch.fx does not trace the checks
@pytest.mark.slow
@pytest.mark.parametrize("choices", DECODERS, ids=lambda choices: " ".join(choices))
def test_the_page_decodes_as_pytorch(
    choices: tuple[str, ...], page: Path, browser: Browser
) -> None:
    cfg = tiny(*choices)
    model, _, condition = tiny_model(cfg)
    conditional = condition.label is not None
    if browser.js("location.protocol") != "file:":
        browser.open(page.as_uri(), READY)
    assert_same_pixels(browser, lively(model).decoder.eval(), model.latent_dim, conditional)


@pytest.mark.slow
def test_the_page_decodes_a_users_network(page: Path, browser: Browser) -> None:
    browser.open(page.as_uri(), READY)
    assert_same_pixels(browser, own(), 2, conditional=False)


@pytest.mark.slow
def test_a_hand_moves_the_digit_and_drops_onto_images(
    run: Path, page: Path, browser: Browser
) -> None:
    loaded = load_run(run)
    module = loaded.module
    encoded = encode(module, loaded.data, 60)
    browser.open(page.as_uri(), READY)
    assert browser.js("difference") < PIXEL
    assert browser.js("ranked") == encoded.information.argsort(descending=True).tolist()

    def pixels() -> list[int]:
        """Of the canvas."""
        image = "decoded.getContext('2d').getImageData(0, 0, 28, 28).data"
        return browser.js(f"Array.from({image}).filter((_, i) => i % 4 == 0)")

    def decoded() -> list[int]:
        """By PyTorch, of the page's own z and label."""
        z, label = browser.js("[Array.from(state.z), state.label]")
        with torch.no_grad():
            pixels = module.decoder(torch.tensor([[z]]), Condition(torch.tensor([label])))
            return (pixels.mean * 255).flatten()

    def settled() -> list[int]:
        browser.until("!waiting && !state.animation")
        found = pixels()
        assert float((torch.tensor(found) - decoded()).abs().max()) < 0.51 + 255 * PIXEL
        return found

    first = settled()
    left, top, side, up = browser.js(
        "(({x, y, width, height}) => [x, y, width, height])(plane.canvas.getBoundingClientRect())"
    )
    browser.mouse("Pressed", left + 0.02 * side, top + 0.98 * up, 1)  # a corner, where no image is
    dragged = [settled()]
    for part in (0.2, 0.5, 0.9):
        browser.mouse("Moved", left + part * side, top + 0.4 * up, 1)
        dragged.append(settled())
        at = browser.js("state.z[plane.axes[0]]")
        low, high = browser.js("plane.range(0)")
        assert at == pytest.approx(low + part * (high - low), abs=0.02 * (high - low))
    browser.mouse("Released", left + 0.9 * side, top + 0.4 * up)
    assert len({tuple(image) for image in [first, *dragged]}) == 5

    number = int(
        (encoded.mean - encoded.mean.mean(0)).norm(dim=1).argmax()
    )  # lies apart from the others
    x, y = browser.js(f"plane.positionOf({number})")
    for kind, buttons in (("Pressed", 1), ("Released", 0)):
        browser.mouse(kind, left + x, top + y, buttons)
    settled()
    picked = browser.js("state.picked")
    assert torch.allclose(
        torch.tensor(browser.js("Array.from(state.z)")), encoded.mean[picked], atol=1e-5
    )
    shown = browser.js("[...terms.querySelectorAll('output')].map((output) => output.textContent)")
    expected = [
        encoded.recon[picked],
        encoded.kl[picked],
        encoded.recon[picked] + encoded.kl[picked],
    ]
    assert [float(text.replace("\u2212", "-")) for text in shown] == pytest.approx(
        [float(v) for v in expected], abs=0.011
    )
    assert browser.js("element('which').textContent") == f"test image {picked}"

    browser.js("plane.canvas.focus()")
    at = browser.js("state.z[plane.axes[0]]")
    browser.key("ArrowLeft")
    settled()
    assert browser.js("state.z[plane.axes[0]]") < at
    slider = "const s = document.querySelector('.slider input')"
    browser.js(f"{{ {slider}; s.value = 1; s.dispatchEvent(new Event('input')); }} 0")
    settled()
    assert browser.js("state.z[ranked[2]]") == pytest.approx(1, abs=0.05)
    before = pixels()
    other = (browser.js("state.label") + 1) % 10
    browser.js(f"element('labels').children[{other}].click()")
    assert settled() != before
    for view in (1, 2):
        browser.js(f"document.getElementsByName('view')[{view}].click()")
        browser.until("!waiting")
    assert browser.troubles() == []


def test_the_page_is_whole_by_itself(page: Path) -> None:
    text = page.read_text()
    assert not re.findall(
        r"https?:|//[a-z]+\.|\bfetch\(|XMLHttpRequest|WebSocket|import\(|@import|\bsrc=|url\(", text
    )
    assert re.findall(r'href="([^"]*)"', text) == ["data:,"]
    assert "default-src 'none'" in text
    assert "[[" not in text.split('id="content"')[0]
    assert "<title>digits, mlp with 3 latents, squared error</title>" in text


def test_strings_of_a_run_stay_strings(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = tmp_path / "run"
    shutil.copytree(run, hostile)
    config = hostile / ".hydra" / "config.yaml"
    config.write_text(
        config.read_text().replace(
            "name: digits", "name: </script><script>alert(1)</script>[[STYLE]]"
        )
    )
    assert command(f"run={hostile}", "count=5", monkeypatch=monkeypatch) == 0
    text = (hostile / "pictures" / "explore.html").read_text()
    assert "<script>alert" not in text
    assert text.count("</script>") == 2
    assert text.count("color-scheme: light dark") == 1


class Strange(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 16), nn.Hardtanh(), nn.Unflatten(-1, (1, 4, 4)))


class Undecided(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z if z.sum() > 0 else -z


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            Strange(),
            r"decoder layer network\.1 \(torch\.nn\.modules\.activation\.Hardtanh\): "
            r"not supported by the page; ",
        ),
        (
            Undecided(),
            r"decoder layer network \(test_explore\.Undecided\): torch\.fx cannot trace its "
            r"forward",
        ),
        (nn.Sequential(nn.Linear(2, 16), nn.GELU("tanh")), r"decoder layer network\.1 .*GELU"),
        (
            nn.Sequential(nn.Unflatten(-1, (2, 1, 1)), nn.Conv2d(2, 2, 1, groups=2)),
            r"decoder layer network\.1 .*Conv2d",
        ),
    ],
)
def test_an_unknown_layer_is_named(network: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message + ".*must consist of Linear") as error:
        translate(SquaredErrorLikelihood(lambda _: network).eval(), 2)
    assert "train, evaluate and verify support any layer" in str(error.value)


def test_the_command_names_an_unknown_layer_in_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delitem(translation.POINTWISE, nn.ReLU)
    assert command(f"run={run}", f"out={tmp_path / 'a.html'}", monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    layer = "decoder layer network.0.1 (torch.nn.modules.activation.ReLU)"
    reason = "not supported by the page; the decoder must consist of Linear, "
    assert error.startswith(f"error: run={run}: {layer}: {reason}")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


class OwnLikelihood(SquaredErrorLikelihood):
    """May do anything in its forward."""


def test_an_unknown_likelihood_is_named() -> None:
    with pytest.raises(ValueError, match=r"decoder layer decoder \(test_explore\.OwnLikelihood\)"):
        translate(OwnLikelihood(lambda _: nn.Linear(2, 16)), 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "run: must be given"),
        (["run=nowhere"], "run=nowhere: must be a run folder"),
        (["run=nowhere", "count=0"], "count=0: must be an integer >= 1"),
        (["run=nowhere", "out=a.png"], "out=a.png: must be a file that ends in .html"),
        (["run=nowhere", "outptu=a.html"], "outptu: no such key; did you mean out?"),
        (["run=nowhere", "checkpoint=first"], "checkpoint=first: must be best or last"),
    ],
)
def test_a_wrong_value_is_refused(
    overrides: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(*overrides, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


@pytest.mark.slow
def test_the_command_imports_no_heavy_packages() -> None:
    heavy = "{'torch', 'lightning', 'matplotlib'}"
    code = f"import sys, vae_lightning.explore; print(*{heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stderr
