"""Verify: ``python -m vae_lightning.verify``. The identities of the derivation, computed; or, with run=RUN, a model's.

Exit 1 if one does not hold.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from tqdm import tqdm

from vae_lightning import cli, config

if TYPE_CHECKING:
    from vae_lightning.identities import Row
    from vae_lightning.loading import Loaded
    from vae_lightning.posterior_grid import Claim

TOLERANCE = 0.01  # nats: of a sum of integrals over a grid, and of the grid's own error
STANDARD_ERRORS = 5


def main() -> None:
    """The command line."""
    with cli.exit_codes():
        cfg = cli.command("verify", sys.argv[1:])
        if cfg is None:
            return
        with cli.usage(ValueError):
            check(cfg)
            loaded = load(cfg) if cfg.run else None
        held = verify_run(cfg, loaded) if loaded else verify_identities()
        sys.exit(0 if held else 1)


def check(cfg: DictConfig) -> None:
    """Raises ValueError for what can be seen to be wrong without the run."""
    if not config.whole(cfg.images, 1):
        raise ValueError(f"images={config.show(cfg.images)}: must be an integer >= 1")
    if cfg.output is not None and not cfg.run:
        raise ValueError(f"output={cfg.output}: must be with run=RUN, the identities have no picture")
    if cfg.output is not None and Path(cfg.output).suffix != ".png":
        raise ValueError(f"output={cfg.output}: must end in .png")


def load(cfg: DictConfig) -> "Loaded":
    """The run; ValueError where there is none, or it has more latent dimensions than a grid can hold."""
    from vae_lightning import loading, posterior_grid

    loaded = loading.load(Path(cfg.run), cfg.checkpoint, cfg.trust)
    if loaded.module.latent_dim > posterior_grid.MOST_LATENTS:
        found = f"run={cfg.run}: model.latent_dim={loaded.module.latent_dim}"
        raise ValueError(f"{found}, must be 1 or 2, as z is integrated over on a grid")
    return loaded


def verify_identities() -> bool:
    """Prints the table, a group at a time; whether all hold."""
    from vae_lightning.identities import IDENTITIES

    width = 82
    print(f"{'':<{width}}{'left':>16}   {'right':>16}  {'left - right':>12}  {'tolerance':>9}")
    rows = []
    for title, compute in IDENTITIES.items():
        print(f"\n{title}", flush=True)
        for row in compute():
            rows.append(row)
            print(f"  {line(row, width - 2)}", flush=True)
    failed = sum(not row.ok for row in rows)
    print(f"\n{failed} of {len(rows)} FAILED" if failed else f"\nall {len(rows)} hold")
    return not failed


def line(row: "Row", width: int) -> str:
    """A row as text."""
    sides = f"{row.left:>16.10f} {row.relation:>2} {row.right:>15.10f}"
    return f"{row.says:<{width}}{sides}  {row.difference:>12.1e}  {row.tolerance:>9.1e}  {'ok' if row.ok else 'FAILED'}"


def verify_run(cfg: DictConfig, loaded: "Loaded") -> bool:
    """Prints log p(x), Lb and KL of test images and draws their posteriors; whether they add up."""
    from vae_lightning import posterior_grid, posterior_picture

    _, module, data, _ = loaded
    count = min(cfg.images, data.images_in("test"))
    images, condition = data.inputs("test", slice(count))
    hidden = not sys.stderr.isatty()
    claims = list(tqdm(posterior_grid.claims(module, images, condition), total=count, unit="image", disable=hidden))
    print(table(claims))
    held = all(holds(claim) for claim in claims)
    print(f"\ndata         {data.name}, the first {count} test images\nlog p(x|z)   {module.decoder.description}")
    print(f"sampled Lb   {posterior_grid.SAMPLES:,} samples, as in training, and its standard error")
    output = Path(cfg.output or Path(cfg.run, "pictures", "verify.png"))
    posterior_picture.draw(output, images, claims, title(loaded))
    print(f"picture      {output}")
    return held


def holds(claim: "Claim") -> bool:
    """Whether the three add up, the grid was fine enough, and the samples agree; not where one is not a number."""
    apart = abs(claim.sampled_bound - claim.bound)
    return (
        abs(claim.bound + claim.gap - claim.log_p) <= TOLERANCE
        and claim.error <= TOLERANCE
        and claim.gap >= -TOLERANCE
        and apart <= STANDARD_ERRORS * claim.sampled_error + TOLERANCE
    )


def table(claims: Sequence["Claim"]) -> str:
    """A line for each image, and their mean."""
    from vae_lightning.posterior_grid import TERMS

    names = ("log p(x)", "Lb", "KL(q||p(z|x))", "Lb + KL", "difference", "grid error", "sampled Lb", "+-")
    lines = [f"{'image':<7}" + "".join(f"{name:>15}" for name in names)]
    for number, claim in enumerate(claims):
        total = claim.bound + claim.gap
        terms = "".join(f"{value:>15.4f}" for value in (claim.log_p, claim.bound, claim.gap, total))
        errors = f"{total - claim.log_p:>15.1e}{claim.error:>15.1e}"
        sampled = f"{claim.sampled_bound:>15.4f}{claim.sampled_error:>15.4f}"
        lines.append(f"{number:<7}{terms}{errors}{sampled}  {'ok' if holds(claim) else 'FAILED'}")
    means = [sum(getattr(claim, name) for claim in claims) / len(claims) for name in TERMS]
    return "\n".join([*lines, f"{'mean':<7}" + "".join(f"{value:>15.4f}" for value in means)])


def title(loaded: "Loaded") -> str:
    """Data set and model."""
    cfg, module, data, _ = loaded
    network = cfg.model.encoder["_target_"].rpartition(".")[2].removesuffix("Encoder")
    widths = "-".join(str(width) for width in [data.pixels, *cfg.model.get("hidden_dims", []), module.latent_dim])
    return f"{data.name}, {network} {widths}, {module.decoder.description}"


if __name__ == "__main__":
    main()
