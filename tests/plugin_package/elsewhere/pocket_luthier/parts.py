"""Registers all parts; the entry point and the recipe's `plugins` name this module."""

from pocket_luthier import grades, norms, predictor, stage

__all__ = ["grades", "norms", "predictor", "stage"]
