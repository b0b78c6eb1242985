"""The report of a run: one HTML file that opens anywhere, for the person who decides."""
