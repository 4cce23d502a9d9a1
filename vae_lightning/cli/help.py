"""The pages of --help: texts from conf/ with what is generated from the described options."""

import re
import textwrap
from collections.abc import Mapping

from omegaconf import DictConfig, OmegaConf

from vae_lightning.checks.errors import show
from vae_lightning.checks.ranges import Option
from vae_lightning.config.compose import TRAINING_GROUPS, choices, folder_of
from vae_lightning.config.metric_table import EVALUATION, SCORES, Metric
from vae_lightning.storage.run_folder import read_yaml, to_dict

WIDTH = 100
KEY_WIDTH = 28  # columns of ``key=default``; a longer one has its description on the next line
INDENT = "  "
# groups in the order in which --help lists them
GROUPS = (
    *TRAINING_GROUPS,
    "data",
    "accelerator",
    "callbacks",
    "logger",
    "search",
    "launcher",
    "experiment",
    "debug",
)


def help_page(name: str, generated: dict[str, str]) -> str:
    """The help of a command: its template in conf/NAME.yaml with ``[[NAME]]`` replaced."""
    template = to_dict(defaults(name).hydra.help, resolve=False)["template"]
    text = str(template).rstrip()
    tables = {"values": describe_metrics(EVALUATION), "columns": describe_metrics(SCORES)}
    generated = tables | generated
    return re.sub(r"^ *\[\[(\w+)\]\]$", lambda place: generated[place[1]], text, flags=re.MULTILINE)


def defaults(name: str) -> DictConfig:
    """The values in conf/NAME.yaml itself."""
    return read_yaml(folder_of(name) / f"{name}.yaml")


def describe_options(options: Mapping[str, Option], values: DictConfig) -> str:
    """One paragraph for each option: key, default, text, what is allowed."""
    return "\n".join(describe_option(key, option, values) for key, option in options.items())


def describe_option(key: str, option: Option, values: DictConfig) -> str:
    """The paragraph of one option."""
    node = OmegaConf.to_container(values, resolve=False)
    for part in key.split("."):
        node = node.get(part, "???") if isinstance(node, dict) else "???"
    is_required = node == "???"
    first = f"{INDENT}{key}={key.upper() if is_required else show(node)}"
    required = ", required" if is_required else ""
    text = f"{option.text} ({option.range.allowed}{required})"
    column = len(INDENT) + KEY_WIDTH
    head = f"{first:<{column}}" if len(first) < column else f"{first}\n{' ' * column}"
    return head + textwrap.fill(text, WIDTH - column, break_on_hyphens=False).replace(
        "\n", "\n" + " " * column
    )


def describe_metrics(metrics: Mapping[str, Metric]) -> str:
    """One paragraph for each metric: its names and its meaning."""
    column = 22
    paragraphs = []
    for names, metric in metrics.items():
        unit = f" ({metric.unit})" if metric.unit else ""
        text = textwrap.fill(metric.text + unit, WIDTH - column, break_on_hyphens=False)
        head = f"{names:<{column}}" if len(names) < column else f"{names}\n{' ' * column}"
        paragraphs.append(head + text.replace("\n", "\n" + " " * column))
    return "\n".join(paragraphs)


def describe_groups(defaults: Mapping[str, str]) -> str:
    """One line for each group: its choices, the default first."""
    lines = []
    for group in GROUPS:
        names = choices(group)
        default = defaults.get(group)
        ordered = [default, *(name for name in names if name != default)] if default else names
        text = textwrap.fill(", ".join(ordered), WIDTH - 15).replace("\n", "\n" + " " * 15)
        lines.append(f"{INDENT}{group:<13}{text}")
    return "\n".join(lines)
