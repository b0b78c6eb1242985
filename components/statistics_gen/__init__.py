"""Describes the raw examples of each split."""
