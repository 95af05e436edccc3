"""Texts that models write, many at a time, from any back end: what the rooms share that ask models."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "Asking": "luthier.generation.asking",
    "Request": "luthier.generation.writing",
    "Rollout": "luthier.generation.rollout",
    "Writer": "luthier.generation.writing",
    "Written": "luthier.generation.writing",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
