"""Runs the cells of a comparison: grids, presets and searches."""
