"""How many batches of the images a run uses, and where it pauses between them."""

from typing import NamedTuple

from vae_lightning.checks.errors import ConfigError

Amount = int | float | None  # of batches: a number, a fraction of all, or None for all


class Limits(NamedTuple):
    """Which part of the batches is used; the defaults use all of them."""

    train: Amount = None
    val: Amount = None
    test: Amount = None
    is_shuffled: bool = True  # false: the first training images, in the same order in every epoch
    accumulated: int = 1  # training batches of an optimizer step
    val_interval: int | float = 1.0  # training batches between validations, or a part of an epoch
    max_steps: int | None = None  # optimizer steps after which the run stops

    def check_interval(self, interval: int, count: int) -> None:
        """Raises ConfigError for an interval of validations that ``count`` batches do not allow."""
        if interval > count:
            raise ConfigError(
                f"trainer.val_check_interval={interval}: must be at most {count}, the training"
                " batches of an epoch"
            )
        if interval < count and interval % self.accumulated:
            raise ConfigError(
                f"trainer.val_check_interval={self.val_interval}: must be a multiple of"
                f" trainer.accumulate_grad_batches={self.accumulated}, and is {interval} batches"
            )


def limited(count: int, amount: Amount, key: str) -> int:
    """The number of batches that are used out of ``count``.

    Raises ConfigError, with the key, for a fraction that leaves no batch.
    """
    if amount is None:
        return count
    if isinstance(amount, int):
        return min(count, amount)
    used = int(count * amount)
    if not used and amount:
        raise ConfigError(
            f"{key}={amount}: must be at least {1 / count:.2g}, one of {count} batches"
        )
    return used


def group_ends(count: int, size: int, interval: int) -> list[int]:
    """The batches, of ``count`` in an epoch, after which groups of about ``size`` batches end.

    A group ends at each multiple of ``interval``, and all intervals have the same number of groups.
    Batches that are left over at the end of the epoch have fewer groups: Lightning counts groups,
    and would otherwise validate after them.
    """
    rest = count % interval
    size = min(size, -(-interval // 2)) if rest else size
    groups = -(-interval // size)
    ends = [
        start + min(first + size, interval)
        for start in range(0, count - rest, interval)
        for first in range(0, interval, size)
    ]
    if rest:
        size = -(-rest // (groups - 1))
        ends += [count - rest + min(first + size, rest) for first in range(0, rest, size)]
    return ends
