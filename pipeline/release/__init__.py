"""What a model must reach, what it is compared with, and where it goes."""
