"""Drawing training examples: every draw is a prefix of one seeded order, so a smaller subset is part of a larger one.

The order is `random.Random(seed)`'s shuffle of the row indices, the same on every platform.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.errors import DataError

CUT_SEED = 0


def shuffled_indices(rows: int, seed: int) -> list[int]:
    """0-based indices of `rows` rows in the order of a seed."""
    order = list(range(rows))
    random.Random(seed).shuffle(order)
    return order


def first_of_order(units: Sequence[Sequence[int]], count: int, seed: int) -> list[int]:
    """At most `count` rows of a seeded order of units, in file order; units are not parted, and one is always taken."""
    order = shuffled_indices(len(units), seed)
    taken = list(units[order[0]])
    for unit in order[1:]:
        if len(taken) + len(units[unit]) > count:
            break
        taken += units[unit]
    return sorted(taken)


def draw_examples(rows: int, examples: int, seed: int, where: str, following: int = 0) -> tuple[list[int], list[int]]:
    """The first `examples` rows of a seeded order, and the `following` rows after them; each in file order.

    Raises:
        DataError: there are fewer rows than that.
    """
    if examples + following > rows:
        more = f" and {following} more for validation" if following else ""
        raise DataError(
            f"{examples} examples{more} were asked for, but there are {rows}", where=where, fix="ask for fewer"
        )
    order = shuffled_indices(rows, seed)
    return sorted(order[:examples]), sorted(order[examples : examples + following])


def draw_per_class(labels: Sequence[Any], names: Sequence[str], per_class: int, seed: int, where: str) -> list[int]:
    """`per_class` rows of every label, in file order.

    Args:
        labels: label id of every row.
        names: name of every label id.
        per_class: rows of each.
        seed: of the order that they are taken from.
        where: the source, for the message.

    Raises:
        DataError: a label has fewer rows than that.
    """
    counts = Counter(labels)
    short = {name: counts[i] for i, name in enumerate(names) if counts[i] < per_class}
    if short:
        have = ", ".join(f"{name!r} has {count}" for name, count in short.items())
        raise DataError(
            f"{per_class} examples of every label were asked for, but {have}", where=where, fix="ask for fewer"
        )
    taken: Counter[Any] = Counter()
    drawn = []
    for index in shuffled_indices(len(labels), seed):
        if taken[labels[index]] < per_class:
            taken[labels[index]] += 1
            drawn.append(index)
    return sorted(drawn)


def cut_by_class(classes: Sequence[Any], share: float, where: str) -> tuple[list[int], list[int]]:
    """Part all rows in two, the second with the same share of every class, always with the same seed; in file order.

    The second part has as many rows as `cut_shares` gives it. What is left when every class has given whole rows comes
    from the classes with the largest remainders. A class with a single row keeps it in the first part.

    Raises:
        DataError: a part would be empty.
    """
    wanted = len(cut_shares(len(classes), {"train": 1 - share, "validation": share}, where)["validation"])
    members: dict[Any, list[int]] = {}
    for row in shuffled_indices(len(classes), CUT_SEED):
        members.setdefault(classes[row], []).append(row)
    exact = {name: len(rows) * wanted / len(classes) for name, rows in members.items()}
    taken = {name: min(int(exact[name]), len(rows) - 1) for name, rows in members.items()}
    by_remainder = sorted(members, key=lambda name: taken[name] - exact[name])
    while (missing := wanted - sum(taken.values())) > 0:
        free = [name for name in by_remainder if taken[name] < len(members[name]) - 1] or [
            name for name in by_remainder if taken[name] < len(members[name])
        ]
        for name in free[:missing]:
            taken[name] += 1
    cut = {row for name, rows in members.items() for row in rows[: taken[name]]}
    return [row for row in range(len(classes)) if row not in cut], sorted(cut)


def cut_shares(rows: int, shares: Mapping[str, float], where: str) -> dict[str, list[int]]:
    """Part all rows by shares that sum to 1, always with the same seed; each part in file order.

    Raises:
        DataError: a part would be empty.
    """
    order = shuffled_indices(rows, CUT_SEED)
    parts, start, total = {}, 0, 0.0
    for name, share in shares.items():
        total += share
        end = round(rows * total)
        parts[name] = sorted(order[start:end])
        start = end
    empty = [name for name, part in parts.items() if not part]
    if empty:
        raise DataError(f"{rows} rows are too few to cut off {' and '.join(empty)}", where=where, fix="give more rows")
    return parts
