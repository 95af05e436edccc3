"""S5: how many pieces each language is given, and so each cluster.

Source: VoCap, Zheng et al. (EMNLP 2021), section 3.2: choose t_l so that sum_l q_l^beta ALP(D_l, V_l^(t_l)) is largest
while the union of the V_l^(t_l) has T pieces; XLM-V then gives cluster c the share of T that its members have.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from luthier.errors import DataError

log = logging.getLogger(__name__)
Curve = Sequence[tuple[int, float]]
_TIE_BREAK = 1e-6


@dataclass(frozen=True)
class Allocation:
    """Pieces by language.

    Attributes:
        sizes: language -> t_l.
        union: pieces of all chosen vocabularies together.
        threshold: weighted gain that the last step of each language is above.
        hungry: languages that would take more than their largest size.
    """

    sizes: dict[str, int]
    union: int
    threshold: float
    hungry: list[str]


def language_weights(
    lines: Mapping[str, float], *, alpha: float, beta: float, rescale: bool = True, parity: bool = False
) -> dict[str, float]:
    """Weight of each language: q_l^beta, normalised, with q_l proportional to f_l^alpha.

    Args:
        lines: language -> size f_l.
        rescale: whether the powers are used; else the shares of f.
        parity: as the reference code, which uses beta even without `rescale`.
    """
    first = alpha if rescale else 1.0
    second = beta if rescale or parity else 1.0
    shares = {language: float(size) ** first for language, size in lines.items()}
    mass = sum(shares.values())
    powers = {language: (share / mass) ** second for language, share in shares.items()}
    whole = sum(powers.values())
    return {language: power / whole for language, power in powers.items()}


def concave_gains(curve: Curve, *, tie_break: float = 0.0) -> list[float]:
    """Gains of the steps of a curve, made non-increasing: adjacent violators are pooled to their mean slope.

    Args:
        curve: (pieces, ALP) by growing size, at equal steps or not; gains are by piece times the first step.
        tie_break: by how much each step inside a pool is below the one before.
    """
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(curve)]
    if not steps:
        return []
    unit = steps[0][0]
    pools: list[list[float]] = []  # width, gain, number of steps
    for width, gain in steps:
        pools.append([width, gain, 1])
        while len(pools) > 1 and pools[-2][1] * pools[-1][0] < pools[-1][1] * pools[-2][0]:
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
    return [gain / width * unit - tie_break * n for width, gain, count in pools for n in range(int(count))]


def allocate_capacity(
    curves: Mapping[str, Curve],
    lines: Mapping[str, float],
    total: int,
    union_size: Callable[[Mapping[str, int]], int],
    *,
    alpha: float = 0.7,
    beta: float = 0.7,
    rescale: bool = True,
    parity: bool = False,
) -> Allocation:
    """The largest union of at most `total` pieces that steps of the largest weighted gain lead to.

    Args:
        curves: language -> [(t, ALP)] by growing t; the first t is what everyone gets.
        lines: language -> size.
        total: T.
        union_size: pieces of the union of vocabularies of these sizes.
        alpha, beta, rescale: of the weights; see `language_weights`.
        parity: as the reference code: bisect a threshold in [0, 100] to 1e-6, and refuse where a language still gains
            at its largest size.

    Raises:
        DataError: the smallest vocabularies together are more than `total`, or under `parity` a language is hungry.
    """
    weights = language_weights(
        {name: lines[name] for name in curves}, alpha=alpha, beta=beta, rescale=rescale, parity=parity
    )
    tie = _TIE_BREAK if parity else 0.0
    gains = {name: [weights[name] * g for g in concave_gains(curve, tie_break=tie)] for name, curve in curves.items()}
    smallest = {name: curve[0][0] for name, curve in curves.items()}
    if union_size(smallest) > total:
        raise DataError(
            f"{len(curves)} languages of their fewest pieces are {union_size(smallest):,} together, and the vocabulary "
            f"has {total:,}",
            fix="set a smaller `capacity.least`, or a larger `size`",
        )
    found = (_by_bisection if parity else _by_steps)(curves, gains, total, union_size)
    sizes, threshold = found
    hungry = [name for name, curve in curves.items() if sizes[name] == curve[-1][0] and len(curve) > 1]
    union = union_size(sizes)
    if parity and hungry:
        raise DataError(
            f"{hungry[0]} still gains at its largest size", fix="raise `capacity.most`, or leave out parity"
        )
    if hungry and union < total:
        log.warning("%s would take more pieces than `capacity.most`", ", ".join(hungry))
    return Allocation(sizes, union, threshold, hungry)


def _by_steps(
    curves: Mapping[str, Curve],
    gains: Mapping[str, list[float]],
    total: int,
    union_size: Callable[[Mapping[str, int]], int],
) -> tuple[dict[str, int], float]:
    """Steps by falling gain; unions only grow with them, so that the last one that fits is found by halving."""
    order = sorted(
        ((gain, name, number) for name, found in gains.items() for number, gain in enumerate(found) if gain > 0),
        key=lambda one: (-one[0], one[2], one[1]),
    )

    def sizes(count: int) -> dict[str, int]:
        taken = dict.fromkeys(curves, 0)
        for _, name, number in order[:count]:
            taken[name] = max(taken[name], number + 1)
        return {name: curves[name][number][0] for name, number in taken.items()}

    low, high = 0, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if union_size(sizes(middle)) <= total else (low, middle - 1)
    return sizes(low), order[low - 1][0] if low else float("inf")


def _by_bisection(
    curves: Mapping[str, Curve],
    gains: Mapping[str, list[float]],
    total: int,
    union_size: Callable[[Mapping[str, int]], int],
) -> tuple[dict[str, int], float]:
    def sizes(threshold: float) -> dict[str, int]:
        chosen = {}
        for name, curve in curves.items():
            above = [number + 1 for number, gain in enumerate(gains[name]) if gain > threshold]
            chosen[name] = curve[max(above, default=0)][0]
        return chosen

    low, high = 0.0, 100.0
    while high - low > _TIE_BREAK:
        middle = (low + high) / 2
        low, high = (middle, high) if union_size(sizes(middle)) > total else (low, middle)
    return sizes(high), high


def padded(chosen: set[str], english: Sequence[str], total: int) -> set[str]:
    """A union filled up to `total` with the pieces of the largest English vocabulary in the order of their file, as the
    reference code does it."""
    filled = set(chosen)
    for piece in english:
        if len(filled) >= total:
            break
        filled.add(piece)
    return filled


def cluster_capacities(
    weights: Mapping[str, float], clusters: Sequence[Sequence[str]], total: int, least: Sequence[int]
) -> list[int]:
    """Pieces of each cluster: the share of `total` that its members' weights have, by largest remainder.

    Args:
        weights: language -> c_l.
        clusters: languages of each.
        total: sum of the result.
        least: what each cluster needs at least, for its letters; one that would get less gets this, from the others.

    Raises:
        DataError: all that is needed is more than `total`.
    """
    if sum(least) > total:
        raise DataError(
            f"the clusters' letters alone need {sum(least):,} pieces, and the vocabulary has {total:,}",
            fix="set a larger `size`, or a smaller `trainer.character_coverage`",
        )
    mass = [sum(weights[name] for name in members) for members in clusters]
    fixed: dict[int, int] = {}
    while True:
        room = total - sum(fixed.values())
        free = [number for number in range(len(clusters)) if number not in fixed]
        whole = sum(mass[number] for number in free)
        share = {n: room * mass[n] / whole if whole else room / len(free) for n in free}
        starved = {n: least[n] for n in free if share[n] < least[n]}
        if not starved:
            break
        fixed |= starved
    floors = {n: int(value) for n, value in share.items()}
    rest = total - sum(fixed.values()) - sum(floors.values())
    for n in sorted(share, key=lambda n: (-(share[n] - floors[n]), n))[:rest]:
        floors[n] += 1
    return [fixed[n] if n in fixed else floors[n] for n in range(len(clusters))]
