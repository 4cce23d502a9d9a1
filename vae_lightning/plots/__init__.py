"""Pictures of a model: views, true posteriors, and the callback that draws during training."""
