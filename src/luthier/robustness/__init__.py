"""Robust fine-tuning: RoAST, the methods it is compared with, attacks, and the five-score report."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "RoastTrainer": "luthier.robustness.trainer",
    "RoastMixin": "luthier.robustness.trainer",
    "ObjectiveMixin": "luthier.objectives.mixin",
    "RoastSettings": "luthier.robustness.settings",
    "RobustnessReport": "luthier.robustness.report",
    "EvaluationSet": "luthier.robustness.report",
    "Scorer": "luthier.robustness.scoring",
    "expected_calibration_error": "luthier.evaluation.calibration",
    "anomaly_auroc": "luthier.robustness.metrics",
    "aggregate_improvement": "luthier.robustness.metrics",
    "average_rank": "luthier.robustness.metrics",
    "fit_temperature": "luthier.robustness.temperature",
    "fold_temperature": "luthier.robustness.temperature",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
