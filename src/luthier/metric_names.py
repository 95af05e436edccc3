"""What the name of a score or cost says about it."""

from __future__ import annotations

import re

LOWER_IS_BETTER = frozenset(
    {"loss", "perplexity", "error", "ece", "mce", "nll", "brier", "fpr", "fpr95", "wer", "latency"}
    | {"seconds", "memory", "bytes", "parameters"}
)


def higher_is_better(name: str) -> bool:
    """Whether more of a score or cost is better, by the words of its name: `test/expected_calibration_error`."""
    return LOWER_IS_BETTER.isdisjoint(re.split(r"[^a-z0-9]+", name.rpartition("/")[2].lower()))
