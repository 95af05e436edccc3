"""S5: how many pieces each language is worth, and each cluster gets.

Source: section 3 of XLM-V, after VoCap (Zheng et al., EMNLP 2021) and Chung et al. (EMNLP 2020).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luthier.errors import DataError
from luthier.storage.steps import Step, Workspace
from luthier.vocabulary.allocation import Allocation, allocate_capacity, cluster_capacities, padded
from luthier.vocabulary.settings import VocabularySettings
from luthier.vocabulary.steps import curve_pieces, curve_step, letters_of
from luthier.vocabulary.workers import Workers, each


class Capacities:
    """Pieces of languages and of clusters, by the rule of the settings.

    Args:
        settings: of the vocabulary.
        root: where curves are kept.
        samples: language -> its sample.
        workers: who computes the curves.

    Attributes:
        curves: the steps that were done for them.
    """

    def __init__(
        self, settings: VocabularySettings, root: Workspace, samples: Mapping[str, Step], workers: Workers
    ) -> None:
        self.settings, self.root, self.samples, self.workers = settings, root, samples, workers
        self.curves: list[Step] = []

    def of_languages(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Language -> c_l, and what is to be told of it; empty for rules that look at clusters alone.

        Raises:
            DataError: the settings or the file of capacities don't fit the languages.
        """
        rule = self.settings.capacity.rule
        if rule == "uniform":
            return dict.fromkeys(self.samples, 1.0), {}
        if rule == "file":
            return numbers_of_file(str(self.settings.capacity.file), list(self.samples)), {}
        return self._by_worth() if rule == "alp" else ({}, {})

    def of_clusters(
        self,
        clusters: Sequence[Sequence[str]],
        allocation: Mapping[str, float],
        facts: dict[str, Any],
        unions: Sequence[int] | None = None,
    ) -> list[int]:
        """Pieces of each cluster, which add up to the size of the vocabulary.

        Args:
            clusters: languages of each.
            allocation: c_l of every language.
            facts: gets what is to be told.
            unions: pieces of the languages' own models in each cluster, under the rule `union`.
        """
        weights = allocation
        if unions is not None:
            weights = {n: size / len(m) for m, size in zip(clusters, unions, strict=True) for n in m}
            facts["unions"] = list(unions)
        least = [letters_of(self.samples, members, self.settings.trainer) for members in clusters]
        facts["letters"] = least
        return cluster_capacities(weights, clusters, self.settings.size, least)

    def _by_worth(self) -> tuple[dict[str, float], dict[str, Any]]:
        chosen, trainer, samples = self.settings.capacity, self.settings.trainer, self.samples
        if unknown := sorted(set(chosen.tail) - set(samples)):
            raise DataError(f"there is no language {unknown[0]!r} for `capacity.tail`", fix="correct its name")
        measured_ones = [name for name in samples if name not in chosen.tail]
        jobs = []
        for name in measured_ones:
            needed = letters_of(samples, [name], trainer, once=True)
            sizes = [size for size in range(chosen.least, chosen.most + 1, chosen.step) if size >= needed]
            jobs.append((self.root, name, samples[name], sizes or [needed], trainer))
        steps = each(self.workers, _curve, [(*job, chosen.curve == "pruned") for job in jobs], "ALP curves")
        self.curves = steps
        if not steps:
            return {name: float(chosen.tail_pieces) for name in chosen.tail}, {}
        curves = {
            n: [(int(t), float(a)) for t, a in s.result["curve"]] for n, s in zip(measured_ones, steps, strict=True)
        }
        bits = [curve_pieces(step) for step in steps]
        tail = chosen.tail_pieces * len(chosen.tail)
        allocated = allocate_capacity(
            curves,
            {name: samples[name].result["available"] for name in measured_ones},
            max(1, self.settings.size - tail),
            _union_size(bits, curves),
            alpha=chosen.alpha,
            beta=chosen.beta,
            rescale=chosen.rescale,
            parity=chosen.parity,
        )
        facts = {
            "union": allocated.union,
            "threshold": allocated.threshold,
            "hungry": allocated.hungry,
            "curves": curves,
            "approximated": chosen.curve == "pruned",
        }
        if chosen.parity:
            facts["padded"] = self._padded(bits, curves, allocated)
        pieces = {name: float(size) for name, size in allocated.sizes.items()}
        return pieces | {name: float(chosen.tail_pieces) for name in chosen.tail}, facts

    def _padded(
        self, bits: list[dict[str, int]], curves: Mapping[str, list[tuple[int, float]]], allocated: Allocation
    ) -> int:
        """Pieces of the union that the reference code would have filled up with English ones."""
        chosen = {
            p for name, found in zip(curves, bits, strict=True) for p in _at(found, curves[name], allocated.sizes[name])
        }
        english = next((place for place, name in enumerate(curves) if name in ("en", "eng")), None)
        if english is None:
            raise DataError(
                "the reference code pads with English, and there is no language `en`", fix="leave out parity"
            )
        curve = list(curves.values())[english]
        return len(padded(chosen, _at(bits[english], curve, curve[-1][0]), self.settings.size))


def _curve(root: Workspace, name: str, sample: Step, sizes: list[int], trainer: Any, pruned: bool) -> Step:
    return curve_step(root, name, sample, sizes, trainer, pruned=pruned)


def _at(found: Mapping[str, int], curve: Sequence[tuple[int, float]], size: int) -> list[str]:
    bit = 1 << [t for t, _ in curve].index(size)
    return [piece for piece, bits in found.items() if bits & bit]


def _union_size(bits: list[dict[str, int]], curves: Mapping[str, list[tuple[int, float]]]) -> Any:
    """Counts the pieces of vocabularies of given sizes, over bit masks in a table of pieces by languages."""
    pieces = {piece: number for number, piece in enumerate(sorted(set().union(*bits)))}
    places = [np.fromiter((pieces[p] for p in found), dtype=np.int64, count=len(found)) for found in bits]
    widest = max(len(curve) for curve in curves.values())
    masks = [_unpacked(found, widest) for found in bits]
    order = {name: {t: n for n, (t, _) in enumerate(curve)} for name, curve in curves.items()}

    def count(sizes: Mapping[str, int]) -> int:
        used = np.zeros(len(pieces), dtype=bool)
        for number, name in enumerate(curves):
            used[places[number][masks[number][:, order[name][sizes[name]]]]] = True
        return int(used.sum())

    return count


def _unpacked(found: Mapping[str, int], width: int) -> np.ndarray:
    table = np.zeros((len(found), width), dtype=bool)
    for row, bits in enumerate(found.values()):
        for column in range(width):
            table[row, column] = bits >> column & 1
    return table


def numbers_of_file(file: str, languages: Sequence[str]) -> dict[str, float]:
    """Language -> its number in a JSON file.

    Raises:
        DataError: it can't be read, or a language has no number above 0.
    """
    try:
        content = json.loads(Path(file).expanduser().read_text(encoding="utf8"))
        numbers = {name: float(content[name]) for name in languages}
    except KeyError as error:
        raise DataError(
            f"it has no number for {error.args[0]!r}", where=file, fix="add it, or leave out its text"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"can't be read as JSON of language -> pieces: {error}", where=file) from error
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise DataError(f"{name} has {number:g} pieces", where=file, fix="give it a number above 0")
    return numbers
