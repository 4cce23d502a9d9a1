"""A small classifier of the labels, whose features measure the similarity of images.

It is trained on the training images, so it requires no download.
Shapes: N images, C H W of an image, F features.
"""

import hashlib
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_lightning import rng
from vae_lightning.data.splits import random_part
from vae_lightning.evaluation.batches import TrainingImages, at_once, split_images
from vae_lightning.evaluation.needs import LeftOut
from vae_lightning.networks import UNCONDITIONAL
from vae_lightning.storage.files import atomic_write

FEATURES, EPOCHS, BATCH = 64, 3, 128
LEARNING_RATES = (2e-3, 2e-4)  # the second one is used if the first one makes all features 0


class Classifier(nn.Module):
    """Maps images (N, C, H, W) to logits (N, classes); ``features`` is all but the last layer."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.LazyLinear(FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits (N, classes) of images x (N, C, H, W)."""
        return self.head(self.features(x))


def cache_file(images: Tensor, labels: Tensor) -> Path:
    """Returns the path of the cached classifier for these training images and labels.

    The file name also depends on the hyperparameters of the classifier and on the PyTorch version.
    """
    recipe = (
        f"{FEATURES} {EPOCHS} {BATCH} {LEARNING_RATES} {tuple(images.shape)} {torch.__version__}"
    )
    digest = hashlib.sha256(recipe.encode())
    for values in (images, labels):
        for part in values.split(10_000):
            digest.update(part.cpu().numpy().tobytes())
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return root / "vae_lightning" / f"classifier-{digest.hexdigest()[:16]}.pt"


def classifier(training: TrainingImages, device: torch.device) -> Classifier:
    """Returns the classifier of training images with labels from 0 on, in evaluation mode.

    It is loaded from the cache, or trained if it is not there (about ten seconds on two cores).
    Raises LeftOut if training fails: if its features are the same for all images.
    """
    images, labels = training.images.to(device), training.labels.to(device)
    path = cache_file(images, labels)
    model = untrained(images, labels)
    if path.is_file():
        model.load_state_dict(torch.load(path, weights_only=True, map_location=device))
        return model.eval()
    some = images[random_part(len(images), 1000, "features").to(device)]
    for rate in LEARNING_RATES:
        model = untrained(images, labels)
        train(model, images, labels, rate)
        if float(features_of(model, some).std(0).max()) > 0:
            with atomic_write(path) as temporary:
                torch.save(model.state_dict(), temporary)
            return model.eval()
    raise LeftOut("requires a classifier that tells the images apart, which did not learn to")


def untrained(images: Tensor, labels: Tensor) -> Classifier:
    """Returns the classifier for these images and labels before training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(images.shape[1], int(labels.max()) + 1).to(images.device)
        model(images[:1].float() / 255)  # initializes the lazy layer
    return model


def train(model: Classifier, images: Tensor, labels: Tensor, rate: float) -> None:
    """Trains the model with cross-entropy on uint8 images (N, C, H, W) and labels (N,)."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images), generator=rng.generator("cpu", 0, "classifier", epoch))
        for index in order.to(images.device).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(images[index].float() / 255), labels[index]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    """Returns the accuracy of the classifier on uint8 images (N, C, H, W) and labels (N,)."""
    correct = [
        (model(x).argmax(-1) == labels[index]).sum()
        for index, x, _ in split_images(images, UNCONDITIONAL, 1000)
    ]
    return float(sum(correct)) / len(images)


@torch.no_grad()
def features_of(model: Classifier, images: Tensor) -> Tensor:
    """Returns the features (N, F) of uint8 images, or of images in [0, 1], (N, C, H, W).

    They are float64 on the CPU.
    """
    parts = images.split(at_once(images, 1000))
    inputs = (part.float() / 255 if part.dtype == torch.uint8 else part for part in parts)
    return torch.cat([model.features(x).double().cpu() for x in inputs])
