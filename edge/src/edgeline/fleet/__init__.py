"""What devices report, whose reports count, and what follows from them."""
