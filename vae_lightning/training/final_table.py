"""The table that a run prints at its end."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from vae_lightning.checks.errors import decimals
from vae_lightning.storage.files import number

Metrics = Mapping[str, object]
TERMS = ("recon", "kl", "neg_elbo")
LINEAR_ROWS = ("train_recon", "train_kl", "train_loss", "test_recon", "test_kl", "test_loss")


def final_table(
    metrics: Metrics, data: str, latent_dim: int, run: Path, notes: Sequence[str] = ()
) -> str:
    """The final table as text.

    Args:
        metrics: the content of metrics.json.
        data: describes the images.
        latent_dim: number of latent dimensions.
        run: the run folder.
        notes: lines at the end, such as an alarm.
    """
    lines = ["", *terms(metrics), ""]
    if "ppca/train_loss" in metrics:
        lines += [*linear_model(metrics), ""]
    lines += [
        f"data          {data}",
        f"recon         {metrics['likelihood']}; {weights(metrics)}",
        f"KL            {metrics['kl_estimate']}",
    ]
    if "latents/active_units" in metrics:
        lines.append(f"active units  {metrics['latents/active_units']:.0f} of {latent_dim}")
    if metrics.get("stopped"):
        lines.append(f"training      {metrics['stopped']}")
    if "test/bits_per_dim" in metrics:
        lines.append(f"bits/dim      {metrics['test/bits_per_dim']:.4f} on the test images")
    lines += [
        f"speed         {metrics['seconds_per_epoch']:.2f} s per epoch on {metrics['device']}",
        f"run folder    {run}",
    ]
    if (run / "tensorboard").is_dir():
        lines.append(f"TensorBoard   tensorboard --logdir {shlex.quote(str(run))}")
    return "\n".join([*lines, "", *notes] if notes else lines)


def weights(metrics: Metrics) -> str:
    """Which weights were tested."""
    average = metrics.get("averaged_by")
    return f"weights of best.ckpt, epoch {metrics['epoch']:.6g}" + (
        f", averaged by {average}" if average else ""
    )


def terms(metrics: Metrics) -> list[str]:
    """Recon, KL and -ELBO of the validation and test images."""
    lines = [f"{'nats per image':<14}{'recon':>12}{'KL':>12}{'-ELBO':>12}"]
    for split, name in (("val", "validation"), ("test", "test")):
        if f"{split}/recon" in metrics:
            values = (number(metrics, f"{split}/{term}") for term in TERMS)
            lines.append(f"{name:<14}" + "".join(f"{decimals(value, 3):>12}" for value in values))
    return lines


def linear_model(metrics: Metrics) -> list[str]:
    """The terms of a linear model beside those of its exact optimum."""
    lines = [f"{'linear model':<14}{'optimum':>12}{'trained':>12}{'difference':>12}"]
    for name in LINEAR_ROWS:
        exact, trained = (number(metrics, f"{kind}/{name}") for kind in ("ppca", "closed_form"))
        label = name.replace("_", " ").replace("kl", "KL")
        lines.append(f"{label:<14}{exact:>12.4f}{trained:>12.4f}{trained - exact:>12.4f}")
    active = [f"{metrics[f'{kind}/active_units']:.0f}" for kind in ("ppca", "closed_form")]
    return [*lines, f"{'active units':<14}{active[0]:>12}{active[1]:>12}"]
