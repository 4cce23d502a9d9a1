"""A new run with the configuration of another one: the stored values, and what is typed."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from vae_lightning.checks.errors import ConfigError
from vae_lightning.config import options
from vae_lightning.config.compose import compose
from vae_lightning.runs.from_config import differs, expanded, written
from vae_lightning.storage.run_folder import of_run, to_dict, write_config, write_overrides
from vae_lightning.sweeps.start import list_jobs

WORDS = (
    "seed=7 model.latent_dim=5 data.batch_size=64 data.root=/x",
    "model=conv model.widths=[4,8] prior=vamp prior.pseudo_inputs=20 optimizer=adamw",
    "model=hierarchical model.latent_dim=3 posterior.upper_dims=[2] prior.upper_dims=[2]",
    "model=gated likelihood=bernoulli data.binarization=dynamic objective=iwae scheduler=cosine",
    "posterior=flow posterior.hidden_dims=[7] prior=flow annealing=linear annealing.steps=9",
    "experiment=ppca model.latent_dim=2",
    "callbacks=none data=digits model.conditional=true likelihood=gaussian likelihood.std=optimal",
    "~callbacks.gallery ++optimizer.amsgrad=true scheduler=one_cycle scheduler.max_lr=0.5",
    "optimizer.betas=[0.5,0.9] optimizer.lr=1e-05",
)
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes the configuration that words compose into a run folder."""

    def made(*words: str, **changes: object) -> Path:
        cfg = compose("config", list(words))
        options.check(cfg)
        options.settle(cfg)
        for key, value in changes.items():
            OmegaConf.update(cfg, key.replace("__", "."), value, force_add=True)
        write_overrides(tmp_path / "run", cfg, words)
        write_config(tmp_path / "run", cfg)
        return tmp_path / "run"

    return made


def composed(*typed: str) -> DictConfig:
    cfg = compose("config", expanded(typed, None))
    options.check(cfg)
    return cfg


def plain(cfg: DictConfig) -> dict[str, object]:
    """All values but those that a stored configuration never passes on."""
    values = to_dict(of_run(cfg))
    data = values.pop("data")
    assert isinstance(data, dict)
    own = ("trust", "from_config", "resume")
    return {name: value for name, value in values.items() if name not in own} | {
        f"data.{name}": value for name, value in data.items() if name not in ("fallback", "mirrors")
    }


@pytest.mark.parametrize("line", WORDS)
def test_the_stored_configuration_comes_out_as_it_is(line: str, make: Make) -> None:
    run = make(*shlex.split(line), data__sha256="abc", data__name="it's (a) \\ name\\")
    cfg = composed(f"from_config={run}")
    assert plain(cfg) == plain(OmegaConf.load(run / ".hydra" / "config.yaml"))
    assert cfg.data.fallback is None  # a run uses no data but its own
    assert cfg.from_config == str(run)


def test_the_stored_values_win_over_other_defaults(make: Make) -> None:
    run = make(optimizer__lr=0.125, likelihood__new=None)
    (run / ".hydra" / "hydra.yaml").unlink()  # then the values alone say what was chosen
    assert compose("config", expanded([f"from_config={run}"], None)).optimizer.lr == 0.125
    with pytest.raises(ConfigError, match=r"^nowhere: no such key"):
        composed(f"from_config={make(nowhere=1)}")


def test_without_recorded_choices_the_values_suffice(make: Make) -> None:
    run = make("prior=vamp", "objective=iwae", "callbacks=none", "scheduler=cosine")
    (run / ".hydra" / "hydra.yaml").unlink()
    assert plain(composed(f"from_config={run}")) == plain(
        OmegaConf.load(run / ".hydra" / "config.yaml")
    )


def test_typed_values_and_groups_are_applied(make: Make) -> None:
    run = make("model.latent_dim=5", "objective.beta=4", "prior=vamp", "seed=7")
    cfg = composed(f"from_config={run}", "model.latent_dim=3", "objective=iwae", "annealing=linear")
    assert cfg.posterior.latent_dim == 3  # a value that refers to another one follows it
    assert (cfg.seed, cfg.prior["_target_"]) == (7, "vae_lightning.distributions.VampPrior")
    assert cfg.objective["_target_"].endswith(".IWAE")
    assert cfg.objective.beta == 1  # a typed group replaces all of the group
    assert cfg.objective.annealing["_target_"].endswith(".Linear")
    assert composed(f"from_config={run}", "seed=5").seed == 5


def test_another_model_takes_its_other_groups_with_it(make: Make) -> None:
    run = make("model=hierarchical", "posterior.upper_dims=[2]", "prior.upper_dims=[2]")
    cfg = composed("model=mlp", f"from_config={run}")
    assert cfg.posterior["_target_"].endswith(".DiagonalNormalPosterior")
    assert "upper_dims" not in cfg.posterior


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("seed=1", True),
        ("data.batch_size=3", True),
        ("data.binarization=fixed", True),
        ("data=digits", False),
        ("data.root=/elsewhere", False),
        ("data.name=other", False),
    ],
)
def test_the_fingerprint_is_kept_while_the_images_are(word: str, kept: bool, make: Make) -> None:
    run = make(data__sha256="abc")
    assert (composed(f"from_config={run}", word).data.sha256 == "abc") == kept


def test_a_sweep_varies_the_stored_configuration(make: Make) -> None:
    run = make("model.latent_dim=5", "objective=iwae", "seed=7")
    words = expanded([f"from_config={run}", "seed=1,2", "objective=elbo,iwae"], None)
    lines = list_jobs(words, None).splitlines()
    assert len(lines) == 4
    assert all("++model.latent_dim=5" in line for line in lines)


@pytest.mark.attack("configuration of a run that a new one uses")
def test_the_configuration_of_a_run_may_name_no_class_of_its_own(make: Make) -> None:
    target = {"_target_": "my.Class"}
    cfg = composed(f"from_config={make('callbacks=none', callbacks__own=target)}")
    assert cfg.callbacks.own == target
    assert not options.may_name_any_class(cfg)
    cfg.trust = True
    assert options.may_name_any_class(cfg)
    assert options.may_name_any_class(compose("config", []))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        -0.5,
        1e-30,
        "",
        "null",
        "a'b\\'c\\",
        "[x,{y}]",
        ["a", [1.5, None]],
        {"a": "b"},
    ],
)
def test_a_value_is_written_so_that_hydra_reads_it(value: object) -> None:
    cfg = compose("config", [f"++seed={written(value)}"])
    found = cfg.seed if not OmegaConf.is_config(cfg.seed) else OmegaConf.to_container(cfg.seed)
    assert not differs(found, value)


def test_what_cannot_be_used_is_named(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"^from_config=none: must be a run folder"):
        expanded(["from_config=none"], None)
    run = make()
    with pytest.raises(ConfigError, match=r"^experiment: must not be given with from_config"):
        expanded([f"from_config={run}", "experiment=ppca"], None)
    (run / ".hydra" / "hydra.yaml").write_text("a: &a [1]\nb: *a\n")
    with pytest.raises(ConfigError, match=rf"^from_config={run}: must hold .* aliases"):
        expanded([f"from_config={run}"], None)
    (run / ".hydra" / "config.yaml").write_text("seed: ${oc.env:HOME}\n")
    with pytest.raises(ConfigError, match=rf"^from_config={run}: .hydra is damaged"):
        expanded([f"from_config={run}"], None)
    assert expanded(["seed=1", "from_config=null"], None) == ["seed=1", "from_config=null"]
