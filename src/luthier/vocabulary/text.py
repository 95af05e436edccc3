"""S1: raw text of each language, read once as a stream, as counted words or as drawn sentences.

Shapes: n_l lines of language l; target_l of them are taken. Section 11 of the notes on XLM-V: a unigram model learns
from counted words what it learns from the words themselves, so that spaced languages need a counter and not their
lines.
"""

from __future__ import annotations

import gzip
import logging
import random
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.errors import DataError
from luthier.language_modeling.documents import Corpus
from luthier.vocabulary.folders import folder_sources, not_read
from luthier.vocabulary.settings import LanguageText

log = logging.getLogger(__name__)
UNITS, EXAMPLES = "units.tsv.gz", "examples.txt.gz"
EXAMPLE_LINES = 1000
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "BOPOMOFO", "YI ", "JAVANESE")
_LOOKED_AT, _UNSPACED_SHARE, _LONGEST = 1000, 0.3, 4096


def language_sources(text: LanguageText) -> dict[str, list[str]]:
    """Language -> its sources, sorted by language.

    Raises:
        DataError: see `folder_sources`.
    """
    found = {} if text.folder is None else folder_sources(text.folder)
    for language, source in text.languages.items():
        found.setdefault(language, []).extend(source.sources)
    return dict(sorted(found.items()))


def tell_of_others(text: LanguageText) -> None:
    """Warn of what lies beside the files of a folder and is not read."""
    if text.folder is not None and (names := not_read(text.folder)):
        shown = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
        log.warning(
            "%s: not read, or not whole, since there are no files or some of no known format: %s",
            text.folder,
            ascii(shown),
        )


def corpus_of(text: LanguageText, sources: list[str]) -> Corpus:
    """The documents of one language."""
    return Corpus(sources, text.corpus(sources))


def check_text_unchanged(text: LanguageText) -> None:
    """To be called when the text was read.

    Raises:
        WorkspaceError: a file is no longer what it was when the run first looked at it.
    """
    for sources in language_sources(text).values():
        corpus_of(text, sources).check_unchanged()


def clean_lines(corpus: Corpus) -> Iterator[str]:
    """Lines with a word in them, NFKC-normalised, with blanks for tabs, line breaks and null characters."""
    return (cleaned for _, cleaned in _both(corpus))


def plain_lines(corpus: Corpus) -> Iterator[str]:
    """The same lines as they stand in the text, which is what a tokenizer gets when it is used."""
    return (line.strip() for line, _ in _both(corpus))


def _both(corpus: Corpus) -> Iterator[tuple[str, str]]:
    for document in corpus.documents():
        for line in document.text.splitlines():
            if cleaned := clean(line):
                yield line, cleaned


def clean(line: str) -> str:
    """One line as models learn it and tokenizers read it."""
    line = unicodedata.normalize("NFKC", line)
    return " ".join(line.replace("\0", " ").replace("▁", " ").split())


def count_lines(corpus: Corpus) -> dict[str, Any]:
    """Lines and characters of a language, and whether it is written without blanks, by the letters of its first
    lines."""
    lines = characters = letters = unspaced = 0
    for line in clean_lines(corpus):
        if lines < _LOOKED_AT:
            kinds = [_is_unspaced(letter) for letter in line if letter.isalpha()]
            letters, unspaced = letters + len(kinds), unspaced + sum(kinds)
        lines, characters = lines + 1, characters + len(line)
    if not lines:
        raise DataError("there is no text in it", where=", ".join(s.name for s in corpus.sources))
    return {"lines": lines, "characters": characters, "unspaced": unspaced > _UNSPACED_SHARE * max(1, letters)}


def is_spaced(text: LanguageText, language: str, counted: Mapping[str, Any]) -> bool:
    """Whether a language is learned from counted words: as its text's settings say, else by its letters.

    Args:
        counted: what `count_lines` gives.
    """
    return not (counted["unspaced"] if text.unspaced is None else language in text.unspaced)


def _is_unspaced(letter: str) -> bool:
    return ord(letter) > 0xE00 and unicodedata.name(letter, "").startswith(_UNSPACED)


def sampling_targets(lines: Mapping[str, int], total: int | None, exponent: float) -> dict[str, int]:
    """Lines that each language counts for: p_l proportional to n_l ** exponent, of `total` (default all lines).

    Args:
        lines: language -> n_l.

    Returns:
        Language -> target_l, at least 1; where it is above n_l, its lines count several times.
    """
    powers = {language: float(count) ** exponent for language, count in lines.items()}
    whole = sum(lines.values()) if total is None else total
    mass = sum(powers.values())
    return {language: max(1, round(whole * power / mass)) for language, power in powers.items()}


@dataclass(frozen=True)
class Sampled:
    """What was taken of a language.

    Attributes:
        units: distinct words, or sentences.
        taken: lines that were drawn.
        kept: lines that the units are from: all that were drawn, or those sentences of them that found room.
        weight: how often each of the kept ones counts.
        spaced: whether units are words.
        pruned: occurrences of rare words that found no room.
        examples: some of the lines.
    """

    units: Counter[str]
    taken: int
    kept: int
    weight: float
    spaced: bool
    pruned: int
    examples: list[str]


def sample_language(
    lines: Iterable[str],
    available: int,
    target: int,
    *,
    spaced: bool,
    most_words: int,
    most_sentences: int,
    seed: str,
) -> Sampled:
    """Draw lines evenly while they pass by, and count their words or keep them.

    Args:
        lines: all of a language, `available` of them.
        target: lines to count for.
        spaced: whether words are counted.
        most_words, most_sentences: bounds of what is held.
        seed: of the draw.
    """
    draw = random.Random(seed)
    wanted = left = min(target, available)
    words: Counter[str] = Counter()
    kept: list[str] = []
    examples: list[str] = []
    pruned = taken = 0
    for place, line in enumerate(lines):
        if left <= 0:
            break
        if draw.random() * (available - place) >= left:
            continue
        left, taken = left - 1, taken + 1
        _keep(examples, line, taken, EXAMPLE_LINES, draw)
        if spaced:
            words.update(line.split())
            if len(words) > most_words:
                pruned += _prune(words, most_words)
        else:
            _keep(kept, line, taken, most_sentences, draw)
    scale = target / max(1, wanted)
    if spaced:
        return Sampled(words, taken, taken, scale, True, pruned, examples)
    parts = Counter(part for line in kept for part in _short(line))
    return Sampled(parts, taken, len(kept), scale * taken / max(1, len(kept)), False, 0, examples)


def _keep(held: list[str], line: str, seen: int, most: int, draw: random.Random) -> None:
    """Reservoir sampling: every line that was seen is among the held ones with the same probability."""
    if len(held) < most:
        held.append(line)
    elif (place := draw.randrange(seen)) < most:
        held[place] = line


def _prune(words: Counter[str], most: int) -> int:
    """Drop the rarest words until half of the room is free; gives their occurrences."""
    lost, floor = 0, 0
    while len(words) > most // 2:
        floor += 1
        rare = [word for word, count in words.items() if count <= floor]
        for word in rare:
            lost += words.pop(word)
    return lost


def _short(line: str) -> Iterator[str]:
    """A sentence in parts of at most 4,096 bytes, as the trainer takes them."""
    while len(line.encode()) > _LONGEST:
        cut = max(1, _LONGEST // 4)
        yield line[:cut]
        line = line[cut:]
    yield line


def write_sample(sample: Sampled, folder: Path) -> None:
    """Keep a sample: units with their counts, and the examples."""
    ordered = sorted(sample.units.items(), key=lambda one: (-one[1], one[0]))
    _write(folder / UNITS, (f"{unit}\t{count}\n" for unit, count in ordered))
    _write(folder / EXAMPLES, (f"{line}\n" for line in sample.examples))


def _write(path: Path, lines: Iterable[str]) -> None:
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0, filename="") as file:
        for line in lines:
            file.write(line.encode())


def read_units(folder: Path) -> Iterator[tuple[str, int]]:
    """Units and counts of a sample, the most frequent first."""
    with gzip.open(folder / UNITS, "rt", encoding="utf8", newline="\n") as file:
        for line in file:
            unit, _, count = line.rstrip("\n").rpartition("\t")
            yield unit, int(count)


def read_examples(folder: Path) -> list[str]:
    """Some of the lines of a sample."""
    with gzip.open(folder / EXAMPLES, "rt", encoding="utf8", newline="\n") as file:
        return [line.rstrip("\n") for line in file]
