"""One module a tuning method; importing it registers the method."""
