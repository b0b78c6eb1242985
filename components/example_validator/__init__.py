"""Compares the statistics of each split with the schema."""
