"""What the documents promise is there: functions, tests, options, and a user's own network by the README's words."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import Command

from vae_lightning.cli import compose
from vae_lightning.config import check_keys

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\[`([\w.]+)`\]\(\.\./([\w/.]+)\)")


@pytest.mark.parametrize(("name", "file"), sorted(set(LINK.findall((ROOT / "docs" / "derivation.md").read_text()))))
def test_every_function_and_test_of_the_derivation_exists(name: str, file: str) -> None:
    text = (ROOT / file).read_text()
    for part in name.split("."):
        assert re.search(rf"^\s*(def|class) {part}\b", text, re.MULTILINE), f"{file} has no {part}"


def test_every_command_of_the_readme_composes() -> None:
    commands = re.findall(r"python -m vae_lightning.train ([^\n`#]*)", (ROOT / "README.md").read_text())
    assert len(commands) > 8
    for command in commands:
        words = shlex.split(command)
        if "-m" in words or "--config-dir" in words or "--help" in words or "resume=RUN" in words or "…" in words:
            continue
        check_keys(compose("config", words))


def test_a_users_own_network_works_by_the_readmes_words(train: Command, tiny_root: Path, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    code, yaml = (re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL).group(1) for kind in ("python", "yaml"))
    (tmp_path / "mine.py").write_text(re.sub(r"^   ", "", code, flags=re.MULTILINE))
    (tmp_path / "my_conf" / "model").mkdir(parents=True)
    (tmp_path / "my_conf" / "model" / "wide.yaml").write_text(re.sub(r"^   ", "", yaml, flags=re.MULTILINE))
    small = ("model.width=10", "data.val_size=100", "trainer.max_epochs=1")
    result = train("--config-dir", "my_conf", "model=wide", *small, cwd=tmp_path, data=tiny_root)
    assert result.returncode == 0, result.stderr
    (run,) = tmp_path.glob("outputs/*/*")
    assert "mine.WideEncoder" in (run / ".hydra" / "config.yaml").read_text()
