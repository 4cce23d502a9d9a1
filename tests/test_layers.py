"""Imports point one way, and a command that only answers --help imports nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "vae_lightning"
HEAVY = {"torch", "torchvision", "lightning", "sklearn", "numpy", "tensorboard", "zuko", "matplotlib"}
# module -> what it may import beside the standard library; a folder stands for its files but those named themselves
ALLOWED = {
    "networks": {"torch"},
    "part": {"torch"},
    "annealing": set(),
    "distributions": {"torch", "part", "distributions"},
    "distributions/flows": {"torch", "zuko", "distributions"},
    "objectives": {"torch", "rng", "part", "annealing", "distributions", "objectives"},
    "schedulers": {"torch"},
    "rng": {"torch"},
    "datasets": {"torch", "numpy", "sklearn", "filelock"},
    "data": {"torch", "lightning", "rng", "datasets"},
    "module": {"torch", "lightning", "rng", "part", "data", "distributions", "objectives"},
    "ppca": {"torch", "lightning", "distributions"},
    "build": {"torch", "lightning", "annealing"},
    "config": {"omegaconf"},
    "runs": {"omegaconf", "tqdm", "filelock", "PIL", "config"},
    "callbacks": {"torch", "lightning", "tqdm", "runs"},
    "cli": {"hydra", "yaml", "omegaconf", "config", "runs"},
    "quadrature": {"torch", "numpy"},
    "posterior_grid": {"torch", "rng", "distributions", "module", "objectives", "quadrature"},
    "posterior_picture": {"torch", "matplotlib", "distributions", "posterior_grid", "quadrature"},
    "evaluation": {"torch", "codes", "data", "distributions", "graphs", "quality", "rng", "module"},
    "codes": {"torch", "sklearn", "distributions"},
    "quality": {"torch", "torchmetrics", "rng", "data"},
    "explorer": {"torch", "data", "distributions", "evaluation", "module", "networks", "explorer"},
    "extras": set(),
    "onednn": {"torch"},
    "matmul": {"torch"},
    "graphs": {"torch", "numpy", "matmul"},
    "step": {"torch", "annealing", "data", "module"},
    "compiled": {"torch", "annealing", "data", "module", "graphs", "step"},
    "drawing": {"torch", "PIL"},
    "views": {"torch", "PIL", "sklearn", "drawing", "rng", "distributions", "module"},
    "gallery": {"torch", "lightning", "tensorboard", "runs", "evaluation", "views"},
    "identities": {"torch", "rng", "networks", "distributions", "objectives", "quadrature", "identities"},
}
# package -> the only module that may import it
ALONE = {"zuko": "distributions/flows"}


def imported(path: Path) -> set[str]:
    """Top-level names of other packages and of this one's modules that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = node.module == "vae_lightning"
            names |= {f"vae_lightning.{alias.name}" for alias in node.names} if inside else {node.module or ""}
    tops = {name.split(".")[1] if name.startswith("vae_lightning.") else name.split(".")[0] for name in names}
    return tops - set(sys.stdlib_module_names)


def name_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").as_posix()


@pytest.mark.parametrize("name", ALLOWED)
def test_imports_point_one_way(name: str) -> None:
    files = [PACKAGE / f"{name}.py", *(PACKAGE / name).glob("*.py")]
    files = [file for file in files if file.is_file() and (name_of(file) == name or name_of(file) not in ALLOWED)]
    assert files, f"no module {name}"
    for file in files:
        assert imported(file) <= ALLOWED[name], file


@pytest.mark.parametrize("package", ALONE)
def test_a_package_behind_one_module_is_imported_by_no_other(package: str) -> None:
    assert [name_of(file) for file in PACKAGE.rglob("*.py") if package in imported(file)] == [ALONE[package]]
    code = f"import sys, vae_lightning.objectives; print({package!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_files_and_functions_are_short() -> None:
    for file in PACKAGE.rglob("*.py"):
        assert len(file.read_text().splitlines()) <= 260, file
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno <= 45, f"{file}: {node.name}"


COMMANDS = ("train", "sweep", "evaluate", "verify", "pictures", "report", "explore", "export")


@pytest.mark.parametrize("module", COMMANDS)
def test_a_command_imports_nothing_heavy_before_it_is_needed(module: str) -> None:
    code = f"import sys, vae_lightning.{module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
