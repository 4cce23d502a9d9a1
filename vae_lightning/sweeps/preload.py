"""What the jobs of a sweep have in common: importing it takes seconds, and is done once.

multiprocessing imports this module in the process from which it forks the jobs. Nothing here may
compute: a child of a process that has run a parallel product waits forever for its threads.
"""

import os

import sklearn.datasets  # noqa: F401
import torch.utils.tensorboard  # noqa: F401

import vae_lightning.compile
import vae_lightning.plots.gallery
import vae_lightning.sweeps.job
import vae_lightning.training.experiment  # noqa: F401

# Ctrl-C in a terminal reaches all processes of its group: the driver alone decides about the jobs.
os.setsid()
