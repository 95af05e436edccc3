"""Changed texts: typing errors, rewrites that keep the meaning, and word substitutions chosen against a model."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "corrupt": "luthier.robustness.attacks.noise",
    "rewrite": "luthier.robustness.attacks.rewrites",
    "WordSubstitution": "luthier.robustness.attacks.substitution",
    "AttackResult": "luthier.robustness.attacks.substitution",
    "EmbeddingNeighbours": "luthier.robustness.attacks.candidates",
    "MaskedWords": "luthier.robustness.attacks.candidates",
    "as_textattack_wrapper": "luthier.robustness.attacks.textattack",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
