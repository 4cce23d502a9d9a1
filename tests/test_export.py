"""Exported files give the model's numbers at any batch size; a card describes how to load them."""

import itertools
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers import tiny, tiny_model
from vae_lightning import export, load_run
from vae_lightning.config import optional
from vae_lightning.config.compose import choices, compose
from vae_lightning.exporting import graphs
from vae_lightning.exporting.model_card import describe_tensors
from vae_lightning.networks import UNCONDITIONAL, Condition
from vae_lightning.runs.run import Run
from vae_lightning.storage import run_folder as runs
from vae_lightning.storage.files import write_json
from vae_lightning.training.assembly import build_module
from vae_lightning.training.module import VAE

FORMATS = ("onnx", "torch_export", "safetensors")
BATCH = 5  # neither traced nor compared by the command


pytestmark = pytest.mark.usefixtures("unchecked_shapes")  # torch.export does not trace the checks


def stored(*overrides: str) -> Run:
    cfg = tiny(*overrides)
    return Run(Path("run"), cfg, tiny_model(cfg)[0].eval(), "best", 3)


def expected(vae: VAE, name: str, inputs: dict[str, Tensor]) -> Sequence[Tensor]:
    """The outputs, from the distributions of the module."""
    condition = Condition(inputs["label"]) if "label" in inputs else UNCONDITIONAL
    with torch.no_grad():
        if name == "decoder":
            return (vae.decoder(inputs["z"][None], condition).mean[0],)
        posterior = vae.encoder(inputs["x"], condition)
        if name == "sampler":
            return (posterior.transform(inputs["noise"][None])[0],)
        marginals = posterior.marginals()
        return marginals.mean, marginals.std


def assert_same(model: Run, form: str, folder: Path, names: Sequence[str]) -> None:
    """Exports functions, reads the files back and compares them at another batch size."""
    generator = torch.Generator().manual_seed(1)
    made = {name: torch.randn(BATCH, 2, generator=generator) for name in ("noise", "z")}
    made |= {
        "x": torch.rand(BATCH, 1, 4, 4, generator=generator),
        "label": torch.tensor([9, 0, 4, 4, 1]),
    }
    chosen = [function for function in graphs.functions(model.module) if function.name in names]
    assert [function.name for function in chosen] == list(names)
    for function in chosen:
        file = graphs.write_function(function, model, form, folder)
        assert 0 <= file.difference < 1e-5
        read = graphs.read_onnx if form == "onnx" else graphs.read_torch
        inputs = {name: made[name] for name in file.description.partition(" ->")[0].split(", ")}
        assert ("label" in inputs) == bool(model.module.classes)
        wanted = expected(model.module, function.name, inputs)
        for found, wants in zip(read(file.path)(inputs), wanted, strict=True):
            torch.testing.assert_close(found, wants, rtol=1e-5, atol=1e-5)


# The functions of a posterior contain no likelihood and vice versa, so that each is tested alone.
@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torch_export"])
@pytest.mark.parametrize("conditional", ["false", "true"])
@pytest.mark.parametrize("posterior", choices("posterior"))
def test_every_posterior_is_exported(
    posterior: str, conditional: str, form: str, tmp_path: Path
) -> None:
    has_moments = posterior not in ("flow", "hierarchical")
    names = ("encoder", "sampler") if has_moments else ("sampler",)
    model = stored(f"posterior={posterior}", f"model.conditional={conditional}")
    assert_same(model, form, tmp_path, names)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torch_export"])
@pytest.mark.parametrize(
    ("conditional", "likelihood"), [(i % 2, name) for i, name in enumerate(choices("likelihood"))]
)
def test_every_likelihood_is_exported(
    likelihood: str, conditional: int, form: str, tmp_path: Path
) -> None:
    model = stored(f"likelihood={likelihood}", f"model.conditional={bool(conditional)}")
    assert_same(model, form, tmp_path, ("decoder",))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["1.5", "optimal", "per_pixel"])
def test_every_scale_is_exported(kind: str, tmp_path: Path) -> None:
    assert_same(
        stored("likelihood=gaussian", f"likelihood.std={kind}"),
        "torch_export",
        tmp_path,
        ("decoder",),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "conditional"), [("conv", "true"), ("resnet", "false"), ("linear", "true")]
)
def test_every_network_is_exported(model: str, conditional: str, tmp_path: Path) -> None:
    choice = stored(f"model={model}", f"model.conditional={conditional}")
    assert_same(choice, "onnx", tmp_path, ("encoder", "decoder"))


@pytest.mark.parametrize("conditional", ["false", "true"])
def test_safetensors_hold_every_model(conditional: str, tmp_path: Path) -> None:
    for posterior, prior in itertools.product(choices("posterior"), choices("prior")):
        if prior == "vamp" and (posterior in ("flow", "hierarchical") or conditional == "true"):
            continue  # refused in training
        model = stored(
            f"posterior={posterior}", f"prior={prior}", f"model.conditional={conditional}"
        )
        (file,) = graphs.write(model, "safetensors", tmp_path)
        assert file.difference == 0
        run = load_run(file.path)
        assert (run.checkpoint, run.step) == ("best", 3)
        for (name, found), wanted in zip(
            run.module.state_dict().items(), model.module.state_dict().values(), strict=True
        ):
            assert torch.equal(found, wanted), name
        assert run.sample(2, label=1 if model.module.classes else None).shape == (2, 1, 4, 4)


def write_run(run: Path, *overrides: str) -> Path:
    """A run folder as training leaves it, with initial weights."""
    cfg = compose(
        "config", ["data=digits", "model.hidden_dims=[30]", "model.latent_dim=2", *overrides]
    )
    runs.write_config(run, cfg)
    runs.write_overrides(run, cfg, [])
    runs.write_status(run, "finished")
    (run / "checkpoints").mkdir()
    for path, step in ((runs.BEST, 7), (runs.LAST, 9)):
        torch.save({"state_dict": build_module(cfg).state_dict(), "global_step": step}, run / path)
    metrics = {
        "checkpoint": "best",
        "test/neg_elbo": 29.6612,
        "test/kl": 12.1,
        "parameters": 1,
        "revision": "abc123",
    }
    write_json(run / "metrics.json", metrics | {"versions": "python 3, vae_lightning 0.0.9"})
    write_json(
        run / "evaluation.json",
        {"checkpoint": "best", "samples": 50, "nll": 471.25, "active_units": 2},
    )
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run", "model.conditional=true")


def command(*overrides: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code."""
    monkeypatch.setattr(sys, "argv", ["export", *overrides])
    try:
        export.main()
    except SystemExit as exit_:
        if isinstance(exit_.code, str):
            print(exit_.code, file=sys.stderr)
            return 1
        return exit_.code
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_the_command_writes_files_and_a_card(
    form: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(f"run={run}", f"format={form}", monkeypatch=monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    folder = run / "export"
    for line in lines[:-1]:
        path, difference = re.match(
            r"(\S+)  .*largest difference from the module (\S+)$", line
        ).groups()
        assert Path(path).parent == folder
        assert 0 <= float(difference) < 1e-5
    assert lines[-1] == f"{folder}/model_card_{form}.md  best.ckpt, step 7"
    card = (folder / f"model_card_{form}.md").read_text()
    for text in (
        "# Variational autoencoder of digits",
        "trained on digits; 180 of its",
        "- encoder MLPEncoder, decoder MLP",
        "latent dimensions 2, parameters",
        "squared error",
        "conditional: yes, 10 classes",
        "of best.ckpt, optimizer step 7",
        "| test/neg_elbo | 29.6612 |",
        "| nll (evaluate, 50 samples) | 471.2500 |",
        "revision abc123",
        *(Path(line.split()[0]).name for line in lines[:-1]),
        "pip install ",
    ):
        assert text in card, text
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)
    monkeypatch.chdir(folder)
    found: dict[str, object] = {}
    exec(code, found)
    assert tuple(found["image"].shape) == (4, 1, 28, 28)


def test_the_last_checkpoint_goes_elsewhere_and_has_no_numbers_of_the_best(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (
        f"run={run}",
        "format=safetensors",
        "checkpoint=last",
        f"out={tmp_path}/new/folder",
    )
    assert command(*arguments, monkeypatch=monkeypatch) == 0
    card = (tmp_path / "new" / "folder" / "model_card_safetensors.md").read_text()
    assert "weights of last.ckpt, optimizer step 9" in card
    assert "None were recorded for last.ckpt" in card
    assert "29.66" not in card
    assert load_run(tmp_path / "new" / "folder" / "model.safetensors").step == 9


@pytest.mark.slow
def test_the_card_says_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "run", "posterior=flow", "prior=mixture")
    assert command(f"run={folder}", "format=torch_export", monkeypatch=monkeypatch) == 0
    assert sorted(path.name for path in (folder / "export").glob("*.pt2")) == [
        "decoder.pt2",
        "sampler.pt2",
    ]
    card = (folder / "export" / "model_card_torch_export.md").read_text()
    assert "There is no encoder: mean and std of q(z|x) have no closed form" in card
    assert "The prior is not N(0, I)" in card


@pytest.mark.slow
def test_a_file_that_differs_is_removed_and_there_is_no_card(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(path: Path) -> object:
        right = read_torch(path)
        return lambda inputs: [out + 0.001 for out in right(inputs)]

    read_torch = graphs.read_torch
    monkeypatch.setattr(graphs, "read_torch", wrong)
    assert (
        command(f"run={run}", "format=torch_export", f"out={tmp_path}", monkeypatch=monkeypatch)
        == 1
    )
    assert "encoder.pt2 differs from the module by 0.001" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named_with_the_pip_command(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = optional.find_spec
    absent = {"onnxscript", "onnxruntime", "safetensors"}
    monkeypatch.setattr(optional, "find_spec", lambda name: None if name in absent else find(name))
    for form, packages in (("onnx", "onnxscript onnxruntime"), ("safetensors", "safetensors")):
        assert command(f"run={run}", f"format={form}", monkeypatch=monkeypatch) == 2
        expected = (
            f"error: format={form}: requires packages that are not installed: "
            f"pip install {packages}\n"
        )
        assert capsys.readouterr().err == expected
    with pytest.raises(ValueError, match=r"pip install safetensors$"):
        load_run("model.safetensors")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "run: must be given"),
        (["run=nowhere"], "run=nowhere: must be a run folder"),
        (
            ["run=x", "format=pickle"],
            "format=pickle: must be one of onnx, torch_export, safetensors",
        ),
        (["run=RUN", "checkpoint=first"], "checkpoint=first: must be best or last"),
        (["run=RUN", f"out={Path(__file__)}"], f"out={Path(__file__)}: must be a folder"),
        (["run=x", "formt=onnx"], "formt: no such key; did you mean format?"),
    ],
)
def test_a_mistake_is_one_line(
    overrides: list[str],
    message: str,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    overrides = [override.replace("RUN", str(run)) for override in overrides]
    assert command(*overrides, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_a_damaged_run_or_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "evaluation.json").write_text("{")
    assert command(f"run={folder}", "format=safetensors", monkeypatch=monkeypatch) == 2
    assert "evaluation.json is damaged" in capsys.readouterr().err
    (folder / "evaluation.json").unlink()
    (folder / runs.BEST).write_bytes(b"PK")
    assert command(f"run={folder}", monkeypatch=monkeypatch) == 2
    assert "best.ckpt is damaged; checkpoint=last may be intact" in capsys.readouterr().err
    assert (
        command(f"run={folder}", "checkpoint=last", "format=safetensors", monkeypatch=monkeypatch)
        == 0
    )
    file = folder / "export" / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        ValueError, match=r"model.safetensors: is damaged \(.*export run=RUN format=safetensors"
    ):
        load_run(file)
    with pytest.raises(ValueError, match=r"must be a run folder or a .safetensors file"):
        load_run(tmp_path / "none.safetensors")
    file.write_bytes(
        content.replace(b"distributions.StandardNormalPrior", b"distributionz.StandardNormalPrior")
    )
    with pytest.raises(ValueError, match="no such class"):
        load_run(file)


@pytest.mark.slow
def test_graphs_of_torch_need_no_package_of_this_project(tmp_path: Path) -> None:
    assert_same(stored("posterior=flow"), "torch_export", tmp_path, ("sampler",))
    code = (
        "import sys, torch; f = torch.export.load('sampler.pt2').module();"
        "z = f(torch.rand(3, 1, 4, 4), torch.randn(3, 2));"
        "print(tuple(z.shape), z.requires_grad, {'zuko', 'vae_lightning'} & {*sys.modules})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.stdout.strip() == "(3, 2) False set()", result.stderr


@pytest.mark.slow
def test_the_command_and_the_package_import_no_heavy_packages() -> None:
    heavy = "{'torch', 'lightning', 'numpy', 'onnx', 'onnxruntime', 'safetensors'}"
    code = f"import sys, vae_lightning.export, vae_lightning; print(*{heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stderr


@pytest.mark.parametrize("posterior", ["flow", "hierarchical"])
def test_the_card_says_of_which_distribution_the_moments_have_no_closed_form(
    posterior: str,
) -> None:
    module, _, _ = tiny_model(tiny(f"posterior={posterior}"))
    lines = describe_tensors(module, [1, 4, 4], {"sampler", "decoder"})
    (line,) = (line for line in lines if "no encoder" in line)
    assert line.startswith("- There is no encoder: mean and std of q(z|x) have no closed form;")
