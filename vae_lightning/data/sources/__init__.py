"""Sources of image data sets."""
