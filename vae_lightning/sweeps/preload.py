"""What the jobs of a sweep have in common: importing it takes seconds, and is done once.

multiprocessing imports this module in the process from which it forks the jobs. Nothing here may
compute: a child of a process that has run a parallel product waits forever for its threads.
"""

import importlib
import os

import torch
from lightning.pytorch.trainer.connectors.logger_connector import result
from PIL import Image
from torchmetrics import Metric

MODULES = (
    "sklearn.datasets.data",
    "sklearn.datasets.descr",
    "tensorboard.plugins.hparams.metadata",
    "torch.utils.serialization.config",
    "torch.utils.tensorboard",
    "vae_lightning.compile",
    "vae_lightning.data.sources.digits",
    "vae_lightning.plots.gallery",
    "vae_lightning.sweeps.job",
    "vae_lightning.training.experiment",
)

for name in MODULES:
    importlib.import_module(name)
Image.init()
# Lightning asks whether each part of a logged value is a metric. The first answer for each type
# takes half a second, because Python visits all classes of torchmetrics; it then remembers it.
for kind in (result._Sync, result._Metadata, result._ResultMetric, torch.Tensor, float, int, str):
    issubclass(kind, Metric)
# Ctrl-C in a terminal reaches all processes of its group: the driver alone decides about the jobs.
os.setsid()
