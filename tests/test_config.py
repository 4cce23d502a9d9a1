"""Composition: every choice of every group, every rule, --help, classes that are not allowed."""

import inspect
import itertools
import re
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vae_lightning.checks.errors import ConfigError
from vae_lightning.compile import accelerate
from vae_lightning.config import allowed, options
from vae_lightning.config.compose import CONF, compose, default_choices
from vae_lightning.config.general_options import GENERAL_OPTIONS
from vae_lightning.config.instantiate import Recipe, find_class, instantiate
from vae_lightning.config.options import check, settle
from vae_lightning.storage.run_folder import new_folder
from vae_lightning.train import help_text
from vae_lightning.training.assembly import build_module
from vae_lightning.training.experiment import run_experiment
from vae_lightning.training.signals import StopSignals
from vae_lightning.training.trainer import build_tester

GROUPS = {
    folder.name: sorted(p.stem for p in folder.glob("[!_]*.yaml"))
    for folder in CONF.iterdir()
    if folder.is_dir() and folder.name != "commands"
}
OPTIONS = [(group, option) for group, options in GROUPS.items() for option in options]
# choices that require devices which a test machine may not have
DEVICES = [("accelerator", option) for option in ("gpu", "mps", "ddp")]


def checked(*overrides: str) -> DictConfig:
    cfg = compose("config", list(overrides))
    check(cfg)
    cfg.trust = True
    return cfg


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_instantiates(
    group: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "require_packages", lambda *_: None)
    needed = {
        "bernoulli": ["likelihood.gray=true"],
        "torchvision": ["data.dataset=FakeData", "data.image_shape=[3,28,28]"],
        "folder": ["data.image_shape=[1,28,28]"],
        "arrays": ["data.image_shape=[1,28,28]"],
    }
    cfg = checked(f"{group}={option}", *needed.get(option, []))
    before = OmegaConf.to_yaml(cfg)
    parts = list(build_module(cfg).named_children())
    assert [name for name, _ in parts] == ["encoder", "decoder", "prior", "objective"]
    if (group, option) not in DEVICES:
        assert build_tester(cfg).num_devices == 1
    assert OmegaConf.to_yaml(cfg) == before


@pytest.mark.parametrize(
    ("model", "likelihood"),
    list(
        itertools.product(GROUPS["model"], ["squared_error", "bernoulli data.binarization=dynamic"])
    ),
)
def test_choices_combine(model: str, likelihood: str) -> None:
    build_module(
        checked(
            f"model={model}",
            *f"likelihood={likelihood}".split(),
            "scheduler=cosine",
            "optimizer=adamw",
        )
    )


def test_the_help_page_names_every_option() -> None:
    section = help_text().split("Groups (")[1].split("\n\n")[0]
    entries = re.findall(r"^  (\w+) +(.+(?:\n {3,}.+)*)", section, re.MULTILINE)
    listed = {group: re.split(r",\s+", names) for group, names in entries}
    for group in set(GROUPS) - {"trainer"}:
        assert sorted(listed[group]) == GROUPS[group], group
        assert listed[group][0] == default_choices().get(group, listed[group][0])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.latent_dim=0", "model.latent_dim=0: must be an integer >= 1"),
        ("model.latent_dim=true", "model.latent_dim=true: must be an integer >= 1"),
        ("model.hidden_dims=[]", "model.hidden_dims=[]: must be a non-empty list of integers >= 1"),
        (
            "model.hidden_dims=[400,0]",
            "model.hidden_dims=[400, 0]: must be a non-empty list of integers >= 1",
        ),
        ("objective.beta=-1", "objective.beta=-1: must be a finite number >= 0"),
        ("objective.beta=inf", "objective.beta=inf: must be a finite number >= 0"),
        ("optimizer.lr=0", "optimizer.lr=0: must be a finite number > 0"),
        ("data.batch_size=1.5", "data.batch_size=1.5: must be an integer >= 1"),
        (
            "data.binarization=yes",
            "data.binarization=yes: must be one of none, dynamic, fixed, threshold",
        ),
        ("data.fallback=cifar", "data.fallback=cifar: must be digits or null"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0: must be an integer >= 1"),
        ("trainer.devices=2", "trainer.devices=2: must be 1 unless accelerator is ddp"),
        ("trainer.precision=8", "trainer.precision=8: must be one of 32, bf16-mixed, 16-mixed"),
        ("seed=4294967296", "seed=4294967296: must be an integer from 0 to 4294967295 or null"),
        (
            "accelerator=ddp_cpu data.batch_size=125",
            "data.batch_size=125: must be divisible by the 2 processes",
        ),
        ("model.conditional=1", "model.conditional=1: must be true or false"),
        ("model=resnet model.blocks=-1", "model.blocks=-1: must be an integer >= 0"),
        ("objective.num_samples=0", "objective.num_samples=0: must be an integer >= 1"),
        ("objective=geco objective.target=0", "objective.target=0: must be a finite number > 0"),
        (
            "objective=geco objective.smoothing=1",
            "objective.smoothing=1: must be a finite number >= 0 and < 1",
        ),
        (
            "objective=free_bits objective.free_bits=-1",
            "objective.free_bits=-1: must be a finite number >= 0",
        ),
        ("annealing=linear annealing.steps=0", "annealing.steps=0: must be an integer >= 1"),
        ("prior=vamp prior.pseudo_inputs=0", "prior.pseudo_inputs=0: must be an integer >= 1"),
        (
            "posterior=flow posterior.hidden_dims=8",
            "posterior.hidden_dims=8: must be a non-empty list of integers >= 1",
        ),
        (
            "likelihood=continuous_bernoulli likelihood.clip=0.5",
            "likelihood.clip=0.5: must be a finite number > 0 and < 0.5",
        ),
        (
            "objective=geco annealing=linear",
            "annealing=linear: must be constant, because objective=geco has no annealed weight",
        ),
        (
            "+model.latentdim=3",
            "model.latentdim: is not used by any component; did you mean latent_dim?",
        ),
        ("+sead=3", "sead: no such key; did you mean seed?"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(override: str, expected: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        checked(*override.split())
    assert str(error.value).startswith(expected)


def test_every_rule_is_about_a_key_that_exists() -> None:
    def has(node: object, names: list[str]) -> bool:
        return not names or (
            isinstance(node, dict) and names[0] in node and has(node[names[0]], names[1:])
        )

    for key in GENERAL_OPTIONS:
        group, *names = key.split(".")
        files = (CONF / group).glob("*.yaml") if names else [CONF / "config.yaml"]
        assert any(
            has(OmegaConf.to_container(OmegaConf.load(file)), names or [group]) for file in files
        ), key


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.latnt_dim=3", "model.latnt_dim: no such key; did you mean model.latent_dim?"),
        ("modle=mlp", "modle: no such key; did you mean model=NAME?"),
        (
            "model=mpl",
            "model=mpl: must be one of conv, gated, hierarchical, linear, mlp, resnet;"
            " did you mean model=mlp?",
        ),
        ("model.latent_dim", "model.latent_dim: must be key=value"),
    ],
)
def test_a_typo_is_one_line_with_the_nearest_name(override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose("config", [override])
    assert str(error.value).startswith(expected)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("trainer.gradient_clip_vall=1", "trainer.gradient_clip_vall: no such key"),
        (
            "+trainer.max_epoch=3",
            "trainer.max_epoch: no such key; did you mean trainer.max_epochs?",
        ),
        (
            "trainer.gradient_clip_val=no",
            "trainer.gradient_clip_val=no: must be",
        ),
        ("+data.extra=1", "data.extra: no such key"),
        ("+likelihood.extra=1", "likelihood.extra: must not be given, because "),
        (
            "likelihood.mean_activation=relu",
            "likelihood.mean_activation=relu: must be sigmoid or identity",
        ),
        ("model.activation=step", "model.activation=step: must be one of relu, tanh, silu"),
        (
            "likelihood=gaussian likelihood.std=0",
            "likelihood.std=0: must be a finite number > 0 or one of learned, optimal, per_pixel",
        ),
        (
            "objective=iwae objective.gradient=path",
            "objective.gradient=path: must be one of standard, stl, dreg",
        ),
        (
            "likelihood=bernoulli",
            "likelihood=bernoulli: requires data.binarization=dynamic, fixed or threshold",
        ),
        (
            "likelihood=bernoulli likelihood.gray=true data.binarization=dynamic",
            "likelihood.gray=true: must be false, because all pixels are 0 or 1",
        ),
        (
            "likelihood=continuous_bernoulli data.binarization=dynamic",
            "likelihood=continuous_bernoulli: requires gray pixels, but all pixels are 0 or 1",
        ),
        (
            "objective=tc posterior=flow",
            "objective=tc: requires posterior=diagonal_normal or full_normal",
        ),
        (
            "prior=vamp posterior=flow",
            "prior=vamp: requires posterior=diagonal_normal or full_normal",
        ),
        ("prior=vamp model.conditional=true", "prior=vamp: requires model.conditional=false"),
        (
            "objective=free_bits prior=mixture",
            "objective=free_bits: requires posterior=diagonal_normal and prior=standard_normal",
        ),
        ("optimizer.betas=[2,3]", "optimizer.betas=[2, 3]: must be a list of 2 values"),
        (
            "accelerator=gpu trainer.devices=100",
            "accelerator=gpu: must be auto, cpu or ddp_cpu",
        ),
        (
            "trainer.precision=16-mixed accelerator=cpu",
            "trainer.precision=16-mixed: must be 32 or bf16-mixed on a CPU",
        ),
    ],
)
def test_a_refused_configuration_leaves_no_folder(
    tiny_root: Path, tmp_path: Path, override: str, expected: str
) -> None:
    strategy = "accelerator.strategy=ddp" if "devices" in override else "accelerator.strategy=auto"
    sizes = ("data.val_size=100", "data.batch_size=100")
    folder = tmp_path / "outputs" / "run"

    def run() -> None:
        cfg = checked(f"data.root={tiny_root}", *sizes, *override.split(), strategy)
        run_experiment(cfg, new_folder(folder, exclusive=True), accelerate, StopSignals(), [])

    with pytest.raises(ConfigError) as error:
        run()
    assert not folder.parent.exists()
    gpus = torch.cuda.device_count()
    if gpus and "gpu" in override:
        expected = f"trainer.devices=100: must be at most {gpus}"
    assert str(error.value).startswith(expected)


def test_seed_null_is_drawn_and_seed_zero_is_kept() -> None:
    seeds = []
    for override in ("seed=null", "seed=null", "seed=0"):
        cfg = checked(override)
        settle(cfg)
        seeds.append(cfg.seed)
    assert seeds[2] == 0
    assert seeds[0] != seeds[1]
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_a_root_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = checked("data.root=here")
    settle(cfg)
    assert cfg.data.root == str(tmp_path / "here")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "lightning.pytorch.trainer.trainer.os.system",
        "torch.nn.modules.module.torch.load",
        "torch.nn.functional.relu",
        "torch.optim.Adam",
        "torch.nn.Missing",
        "torch.nn",
        "vae_lightning.runs.run.Path",
        "vae_lightning.data.images.Callable",
        "nodots",
    ],
)
def test_a_stored_configuration_names_modules_of_known_places_only(target: str) -> None:
    with pytest.raises(ValueError, match="_target_="):
        find_class(target, nn.Module, trust=False)


def test_every_class_of_conf_may_stand_in_a_stored_configuration() -> None:
    texts = [path.read_text() for path in CONF.rglob("*.yaml")]
    named = {name for text in texts for name in re.findall(r"_target_: *([\w.]+)\s", text)}
    assert len(named) > 30
    assert {name for name in named if not allowed.is_allowed(name)} == allowed.SENDING_CLASSES
    for name in allowed.OWN_CLASSES:  # no argument that nobody has looked at
        kinds = {
            each.kind
            for each in inspect.signature(find_class(name, object, False)).parameters.values()
        }
        assert inspect.Parameter.VAR_KEYWORD not in kinds
    for name, arguments in allowed.OTHER_CLASSES.items():
        found = find_class(name, object, False)
        assert arguments <= set(inspect.signature(found).parameters)


@pytest.mark.parametrize(
    ("key", "node"),
    [
        ("data.dataset", {"_target_": "torchvision.datasets.lsun.LSUNClass", "root": "data"}),
        ("data.dataset", {"_target_": "torchvision.datasets.CIFAR10", "download": True}),
        ("data.dataset", {"_target_": "torchvision.datasets.MNIST", "download": True}),
        ("data.dataset", {"_target_": "torchvision.datasets.MNIST", "root": "/elsewhere"}),
        ("data.dataset", {"_target_": "torchvision.datasets.ImageFolder", "root": "/"}),
        ("data.dataset", {"_target_": "torchvision.datasets.DatasetFolder", "loader": "os.system"}),
        ("callbacks.a", {"_target_": "lightning.pytorch.callbacks.SpikeDetection"}),
        (
            "callbacks.a",
            {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": "/"},
        ),
        ("callbacks.a", {"_target_": "lightning.pytorch.callbacks.LambdaCallback"}),
        ("callbacks.a", {"_target_": "lightning.pytorch.callbacks.BasePredictionWriter"}),
        ("callbacks.a", {"_target_": "vae_lightning.training.callbacks.recorder.Recorder"}),
        ("callbacks.a", {"_target_": "vae_lightning.training.callbacks.interrupt.Interrupt"}),
        ("optimizer", {"_target_": "torch.optim.Adam", "differentiable": True}),
        ("optimizer", {"_target_": "torch.optim.LBFGS", "_partial_": True}),
        ("posterior", {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}),
        ("posterior", {"_target_": "torch.nn.modules.module.torch.load", "f": "weights"}),
        ("prior", {"_target_": "torch.hub.load"}),
    ],
    ids=lambda value: value if isinstance(value, str) else value["_target_"],
)
@pytest.mark.attack("class or argument that is not listed")
def test_a_stored_configuration_builds_listed_classes_only(
    monkeypatch: pytest.MonkeyPatch, key: str, node: dict[str, object]
) -> None:
    monkeypatch.setattr(Recipe, "build", lambda _: pytest.fail("something was built"))
    with pytest.raises(ConfigError, match=r"trust=true|no such class"):
        instantiate(node, key, trust=False)


def test_trust_lets_a_users_own_class_in_and_the_refusal_says_so() -> None:
    with pytest.raises(ValueError, match=r"posterior: _target_=zipfile.ZipFile: .*trust=true"):
        instantiate({"_target_": "zipfile.ZipFile"}, "posterior", trust=False)
    assert find_class("zipfile.ZipFile", object, trust=True).__name__ == "ZipFile"


def test_arguments_that_a_class_does_not_take_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"objective\.gamma: must not be given, because .* takes beta"
    ):
        instantiate(
            {"_target_": "vae_lightning.objectives.ELBO", "gamma": 1}, "objective", trust=False
        )
