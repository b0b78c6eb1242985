"""Publishes the variants that passed to an edge model registry."""
