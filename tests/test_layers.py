"""Layers import only from those below, --help imports nothing heavy, files are short."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "vae_lightning"
HEAVY = {
    "torch",
    "torchvision",
    "lightning",
    "sklearn",
    "numpy",
    "tensorboard",
    "zuko",
    "matplotlib",
    "optuna",
    "ray",
    "submitit",
}
# modules that a command imports before it knows whether it was only asked for help
LIGHT = (
    "train",
    "evaluate",
    "verify",
    "encode",
    "sample",
    "reconstruct",
    "score",
    "pictures",
    "replay",
    "report",
    "explore",
    "export",
    "sweep",
    "sweeps.start",
    "sweeps.report",
    "sweeps.launchers.*",
    "sweeps.node",
    "cli.*",
    "checks.*",
    "storage.*",
    "config.compose",
    "config.environment",
    "config.options",
    "config.option_table",
    "config.optional",
)
MAX_LINES_OF_A_FILE, MAX_LINES_OF_A_FUNCTION = 300, 50
GENERATED = {"config.option_table"}
# package -> the only module that may import it
ALONE = {"zuko": "distributions.flows"}


def name_of(file: Path) -> str:
    """The dotted name of a file within the package."""
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts)


def modules(pattern: str) -> list[str]:
    """The full dotted names of the modules of a pattern, which may end in a star."""
    found = [name_of(path) for path in PACKAGE.glob(f"{pattern.replace('.', '/')}.py")]
    assert found, f"no module {pattern}"
    return [f"vae_lightning.{name}".removesuffix(".__init__") for name in sorted(found)]


def imported_packages(file: Path) -> set[str]:
    """The top-level packages that a file imports anywhere."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


def run_python(*arguments: str) -> str:
    """What a Python process prints."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_each_layer_imports_only_from_those_below_it() -> None:
    """The contracts are in pyproject.toml, section tool.importlinter."""
    lint = Path(sys.executable).with_name("lint-imports")
    command = [str(lint), "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("package", ALONE)
def test_a_package_behind_one_module_is_imported_by_no_other(package: str) -> None:
    files = [file for file in PACKAGE.rglob("*.py") if package in imported_packages(file)]
    assert [name_of(file) for file in files] == [ALONE[package]]


@pytest.mark.slow
@pytest.mark.parametrize("package", ALONE)
def test_a_package_behind_one_module_is_imported_only_when_needed(package: str) -> None:
    code = f"import sys, vae_lightning.objectives; print({package!r} in sys.modules)"
    assert run_python("-c", code) == "False"


@pytest.mark.slow
def test_a_command_imports_nothing_heavy_before_it_needs_it() -> None:
    light = [module for pattern in LIGHT for module in modules(pattern)]
    code = f"""
import importlib, sys
for module in {light!r}:
    importlib.import_module(module)
    heavy = sorted({HEAVY!r} & set(sys.modules))
    if heavy:
        print(module, "imports", *heavy)
        break
"""
    assert run_python("-c", code) == ""


def test_files_and_functions_are_short() -> None:
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text()
        if name_of(file) not in GENERATED:
            assert len(text.splitlines()) <= MAX_LINES_OF_A_FILE, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= MAX_LINES_OF_A_FUNCTION, f"{file}: {node.name}"
