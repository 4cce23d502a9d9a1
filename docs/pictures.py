"""Makes the pictures of README and docs: ``python docs/pictures.py [FOLDER]``.

Trains two models (about two minutes on two CPU cores) into FOLDER, a temporary folder by default,
and writes docs/terminal.svg, docs/samples.png and docs/posteriors.png. The screenshots
docs/explore.png and docs/tensorboard.png are taken by hand from the pages of such runs.
"""

import argparse
import html
import re
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
COMMAND = "python -m vae_lightning.train model.latent_dim=16"
FONT_SIZE, LINE, MARGIN = 13, 18, 14  # pixels
CHARACTER = 0.602 * FONT_SIZE  # width of a monospace character
SHOWN_EPOCHS = 3  # at the beginning and at the end


def run(module: str, *arguments: str) -> list[str]:
    """The lines that a command prints."""
    command = [sys.executable, "-m", f"vae_lightning.{module}", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return [*result.stderr.splitlines(), *result.stdout.splitlines()]


def shortened(lines: list[str]) -> list[str]:
    """The lines without the epochs in the middle."""
    epochs = [number for number, line in enumerate(lines) if re.match(r"epoch +\d+/", line)]
    dropped = set(epochs[SHOWN_EPOCHS:-SHOWN_EPOCHS])
    kept = [line for number, line in enumerate(lines) if number not in dropped]
    kept.insert(epochs[SHOWN_EPOCHS - 1] + 1, "...")
    return kept


def terminal(lines: list[str]) -> str:
    """The lines as an SVG picture of a terminal."""
    width = int(max(map(len, lines)) * CHARACTER) + 2 * MARGIN
    height = LINE * len(lines) + 2 * MARGIN
    rows = [
        f'<text x="{MARGIN}" y="{MARGIN + LINE * (number + 0.75):.0f}">{html.escape(line)}</text>'
        for number, line in enumerate(lines)
        if line
    ]
    style = (
        f"text {{ font: {FONT_SIZE}px ui-monospace, Menlo, Consolas, monospace;"
        " fill: #e6e6e6; white-space: pre; }"
    )
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{style}</style>'
    panel = f'<rect width="{width}" height="{height}" rx="6" fill="#1b1d20"/>'
    return "\n".join([head, panel, *rows, "</svg>"]) + "\n"


def main() -> None:
    """Trains and draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="of the runs")
    folder = parser.parse_args().folder or Path(tempfile.mkdtemp())
    *choices, latent_dim = COMMAND.split()[3:]
    lines = run("train", *choices, latent_dim, f"hydra.run.dir={folder / 'run'}")
    lines = [line.replace(str(folder / "run"), "outputs/DATE/TIME") for line in lines]
    (DOCS / "terminal.svg").write_text(terminal([f"$ {COMMAND}", *shortened(lines)]))
    run("pictures", f"run={folder / 'run'}", "kind=samples", "count=40", f"out={folder}")
    (DOCS / "samples.png").write_bytes((folder / "samples.png").read_bytes())
    run("train", "model.latent_dim=2", f"hydra.run.dir={folder / 'plane'}")
    run("verify", f"run={folder / 'plane'}", f"out={DOCS / 'posteriors.png'}")
    print(f"runs in {folder}")


if __name__ == "__main__":
    main()
