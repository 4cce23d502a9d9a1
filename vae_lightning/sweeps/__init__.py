"""Sweeps: many runs from one command, and comparisons of their results."""
