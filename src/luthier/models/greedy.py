"""How a model is asked for the likeliest token at every place, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# A checkpoint may bring settings of its own, such as beams, a penalty on repetition or a least length.
GREEDY: Mapping[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_new_tokens": 0,  # goes before a checkpoint's `min_length`
}
