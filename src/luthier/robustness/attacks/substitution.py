"""Greedy word substitution against a classifier, with the search orders and constraints of three published attacks.

The order of words comes from deleting them (TextFooler, Jin et al., AAAI 2020), from masking them (BERT-Attack, Li et
al., EMNLP 2020), or from masking them weighted by what the best substitute gains (PWWS, Ren et al., ACL 2019).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from luthier.data.words import WORD
from luthier.progress import track
from luthier.robustness.scoring import Text

Order = Literal["delete", "mask", "weighted"]
Candidates = Callable[[Sequence[str], int], list[str]]
_WORD = re.compile(rf"{WORD.pattern}(?:['’]{WORD.pattern})?")  # noqa: RUF001
_STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "and",
        "or",
        "but",
        "if",
        "of",
        "at",
        "by",
        "for",
        "with",
        "about",
        "to",
        "from",
        "in",
        "on",
        "off",
        "over",
        "under",
        "is",
        "am",
        "are",
        "was",
        "were",
        "be",
        "been",
        "being",
        "have",
        "has",
        "had",
        "do",
        "does",
        "did",
        "i",
        "you",
        "he",
        "she",
        "it",
        "we",
        "they",
        "me",
        "him",
        "her",
        "us",
        "them",
        "my",
        "your",
        "his",
        "its",
        "our",
        "their",
        "this",
        "that",
        "these",
        "those",
        "not",
        "no",
        "nor",
        "as",
        "than",
        "so",
        "too",
        "very",
        "can",
        "will",
        "just",
        "should",
        "would",
        "could",
        "there",
        "here",
        "what",
        "which",
        "who",
        "whom",
        "when",
        "where",
        "why",
        "how",
    ]
)


@dataclass(frozen=True)
class AttackResult:
    """What became of one text.

    Attributes:
        original, attacked: the text before and after.
        label: the right class.
        success: whether the model was right before and is wrong now.
        skipped: whether the model was wrong already, so that nothing was tried.
        changed: words replaced.
        queries: texts the model was asked about.
    """

    original: Text
    attacked: Text
    label: int
    success: bool
    skipped: bool
    changed: int
    queries: int


@dataclass(frozen=True)
class WordSubstitution:
    """Replaces words of the last text of a row, most important ones first, until the classifier errs.

    Attributes:
        probabilities: texts -> (N, C), `Scorer.probabilities` for one.
        candidates: words, position -> substitutes.
        order: how words are ranked.
        max_changed: largest share of words that may change; one word always may.
        unknown: what stands for a masked word.
        similarity: original, changed -> number; substitutes below `min_similarity` are not taken.
        min_similarity: see `similarity`.
    """

    probabilities: Callable[[Sequence[Text]], np.ndarray]
    candidates: Candidates
    order: Order = "delete"
    max_changed: float = 0.4
    unknown: str = "[UNK]"
    similarity: Callable[[str, str], float] | None = None
    min_similarity: float = 0.8

    def attack(self, text: Text, label: int) -> AttackResult:
        """Attack one text, or the second of a pair; the first, the premise, is kept.

        Args:
            text: what the model reads.
            label: id of its right class.

        Raises:
            ValueError: the classifier has no such class.
        """
        search = _Search(self, text, label)
        if search.first.argmax() != label:
            return AttackResult(text, text, label, False, True, 0, search.queries)
        budget = max(1, int(self.max_changed * len(search.spans)))
        for at in search.ranked():
            if search.changed >= budget:
                break
            if search.replace(at):
                return AttackResult(
                    text, search.whole(search.words), label, True, False, search.changed, search.queries
                )
        return AttackResult(text, search.whole(search.words), label, False, False, search.changed, search.queries)

    def attack_all(self, texts: Sequence[Text], labels: Sequence[int]) -> list[AttackResult]:
        """Attack every text."""
        found: list[AttackResult] = []
        with track("word substitution", len(texts)) as bar:
            for text, label in zip(texts, labels, strict=True):
                found.append(self.attack(text, int(label)))
                bar.update(len(found), f"{sum(one.success for one in found)} broken")
        return found


class _Search:
    """The state of one attack: the words as they stand, and the right class's probability with them."""

    def __init__(self, attack: WordSubstitution, text: Text, label: int) -> None:
        self.how, self.label, self.text = attack, label, text
        self.target = text if isinstance(text, str) else text[-1]
        self.spans = [m.span() for m in _WORD.finditer(self.target)]
        self.words = [self.target[a:b] for a, b in self.spans]
        self.changed, self.queries = 0, 0
        self.first = self.ask([self.words])[0]
        if label not in range(len(self.first)):
            raise ValueError(f"label {label!r} is no number of the classifier's {len(self.first)} classes")
        self.score = float(self.first[label])

    def whole(self, words: Sequence[str]) -> Text:
        """The row with these words in the places of its own."""
        pieces, end = [], 0
        for (start, stop), word in zip(self.spans, words, strict=True):
            pieces += [self.target[end:start], word]
            end = stop
        new = "".join(pieces) + self.target[end:]
        return new if isinstance(self.text, str) else (self.text[0], new)

    def ask(self, variants: Sequence[Sequence[str]]) -> np.ndarray:
        self.queries += len(variants)
        return self.how.probabilities([self.whole(v) for v in variants])

    def ranked(self) -> list[int]:
        """Positions that may change, most important first."""
        free = [i for i, w in enumerate(self.words) if w.lower() not in _STOP_WORDS]
        if not free:
            return []
        blank = "" if self.how.order == "delete" else self.how.unknown
        drop = self.score - self.ask([self.with_word(i, blank) for i in free])[:, self.label]
        if self.how.order == "weighted":
            weight = np.exp(drop - drop.max())
            drop = weight / weight.sum() * np.array([self.best_gain(i) for i in free])
        return [free[i] for i in np.argsort(-drop, kind="stable")]

    def best_gain(self, at: int) -> float:
        options = self.options(at)
        return float(self.score - self.ask(options)[:, self.label].min()) if options else 0.0

    def with_word(self, at: int, word: str) -> list[str]:
        return [*self.words[:at], word, *self.words[at + 1 :]]

    def options(self, at: int) -> list[list[str]]:
        """The words with each allowed substitute at a position."""
        old = self.words[at]
        found = [w.capitalize() if old[0].isupper() else w for w in self.how.candidates(self.words, at)]
        return [self.with_word(at, w) for w in found if w.lower() != old.lower() and w.lower() not in _STOP_WORDS]

    def replace(self, at: int) -> bool:
        """Take the substitute that hurts most, or among those that flip the decision the nearest to the original."""
        options = [o for o in self.options(at) if self.near(o)]
        if not options:
            return False
        answers = self.ask(options)
        flips = [i for i, answer in enumerate(answers) if answer.argmax() != self.label]
        best = max(flips, key=lambda i: self.nearness(options[i])) if flips else int(answers[:, self.label].argmin())
        if not flips and answers[best, self.label] >= self.score:
            return False
        self.words, self.score = options[best], float(answers[best, self.label])
        self.changed += 1
        return bool(flips)

    def nearness(self, words: Sequence[str]) -> float:
        if self.how.similarity is None:
            return 0.0
        new = self.whole(words)
        return self.how.similarity(self.target, new if isinstance(new, str) else new[-1])

    def near(self, words: Sequence[str]) -> bool:
        return self.how.similarity is None or self.nearness(words) >= self.how.min_similarity
