"""Checks of user input and the error for invalid input. Imports no heavy packages."""
