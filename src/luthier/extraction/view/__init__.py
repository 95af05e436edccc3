"""What was extracted, to look at: a page of its own, and graphs for other programs."""
