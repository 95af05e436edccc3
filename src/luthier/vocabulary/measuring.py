"""What a tokenizer does to text, language by language: of any tokenizer, ours or not.

Source of the measures: XLM-V, sections 4 and 5, and Rust et al., “How Good is Your Tokenizer?” (ACL 2021) for
fertility and continued words; parity is Petrov et al., “Language Model Tokenizers Introduce Unfairness” (NeurIPS
2023).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.errors import ModelError
from luthier.models.loading import load_tokenizer, tokenizer_in
from luthier.models.native_encoder import MODEL_FILE
from luthier.vocabulary.unigram import batches

QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
_BATCH, _POINTS = 1000, 60


@dataclass(frozen=True)
class LanguageMeasures:
    """Of one language; no special tokens are counted.

    Attributes:
        sentences, tokens, words, letters: how many; words are parted by blanks.
        unknown: tokens that stand for what the vocabulary lacks.
        continued: words of two or more tokens, each cut by itself as behind a blank.
        distinct: different tokens.
    """

    sentences: int
    tokens: int
    words: int
    letters: int
    unknown: int
    continued: int
    distinct: int

    @property
    def tokens_a_sentence(self) -> float:
        """Tokens of a sentence."""
        return self.tokens / max(1, self.sentences)

    @property
    def fertility(self) -> float:
        """Tokens of a word."""
        return self.tokens / max(1, self.words)

    @property
    def continued_rate(self) -> float:
        """Share of words of two or more tokens."""
        return self.continued / max(1, self.words)

    @property
    def unknown_rate(self) -> float:
        """Share of tokens that are unknown."""
        return self.unknown / max(1, self.tokens)


@dataclass(frozen=True)
class TokenizerMeasures:
    """Of one tokenizer.

    Attributes:
        name: as it was given.
        vocabulary: its tokens.
        languages: language -> measures.
        counts: id -> occurrences in all languages.
        pieces: id -> its piece, of the tokens that occur.
    """

    name: str
    vocabulary: int
    languages: dict[str, LanguageMeasures]
    counts: Counter[int]
    pieces: dict[int, str] = field(repr=False)

    @property
    def mean_tokens(self) -> float:
        """Tokens of a sentence, mean over languages."""
        return sum(one.tokens_a_sentence for one in self.languages.values()) / max(1, len(self.languages))

    def parity(self, language: str, reference: str) -> float | None:
        """Tokens of a sentence against those of the reference language; None where that is not there."""
        base = self.languages.get(reference)
        own = self.languages[language].tokens_a_sentence
        return own / base.tokens_a_sentence if base and base.tokens else None

    def coverage(self) -> dict[float, int]:
        """Share of all tokens -> the fewest different pieces that make it up."""
        return {q: pieces_for(self.counts.values(), q) for q in QUANTILES}

    def ranks(self) -> list[tuple[float, float]]:
        """(log10 rank, log10 occurrences) of pieces at evenly spread ranks: Zipf's curve and where it ends."""
        ordered = sorted(self.counts.values(), reverse=True)
        places = sorted({round(len(ordered) ** (n / _POINTS)) for n in range(_POINTS + 1)}) if ordered else []
        return [(math.log10(rank), math.log10(ordered[rank - 1])) for rank in places if 1 <= rank <= len(ordered)]

    def renyi_efficiency(self, order: float = 2.5) -> float:
        """Rényi entropy of the tokens by the log of the vocabulary (Zouhar et al., ACL 2023)."""
        total = sum(self.counts.values())
        if not total or self.vocabulary < 2:
            return 0.0
        power = math.fsum((count / total) ** order for count in self.counts.values())
        return math.log(power) / (1 - order) / math.log(self.vocabulary)

    def frequent(self, count: int = 12) -> list[str]:
        """The pieces that occur most often."""
        return [self.pieces[number] for number, _ in self.counts.most_common(count)]

    def longest(self, count: int = 12) -> list[str]:
        """The longest pieces that occur, ties by occurrences."""
        ordered = sorted(self.counts, key=lambda one: (-len(self.pieces[one]), -self.counts[one], one))
        return [self.pieces[number] for number in ordered[:count]]


def pieces_for(counts: Iterable[int], share: float) -> int:
    """The smallest number of different pieces whose occurrences reach a share of all of them."""
    ordered = sorted(counts, reverse=True)
    wanted, seen = share * sum(ordered), 0
    for number, count in enumerate(ordered):
        if seen >= wanted - 1e-9:
            return number
        seen += count
    return len(ordered)


def measure_tokenizer(tokenizer: Any, texts: Mapping[str, Iterable[str]], *, name: str = "") -> TokenizerMeasures:
    """Cut text with a tokenizer and count.

    Args:
        tokenizer: of transformers.
        texts: language -> its sentences.
        name: of the tokenizer; default its own.
    """
    counts: Counter[int] = Counter()
    measured: dict[str, LanguageMeasures] = {}
    unknown, before = tokenizer.unk_token_id, _before_words(tokenizer)
    for language, sentences in texts.items():
        total: Counter[str] = Counter()
        own: Counter[int] = Counter()
        words: Counter[str] = Counter()
        for batch in batches(sentences, _BATCH):
            for text, ids in zip(batch, _encoded(tokenizer, batch), strict=True):
                own.update(ids)
                words.update(text.split())
                total.update(sentences=1, tokens=len(ids), letters=len(text))
        continued = 0
        for some in batches(words, _BATCH):
            encoded = _encoded(tokenizer, [before + word for word in some])
            continued += sum(words[word] for word, ids in zip(some, encoded, strict=True) if len(ids) > 1)
        counts.update(own)
        measured[language] = LanguageMeasures(
            sentences=total["sentences"],
            tokens=total["tokens"],
            words=sum(words.values()),
            letters=total["letters"],
            unknown=0 if unknown is None else own[unknown],
            continued=continued,
            distinct=len(own),
        )
    named = name or str(getattr(tokenizer, "name_or_path", ""))
    return TokenizerMeasures(named, len(tokenizer), measured, counts, _named_pieces(tokenizer, list(counts)))


def _encoded(tokenizer: Any, texts: list[str]) -> Sequence[Sequence[int]]:
    encoded: Sequence[Sequence[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return encoded


def _before_words(tokenizer: Any) -> str:
    """What a word needs in front to be cut as inside of a text: a blank for tokenizers that see it as part of the word,
    and add none at the start of a text."""
    first, inside, both = _encoded(tokenizer, ["a", " a", "a a"])
    return " " if [*first, *first] != list(both) == [*first, *inside] else ""


def _named_pieces(tokenizer: Any, ids: list[int]) -> dict[int, str]:
    return dict(zip(ids, map(str, tokenizer.convert_ids_to_tokens(ids)), strict=True))


def tokenizer_at(reference: str) -> Any:
    """The tokenizer of a reference: that of a vocabulary stage, or of any model.

    Args:
        reference: the folder of a run or stage that made a vocabulary, or of its tokenizer; or whatever a recipe's
            `model` takes.

    Raises:
        ModelError: there is none.
    """
    place = Path(reference).expanduser()
    found = [
        one
        for one in (place, place / "tokenizer")
        if (one / MODEL_FILE).is_file() and (one / "vocabulary.json").is_file()
    ]
    found += sorted(path.parent for path in place.glob(f"[0-9][0-9]-*/tokenizer/{MODEL_FILE}"))
    if found:
        return tokenizer_in(found[-1])
    if (place / "tokenizer.json").is_file() and not (place / "config.json").is_file():
        return tokenizer_in(place)
    try:
        return load_tokenizer(reference)
    except ModelError as error:
        raise ModelError(error.what, where=error.where or reference, fix=error.fix) from None
