"""Verifies identities numerically: ``python -m vae_lightning.verify [run=RUN]``.

Without a run it checks the identities of the derivation; with run=RUN it checks that
log p(x) = ELBO + KL(q(z|x) || p(z|x)) holds for the model. The exit code is 1 if a check fails.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from tqdm import tqdm

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import AnyOf, Choice, Integer, Option, Text
from vae_lightning.cli.command import RUN_OPTIONS, command
from vae_lightning.runs.stored import require_run

if TYPE_CHECKING:
    from vae_lightning.runs.run import Run
    from vae_lightning.verification.identities import Row
    from vae_lightning.verification.posterior import PosteriorCheck

TOLERANCE = 0.01  # nats: for the sum of integrals over a grid, and for the error of the grid
STANDARD_ERRORS = 5  # allowed distance of the sampled ELBO from the ELBO on the grid


DEFAULT_COUNT = 12
# Pixels of these images, at most: the time grows with the pixels, and is then a few minutes.
DEFAULT_PIXELS = DEFAULT_COUNT * 1024
OPTIONS = RUN_OPTIONS | {
    "run": Option(
        "run folder of a model with model.latent_dim=1 or 2; null: the identities",
        AnyOf((Text("a run folder"), Choice((None,)))),
    ),
    "count": Option(
        f"number of test images, the first of the test set; null: {DEFAULT_COUNT}, or fewer if"
        f" they have more than {DEFAULT_PIXELS:,} pixels together",
        AnyOf((Integer(1), Choice((None,)))),
    ),
    "out": Option(
        "picture of the posteriors; null: RUN/pictures/verify.png",
        AnyOf((Text("a file that ends in .png", ".png"), Choice((None,)))),
    ),
}


@command("verify", OPTIONS)
def main(cfg: DictConfig) -> bool:
    """Checks the identities, or a run; returns whether all checks pass."""
    check(cfg)
    return verify_run(cfg, load(cfg)) if cfg.run else verify_identities()


def check(cfg: DictConfig) -> None:
    """Raises ConfigError for mistakes that can be found without the run."""
    for key in ("out", "count"):
        if cfg[key] is not None and not cfg.run:
            raise ConfigError(f"{key}={cfg[key]}: requires run=RUN; the identities use no images")


def load(cfg: DictConfig) -> "Run":
    """Loads the run; raises ConfigError if it is missing or p(x) cannot be computed."""
    from vae_lightning.runs.load import load_run
    from vae_lightning.runs.run import NOT_NORMALIZED
    from vae_lightning.verification.posterior import MAX_LATENT_DIM

    require_run(Path(cfg.run), "run")
    run = load_run(cfg.run, cfg.checkpoint, cfg.trust, cfg.data.root)
    if not run.module.decoder.is_normalized:
        raise ConfigError(f"run={cfg.run}: {NOT_NORMALIZED}")
    if run.module.latent_dim > MAX_LATENT_DIM:
        found = f"run={cfg.run}: model.latent_dim={run.module.latent_dim}"
        raise ConfigError(f"{found}: must be 1 or 2, because the integrals over z use a grid")
    return run


def verify_identities() -> bool:
    """Prints the table of identities, one group at a time; returns whether all hold."""
    from vae_lightning.verification.identities import IDENTITIES

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
    """Formats a row of the table of identities."""
    sides = f"{row.left:>16.10f} {row.relation:>2} {row.right:>15.10f}"
    errors = f"{row.difference:>12.1e}  {row.tolerance:>9.1e}"
    return f"{row.statement:<{width}}{sides}  {errors}  {'ok' if row.ok else 'FAILED'}"


def verify_run(cfg: DictConfig, run: "Run") -> bool:
    """Prints log p(x), ELBO and KL of each test image at once, and draws their posteriors.

    Returns whether log p(x) = ELBO + KL holds for all of them.
    """
    from vae_lightning.plots import posteriors
    from vae_lightning.verification.posterior import ELBO_SAMPLES, check_posteriors

    module, data = run.module, run.data
    fitting = max(1, min(DEFAULT_COUNT, DEFAULT_PIXELS // data.pixels))
    count = min(cfg.count or fitting, data.images_in("test"))
    images, condition = data.inputs("test", slice(count))
    checks: list[PosteriorCheck] = []
    print(header(), flush=True)
    with tqdm(total=count, unit="image", disable=not sys.stderr.isatty()) as progress:
        for check in check_posteriors(module, images, condition):
            tqdm.write(row(len(checks), check))  # above the bar
            sys.stdout.flush()
            checks.append(check)
            progress.update()
    print(means(checks))
    all_hold = all(holds(each) for each in checks)
    print(f"\ndata         {data.name}, the first {count} test images")
    if not cfg.count and fitting < DEFAULT_COUNT:
        print("             large images take long; count=N checks N of them")
    print(f"log p(x|z)   {module.decoder.description}")
    print(f"sampled ELBO {ELBO_SAMPLES:,} samples, as in training, and its standard error")
    output = Path(cfg.out or Path(cfg.run, "pictures", "verify.png"))
    posteriors.draw(output, images, checks, run.description)
    print(f"picture      {output}")
    return all_hold


def holds(result: "PosteriorCheck") -> bool:
    """Returns whether log p(x) = ELBO + KL, the grid is fine enough and the sampled ELBO agrees.

    It is false if one of the numbers is NaN.
    """
    distance = abs(result.sampled_bound - result.bound)
    return (
        abs(result.bound + result.gap - result.log_p) <= TOLERANCE
        and result.error <= TOLERANCE
        and result.gap >= -TOLERANCE
        and distance <= STANDARD_ERRORS * result.sampled_error + TOLERANCE
    )


def header() -> str:
    """Formats the names of the columns of the table of images."""
    names = (
        "log p(x)",
        "ELBO",
        "KL(q||p(z|x))",
        "ELBO + KL",
        "difference",
        "grid error",
        "sampled ELBO",
        "+-",
    )
    return f"{'image':<7}" + "".join(f"{name:>15}" for name in names)


def row(number: int, each: "PosteriorCheck") -> str:
    """Formats the row of an image."""
    total = each.bound + each.gap
    terms = "".join(f"{value:>15.4f}" for value in (each.log_p, each.bound, each.gap, total))
    errors = f"{total - each.log_p:>15.1e}{each.error:>15.1e}"
    sampled = f"{each.sampled_bound:>15.4f}{each.sampled_error:>15.4f}"
    return f"{number:<7}{terms}{errors}{sampled}  {'ok' if holds(each) else 'FAILED'}"


def means(checks: Sequence["PosteriorCheck"]) -> str:
    """Formats the row of the means over the images."""
    from vae_lightning.verification.posterior import EQUATION_TERMS

    values = [sum(getattr(each, name) for each in checks) / len(checks) for name in EQUATION_TERMS]
    return f"{'mean':<7}" + "".join(f"{value:>15.4f}" for value in values)


if __name__ == "__main__":
    main()
