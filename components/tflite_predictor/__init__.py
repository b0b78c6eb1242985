"""Predicts a split with the float model, every TFLite variant and the deployed release."""
