"""Lightning as in its introduction: torchvision's MNIST in a DataLoader, logging at every step."""

import tempfile

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from benchmarks.contenders import common
from benchmarks.contenders.hand import VAE, terms


class Module(LightningModule):
    """The model of the hand-written loop as a LightningModule."""

    def __init__(self, model: VAE, samples: int) -> None:
        super().__init__()
        self.model, self.samples = model, samples

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the loss per image and logs it."""
        x = batch[0].flatten(1)
        loss, neg_elbo = terms(*self.model(x, self.samples))
        self.log("train_loss", loss / len(x), prog_bar=True, on_step=True, on_epoch=True)
        self.log("train_neg_elbo", neg_elbo / len(x), on_step=True, on_epoch=True)
        return loss / len(x)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns Adam with learning rate 1e-3."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Report(Callback):
    """Prints the line after each epoch."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the line."""
        loss = float(trainer.callback_metrics["train_neg_elbo_epoch"])
        print(flush=True)  # ends the line of the progress bar
        common.report(trainer.current_epoch + 1, trainer.max_epochs, loss)


def main() -> None:
    """Trains and prints a line after each epoch."""
    args = common.arguments(__doc__)
    common.seed()
    data = MNIST(args.root, train=True, transform=ToTensor())
    loader = DataLoader(data, batch_size=args.batch_size, shuffle=True)
    module = Module(VAE(args.model, args.width, args.latent_dim), args.samples)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=args.epochs,
            accelerator="cpu",
            log_every_n_steps=1,
            logger=TensorBoardLogger(folder),
            callbacks=[Report()],
        )
        trainer.fit(module, loader)


if __name__ == "__main__":
    main()
