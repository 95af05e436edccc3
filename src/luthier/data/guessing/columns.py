"""What a column seems to hold, by its name and its values."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from luthier.data.rows.canonical import BadCellError, as_flag, as_label
from luthier.data.rows.labels import seems_missing
from luthier.data.table import Table, is_missing

LABEL_NAMES = (
    "label", "labels", "gold_label", "gold", "class", "category", "target", "sentiment", "polarity", "intent", "topic",
    "emotion", "stance", "answer", "score", "similarity", "rating", "stars", "grade", "value", "y", "tag", "type",
    "relevance", "entailment_judgment", "relatedness_score", "is_duplicate", "toxic", "spam", "label_text",
)  # fmt: skip
TEXT_NAMES = (
    "text", "sentence", "review", "content", "comment", "tweet", "document", "article", "body", "utterance", "message",
    "post", "question", "query", "description", "headline", "title", "summary", "abstract",
)  # fmt: skip
PAIR_NAMES = (
    ("text", "text_pair"), ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"),
    ("text_a", "text_b"), ("text1", "text2"), ("sentence_a", "sentence_b"), ("sentence_1", "sentence_2"), ("s1", "s2"),
    ("question", "passage"), ("question", "sentence"), ("question", "context"), ("query", "passage"),
    ("query", "document"), ("claim", "evidence"), ("first", "second"),
)  # fmt: skip
_IDENTIFIERS = re.compile(r"|id|idx|index|uid|guid|key|row|no|nr|unnamed: ?\d+|pair[_ ]?id", re.IGNORECASE)
# Names of identifiers, unless they say what is learned, as in "class_id"; and those that may be words, as "paid" is.
_OF_SOMETHING = re.compile(r"(?i:.*_id|id_.*)|.*[a-z]I[dD]")
_MAYBE = re.compile(r".*id", re.IGNORECASE)
# What tells one of two columns from the other, as in "phrase_one" and "phrase_two".
_COUNTING = frozenset([("1", "2"), ("a", "b"), ("one", "two"), ("first", "second"), ("left", "right"), ("0", "1")])
_EUROPEAN = re.compile(r"[+-]?\d+(,\d+)?")
_PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
# A value of a column that names its rows, as T-1000 does.
_NAME = re.compile(r"[\w./#:@+-]{1,40}", re.ASCII)
# Words that tell a column of labels where they are a part of its name, as in "Issue category".
_DAY = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}|\d{1,2}/\d{1,2}/\d{2})([ T]\d|$)")
_LABEL_WORDS = {
    "label", "class", "category", "sentiment", "polarity", "intent", "topic", "emotion", "stance", "score",
    "similarity", "rating", "stars", "grade", "relevance",
}  # fmt: skip
_NO_NUMBER = ("na", "-", "--", "?", "#n/a", "missing", "unknown")
_MOST_LABELS = 50
_MOST_GRADES = 20
# Of the values of a column of numbers, at least, where the others stand for none.
_MOSTLY = 0.8
# Of the values of a column of numbers, at most, that are something else by mistake.
_ODD = 0.1
# Values that tell whether a column names its rows; words of a text, on average, that is more than a name.
_FEW, _PHRASE = 5, 2


@dataclass(frozen=True)
class Column:
    """A column of a sample.

    Attributes:
        name: as the file calls it.
        values: those that are not missing.
        rows: of the sample, missing values included.
    """

    name: str
    values: Sequence[Any]
    rows: int

    @property
    def texts(self) -> list[str]:
        """The values that are text with something in it."""
        return [value for value in self.values if isinstance(value, str) and value.strip()]

    @property
    def labels(self) -> list[str]:
        """The values as labels; empty where one is no label."""
        try:
            return [as_label(value) for value in self.values]
        except BadCellError:
            return []

    @property
    def numbers(self) -> list[float]:
        """The values that are numbers; empty where more than a few are not, or more than some stand for none."""
        values = [value for value in self.values if not isinstance(value, bool)]
        given = [value for value in values if not (isinstance(value, str) and _stands_for_none(value))]
        numbers = [number for number in map(_as_number, given) if number is not None]
        enough = len(given) >= _MOSTLY * len(values) and len(numbers) >= (1 - _ODD) * len(given)
        return numbers if enough else []

    @property
    def odd(self) -> list[Any]:
        """The values that are no numbers and don't stand for none, in a column of numbers."""
        if not self.numbers:
            return []
        others = [value for value in self.values if isinstance(value, bool) or _as_number(value) is None]
        return [value for value in others if not (isinstance(value, str) and _stands_for_none(value))]

    @property
    def holds_scores(self) -> bool:
        """Whether the values are numbers with fractions, or too many numbers to be classes."""
        finite = any(map(math.isfinite, self.numbers))
        return self.holds_fractions or (finite and len(set(self.labels)) > _MOST_GRADES)

    @property
    def holds_fractions(self) -> bool:
        """Whether the values are numbers, and some are no whole ones."""
        return bool(self.numbers) and any(math.isfinite(number) and number % 1 for number in self.numbers)

    @property
    def holds_text(self) -> bool:
        """Whether the values are texts, with a few exceptions at most, and not numbers or lists."""
        return bool(self.texts) and len(self.texts) >= (1 - _ODD) * len(self.values) and not self.numbers

    @property
    def holds_lists(self) -> bool:
        """Whether every value is a list of texts or numbers."""
        return bool(self.values) and all(
            isinstance(value, list) and value and all(isinstance(one, str | int) for one in value)
            for value in self.values
        )

    @property
    def says_yes_or_no(self) -> bool:
        """Whether every row has a 0 or a 1, or another word for yes or no."""
        try:
            said = [as_flag(value) for value in self.values]
        except BadCellError:
            return False
        return bool(said) and len(said) == self.rows

    @property
    def has_decimal_commas(self) -> bool:
        """Whether the values are numbers, and some are written with a decimal comma."""
        return bool(self.texts) and not self.numbers and all(map(_EUROPEAN.fullmatch, self.labels))

    @property
    def words(self) -> float:
        """Words of a value, on average."""
        return sum(len(text.split()) for text in self.texts) / max(1, len(self.texts))

    @property
    def is_identifier(self) -> bool:
        """Whether the column numbers the rows."""
        labels = self.labels
        numbered = len(set(labels)) == len(labels) > 1 and all(number.is_integer() for number in self.numbers or [0.5])
        if self.name.lower() in LABEL_NAMES or self.name.lower() in TEXT_NAMES:
            return False
        name, distinct = self.name.strip(), len(set(labels))
        named = bool(_IDENTIFIERS.fullmatch(name))
        named |= bool(_OF_SOMETHING.fullmatch(name)) and not says_label(name)
        named |= bool(_MAYBE.fullmatch(name)) and (2 * distinct > len(labels) or (distinct > 2 and bool(self.numbers)))
        return (named and self.words <= 1) or (numbered and len(labels) > 5)

    @property
    def names_rows(self) -> bool:
        """Whether every value is a word, a code or a number of its own."""
        texts = self.texts
        return len(set(texts)) == len(texts) > _FEW and all(map(_NAME.fullmatch, texts))

    @property
    def holds_dates(self) -> bool:
        """Whether the values are days, with or without a time, which nobody predicts as classes."""
        return bool(self.labels) and all(_DAY.match(label) for label in self.labels)

    @property
    def could_be_label(self) -> bool:
        """Whether the values are few enough for classes, or are numbers."""
        labels, distinct = self.labels, len(set(self.labels))
        if not labels or self.words > 6 or self.holds_dates:
            return False
        most = len(labels) // 2 if says_label(self.name) else min(_MOST_LABELS, len(labels) // 2)
        return bool(self.numbers) or distinct <= max(2, most)


def _as_number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _stands_for_none(value: str) -> bool:
    return seems_missing(value) or value.strip().lower() in _NO_NUMBER


def columns_of(table: Table) -> dict[str, Column]:
    """The columns of a sample by their names."""
    return {
        name: Column(name, [v for v in values if not is_missing(v) and v != ""], len(table))
        for name, values in table.columns.items()
    }


def named_like(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """The column with the first of the names that one has, in whatever case; None where none has."""
    written = {column.lower().replace(" ", "_").replace("-", "_"): column for column in reversed(list(columns))}
    return next((written[name] for name in names if name in written), None)


def says_label(name: str) -> bool:
    """Whether the name of a column says that it holds labels."""
    words = {part.lower() for part in _PARTS.findall(name)}
    return named_like([name], LABEL_NAMES) is not None or bool(_LABEL_WORDS & words)


def able_labels(columns: Mapping[str, Column]) -> list[str]:
    """The columns that could hold labels."""
    return [name for name, column in columns.items() if column.could_be_label and not column.is_identifier]


def label_column(columns: Mapping[str, Column]) -> str | None:
    """The column that seems to hold what is learned: by name, else by a word of it, else the one of few values that
    stands last."""
    able = able_labels(columns)
    named = named_like(able, LABEL_NAMES)
    if named is not None:
        return named
    texts = [name for name, column in columns.items() if column.holds_text]
    others = [name for name in able if texts != [name]]
    paired = _named_alike(texts) or ()
    apart = [name for name in others if name not in paired]
    return likeliest_label(apart, columns) or likeliest_label(others, columns)


def label_beside(names: Collection[str], columns: Mapping[str, Column]) -> str | None:
    """The column that could hold a label of what these columns hold."""
    return likeliest_label([name for name in able_labels(columns) if name not in names], columns)


def likeliest_label(others: Sequence[str], columns: Mapping[str, Column]) -> str | None:
    """The last column of few values, of those with a word for labels in their names where there are some; a column
    without missing values before others, and one of a single value only where its name says so."""
    others = [name for name in others if says_label(name)] or others
    distinct = {name: len(set(columns[name].labels)) for name in others}
    others = [name for name in others if distinct[name] > 1 or columns[name].rows <= _FEW or says_label(name)]
    full = [name for name in others if len(columns[name].values) == columns[name].rows]
    varied = [name for name in full if 2 <= distinct[name] <= _MOST_LABELS]
    return next(reversed(varied or full or others), None)


def text_columns(columns: Mapping[str, Column], label: str | None) -> list[str]:
    """The columns of text, the likeliest first: by name, else by length. Dates and the like, which have no letters, and
    names of rows are text only where nothing else is."""
    found = [
        name
        for name, column in columns.items()
        if name != label and column.holds_text and not (column.is_identifier and column.words <= 1)
    ]
    found = [name for name in found if any(map(str.isalpha, "".join(columns[name].texts)))] or found
    found = [name for name in found if not columns[name].names_rows] or found
    found = [name for name in found if 2 * len(columns[name].values) >= columns[name].rows] or found
    named = [name for name in found if any(part.lower() in TEXT_NAMES for part in _PARTS.findall(name))]
    return sorted(found, key=lambda name: (name not in named, -columns[name].words))


def text_pair_of(
    columns: Mapping[str, Column], texts: Sequence[str], *, scored: bool = False
) -> tuple[str, str] | None:
    """The two columns of text that belong together, in the order of the file: by their names, or, beside `scored`
    numbers, as the only two of free text."""
    for first, second in PAIR_NAMES:
        pair = named_like(texts, (first,)), named_like(texts, (second,))
        if pair[0] and pair[1]:
            return pair[0], pair[1]
    texts = sorted(texts, key=list(columns).index)
    named = _named_alike(texts)
    if named is not None:
        return named
    free = [name for name in texts if columns[name].words > _PHRASE and not columns[name].could_be_label]
    if scored and len(free) == 2:
        return free[0], free[1]
    if len(texts) != 2:
        return None
    first, second = texts
    if first.startswith("column") and second.startswith("column"):
        short, long = sorted(columns[name].words for name in (first, second))
        return (first, second) if short > _PHRASE and long < 3 * short else None
    stems = {re.sub(r"\d+|[_\- ]?[abAB]$", "", name) for name in (first, second)}
    return (first, second) if len(stems) == 1 else None


def _named_alike(names: Sequence[str]) -> tuple[str, str] | None:
    """The only two names that are the same but for one counting word, as in "phrase_one" and "phrase_two"."""
    alike = [pair for pair in combinations(names, 2) if _differ_by_count(*pair)]
    return alike[0] if len(alike) == 1 and not alike[0][0].startswith("column") else None


def _differ_by_count(first: str, second: str) -> bool:
    ones, others = ([part.lower() for part in _PARTS.findall(name)] for name in (first, second))
    if len(ones) != len(others):
        return False
    apart = [pair for pair in zip(ones, others, strict=True) if pair[0] != pair[1]]
    return len(apart) == 1 and bool({apart[0], apart[0][::-1]} & _COUNTING)


def told_labels(labels: Sequence[str], most: int = 8) -> str:
    """The labels with their numbers, the commonest first, for people."""
    from collections import Counter

    counts = Counter(labels).most_common()
    told = ", ".join(f"{label!r} ({count})" for label, count in counts[:most])
    return told + (f", ... ({len(counts)} in all)" if len(counts) > most else "")
