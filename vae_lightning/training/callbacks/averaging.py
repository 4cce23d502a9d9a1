"""Averages of the weights over optimizer steps or epochs."""

from typing import Annotated, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vae_lightning.checks.errors import ConfigError
from vae_lightning.checks.ranges import Integer, Number, Option
from vae_lightning.training.callbacks.step import StepCallback
from vae_lightning.training.lightning_progress import callbacks_of

TRAINED = "current_model_state"  # the weights that are trained, in a checkpoint of Lightning's too


class Averaging(StepCallback):
    """Base class of averages: validation and checkpoints use the average instead of the weights.

    The state_dict of a checkpoint holds the average; the weights that the training continues with
    are beside it. Buffers are not averaged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.average: list[Tensor] = []  # empty before the training
        self.updates = 0

    def update(self, module: LightningModule, decay: float) -> None:
        """Updates the average: average = decay * average + (1 - decay) * weights."""
        get_ema_multi_avg_fn(decay)(self.average, parameters(module), self.updates)
        self.updates += 1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts from the weights, unless a checkpoint was loaded."""
        weights = parameters(pl_module)
        if not self.average:
            self.average = [weight.clone() for weight in weights]
        self.average = [each.to(weight) for each, weight in zip(self.average, weights, strict=True)]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the validation use the average."""
        self.swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the training continue with its weights."""
        self.swap(pl_module)

    def swap(self, module: LightningModule) -> None:
        """Exchanges the weights of the module and the average."""
        if self.average:
            for average, weight in zip(self.average, parameters(module), strict=True):
                trained = weight.clone()
                weight.copy_(average)
                average.copy_(trained)

    def state_dict(self) -> dict[str, Any]:
        """The number of updates."""
        return super().state_dict() | {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues with the number of updates."""
        super().load_state_dict(state_dict)
        self.updates = state_dict["updates"]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Saves the average as the weights, and the weights beside it."""
        checkpoint[TRAINED] = checkpoint["state_dict"]
        names = (name for name, _ in pl_module.named_parameters())
        averages = dict(zip(names, self.average, strict=True))
        checkpoint["state_dict"] = checkpoint[TRAINED] | averages

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Continues with the average and the weights."""
        names = (name for name, _ in pl_module.named_parameters())
        self.average = [checkpoint["state_dict"][name].clone() for name in names]
        load_trained(pl_module, checkpoint)


class EMA(Averaging):
    """The exponential moving average of the weights: average = d average + (1 - d) weights.

    Polyak & Juditsky 1992, https://doi.org/10.1137/0330046, with exponential weights. It starts
    from the weights before the first step. With ``every_n_steps`` = n > 1, it is updated after
    every n-th step, with d^n.

    Args:
        decay: d of one optimizer step.
        every_n_steps: optimizer steps between updates; more take less time.
    """

    def __init__(
        self,
        decay: Annotated[float, Option("decay of one optimizer step", Number(least=0, below=1))],
        every_n_steps: Annotated[
            int, Option("optimizer steps between updates of the average", Integer(1))
        ],
    ) -> None:
        super().__init__()
        self.every_n_steps = every_n_steps
        self.decay = decay**every_n_steps

    def after_step(self, module: LightningModule, steps: int) -> None:
        """Updates the average after every n-th step."""
        if steps % self.every_n_steps == 0:
            self.update(module, self.decay)


class SWA(Averaging):
    """The mean of the weights at the ends of the epochs from ``start_epoch`` on.

    Before that, the average is the weights. Izmailov et al. 2018, https://arxiv.org/abs/1803.05407;
    the learning rate is that of ``scheduler``.

    Args:
        start_epoch: the first epoch that is averaged, counted from 1.
    """

    def __init__(
        self,
        start_epoch: Annotated[int, Option("first epoch that is averaged, from 1", Integer(1))],
    ) -> None:
        super().__init__()
        self.start_epoch = start_epoch

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Updates the average after the last step of an epoch, before its validation."""
        if trainer.is_last_batch:
            is_averaged = trainer.current_epoch + 1 >= self.start_epoch
            self.update(pl_module, self.updates / (self.updates + 1) if is_averaged else 0.0)
            self.updates = self.updates if is_averaged else 0


class TrainedWeights(Callback):
    """Continues with the weights that are trained where a checkpoint holds their average too."""

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Loads them."""
        load_trained(pl_module, checkpoint)


def load_trained(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Loads the weights that are trained, if the checkpoint has them beside their average."""
    if TRAINED in checkpoint:
        module.load_state_dict(checkpoint[TRAINED])


def parameters(module: LightningModule) -> list[Tensor]:
    """The parameters of the module, without gradients."""
    return [parameter.detach() for parameter in module.parameters()]


def average_of(trainer: Trainer) -> str | None:
    """The name of the callback that averages the weights of best.ckpt; None if there is none.

    Raises ConfigError if there are several.
    """
    kinds = (Averaging, WeightAveraging, StochasticWeightAveraging)
    names = [type(each).__name__ for each in callbacks_of(trainer) if isinstance(each, kinds)]
    if len(names) > 1:
        raise ConfigError(
            f"callbacks: must average the weights once, not by {' and '.join(names)}; choose"
            f" {' or '.join(name.lower() if name.isupper() else name for name in names)}"
        )
    return names[0] if names else None


def averages_at_end(trainer: Trainer) -> bool:
    """Whether the weights became an average after the last epoch, by Lightning's own class."""
    own = any(isinstance(each, StochasticWeightAveraging) for each in callbacks_of(trainer))
    return own and trainer.current_epoch == trainer.max_epochs
