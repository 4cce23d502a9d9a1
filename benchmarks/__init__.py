"""Speed of the training command against what one would use instead, and how its cost grows."""
