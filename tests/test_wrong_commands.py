"""Commands that a user may type by mistake: one line with the key, exit code 2, nothing written.

``wrong_commands.txt`` and the wrong values of every option are composed in process. The commands of
``AS_PROCESSES`` fail later, for example when the data are known, and run as processes.
"""

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fork_server import ForkServer
from helpers import Command
from vae_lightning.__main__ import COMMANDS
from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import Option
from vae_lightning.cli import arguments
from vae_lightning.cli.command import configuration
from vae_lightning.config import options
from vae_lightning.config.compose import compose, search_path
from vae_lightning.config.literal import PATH_KEYS

TABLE = (Path(__file__).parent / "wrong_commands.txt").read_text().splitlines()
WRONG_VALUES = ("-1.5", "abc_", "null", "[1,x]", "nan", "{a:1}", "true")
VALUES_PER_OPTION = 3
AS_PROCESSES = {
    "replay run=.": "run=",
    "verify count=5": "count=5: requires run=RUN",
    "train likelihood=gaussian data.binarization=dynamic": "likelihood=gaussian: requires gray",
    "train likelihood=laplace data.binarization=threshold": "likelihood=laplace: requires gray",
    "train likelihood=continuous_bernoulli data.binarization=fixed": "requires gray pixels",
    "train annealing=linear": "annealing=linear: must end within",
    "train annealing=cyclical annealing.steps=99999": "annealing=cyclical: must end within",
    "train scheduler=cosine scheduler.warmup_steps=99999": "scheduler.warmup_steps=99999",
    "train experiment=ppca objective=capacity": "callbacks=ppca: requires objective=elbo",
    "train experiment=ppca model=mlp": "callbacks=ppca: requires model=linear",
    "train hydra.run.dir=file/below": "hydra.run.dir=file/below: must be a folder",
    "train hydra.run.dir=file": "hydra.run.dir=file: must be a new or empty folder",
    "train resume=": "resume=.: must be a run folder",
    "train hydra.run.dir=": "hydra.run.dir=.: must be a new or empty folder",
    "verify out=x.png": "out=x.png: requires run=RUN",
    "train hydra.run.dir=.": "hydra.run.dir=.: must be a new or empty folder",
    "evaluate run=file/below": "run=file/below: must be a run folder",
    "evaluate run=none": "run=none: must be a run folder",
    "evaluate run=file": "run=file: must be a run folder",
    "pictures run=none": "run=none: must be a run folder",
    "explore run=none": "run=none: must be a run folder",
    "export run=none": "run=none: must be a run folder",
    "export run=none out=file/below": "out=file/below: must be in a folder",
    "pictures run=none out=file/below": "out=file/below: must be in a folder",
    "explore run=none out=file/below.html": "out=file/below.html: must be in a folder",
    "encode run=none": "run=none: must be a run folder",
    "sample run=none": "run=none: must be a run folder",
    "reconstruct run=none out=file/": "run=none: must be a run folder",
    "score run=none out=file/a.csv": "out=file/a.csv: must be in a folder",
    "verify run=none": "run=none: must be a run folder",
    "report none": "none: must be the folder of a sweep or of a run",
    "report sweep=none": "sweep=none: must be the folder of a sweep or of a run",
    "sweep resume=none": "resume=none: must be a sweep folder",
    "sweep status=none": "status=none: must be a sweep folder",
    "sweep": "sweep: must be given either resume=DIR or status=DIR",
    "train launcher.slots=2": "launcher.slots=2: must only be given for a sweep",
    "train -m seed=1,2 hydra.sweep.dir=.": "hydra.sweep.dir=.: must be a new or empty folder",
    "replay run=none": "run=none: must be a run folder",
    "train resume=none": "resume=none: must be a run folder",
    "train init_from=none": "init_from=none: must be a run folder",
    "train init_from=none.safetensors": "init_from=none.safetensors: must be a run folder or",
    "train from_config=none seed=1": "from_config=none: must be a run folder",
    "train resume=none init_from=x": "init_from=x: must not be given with resume",
    "train resume=none from_config=x": "from_config=x: must not be given with resume",
    "train -m init_from=none seed=1,2": "init_from=none: must be a run folder",
    "train +resume=none": "resume=none: must be a run folder",
    "train resume=none --config-dir=.": "--config-dir=.: must not be given with resume",
    "train resume=file": "resume=file: must be a run folder",
    "train data.image_shape=[1,2,3]": "data.image_shape=[1, 2, 3]: must be the channels",
    "train +trainer.foo=1": "foo",
    "train ++trainer.foo=1": "foo",
    "train data.val_size=60000": "data.val_size=60000: must be 0 to",
    "train data.sha256=abc": "data.sha256=abc",
    "train +callbacks.foo._target_=nowhere.Class": "_target_=nowhere.Class: no such class",
    "train optimizer._target_=torch.optim.Nothing": "_target_=torch.optim.Nothing: no such class",
    "train optimizer._target_=os.system": "_target_=os.system: must be a class derived from",
    "train likelihood=bernoulli": "likelihood=bernoulli: requires",
    "train objective=free_bits prior=mixture": "objective=free_bits: requires",
    "train -m model.latent_dim=2,x": "model.latent_dim=x: must be",
    "train -m seed=range(0)": "seed=range(0): must have at least one value",
    "train -m resume=a,b": "resume: must not be given in a sweep",
}


def refuse(line: str) -> None:
    """Composes and checks a command without running it."""
    name, *words = line.split()
    if name != "train":
        configuration(name, options_of(name), words, folders=name == "report")
        return
    args = arguments.parse(words, "config")
    if args.multirun or args.cfg is not None:
        importlib.import_module("vae_lightning.sweeps.start").list_jobs(args.overrides, None)
    options.check(compose("config", [*search_path(args.config_dir), *args.overrides]))


def options_of(name: str) -> Mapping[str, Option]:
    return importlib.import_module(f"vae_lightning.{name}").OPTIONS


def subject(line: str) -> str:
    """What the message about a wrong command must name: its last key, word or flag."""
    last = line.split()[-1]
    if line == "report out=x" or last == "report":
        return "folder"
    if last in COMMANDS:
        return "run"
    return last.partition("=")[0].lstrip("-+~").rpartition(".")[2] or last


@pytest.mark.attack("wrong command")
@pytest.mark.parametrize("line", TABLE)
def test_a_wrong_command_is_refused_in_one_line_that_names_the_mistake(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as refused:
        refuse(line)
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    assert subject(line) in message, message
    assert os.listdir(tmp_path) == ["file"]


def wrong_values(name: str) -> Iterator[str]:
    """Commands with some values outside of the range, others for each option, of every option."""
    is_train = name == "train"
    keys = options.described_options(compose("config", [])) if is_train else options_of(name)
    for number, (key, option) in enumerate(keys.items()):
        start = number % len(WRONG_VALUES)
        found = []
        for value in (*WRONG_VALUES[start:], *WRONG_VALUES[:start]):
            is_literal = key in PATH_KEYS and value != "null"  # every text is a path
            if not option.range.contains(value if is_literal else yaml.safe_load(value)):
                needed = [] if key == "run" or "run" not in keys else ["run=r"]
                needed = ["outputs"] if name == "report" else needed
                found.append(" ".join([name, *needed, f"{key}={value}"]))
        yield from found[:VALUES_PER_OPTION]


@pytest.mark.slow
@pytest.mark.attack("value outside of the range of an option")
@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"report"}))  # it takes any path
def test_every_option_refuses_values_outside_of_its_range(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    lines = list(wrong_values(name))
    record_property("times", len(lines))
    assert lines
    accepted = []
    for line in lines:
        try:
            refuse(line)
        except ConfigError as error:
            if subject(line) in str(error):
                continue
        accepted.append(line)
    assert accepted == []


@pytest.mark.slow
@pytest.mark.attack("wrong command, as a process")
@pytest.mark.parametrize(("line", "message"), AS_PROCESSES.items())
def test_a_wrong_command_ends_with_code_2_and_writes_nothing(
    train: Command,
    server: ForkServer,
    tiny_root: Path,
    tmp_path: Path,
    line: str,
    message: str,
) -> None:
    (tmp_path / "file").write_text("")
    name, *words = line.split()
    if name == "train":
        sizes = [] if "data.val_size=" in line else ["data.val_size=50"]
        done = train(*sizes, *words, cwd=tmp_path, data=tiny_root)
    else:
        done = server.run(name, *words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    (error,) = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert os.listdir(tmp_path) == ["file"]


WORDS = st.lists(
    st.text("abmodel.laten_di=[]{},:'\"$()~+-|/\\\n 0123\u00e9\x00", max_size=30), max_size=3
)


@settings(max_examples=100, deadline=None)
@given(WORDS)
def test_no_text_of_the_command_line_ends_in_a_traceback(words: list[str]) -> None:
    overrides = [f"model.latent_dim={word}" for word in words[:1]] + words[1:]
    with suppress(ConfigError):  # anything else fails the test
        options.check(compose("config", [word for word in overrides if not word.startswith("-")]))
