"""Composes configurations with Hydra, checks them and builds objects from them."""
