"""The columns of TensorBoard's HPARAMS tab for a sweep: what differs comes first."""

from collections.abc import Sequence
from pathlib import Path

from vae_lightning.runs.stored import CONFIG
from vae_lightning.storage.run_folder import read_yaml
from vae_lightning.sweeps.results import Result
from vae_lightning.training.tensorboard import (
    FOLDER,
    compared_values,
    hparams_summary,
    messages,
)

# the first ones are shown unless the user chooses others
METRICS = [f"{split}/{term}" for split in ("test", "val") for term in ("neg_elbo", "recon", "kl")]


def write_columns(results: Sequence[Result], folder: Path) -> None:
    """Writes the columns for all jobs that have begun into SWEEP/tensorboard.

    Without such a list, TensorBoard shows metrics in the order of their names.
    """
    from tensorboard.plugins.hparams import metadata
    from torch.utils.tensorboard import SummaryWriter

    places = [each.folder for each in results if (each.folder / CONFIG).is_file()]
    values = [compared_values(read_yaml(place / CONFIG), place) for place in places]
    keys = dict.fromkeys(key for each in values for key in each)
    api = messages("plugins.hparams.api")
    columns = []
    for key in keys:
        found = [each[key] for each in values if key in each]
        numeric = all(isinstance(value, int | float) for value in found)
        kind = api.DATA_TYPE_FLOAT64 if numeric else api.DATA_TYPE_STRING
        texts = sorted({str(value) for value in found})
        columns.append(api.HParamInfo(name=key, type=kind, differs=len(texts) > 1))
        if not numeric:
            columns[-1].domain_discrete.extend(texts)  # what one can select by
    scores = [
        api.MetricInfo(name=api.MetricName(tag=name)) for name in [*METRICS, "latents/active_units"]
    ]
    experiment = api.Experiment(hparam_infos=columns, metric_infos=scores)
    for old in (folder / FOLDER).glob("events.*"):
        old.unlink()
    with SummaryWriter(str(folder / FOLDER)) as writer:
        assert writer.file_writer is not None
        writer.file_writer.add_summary(
            hparams_summary(metadata.EXPERIMENT_TAG, experiment=experiment)
        )
