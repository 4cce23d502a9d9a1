"""Exports a model: ``python -m vae_lightning.export run=RUN format=onnx``.

Compares each exported file with the model and writes a model card.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import Choice, Option
from vae_lightning.cli.command import OPTIONAL_FOLDER, RUN_OPTIONS, command
from vae_lightning.config.optional import EXPORT_PACKAGES, require_packages
from vae_lightning.runs.stored import require_run
from vae_lightning.storage.files import read_json, write_text

if TYPE_CHECKING:
    from vae_lightning.runs.run import Run

# largest error relative to max(|value|, 1): float32 operations may run in a different order
TOLERANCE = 1e-4


OPTIONS = RUN_OPTIONS | {
    "format": Option("file format, see below", Choice(tuple(EXPORT_PACKAGES))),
    "out": Option("output folder; null: RUN/export", OPTIONAL_FOLDER),
}


@command("export", OPTIONS)
def main(cfg: DictConfig) -> bool:
    """Exports a run; returns False if a file differs too much from the model."""
    check(cfg)
    from vae_lightning.runs.load import load_run

    folder = Path(cfg.run)
    require_run(folder, "run")
    run = load_run(folder, cfg.checkpoint, cfg.trust, cfg.data.root)
    records = {name: read_record(folder, name) for name in ("metrics", "evaluation")}
    return export(cfg, run, records)


def read_record(folder: Path, name: str) -> dict[str, object]:
    """Returns a JSON file of a run, empty if it is missing; raises ConfigError if it is damaged."""
    try:
        return read_json(folder / f"{name}.json")
    except ConfigError as error:
        advice = "remove it, the export does not need it"
        raise ConfigError(f"run={folder}: {name}.json is damaged; {advice}") from error


def check(cfg: DictConfig) -> None:
    """Raises ConfigError for missing packages or an invalid output folder."""
    require_packages(f"format={cfg.format}", EXPORT_PACKAGES[cfg.format])
    if cfg.out is not None and Path(cfg.out).exists() and not Path(cfg.out).is_dir():
        raise ConfigError(f"out={cfg.out}: must be a folder")


def export(cfg: DictConfig, run: "Run", records: dict[str, dict[str, object]]) -> bool:
    """Writes the files and the model card, prints the differences; False if one is too large."""
    from vae_lightning.exporting import graphs, model_card

    folder = Path(cfg.out or Path(cfg.run, "export"))
    folder.mkdir(parents=True, exist_ok=True)
    card = folder / f"model_card_{cfg.format}.md"
    card.unlink(missing_ok=True)
    files = []
    for file in graphs.write(run, cfg.format, folder):
        difference = f"largest difference from the module {file.difference:.1e}"
        print(f"{file.path}  {file.description}  {difference}", flush=True)
        if not file.relative_difference <= TOLERANCE:
            file.path.unlink()
            found = f"{file.path.name} differs from the module by {file.difference:g}"
            print(f"error: {found}; it was removed", file=sys.stderr)
            return False
        files.append(file)
    write_text(card, model_card.text(run, cfg, records, files))
    print(f"{card}  {run.checkpoint}.ckpt, step {run.step}")
    return True


if __name__ == "__main__":
    main()
