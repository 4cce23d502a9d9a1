"""Code that all commands share: arguments, exit codes and terminal output.

Imports no heavy packages.
"""
