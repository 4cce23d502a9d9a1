"""Attacks on runs: signals, kills, damaged folders, foreign configurations, wrong commands."""
