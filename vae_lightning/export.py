"""Export: ``python -m vae_lightning.export run=RUN format=onnx``. A model for use elsewhere, compared, with a card."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vae_lightning import cli, config, extras, runs

if TYPE_CHECKING:
    from vae_lightning.weights import Stored

TOLERANCE = 1e-4  # of a value, or of 1 where the value is smaller: float32 in another order of operations


def main() -> None:
    """The command line."""
    with cli.exit_codes():
        cfg = cli.command("export", sys.argv[1:])
        if cfg is None:
            return
        with cli.usage(ValueError):
            check(cfg)
            from vae_lightning import weights

            stored = weights.read_run(Path(cfg.run), cfg.checkpoint, cfg.trust)
            records = {name: weights.read_json(Path(cfg.run), f"{name}.json") for name in ("metrics", "evaluation")}
        export(cfg, stored, records)


def check(cfg: DictConfig) -> None:
    """Raises ValueError for what can be seen to be wrong without the run: format, packages, folder."""
    if cfg.format not in extras.FORMATS:
        raise ValueError(f"format={config.show(cfg.format)}: must be one of {', '.join(extras.FORMATS)}")
    extras.need(f"format={cfg.format}", extras.FORMATS[cfg.format])
    if cfg.output is not None and Path(cfg.output).exists() and not Path(cfg.output).is_dir():
        raise ValueError(f"output={cfg.output}: must be a folder")


def export(cfg: DictConfig, stored: "Stored", records: dict[str, dict[str, object]]) -> None:
    """Writes the files and the card, prints the differences; exits with 1 where one is too large."""
    from vae_lightning import exporting, model_card

    folder = Path(cfg.output or Path(cfg.run, "export"))
    folder.mkdir(parents=True, exist_ok=True)
    card = folder / f"model_card_{cfg.format}.md"
    card.unlink(missing_ok=True)
    files = []
    for file in exporting.write(stored, cfg.format, folder):
        print(f"{file.path}  {file.says}  largest difference to the module {file.difference:.1e}", flush=True)
        if not file.relative <= TOLERANCE:
            file.path.unlink()
            sys.exit(f"error: {file.path.name} differs from the module by {file.difference:g}; it was removed")
        files.append(file)
    runs.replace(card, model_card.text(stored, cfg, records, files))
    print(f"{card}  {stored.checkpoint}.ckpt, step {stored.step}")


if __name__ == "__main__":
    main()
