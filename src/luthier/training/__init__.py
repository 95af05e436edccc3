"""The one way a model is trained here: transformers' Trainer, with whole checkpoints, exact resume and guards."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "LuthierTrainer": "luthier.training.trainer",
    "TrainingJob": "luthier.training.job",
    "train": "luthier.training.job",
    "TrainingSettings": "luthier.training.settings",
    "CostMeter": "luthier.evaluation.meters",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
