"""What one would use instead, each a command that trains the same model and prints a line after each epoch."""
