"""Measures every TFLite variant against the gate."""
