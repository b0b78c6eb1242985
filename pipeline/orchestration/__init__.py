"""The pipeline as a graph of steps, and what runs it: here, or on Kubeflow."""
