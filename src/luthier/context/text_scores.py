"""Scores of written answers against a reference: overlap of words and of their sequences, in [0, 1].

ROUGE is that of Lin, “ROUGE: A Package for Automatic Evaluation of Summaries” (2004), F-measures on lower-case words
without stemming; its geometric mean is that of SCROLLS (Shaham et al., EMNLP 2022), over averages.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from luthier.data.words import MARKS
from luthier.evaluation.metrics import answer_f1, exact_match

_UNPARTED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"  # Thai to Khmer, kana, Han
_WORD = re.compile(rf"[{_UNPARTED}][{MARKS}]*|(?:[^\W_{_UNPARTED}][{MARKS}]*)+")


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers of any script; of those without blanks, each character. Marks, such as the vowels of
    Indic scripts, stay with their letter, however it is encoded."""
    return _WORD.findall(unicodedata.normalize("NFC", text.lower()))


def rouge_n(written: str, wanted: str, n: int) -> float:
    """F-measure of the common sequences of n words."""
    a, b = (Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in map(words_of, (written, wanted)))
    common = (a & b).total()
    return 2 * common / (a.total() + b.total()) if common else 0.0


def rouge_l(written: str, wanted: str) -> float:
    """F-measure of the longest common subsequence of words."""
    a, b = words_of(written), words_of(wanted)
    if not a or not b:
        return 0.0
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for place, other in enumerate(b, 1):
            before, row[place] = row[place], before + 1 if word == other else max(row[place], row[place - 1])
    return 2 * row[-1] / (len(a) + len(b))


def scores_of_texts(written: Sequence[str], wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """name -> (N,) of `f1` and `exact_match` after SQuAD's rule, `rouge_1`, `rouge_2` and `rouge_l`."""
    pairs = list(zip(written, wanted, strict=True))
    return {
        "f1": np.array([answer_f1([[b]], [a]) for a, b in pairs]),
        "exact_match": np.array([exact_match([[b]], [a]) for a, b in pairs]),
        "rouge_1": np.array([rouge_n(a, b, 1) for a, b in pairs]),
        "rouge_2": np.array([rouge_n(a, b, 2) for a, b in pairs]),
        "rouge_l": np.array([rouge_l(a, b) for a, b in pairs]),
    }


def rouge_geo(scores: dict[str, np.ndarray]) -> float:
    """(R1 R2 RL)^(1/3) of the means."""
    return float(np.prod([scores[f"rouge_{n}"].mean() for n in ("1", "2", "l")]) ** (1 / 3))
