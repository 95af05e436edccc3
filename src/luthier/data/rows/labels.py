"""Label texts <-> ids: one map for all splits."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal

from luthier.data.catalogue.known_set import KnownSet
from luthier.data.settings import DataSettings
from luthier.data.table import Problems, listing
from luthier.errors import DataError, nearest

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]{1,4})?", re.ASCII | re.IGNORECASE)
_LIKE_MISSING = ("nan", "none", "null", "n/a", "na", "#n/a")
# Labels of fewer rows than these may well be one each.
_MANY_ROWS = 20
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))(\.0)?", re.ASCII)


def relabelled(value: str, known: Mapping[str, str], user: Mapping[str, str]) -> str:
    """A label of a file, in the set's own words, then in the user's."""
    for names in (known, user):
        value = names.get(spelled_as(value, names) or value, value)
    return value


def spelled_as(label: str, known: Collection[str]) -> str | None:
    """The known label that a label means: itself, the whole number that it writes in another way (1 as 1.0, as
    tables with missing cells do), or true and false in another case (JSON's `true` as the word `True`); None where
    there is none.

    Among labels with decimals, such as versions, 1 and 1.0 are two.
    """
    if label in known:
        return label
    if label.lower() in ("true", "false"):
        alike = [one for one in known if one.lower() == label.lower()]
        return alike[0] if len(alike) == 1 else None
    whole = _WHOLE.fullmatch(label)
    if whole is None:
        return None
    other = whole[1] if whole[2] else f"{label}.0"
    return other if other in known and not _has_decimals(known) else None


def _has_decimals(labels: Iterable[str]) -> bool:
    return any(_NUMBER.fullmatch(label) and not _WHOLE.fullmatch(label) and "." in label for label in labels)


def declared_labels(
    settings: DataSettings, known: KnownSet | None, from_source: Sequence[str] | None
) -> list[str] | None:
    """All labels, as far as they are known without looking at rows: the user's, the set's, or the source's own."""
    if settings.labels:
        return list(settings.labels)
    own = list(known.labels) if known and known.labels and settings.label is None else list(from_source or [])
    if not own:
        return None
    known_map = known.label_map if known else {}
    return list(dict.fromkeys(relabelled(label, known_map, settings.label_map or {}) for label in own))


def sorted_labels(values: Iterable[str], *, tags: bool) -> list[str]:
    """Labels found in rows, each once, in an order that depends on nothing but the labels themselves: by number where
    all are numbers, else as text; tags with O first and every B- with its I-.

    Of a whole number that is written as 1 and as 1.0, the first is kept (see `spelled_as`).
    """
    found = set(values)
    if not _has_decimals(found):
        found -= {f"{label}.0" for label in found if "." not in label and _WHOLE.fullmatch(label)}
    kinds = sorted({tag[2:] for tag in found if tag.startswith(("B-", "I-"))}) if tags else []
    if kinds:
        others = sorted(tag for tag in found if not tag.startswith(("B-", "I-")) and tag != "O")
        return ["O", *(f"{mark}-{kind}" for kind in kinds for mark in "BI"), *others]
    if all(_NUMBER.fullmatch(label) for label in found):
        return sorted(found, key=lambda label: (Decimal(label), label))
    return sorted(found)


def equal_numbers(labels: Iterable[str]) -> list[list[str]]:
    """Labels that are the same number, written differently, each group in order."""
    groups: dict[Decimal, list[str]] = {}
    for label in labels:
        if _NUMBER.fullmatch(label):
            groups.setdefault(Decimal(label), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def alike_labels(labels: Iterable[str]) -> list[list[str]]:
    """Labels that people read as one: that differ in case, in blanks, in what can't be seen, or in how a letter with an
    accent is written; each group in order."""
    groups: dict[str, list[str]] = {}
    for label in dict.fromkeys(labels):
        shown = "".join(one for one in unicodedata.normalize("NFKC", label) if unicodedata.category(one) != "Cf")
        groups.setdefault(" ".join(shown.casefold().split()), []).append(label)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def check_labels(labels: Sequence[str], where: str) -> None:
    """Raises:
    DataError: there are fewer than two labels, so that nothing can be learned.
    """
    if len(labels) < 2:
        raise DataError(
            f"the examples have only one label: {listing(map(repr, labels))}",
            where=where,
            fix="give examples of at least two labels, or name them all with `labels`",
        )


def too_many(labels: Sequence[str], rows: int) -> str | None:
    """What to say of classes that are nearly as many as the rows that they are learned from; None of fewer ones."""
    if rows < _MANY_ROWS or 2 * len(labels) <= rows:
        return None
    told = f"{len(labels)} labels for {rows} rows"
    if 2 * sum(_NUMBER.fullmatch(label) is not None for label in labels) > len(labels):
        return f"{told}: are these numbers? use `task: regression`"
    return f"{told}, most of which have one row alone: is this the column of the labels?"


class LabelIds:
    """Ids of the labels.

    Args:
        labels: in the order of their ids.

    Attributes:
        known: label -> id.
        respelled: label of a row -> the label that it was taken for, where the two are written differently.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)
        self.respelled: dict[str, str] = {}
        self.known = {label: i for i, label in enumerate(labels)}

    def of(self, label: str, place: str, column: str, problems: Problems) -> int:
        """The label's id; an unknown label is noted as a problem and gets -1."""
        if label in self.known:
            return self.known[label]
        meant = self.respelled.get(label) or spelled_as(label, self.known)
        if meant is not None:
            self.respelled[label] = meant
            return self.known[meant]
        guess = nearest(label, self.labels)
        hint = f"; did you mean {guess!r}?" if guess else ""
        known = listing(map(repr, self.labels))
        problems.add(f"{place}, column {column!r}", f"the label {label!r} is not one of {known}{hint}")
        return -1


def seems_missing(label: str) -> bool:
    """Whether a label is what programs write for none."""
    return label.strip().lower() in _LIKE_MISSING
