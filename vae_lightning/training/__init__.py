"""Training: the LightningModule, the experiment that trains and tests it, and its records."""
