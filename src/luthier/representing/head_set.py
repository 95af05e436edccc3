"""The heads on a shared encoder, each of which reads one representation and no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.errors import ModelError, nearest
from luthier.representing.heads import Head
from luthier.representing.representation import Representation


class HeadSet:
    """Heads by name.

    Args:
        heads: to begin with; they are looked at when they are used.
    """

    def __init__(self, heads: Mapping[str, Head] | None = None) -> None:
        self._heads = dict(heads or {})

    @property
    def all(self) -> dict[str, Head]:
        """By name, in the order in which they were added."""
        return dict(self._heads)

    def add(self, name: str, head: Head, now: Representation) -> None:
        """Add a head, in the place of one of that name.

        Raises:
            ModelError: it was trained on another representation than `now`; says what has changed.
        """
        check_fits(name, head, now)
        self._heads[name] = head

    def remove(self, name: str) -> None:
        """Take a head off.

        Raises:
            ModelError: there is no such head.
        """
        check_known(name, self._heads, "head")
        del self._heads[name]

    def chosen(
        self, names: Sequence[str] | str | None, now: Representation, pairs: bool | None = None
    ) -> dict[str, Head]:
        """The named heads, or the one; None is all that read what is given.

        Args:
            pairs: whether pairs of texts are given; None where that is not known.

        Raises:
            ModelError: there is none, or one was trained on another representation than `now`, or reads pairs where
                single texts are given, or the other way round.
        """
        if not self._heads:
            raise ModelError(
                "the encoder has no heads",
                fix="name some under `heads` of the represent stage, or fit one with `fit_head`",
            )
        names = [names] if isinstance(names, str) else names
        for name in names or ():
            check_known(name, self._heads, "head")
        found = {name: self._heads[name] for name in (self._heads if names is None else names)}
        fitting = {name: head for name, head in found.items() if pairs is None or head.pairs == pairs}
        if found and (not fitting or (names is not None and len(fitting) < len(found))):
            other = next(name for name in found if name not in fitting)
            kinds = ("single texts", "pairs of texts")
            raise ModelError(
                f"the head {other!r} was trained on {kinds[not pairs]}, and {kinds[bool(pairs)]} are given"
            )
        found = fitting
        for name, head in found.items():
            check_fits(name, head, now)
        return found


def check_fits(name: str, head: Head, now: Representation) -> None:
    """Refuse a head of another representation.

    Raises:
        ModelError: says what has changed.
    """
    changed = head.representation.differences(now)
    if changed:
        raise ModelError(
            f"the head {name!r} was trained on another representation: {'; '.join(changed)}",
            fix="train the head again on this representation, or put the old one back",
        )


def check_known(name: str, known: Mapping[str, Any], kind: str) -> None:
    """Refuse a name that is not there, suggesting one that is.

    Raises:
        ModelError: there is no such thing.
    """
    if name not in known:
        guess = nearest(name, list(known))
        hint = f"did you mean {guess}? " if guess else ""
        raise ModelError(f"there is no {kind} {name!r}", fix=f"{hint}there are: {', '.join(sorted(known)) or 'none'}")
