"""Measures the speed of training and compares the results of revisions."""
