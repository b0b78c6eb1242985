"""Measurements of what the project promises, as ratios from one run on one machine."""
