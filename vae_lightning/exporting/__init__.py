"""Export of a model: graphs of its functions, and a model card."""
