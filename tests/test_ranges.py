"""Described options: what their ranges contain, where they come from, and what is made of them."""

from pathlib import Path
from typing import Annotated

import pytest
from torch import nn

from helpers import Command
from vae_lightning.checks import ranges
from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import (
    AnyOf,
    AutoOrBoolean,
    Boolean,
    Choice,
    Integer,
    Integers,
    Number,
    Option,
    Range,
    Text,
)
from vae_lightning.config import describe
from vae_lightning.config.instantiate import options_of
from vae_lightning.config.option_table import CLASS_OPTIONS

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("one", "inside", "outside", "allowed"),
    [
        (Integer(1), [1, 10**9], [0, -1, 1.0, True, "1", None, [1]], "an integer >= 1"),
        (Integer(0, 3), [0, 3], [-1, 4], "an integer from 0 to 3"),
        (Number(least=0), [0, 0.5, 7], [-1e-9, NAN, INFINITY, True, "1"], "a finite number >= 0"),
        (Number(above=0, below=0.5), [0.1], [0, 0.5], "a finite number > 0 and < 0.5"),
        (Number(), [-5, 0.0], [NAN, None], "a finite number"),
        (Choice(("a", "b", "c")), ["a"], ["d", None, ["a"]], "one of a, b, c"),
        (Choice(("a", None)), ["a", None], ["null"], "a or null"),
        (Choice(("32", 32, "x")), [32, "32"], [True, 33], "32 or x"),
        (Boolean(), [True, False], [1, "true", None], "true or false"),
        (AutoOrBoolean(), [True, "auto"], ["yes", 1, None], "auto, true or false"),
        (Integers(1), [[1], [3, 2]], [[], [0], 3, [1.5]], "a non-empty list of integers >= 1"),
        (Text("a file that ends in .png", ".png"), ["a.png"], ["", "a.gif", 3], "a file that"),
        (AnyOf((Integer(1), Choice((None,)))), [1, None], [0, "x"], "an integer >= 1 or null"),
    ],
)
def test_a_range_contains_what_it_says(
    one: Range, inside: list[object], outside: list[object], allowed: str
) -> None:
    assert all(map(one.contains, inside))
    assert not any(map(one.contains, outside))
    assert one.allowed.startswith(allowed)


def test_the_message_has_key_value_and_what_is_allowed() -> None:
    option = Option("seed", Integer(0))
    ranges.check_value("seed", 3, option)
    with pytest.raises(ConfigError, match=r"^seed=null: must be an integer >= 0$"):
        ranges.check_value("seed", None, option)


def test_the_table_is_what_the_classes_describe() -> None:
    """Run ``python -m vae_lightning.config.describe`` after a change."""
    assert describe.class_table() == CLASS_OPTIONS


@pytest.mark.slow
@pytest.mark.parametrize("file", describe.PAGES, ids=lambda file: file.name)
def test_the_pages_of_the_documentation_are_what_the_code_describes(file: Path) -> None:
    """Run ``python -m vae_lightning.config.describe`` after a change."""
    assert describe.PAGES[file]() == file.read_text()


def test_every_argument_of_an_objective_is_described() -> None:
    for target, options in CLASS_OPTIONS.items():
        if target.startswith("vae_lightning.objectives."):
            arguments = set(describe.class_of(target).__init__.__annotations__)
            assert arguments - {"return", "annealing"} <= set(options), target


class Own(nn.Module):
    """A user's class."""

    def __init__(self, width: Annotated[int, Option("width", Integer(1))], other: int = 3) -> None:
        super().__init__()


def test_a_users_class_describes_its_options_in_the_same_way() -> None:
    assert options_of(Own) == {"width": Option("width", Integer(1))}
    assert options_of(nn.Linear) == {}


USERS_CLASS = """
from typing import Annotated

from torch import nn

from vae_lightning.checks.ranges import Integer, Option


class WideEncoder(nn.Sequential):
    def __init__(self, outputs, width: Annotated[int, Option("width", Integer(1))]):
        super().__init__(nn.Flatten(), nn.Linear(784, width), nn.Linear(width, outputs))
"""
USERS_YAML = """
latent_dim: 2
width: 10
encoder: {_target_: mine.WideEncoder, _partial_: true, width: "${model.width}"}
decoder:
  _target_: vae_lightning.networks.MLPDecoder
  _partial_: true
  latent_dim: ${model.latent_dim}
  image_shape: ${data.image_shape}
"""


@pytest.mark.slow
def test_a_wrong_value_of_a_users_option_is_one_line_with_the_key_that_was_typed(
    train: Command, tiny_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(USERS_CLASS)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "wide.yaml").write_text(USERS_YAML)
    choices = ("--config-dir", "conf", "model=wide", "model.width=0")
    result = train(*choices, cwd=tmp_path, data=tiny_root)
    assert result.returncode == 2
    assert result.stderr == "error: model.width=0: must be an integer >= 1\n"
    assert not (tmp_path / "outputs").exists()
