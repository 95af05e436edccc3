"""What the name of a score or cost says about it."""

from __future__ import annotations

import math
import re

LOWER_IS_BETTER = frozenset(
    {"loss", "perplexity", "error", "ece", "mce", "nll", "brier", "fpr", "fpr95", "wer", "latency"}
    # Edit distances of translations and transcripts, errors of numbers, bits that a letter or a byte takes.
    | {"ter", "cer", "mae", "mse", "rmse", "bits", "bpb"}
    | {"violation", "success", "refusal", "stereotype"}
    | {"seconds", "memory", "bytes", "parameters"}
    # Of tokenizers, and of models over several of them: unknown tokens, tokens or nats a letter.
    | {"unknown", "letter"}
)

_SHARES = frozenset(
    {"accuracy", "acc", "f1", "precision", "recall", "ece", "mce", "error", "auroc", "aupr", "fpr", "fpr95"}
)
_SHARES |= {"acc", "match", "coverage", "violation", "success", "refusal", "helpfulness"}
_CORRELATIONS = frozenset({"correlation", "pearson", "spearman"})


# Means over rows of a number from 0 to 1, so that N rows that all came out alike bound them.
_MEANS_OF_ROWS = frozenset({"accuracy", "subset_accuracy", "exact_match", "question_exact_match", "squad_f1"})


def is_mean_of_rows(name: str) -> bool:
    """Whether a score is the mean over rows, or over questions, of a number from 0 to 1: `test/accuracy`."""
    return name.rpartition("/")[2] in _MEANS_OF_ROWS


def is_mean_of_tokens(name: str) -> bool:
    """Whether a score of a language model is a mean over tokens, which differ with the tokenizer: `test/perplexity`."""
    return name.rpartition("/")[2] in ("loss", "perplexity")


def higher_is_better(name: str) -> bool:
    """Whether more of a score or cost is better, by the words of its name: `test/expected_calibration_error`."""
    return LOWER_IS_BETTER.isdisjoint(_words(name))


def _words(name: str) -> list[str]:
    return re.split(r"[^a-z0-9]+", name.rpartition("/")[2].lower())


def range_of(name: str) -> tuple[float, float]:
    """The least and the most that a score can be, by the words of its name; infinite where it has no such end."""
    words = set(_words(name))
    if words & _CORRELATIONS:
        return -1.0, 1.0
    if "squared" in words or not words & _SHARES:
        return (0.0, math.inf) if not LOWER_IS_BETTER.isdisjoint(words) else (-math.inf, math.inf)
    return 0.0, 1.0
