"""Loads a run: its configuration, its model with weights and, on demand, its data."""
