"""docs/troubleshooting.md explains the messages that the source code has, and no others."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "vae_lightning").rglob("*.py"))
CALLS = {"ConfigError", "NotFinite", "ProcessLost", "LeftOut", "warning"}
FORM = re.compile(r": (must|requires|no such)\b")  # says what is allowed
FOREIGN = "## Messages of other programs"


def template(node: ast.AST) -> str:
    """The text of a string with ``…`` for what is filled in; empty for other expressions."""
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) or "…" for part in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%[.\d]*[a-z]", "…", node.value)
    return ""


def nodes() -> Iterator[ast.AST]:
    for file in SOURCES:
        yield from ast.walk(ast.parse(file.read_text()))


def messages() -> Iterator[str]:
    """What errors and warnings say, where the text is written in the call."""
    for node in nodes():
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
            text = template(node.args[0])
            if name in CALLS and re.search(r"[a-z] [a-z]", text):
                yield text


def rows() -> list[str]:
    """The messages on the page."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text().partition(FOREIGN)[0]
    return re.findall(r"^\| `(.+?)` \|", page, re.MULTILINE)


def pattern(row: str) -> re.Pattern[str]:
    """Finds the words of a row, in order, from the beginning of a message."""
    return re.compile(".*".join(re.escape(part) for part in row.split("…")))


def test_every_message_on_the_page_is_in_the_source_code() -> None:
    found = {text for node in nodes() if (text := template(node))}
    missing = [row for row in rows() if not any(pattern(row).search(text) for text in found)]
    assert not missing


def test_the_page_explains_every_message_that_does_not_say_what_is_allowed() -> None:
    patterns = [pattern(row) for row in rows()]
    unexplained = [
        text
        for text in messages()
        if not FORM.search(text) and not any(each.match(text) for each in patterns)
    ]
    assert not unexplained
