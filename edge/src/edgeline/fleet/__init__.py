"""What follows, for whoever looks after a fleet, from what its devices report."""
