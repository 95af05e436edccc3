"""Label texts <-> ids: one map for all splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from luthier.data.known_set import KnownSet
from luthier.data.settings import DataSettings
from luthier.data.table import Problems, listing
from luthier.errors import DataError, nearest


def relabelled(value: str, known: Mapping[str, str], user: Mapping[str, str]) -> str:
    """A label of a file, in the set's own words, then in the user's."""
    value = known.get(value, value)
    return user.get(value, value)


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


def sorted_labels(values: Sequence[str], *, tags: bool) -> list[str]:
    """Labels found in rows, in order: by number where all are numbers; tags with O first and every B- with its I-."""
    found = set(values)
    if tags:
        kinds = sorted({tag[2:] for tag in found if tag.startswith(("B-", "I-"))})
        others = sorted(tag for tag in found if not tag.startswith(("B-", "I-")) and tag != "O")
        return ["O", *(f"{mark}-{kind}" for kind in kinds for mark in "BI"), *others] if kinds else sorted(found)
    try:
        return sorted(found, key=float)
    except ValueError:
        return sorted(found)


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


class LabelIds:
    """Ids of the labels.

    Args:
        labels: in the order of their ids.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)
        self._ids = {label: i for i, label in enumerate(labels)}

    def of(self, label: str, place: str, column: str, problems: Problems) -> int:
        """The label's id; an unknown label is noted as a problem and gets -1."""
        if label not in self._ids:
            guess = nearest(label, self.labels)
            hint = f"; did you mean {guess!r}?" if guess else ""
            known = listing(map(repr, self.labels))
            problems.add(f"{place}, column {column!r}", f"the label {label!r} is not one of {known}{hint}")
        return self._ids.get(label, -1)
