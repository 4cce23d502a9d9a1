"""pythae 0.1.2 with its own trainer and VAE, at the same widths.

https://github.com/clementchadebec/benchmark_VAE
"""

import tempfile

import torch
from torch import Tensor, nn

from benchmarks.contenders import common

try:
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback
except ModuleNotFoundError as error:
    common.refuse(__doc__, error)


class Encoder(BaseEncoder):
    """The encoder 784-width-latent_dim."""

    def __init__(self, width: int, latent_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(784, width), nn.ReLU())
        self.mean, self.log_var = nn.Linear(width, latent_dim), nn.Linear(width, latent_dim)

    def forward(self, x: Tensor) -> ModelOutput:
        """Returns mean and log variance."""
        hidden = self.hidden(x.flatten(1))
        return ModelOutput(embedding=self.mean(hidden), log_covariance=self.log_var(hidden))


class Decoder(BaseDecoder):
    """The decoder latent_dim-width-784."""

    def __init__(self, width: int, latent_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, width), nn.ReLU(), nn.Linear(width, 784), nn.Sigmoid()
        )

    def forward(self, z: Tensor) -> ModelOutput:
        """Returns the decoded images."""
        return ModelOutput(reconstruction=self.layers(z).view(-1, 1, 28, 28))


class Report(TrainingCallback):
    """Prints the line after each epoch."""

    epoch = 0

    def on_log(
        self, training_config: BaseTrainerConfig, logs: dict[str, float], **others: object
    ) -> None:
        """Prints the line."""
        self.epoch += 1
        common.report(self.epoch, training_config.num_epochs, float(logs["train_epoch_loss"]))


def main() -> None:
    """Trains and prints a line after each epoch."""
    args = common.arguments(__doc__)
    common.require_mlp(args)
    data = common.pixels(args.root)[:, None].float() / 255
    model = VAE(
        VAEConfig(input_dim=(1, 28, 28), latent_dim=args.latent_dim),
        encoder=Encoder(args.width, args.latent_dim),
        decoder=Decoder(args.width, args.latent_dim),
    )
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=args.epochs,
            learning_rate=1e-3,
            per_device_train_batch_size=args.batch_size,
            no_cuda=True,
        )
        trainer = BaseTrainer(
            model=model,
            train_dataset=BaseDataset(data, torch.zeros(len(data))),
            training_config=config,
            callbacks=[Report()],
        )
        trainer.train()


if __name__ == "__main__":
    main()
