"""Words with their tags, a line each: two or more columns, of which the first is the word and the last its tag, or the
ten of CoNLL-U and CoNLL-X."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# A line that says something of the sentence behind it, where `#` may also be a word.
_COMMENT = re.compile(r"#\s*((id|sent_id|text|newdoc|newpar|global|meta)\b|[\w.:]+ = )")
# Of CoNLL-U: the number of a word, of a range of them that are written as one, or of a word that isn't written.
_NUMBER = re.compile(r"\d+([-.]\d+)?")
_FIRST = re.compile(r"1(-\d+)?|0\.1")
_WIDTH = 10


def cells_of(line: str) -> list[str]:
    """The columns of a line, which tabs part where there are any, else blanks."""
    return [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()


def is_filled(line: str) -> bool:
    """Whether a line is none between sentences."""
    return bool(line.strip()) and not line.startswith("-DOCSTART-")


def looks_universal(lines: Iterable[str]) -> bool:
    """Whether the first word of some lines is one of CoNLL-U or CoNLL-X: a number, the word, its lemma, its part of
    speech, and six columns more."""
    cells = cells_of(next(filter(may_be_word, lines), ""))
    return len(cells) == _WIDTH and _FIRST.fullmatch(cells[0]) is not None


def may_be_word(line: str) -> bool:
    """Whether a line is neither empty nor what CoNLL-U takes for a comment."""
    return is_filled(line) and not line.startswith("#")


def is_comment(line: str, *, universal: bool) -> bool:
    """Whether the first line of a sentence only says something of it."""
    return line.startswith("#") if universal else _COMMENT.match(line) is not None


def word_and_tag(cells: Sequence[str], *, universal: bool, tagged: bool) -> tuple[str, str] | None:
    """What a line holds; the word alone is enough where words aren't tagged. Of CoNLL-U the tag is the fourth column,
    the universal part of speech.

    Returns:
        None where a word, or its tag, is missing.
    """
    if universal:
        return (cells[1], cells[3]) if len(cells) == _WIDTH and _NUMBER.fullmatch(cells[0]) and cells[1] else None
    return (cells[0], cells[-1]) if len(cells) >= 1 + tagged and cells[0] else None


def is_unwritten(cells: Sequence[str]) -> bool:
    """Whether a line of CoNLL-U holds no word of its own: a range, whose words follow one by one, or an added word."""
    number = _NUMBER.fullmatch(cells[0])
    return number is not None and number[1] is not None
