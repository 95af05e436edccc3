"""Outputs of the frozen part of a model, computed once and kept on disk."""
