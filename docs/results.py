"""Makes docs/results.md: ``python docs/results.py run`` trains and evaluates; ``write`` writes.

``run`` leaves out jobs that have a result. Every number comes from metrics.json or evaluation.json
of a run under outputs/results/. Only the published figures are typed in, with their sources.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "outputs" / "results"
PAGE = ROOT / "docs" / "results.md"


class Job(NamedTuple):
    """One training command, and the importance samples of its evaluation (0: none)."""

    name: str
    overrides: str
    samples: int = 0


BETAS = ("0.1", "0.5", "1", "2", "4")
LINEAR = [Job(f"linear_beta{beta}", f"experiment=ppca objective.beta={beta}") for beta in BETAS]
MLP = [Job(f"mlp_beta{beta}", f"objective.beta={beta} data.val_size=0", 100) for beta in BETAS]
BURDA = [
    Job("burda_vae", "experiment=burda_vae", 5000),
    Job("burda_iwae", "experiment=burda_iwae", 5000),
]
BINARY = "likelihood=bernoulli data.binarization=dynamic scheduler=cosine"
PRIORS = [
    Job(f"prior_{name}", f"prior={name} {BINARY}", 1000)
    for name in ("standard_normal", "mixture", "vamp", "flow")
]
DENSITIES = [
    Job("squared_error", "likelihood=squared_error scheduler=cosine trainer.max_epochs=10", 500),
    *(
        Job(
            f"gaussian_{std}",
            f"likelihood=gaussian likelihood.std={std} scheduler=cosine trainer.max_epochs=10",
            500,
        )
        for std in ("learned", "optimal", "per_pixel")
    ),
    Job("laplace", "likelihood=laplace scheduler=cosine trainer.max_epochs=10", 500),
    Job(
        "continuous_bernoulli",
        "likelihood=continuous_bernoulli scheduler=cosine trainer.max_epochs=10",
        500,
    ),
    Job(
        "discretized_logistic",
        "likelihood=discretized_logistic scheduler=cosine trainer.max_epochs=10",
        500,
    ),
]
JOBS = [*BURDA, *LINEAR, *MLP, *PRIORS, *DENSITIES]


def run() -> None:
    """Trains and evaluates every job without a result; records wall times in wall.json."""
    for job in JOBS:
        folder = RUNS / job.name
        if not (folder / "metrics.json").is_file():
            started = time.time()
            call("train", *job.overrides.split(), f"hydra.run.dir={folder}")
            (folder / "wall.json").write_text(json.dumps({"wall_seconds": time.time() - started}))
        if job.samples and not (folder / "evaluation.json").is_file():
            call("evaluate", f"run={folder}", f"samples={job.samples}")


def call(command: str, *arguments: str) -> None:
    """One of this package's commands, its output left on the terminal."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", f"vae_lightning.{command}", *arguments], env=environment, check=True
    )


def result(job: Job) -> dict[str, float]:
    """All that the job's files say."""
    files = ("wall.json", "metrics.json", "evaluation.json")
    found: dict[str, float] = {}
    for file in files:
        path = RUNS / job.name / file
        found |= json.loads(path.read_text()) if path.is_file() else {}
    return found


def table(jobs: Sequence[Job], columns: dict[str, Callable[[dict[str, float]], str]]) -> str:
    """A Markdown table with one row per job: command, columns, epochs, wall time, seed."""
    head = ["`python -m vae_lightning.train` ...", *columns, "epochs", "wall time"]
    lines = [head, ["---"] * len(head)]
    for job in jobs:
        found = result(job)
        wall = f"{found['wall_seconds'] / 60:.1f} min"
        lines.append(
            [
                f"`{job.overrides}`",
                *(column(found) for column in columns.values()),
                f"{found['epoch']}",
                wall,
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(key: str, digits: int = 2) -> Callable[[dict[str, float]], str]:
    """A column with the value of a key."""
    return lambda found: f"{found[key]:.{digits}f}"


def nll(found: dict[str, float]) -> str:
    """The NLL with its standard error."""
    return f"{found['nll']:.2f} ± {found['nll_se']:.2f}"


def units(found: dict[str, float]) -> str:
    """Active units."""
    return f"{found['active_units']}"


def page() -> str:
    """The whole page."""
    machine = result(BURDA[0])
    return PAGE_TEXT.format(
        device=machine["device"],
        versions=machine["versions"],
        burda=table(
            BURDA,
            {
                "NLL (k = 5000)": nll,
                "active units": shown("active_units", 0),
                "-ELBO": shown("neg_elbo"),
            },
        ),
        linear=table(
            LINEAR,
            {
                "exact recon / KL / active": lambda f: pair(f, "ppca"),
                "trained recon / KL / active": lambda f: pair(f, "closed_form"),
                "loss, trained - exact (train)": lambda f: (
                    f"{f['closed_form/train_loss'] - f['ppca/train_loss']:.4f}"
                ),
            },
        ),
        mlp=table(MLP, {"recon": shown("recon"), "KL": shown("kl"), "active units": units}),
        priors=table(PRIORS, {"NLL (k = 1000)": nll, "recon": shown("recon"), "KL": shown("kl")}),
        densities=table(
            DENSITIES[:-1], {"recon is": name, "NLL (k = 500)": nll, "KL": shown("kl")}
        ),
        discrete=table(
            DENSITIES[-1:],
            {"NLL (k = 500)": nll, "bits/dim of -ELBO": shown("test/bits_per_dim", 4)},
        ),
    )


def name(found: dict[str, float]) -> str:
    """What recon is."""
    return str(found["likelihood"])


def pair(found: dict[str, float], model: str) -> str:
    """Recon, KL and active units on the test images."""
    recon, kl, active = (
        found[f"{model}/{name}"] for name in ("test_recon", "test_kl", "active_units")
    )
    return f"{recon:.3f} / {kl:.3f} / {active:.0f}"


PAGE_TEXT = """# Results

This page is written by `python docs/results.py run && python docs/results.py write`, with
`VAE_LIGHTNING_DATA` set to the folder of MNIST. Each row is a command; its numbers come from the
metrics.json and evaluation.json of its run. All values are in nats per image, for the 10,000 test
images of MNIST and one seed (0); ± is the standard error over the test images. Other work ran on
the machine at the same time, so the wall times are upper bounds.

The runs were made by the version that is named below. Since then, `experiment=ppca` trains with
more samples and epochs, and `likelihood=discretized_logistic` has other defaults; both reach lower
losses today.

Machine and versions: {device}, {versions}.

## Rate and distortion

The optimum of the linear model (`latent_dim=16`) is known for every beta: minimizing
recon + beta KL is the same as maximizing the ELBO of a decoder with variance beta / 2, whose
optimum is probabilistic PCA ([derivation, section
8](derivation.md#8-a-model-with-a-known-optimum)). The exact values are computed by
eigendecomposition of the training images, and those of the trained model in closed form; both are
for the test images. The column "trained - exact" compares the loss on the training images, on which
no model can be better than the exact one.

{linear}

The same for the mlp 784-400-16 on the test images. recon is measured with one sample of q(z|x).

{mlp}

## Burda et al. 2016, one stochastic layer

Dynamically binarized MNIST, networks 784-200-200-50. The test NLL is estimated with 5000
importance samples. The published values are 86.76 with 19 active units for the VAE, and 85.54
with 22 active units for the IWAE with k = 5 (table 1 of <https://arxiv.org/abs/1509.00519>; 3,280
epochs with a batch size of 20). The training is shortened here: fewer epochs (see the table), a
batch size of 100, and a learning rate that falls from 2e-3 along a cosine, instead of in eight
steps from 1e-3. As published, the models are trained on all 60,000 images. The test images are
one fixed draw. A hand-written loop with the published learning rates, 364 epochs and a batch size
of 100, reached 88.79 with 20 active units.

{burda}

## Priors

Dynamically binarized MNIST, the mlp 784-400-16, 20 epochs with a cosine schedule, the same for
every prior. A learned prior also changes the posterior during training, so the table compares
whole models and not only priors.

{priors}

## Likelihoods

Gray MNIST, x = byte/255, the mlp 784-400-16, 10 epochs with a cosine schedule. All values are
densities of the same x and can be compared. At pixels that are always black, a density grows
without bound as its scale shrinks, so each value depends on the lower limit or the clip stated
with it.

{densities}

The discretized logistic gives probabilities of the 256 levels, which cannot be compared with
densities:

{discrete}
"""

if __name__ == "__main__":
    if sys.argv[1:] == ["run"]:
        run()
    elif sys.argv[1:] == ["write"]:
        PAGE.write_text(page())
    else:
        sys.exit("usage: python docs/results.py run|write")
