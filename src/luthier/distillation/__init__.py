"""Distillation over a graph of models: who learns from whom, by which weight, for how long."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "DistillationTrainer": "luthier.distillation.trainer",
    "Edge": "luthier.distillation.edge",
    "Schedule": "luthier.distillation.schedules",
    "divergence": "luthier.distillation.divergences",
    "remap_parameters": "luthier.models.remapping",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
