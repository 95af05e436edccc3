"""Runs the stages of one recipe in a run directory, plans them, and continues what was stopped."""
