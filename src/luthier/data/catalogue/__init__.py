"""Public data sets by name: where they are, and what their columns mean."""
