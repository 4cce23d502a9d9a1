"""Image data: sources, splits and batches."""
