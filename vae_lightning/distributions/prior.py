"""Priors p(z): modules whose forward takes nothing and returns a distribution over latent vectors."""

from torch import nn

from vae_lightning.distributions.normal import StandardNormal


class StandardNormalPrior(nn.Module):
    """p(z) = N(0, I), the seed's prior."""

    def forward(self) -> StandardNormal:
        """The prior: it has no parameters."""
        return StandardNormal()
