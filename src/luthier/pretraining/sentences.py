"""Sentences in which one word is to be guessed. Nothing here imports torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from luthier.data.sources.base import NO_SUCH_FILE
from luthier.errors import DataError
from luthier.storage.nearby import did_you_mean

_MARKED = re.compile(r"\[\[(.+?)\]\]")


@dataclass(frozen=True)
class Sentence:
    """A sentence and the word in it that is to be guessed.

    Attributes:
        before, word, after: the sentence in three parts.
    """

    before: str
    word: str
    after: str

    @property
    def whole(self) -> str:
        """The sentence with the word in its place."""
        return f"{self.before}{self.word}{self.after}"

    @property
    def marked(self) -> str:
        """The sentence with the word in double brackets, as a file has it."""
        return f"{self.before}[[{self.word}]]{self.after}"


def read_sentences(path: Path) -> list[Sentence]:
    """Sentences of a file, one a line; empty lines and those that start with `#` are left out.

    Raises:
        DataError: the file is not there, or can't be read, or a line does not have one word in double brackets.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        fix = did_you_mean(path) or "name a file of sentences, one a line"
        raise DataError(NO_SUCH_FILE, where=str(path), fix=fix) from error
    except (OSError, UnicodeError) as error:
        raise DataError(
            f"the sentences to complete can't be read: {error}", where=str(path), fix="name a file of UTF-8 text"
        ) from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        marks = list(_MARKED.finditer(line))
        if len(marks) != 1:
            raise DataError(
                f"line {number} has {len(marks)} words in double brackets",
                where=str(path),
                fix="mark the one word to guess, as in `Snow is [[white]].`",
            )
        (mark,) = marks
        found.append(Sentence(line[: mark.start()], mark[1], line[mark.end() :]))
    if not found:
        raise DataError("there is no sentence in the file", where=str(path), fix="write one a line")
    return found
