"""Metrics and evaluation suites that more than one room uses."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "predict_rows": "luthier.evaluation.prediction",
    "Predictions": "luthier.evaluation.prediction",
    "score": "luthier.evaluation.metrics",
    "bootstrap_interval": "luthier.evaluation.metrics",
    "expected_calibration_error": "luthier.evaluation.calibration",
    "reliability_bins": "luthier.evaluation.calibration",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
