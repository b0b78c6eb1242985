"""Rewrites a SavedModel into TFLite variants."""
