"""Numerical verification of the identities that the package relies on, and of trained models."""
