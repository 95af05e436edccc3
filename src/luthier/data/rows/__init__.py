"""Rows in the form of their schema: canonical columns, labels, subsets, and tasks posed as text."""
