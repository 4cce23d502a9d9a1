"""Measures of a trained model: log p(x), latents, samples, and the optimum of a linear VAE."""
