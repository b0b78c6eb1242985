"""The search for a base, an input size and a variant that fit a budget, before a run is made."""
