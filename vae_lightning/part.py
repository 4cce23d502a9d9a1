"""What a prior, likelihood, posterior or objective may say about the others and about the data."""

from torch import Tensor, nn


class Part(nn.Module):
    """A choice that can refuse to be joined with others, or start from the training images. Both are optional."""

    def check(self, encoder: nn.Module, prior: nn.Module, classes: int) -> None:
        """Raises ValueError, with the reason, if it makes no sense with these; ``classes`` > 0: told the label."""

    def start_from(self, images: Tensor, binarized: bool) -> None:
        """Takes what it needs of the training images (N, C, H, W), uint8, before training.

        ``binarized``: the pixels that it will see are only 0 and 1, drawn from these. Raises ValueError, with the
        option that would fit, for images outside its support.
        """


def is_binary(images: Tensor) -> bool:
    """Whether all pixels of uint8 images are 0 or 255."""
    return bool(((images == 0) | (images == 255)).all())
