"""What a file of examples seems to hold: its format, its columns and its task. Nothing here imports torch."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {"Guess": "luthier.data.guessing.guess", "guess_data": "luthier.data.guessing.guess"}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
