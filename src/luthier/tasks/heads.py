"""Which head a language model has."""

from __future__ import annotations

from luthier.models.head_kinds import Head

LANGUAGE_HEADS: dict[bool, Head] = {True: "seq2seq_lm", False: "causal_lm"}
