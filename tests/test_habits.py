"""Habits of Hydra and of other programs are honored, or answered with the words that are meant."""

import importlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf

from vae_lightning import train as train_command
from vae_lightning.checks.errors import ConfigError
from vae_lightning.cli.arguments import parse, program_arguments
from vae_lightning.cli.command import configuration
from vae_lightning.config import interpolations, options
from vae_lightning.config.compose import compose, keys_of, search_path
from vae_lightning.config.hydra_table import FLAGS, KEYS, Use, check_words
from vae_lightning.config.suggestions import ADVICE, SYNONYMS, squeezed
from vae_lightning.storage.run_folder import write_overrides
from vae_lightning.sweeps.start import list_jobs

ROOT = Path(__file__).parent.parent
READ_A_RUN = (
    *("encode", "evaluate", "explore", "export", "pictures", "reconstruct", "replay", "sample"),
    *("score", "verify"),
)
# runs a command, then prints the heavy packages that it has imported
CODE = """import sys
from vae_lightning.__main__ import main
try:
    main()
finally:
    print(*(name for name in ("torch", "lightning") if name in sys.modules))
"""
# command -> the one line that answers it
ANSWERS = {
    # keys that other programs have
    "train latent_dim=4": "latent_dim: no such key; did you mean model.latent_dim?",
    "train +latent_dim=4": "latent_dim: no such key; did you mean model.latent_dim?",
    "train -m latent_dim=2,4": "latent_dim: no such key; did you mean model.latent_dim?",
    "train --cfg job latent_dim=4": "latent_dim: no such key; did you mean model.latent_dim?",
    "train -m --cfg job latent_dim=4": "latent_dim: no such key; did you mean model.latent_dim?",
    "train z_dim=4": "z_dim: no such key; did you mean model.latent_dim?",
    "train beta=4": "beta: no such key; did you mean objective.beta?",
    "train lr=1e-3": "lr: no such key; did you mean optimizer.lr?",
    "train model.lr=1e-3": "model.lr: no such key; did you mean optimizer.lr?",
    "train learning_rate=1e-3": "learning_rate: no such key; did you mean optimizer.lr?",
    "train epochs=3": "epochs: no such key; did you mean trainer.max_epochs?",
    "train max_epochs=3": "max_epochs: no such key; did you mean trainer.max_epochs?",
    "train batch_size=64": "batch_size: no such key; did you mean data.batch_size?",
    "train hidden_dims=[8]": "hidden_dims: no such key; did you mean model.hidden_dims?",
    "train devices=2": "devices: no such key; did you mean trainer.devices?",
    "train gpus=2": "gpus: no such key; accelerator=gpu uses one GPU, and"
    " accelerator=ddp trainer.devices=N uses N of them",
    "train workers=2": "workers: no such key; no processes load images; trainer.threads sets the"
    " CPU threads",
    "train dataset=mnist": "dataset: no such key; did you mean data=NAME?",
    "train expriment=ppca": "expriment: no such key; did you mean experiment=NAME?",
    "train objective.gamma=1": "objective.gamma: no such key; it is an option of"
    " objective=capacity, factor",
    "train callbacks.ema.decay=0.9": "callbacks.ema.decay: no such key; it is an option of"
    " callbacks=ema",
    "evaluate run=r latent_dim=4": "latent_dim: no such key",
    "evaluate run=r num_samples=4": "num_samples: no such key; did you mean samples?",
    # values of parts that refer to a common one
    "train prior.latent_dim=4": "prior.latent_dim=4: must be the same in all parts of the model;"
    " did you mean model.latent_dim=4?",
    "train model.decoder.latent_dim=4": "model.decoder.latent_dim=4: must be the same in all parts"
    " of the model; did you mean model.latent_dim=4?",
    "train model.encoder.image_shape=[1,2,3]": "model.encoder.image_shape=[1, 2, 3]: must be the"
    " same in all parts of the model; did you mean data.image_shape=[1, 2, 3]?",
    # flags that other programs have
    "train --epochs 3": "--epochs 3: no such flag; did you mean trainer.max_epochs=3?",
    "train --epochs=3": "--epochs=3: no such flag; did you mean trainer.max_epochs=3?",
    "train --latent-dim 4": "--latent-dim 4: no such flag; did you mean model.latent_dim=4?",
    "train --lr 1e-3 --batch-size 64": "--lr 1e-3 --batch-size 64: no such flag; did you mean"
    " optimizer.lr=1e-3 data.batch_size=64?",
    "train -lr 1e-3": "-lr 1e-3: no such flag; did you mean optimizer.lr=1e-3?",
    "train --seed 3": "--seed 3: no such flag; did you mean seed=3?",
    "train --data mnist": "--data mnist: no such flag; did you mean data=mnist?",
    "train --resume outputs/a": "--resume outputs/a: no such flag; did you mean resume=outputs/a?",
    "train --experiment ppca": "--experiment ppca: no such flag; did you mean experiment=ppca?",
    "train data.augment.flip=true": "data.augment.flip=true: data.augment is a list; write"
    " data.augment=[...]",
    "train --debug": "--debug: no such flag; did you mean debug=NAME?",
    "train --compile": "--compile: no such flag; did you mean trainer.compile=VALUE?",
    "train --gpus 2": "--gpus 2: no such flag; accelerator=gpu uses one GPU, and"
    " accelerator=ddp trainer.devices=N uses N of them",
    "train -m --epochs 3 seed=1,2": "--epochs 3: no such flag; did you mean trainer.max_epochs=3?",
    "evaluate --samples 5": "--samples 5: no such flag; did you mean samples=5?",
    "evaluate --run=outputs/a": "--run=outputs/a: the flag takes no value; did you mean"
    " run=outputs/a?",
    "report --output=a outputs": "--output=a: no such flag; did you mean out=a?",
    "sweep --status outputs/a": "--status outputs/a: no such flag; did you mean status=outputs/a?",
    # words that are no options
    "train outputs/a": "outputs/a: must be key=value; resume=outputs/a continues that run, and"
    " from_config=outputs/a starts one with its options",
    "train conv": "conv: must be key=value; did you mean model=conv?",
    "sweep outputs/a": "outputs/a: must be resume=outputs/a or status=outputs/a",
    "evaluate a run=b": "a run=b: must be one run folder",
    "train 'seed=\"1'": 'seed="1: must be key=value, with every quote and bracket closed',
    "train seed=1,2": "seed=1,2: must be one value; -m sweeps over several, and seed=[1,2] is a"
    " list",
    "train 'seed=range(3)'": "seed=range(3): requires -m, which runs a sweep",
    # flags of Hydra
    "train --config-name=x": "--config-name=x: must not be given; each command has its own file;"
    " experiment=NAME chooses one of yours",
    "train -cp x": "--config-path=x: must not be given; --config-dir=DIR adds a folder with your"
    " own files",
    "train --config-dri=x": "--config-dri=x: no such flag; did you mean --config-dir=x?",
    "train --confg-dir x": "--confg-dir x: no such flag; did you mean --config-dir=x?",
    "train --multi-run seed=1,2": "--multi-run: no such flag; did you mean --multirun?",
    "train -sc install=bash": "--shell-completion: must not be given; Hydra completes scripts"
    " only, not python -m",
    "train --experimental-rerun=x": "--experimental-rerun=x: must not be given;"
    " vae_lightning.replay run=RUN repeats a run",
    "train --resolve": "--resolve: requires --cfg, without -m",
    "train -m --cfg job -p model seed=1,2": "--package: requires --cfg, without -m",
    "train --cfg job --package=x": "--package=x: must be a section of the configuration",
    "train -m --cfg all seed=1,2": "--cfg all: must be job with -m, which lists the jobs",
    "train --run -m seed=1,2": "--run --multirun: must not be given together",
    "train seed=1,2 -m --info": "--multirun --info: must not be given together",
    "train -m hydra.mode=RUN seed=1,2": "hydra.mode=RUN: must not be given together with -m, which"
    " starts a sweep",
    "evaluate run=r --config-dir=.": "--config-dir=.: must be used with train",
    "evaluate run=r -m": "-m: must be used with train, because only train runs sweeps",
    # keys of Hydra
    "train hydra.sweep.dir=x": "hydra.sweep.dir=x: must only be given for a sweep; -m starts one",
    "train ~launcher": "~launcher: must only be given for a sweep; -m starts one",
    "train hydra.sweep.subdir=x": "hydra.sweep.subdir=x: must not be given; the swept keys name"
    " the folders of the jobs",
    "train -m hydra.sweep.subdir=x seed=1,2": "hydra.sweep.subdir=x: must not be given; the swept"
    " keys name the folders of the jobs",
    "train hydra/launcher=joblib": "hydra/launcher=joblib: must not be given; the package has its"
    " own launchers; launcher=NAME chooses one",
    "train -m hydra/sweeper=optuna seed=1,2": "hydra/sweeper=optuna: must not be given; the"
    " package has its own sweeper; search=NAME chooses the points",
    "train hydra.job.env_copy=[X]": "hydra.job.env_copy=[X]: must not be given; jobs have all"
    " environment variables of the command",
    "train hydra.rundir=x": "hydra.rundir=x: must not be given; of Hydra's keys, the package reads"
    " those in docs/how_to/hydra.md only; did you mean hydra.run.dir?",
    "train hydra.mode=SWEEP": "hydra.mode=SWEEP: Invalid value 'SWEEP', expected one of [RUN,"
    " MULTIRUN]",
    "train -m hydra.job.name=a,b": "hydra.job.name=a,b: must have one value",
    "evaluate run=r hydra.run.dir=x": "hydra.run.dir=x: must not be given; only train reads keys"
    " of Hydra",
    "report outputs hydra.run.dir=x": "hydra.run.dir=x: must not be given; only train reads keys"
    " of Hydra",
    # interpolations
    "train 'seed=${oc.env:NOT_SET}'": "seed=${oc.env:NOT_SET}: the environment variable NOT_SET"
    " must be set",
    "train -m 'seed=${oc.env:NOT_SET}' model.latent_dim=1,2": "seed=${oc.env:NOT_SET}: the"
    " environment variable NOT_SET must be set",
    "evaluate run=r 'samples=${oc.env:NOT_SET}'": "samples=${oc.env:NOT_SET}: the environment"
    " variable NOT_SET must be set",
    "evaluate run=r 'samples=${nothing}'": "samples=${nothing}: Interpolation key 'nothing' not"
    " found",
    "train 'seed=${nothing}'": "seed=${nothing}: Interpolation key 'nothing' not found",
    "train 'data.name=${hydra.job.name}'": "data.name=${hydra.job.name}: only hydra.run.dir and"
    " hydra.sweep.dir may refer to keys of Hydra",
    # parts of the configuration
    "train data=MNIST": "data=MNIST: must be one of arrays, digits, fashion_mnist, folder, kmnist,"
    " mnist, mnist_or_digits, sprites, torchvision; did you mean data=mnist?",
    "train data=CIFAR-10": "data=CIFAR-10: must be one of arrays, digits, fashion_mnist, folder,"
    " kmnist, mnist, mnist_or_digits, sprites, torchvision; did you mean data=torchvision"
    " data.dataset=CIFAR10?",
    "train optimizer=sgd": "optimizer=sgd: must be one of adam, adamw, torch; did you mean"
    " optimizer=torch optimizer.name=SGD?",
    "train ~scheduler": "scheduler: must not be removed with ~; scheduler=constant is the default",
    "train annealing=null": "annealing=null: must be one of constant, cyclical, linear, sigmoid;"
    " did you mean annealing=constant?",
    "train +callbacks.x.patience=3": "callbacks.x: must name its class:"
    " +callbacks.x._target_=CLASS",
    "train +logger.x=3": "logger.x: must name its class: +logger.x._target_=CLASS",
    "train +callbacks.ema.decay=0.9": "callbacks.ema: must name its class:"
    " +callbacks.ema._target_=CLASS; callbacks=[default,ema] adds that of this package",
}


@pytest.mark.attack("habit of Hydra or of another program")
@pytest.mark.parametrize("line", ANSWERS)
def test_a_habit_is_answered_in_one_line_with_the_words_that_are_meant(
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def start(*_: object) -> None:
        raise AssertionError(f"{line} starts a run")

    name, *words = shlex.split(line)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_command, "start", lambda cfg, *_: start(options.check(cfg)))
    monkeypatch.setattr(train_command, "start_sweep", lambda *typed: start(list_jobs(*typed)))
    with program_arguments(words), pytest.raises(SystemExit) as exit_:
        importlib.import_module(f"vae_lightning.{name}").main()
    assert capsys.readouterr().err == f"error: {ANSWERS[line]}\n"
    assert exit_.value.code == 2
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_an_answer_takes_less_than_3_seconds_and_does_not_import_torch(tmp_path: Path) -> None:
    for line in (
        "train latent_dim=4",
        "train --epochs 3",
        "evaluate --samples 5",
        "train +callbacks.x=3",
    ):
        begin = os.times().children_user  # other programs do not count, unlike on the clock
        command = [sys.executable, "-c", CODE, *line.split()]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "\n"), done.stderr
        assert os.times().children_user - begin < 3
        assert len(done.stderr.splitlines()) == 1
    assert os.listdir(tmp_path) == []


def test_null_chooses_nothing_where_nothing_is_a_choice() -> None:
    for words in (["callbacks=null"], ["~callbacks"], ["callbacks=none"]):
        assert compose("config", words).callbacks == {}
    assert compose("config", ["logger=null"]).logger == {}
    for word in ("experiment=null", "~experiment", "debug=null"):
        assert options.of_run(compose("config", [word])) == options.of_run(compose("config", []))
    assert list_jobs(["experiment=null,ppca"], None).count("\n") == 1


def test_an_environment_variable_counts_like_a_typed_value(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"S": "7", "L": "1e-3", "B": "true", "D": "[8,4]", "T": "a b", "R": "${seed}"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    typed = {
        "seed": ("S", 7),
        "optimizer.lr": ("L", 0.001),
        "model.conditional": ("B", True),
        "model.hidden_dims": ("D", [8, 4]),
        "data.name": ("T", "a b"),
    }
    words = [f"{key}=${{oc.env:{name}}}" for key, (name, _) in typed.items()]
    cfg = compose("config", [*words, "trainer.threads=${oc.env:NOT_SET,2}"])
    options.check(cfg)
    assert {key: OmegaConf.select(cfg, key) for key in typed} == {
        key: value for key, (_, value) in typed.items()
    }
    assert cfg.trainer.threads == 2
    assert compose("config", ["model.hidden_dims=[${oc.env:S}]"]).model.hidden_dims == [7]
    assert compose("config", ["data.name=${oc.env:R}"]).data.name == "${seed}"


@pytest.mark.parametrize(
    ("typed", "folder"),
    [
        ("runs/${hydra:runtime.choices.model}", "runs/conv"),
        ("runs/${hydra.runtime.choices.model}-${seed}", "runs/conv-3"),
        ("runs/${hydra.job.name}", "runs/train"),
        ("runs/${hydra:job.override_dirname}", "runs/model=conv,seed=3"),
    ],
)
def test_the_two_folders_may_refer_to_keys_of_hydra(
    typed: str, folder: str, tmp_path: Path
) -> None:
    words = ["model=conv", "seed=3", f"hydra.run.dir={typed}", f"hydra.sweep.dir={typed}"]
    cfg = compose("config", words)
    for kind in ("run", "sweep"):
        assert str(interpolations.folder(cfg, kind)) == folder
    write_overrides(tmp_path, cfg, words)  # what is stored must be plain
    stored = (tmp_path / ".hydra" / "overrides.yaml").read_text()
    assert f"hydra.run.dir={folder}" in stored
    assert "${" not in stored


def test_a_folder_that_refers_to_nothing_is_refused() -> None:
    for name in ("nothing", "hydra.job.num", "hydra:runtime.nothing"):
        cfg = compose("config", [f"hydra.run.dir=x/${{{name}}}"])
        with pytest.raises(ConfigError, match=r"^hydra\.run\.dir=x/"):
            interpolations.folder(cfg, "run")


@pytest.mark.parametrize("name", READ_A_RUN)
def test_a_path_means_the_run(name: str) -> None:
    listed = importlib.import_module(f"vae_lightning.{name}").OPTIONS
    for words in (["outputs/a b"], ["--run", "outputs/a b"], ["run=outputs/a b"]):
        cfg = configuration(name, listed, words)
        assert cfg is not None
        assert cfg.run == "outputs/a b"


class TestTablesOfHydra:
    def test_every_flag_of_hydra_is_listed(self) -> None:
        actions = [action for action in get_args_parser()._actions if action.option_strings]
        long_first = {", ".join(sorted(a.option_strings, key=len, reverse=True)) for a in actions}
        assert long_first == set(FLAGS)

    def test_every_key_of_hydra_that_is_honored_exists(self) -> None:
        cfg = compose("config", [])
        for key, use in KEYS.items():
            if key not in ("hydra.job.id", "hydra"):
                node = OmegaConf.select(cfg, key.rpartition(".")[0])
                assert key.rpartition(".")[2] in node, (key, use)

    @pytest.mark.parametrize("key", [key for key, use in KEYS.items() if not use.is_honored])
    def test_a_refused_key_is_refused_however_it_is_written(self, key: str) -> None:
        for word in (
            f"{key}=1",
            f"++{key}=1",
            f"{key}.x=1",
            f"~{key}",
            key.replace(".", "/") + "=1",
        ):
            for name in ("config", "evaluate"):
                with pytest.raises(ConfigError) as refused:
                    check_words([word], name)
                assert str(refused.value).startswith(f"{word}: must not be given; ")

    def test_values_that_say_what_happens_anyway_are_accepted(self) -> None:
        for key, use in KEYS.items():
            check_words([f"{key}={value}" for value in use.same], "config")
        check_words([f"{key}=x" for key, use in KEYS.items() if use.is_honored], "config")

    def test_a_file_may_not_set_them_either(self, tmp_path: Path) -> None:
        (tmp_path / "experiment").mkdir()
        file = tmp_path / "experiment" / "mine.yaml"
        words = [*search_path(str(tmp_path)), "experiment=mine"]
        for content, message in (
            ("{job: {chdir: true}}", "hydra.job.chdir=true: must not be given; "),
            ("{verbose: true}", "hydra.verbose=true: must not be given; "),
            ("{callbacks: {x: {y: 1}}}", "hydra.callbacks.x.y=1: must not be given; "),
            ("{job: {chdir: false}, run: {dir: x}, sweeper: {params: {seed: '1,2'}}}", ""),
        ):
            file.write_text(f"# @package _global_\nhydra: {content}\n")
            if not message:
                assert compose("config", words).hydra.run.dir == "x"
                continue
            with pytest.raises(ConfigError) as refused:
                compose("config", words)
            assert str(refused.value).startswith(message)

    def test_the_documentation_shows_them(self) -> None:
        page = (ROOT / "docs" / "how_to" / "hydra.md").read_text()
        rows = [line for line in page.splitlines() if line.startswith("| `")]
        assert rows == [*table_rows(FLAGS), *table_rows(KEYS)]


def table_rows(table: dict[str, Use]) -> list[str]:
    """The rows of the documentation: a flag or a key, and what happens with it."""
    return [
        f"| `{name}` | {use.text if use.is_honored else f'refused: {use.text}'} |"
        for name, use in table.items()
    ]


def test_every_synonym_names_a_key_and_is_written_squeezed() -> None:
    valid = {key for name in ("config", "evaluate", "sample", "sweep") for key in keys_of(name)}
    for name, keys in SYNONYMS.items():
        assert squeezed(name) == name
        assert set(keys) <= valid, name
    assert all(squeezed(name) == name for name in ADVICE)


def test_flags_stand_anywhere() -> None:
    args = parse(["seed=1", "--config-dir=.", "trainer.max_epochs=2"], "config")
    assert (args.config_dir, args.overrides) == (".", ["seed=1", "trainer.max_epochs=2"])


def test_cfg_prints_what_a_run_would_use(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTS", "3")
    for flags, expected in (
        (["--cfg", "job", "--package", "prior"], "latent_dim: ${model.latent_dim}\n"),
        (["--cfg", "job", "--package", "prior", "--resolve"], "latent_dim: 3\n"),
        (["--cfg", "job", "-p", "model"], "latent_dim: 3\n"),
        (["--cfg", "hydra", "-p", "hydra.job"], "name: train\n"),
    ):
        with program_arguments([*flags, "model.latent_dim=${oc.env:LATENTS}"]):
            train_command.main()
        assert expected in capsys.readouterr().out


@pytest.mark.slow
def test_the_console_script_finds_modules_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Encoder: pass\n")
    words = ["train", "data=digits", "model.encoder._target_=mine.Encoder"]
    # -P: like a console script, and unlike python -m, Python does not look into the folder
    done = subprocess.run(
        [sys.executable, "-P", "-c", CODE, *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "_target_=mine.Encoder: must be a class derived from" in done.stderr
