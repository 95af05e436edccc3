"""From raw text in many languages to one tokenizer: steps S1 to S7 of XLM-V, one after another.

Source: Liang et al., “XLM-V: Overcoming the Vocabulary Bottleneck in Multilingual Masked Language Models” (EMNLP 2023),
section 3. Every step is kept by the hash of its inputs: a build that was stopped goes on, and one with other settings
takes over what they leave as it was.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from luthier.errors import DataError
from luthier.storage.files import write_json
from luthier.storage.steps import Step, Workspace
from luthier.vocabulary.allocation import Allocation, allocate_capacity, cluster_capacities, padded
from luthier.vocabulary.clustering import cluster_languages
from luthier.vocabulary.fingerprints import Fingerprints, lexical_fingerprints
from luthier.vocabulary.merging import MergedVocabulary, merge_vocabularies, segmentation_drift
from luthier.vocabulary.settings import VocabularySettings
from luthier.vocabulary.steps import (
    Part,
    count_step,
    curve_pieces,
    curve_step,
    each,
    longest_pieces,
    made_by,
    measured,
    model_step,
    read_model,
    sample_step,
    weighted_units,
)
from luthier.vocabulary.text import language_sources, read_examples, sampling_targets
from luthier.vocabulary.tokenizer_files import save_tokenizer
from luthier.vocabulary.unigram import Segmenter, letters_needed, pieces_of

MERGED, PIECES, ABOUT = "merged.model", "pieces.tsv.gz", "vocabulary.json"
_SPECIALS = 3


@dataclass(frozen=True)
class BuiltVocabulary:
    """A tokenizer and how it came about.

    Attributes:
        folder: with the tokenizer's files, `vocabulary.json` and `pieces.tsv.gz`.
        tokens: ids of the tokenizer, special ones included.
        samples: language -> what was taken of its text.
        clusters: languages of each.
        capacities: pieces of each.
        allocation: language -> what its pieces were counted by; empty for rules that look at clusters alone.
        places: language -> two coordinates that show how far languages are apart; empty where clusters are pinned.
        about: more numbers, as `vocabulary.json` has them.
    """

    folder: Path
    tokens: int
    samples: Mapping[str, Mapping[str, Any]]
    clusters: Sequence[Sequence[str]]
    capacities: Sequence[int]
    allocation: Mapping[str, float]
    places: Mapping[str, tuple[float, float]]
    about: Mapping[str, Any]


def build_vocabulary(
    settings: VocabularySettings | Mapping[str, Any],
    folder: str | Path,
    *,
    seed: int = 0,
    workspace: Workspace | None = None,
) -> BuiltVocabulary:
    """Build a tokenizer from text.

    Args:
        settings: text, size and every choice of the steps.
        folder: where the tokenizer is written.
        seed: of the draws of lines and the starts of k-means.
        workspace: where steps are kept while they are done; default beside `folder`.

    Raises:
        DataError: a text can't be read or is too small, or the settings don't fit the languages.
        WorkspaceError: a place can't be written.
    """
    known = VocabularySettings.model_validate(settings)
    place = Path(folder)
    root = workspace or Workspace(place.with_name(f"{place.name}-steps"))
    return _Builder(known, root, seed).build(place)


class _Builder:
    """The steps of one vocabulary, in order."""

    def __init__(self, settings: VocabularySettings, root: Workspace, seed: int) -> None:
        self.settings, self.root, self.seed = settings, root, seed
        self.sources = language_sources(settings.text)
        self.languages = list(self.sources)

    def build(self, folder: Path) -> BuiltVocabulary:
        samples = self._samples()
        pinned = self.settings.cluster.method == "pins"
        prints = None if pinned else self._fingerprints(samples)
        clusters = self._pinned() if prints is None else self._clusters(prints)
        allocation, facts = self._allocation(samples)
        capacities = self._capacities(samples, clusters, allocation, facts)
        models = self._cluster_models(samples, clusters, capacities)
        merged = self._merged(samples, clusters, models)
        tokens = save_tokenizer(folder, (merged.folder / MERGED).read_bytes())
        (folder / PIECES).write_bytes((merged.folder / PIECES).read_bytes())
        samples_told = {name: dict(step.result) for name, step in samples.items()}
        about = {
            "settings": self.settings.model_dump(mode="json", exclude={"processes"}),
            "tokens": tokens,
            "clusters": [
                {
                    "languages": members,
                    "capacity": capacity,
                    "pieces": model.result["pieces"],
                    "longest": longest_pieces(read_model(model)),
                    "seconds": model.result["seconds"],
                    "peak_memory_bytes": model.result["peak_memory_bytes"],
                }
                for members, capacity, model in zip(clusters, capacities, models, strict=True)
            ],
            "allocation": {**facts, "languages": dict(allocation)},
            "merged": merged.result,
            "inputs": {name: step.key for name, step in samples.items()},
        }
        write_json(folder / ABOUT, {**about, "samples": samples_told})
        return BuiltVocabulary(
            folder,
            tokens,
            samples_told,
            clusters,
            capacities,
            allocation,
            {} if prints is None else _places(prints),
            about,
        )

    def _samples(self) -> dict[str, Step]:
        text, settings, at_once = self.settings.text, self.settings.sample, self.settings.processes
        jobs = [(self.root, name, text, self.sources[name]) for name in self.languages]
        counted = {n: s.result for n, s in zip(self.languages, each(count_step, jobs, at_once, "lines"), strict=True)}
        lines = {name: int(result["lines"]) for name, result in counted.items()}
        targets = sampling_targets(lines, settings.lines, settings.exponent)
        drawn = [
            (self.root, name, text, self.sources[name], counted[name], targets[name], settings, self.seed)
            for name in self.languages
        ]
        return dict(zip(self.languages, each(sample_step, drawn, at_once, "sampling"), strict=True))

    def _fingerprints(self, samples: Mapping[str, Step]) -> Fingerprints:
        settings = self.settings
        return lexical_fingerprints(
            self._vocabularies(samples),
            kind=settings.fingerprint.kind,
            absent=settings.fingerprint.absent,
            normalise=settings.fingerprint.normalise,
        )

    def _vocabularies(self, samples: Mapping[str, Step]) -> dict[str, dict[str, float]]:
        """S2: language -> pieces and scores of its own model."""
        settings, jobs = self.settings, []
        for name, step in samples.items():
            pieces = max(settings.language_pieces, self._letters(samples, [name]))
            jobs.append(
                (self.root, f"mono/{name}", _parts(samples, [name], once=True), [step.key], pieces, settings.trainer)
            )
        models = each(model_step, jobs, settings.processes, "models of languages")
        return {name: pieces_of(read_model(one)) for name, one in zip(samples, models, strict=True)}

    def _letters(self, samples: Mapping[str, Step], members: Sequence[str]) -> int:
        """Pieces that a model of some languages can't do without."""
        trainer = self.settings.trainer
        letters = letters_needed(weighted_units(_parts(samples, members)), trainer.character_coverage)
        return letters + _SPECIALS + 1 + (256 if trainer.byte_fallback else 0)

    def _pinned(self) -> list[list[str]]:
        """Clusters that the settings name, for which no language needs a model of its own."""
        languages = {name: {"▁": 0.0} for name in self.languages}
        return cluster_languages(lexical_fingerprints(languages), method="pins", pins=self.settings.cluster.pins)

    def _clusters(self, prints: Fingerprints) -> list[list[str]]:
        chosen = self.settings.cluster
        return cluster_languages(
            prints,
            chosen.count,
            method=chosen.method,
            must_link=chosen.must_link,
            pins=chosen.pins,
            starts=chosen.starts,
            seed=self.seed,
        )

    # -- S5 ----------------------------------------------------------------------------------------------------

    def _allocation(self, samples: Mapping[str, Step]) -> tuple[dict[str, float], dict[str, Any]]:
        """Language -> c_l, and what is to be told of it; empty for rules that look at clusters alone."""
        rule = self.settings.capacity.rule
        if rule == "uniform":
            return dict.fromkeys(samples, 1.0), {}
        if rule == "file":
            return _numbers_of_file(str(self.settings.capacity.file), list(samples)), {}
        return self._by_worth(samples) if rule == "alp" else ({}, {})

    def _by_worth(self, samples: Mapping[str, Step]) -> tuple[dict[str, float], dict[str, Any]]:
        chosen, trainer = self.settings.capacity, self.settings.trainer
        if unknown := sorted(set(chosen.tail) - set(samples)):
            raise DataError(f"there is no language {unknown[0]!r} for `capacity.tail`", fix="correct its name")
        measured_ones = [name for name in samples if name not in chosen.tail]
        jobs = []
        for name in measured_ones:
            needed = self._letters(samples, [name])
            sizes = [size for size in range(chosen.least, chosen.most + 1, chosen.step) if size >= needed]
            jobs.append((self.root, name, samples[name], sizes or [needed], trainer))
        steps = each(_curve, [(*job, chosen.curve == "pruned") for job in jobs], self.settings.processes, "ALP curves")
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
        english = next((found for name, found in zip(curves, bits, strict=True) if name in ("en", "eng")), None)
        if english is None:
            raise DataError(
                "the reference code pads with English, and there is no language `en`", fix="leave out parity"
            )
        return len(padded(chosen, list(english), self.settings.size))

    def _capacities(
        self,
        samples: Mapping[str, Step],
        clusters: Sequence[Sequence[str]],
        allocation: dict[str, float],
        facts: dict[str, Any],
    ) -> list[int]:
        settings = self.settings
        weights: Mapping[str, float] = allocation
        if settings.capacity.rule == "union":
            vocabularies = self._vocabularies(samples)
            unions = [len(set().union(*(vocabularies[name] for name in members))) for members in clusters]
            weights = {n: size / len(m) for m, size in zip(clusters, unions, strict=True) for n in m}
            facts["unions"] = unions
        least = [self._letters(samples, members) for members in clusters]
        facts["letters"] = least
        return cluster_capacities(weights, clusters, settings.size, least)

    # -- S6 and S7 ---------------------------------------------------------------------------------------------

    def _cluster_models(
        self, samples: Mapping[str, Step], clusters: Sequence[Sequence[str]], capacities: Sequence[int]
    ) -> list[Step]:
        jobs = [
            (
                self.root,
                f"cluster/{number}",
                _parts(samples, members),
                [samples[name].key for name in members],
                capacity,
                self.settings.trainer,
            )
            for number, (members, capacity) in enumerate(zip(clusters, capacities, strict=True), 1)
        ]
        return each(model_step, jobs, self.settings.processes, "models of clusters")

    def _merged(self, samples: Mapping[str, Step], clusters: Sequence[Sequence[str]], models: Sequence[Step]) -> Step:
        chosen = self.settings.merge
        shares = [sum(samples[name].result["target"] for name in members) for members in clusters]

        def work(place: Workspace) -> dict[str, Any]:
            contents = [read_model(one) for one in models]
            merged = merge_vocabularies(
                contents,
                rule=chosen.rule,
                weights=shares if chosen.weights == "sampled" else None,
                score_step=chosen.score_step,
                units=weighted_units(_parts(samples, self.languages)) if chosen.rule == "refit" else (),
                passes=chosen.passes,
            )
            (place.folder / MERGED).write_bytes(merged.content)
            _write_pieces(place.folder / PIECES, merged)
            return {
                "pieces": len(merged.origins),
                "duplicates": merged.duplicates,
                "mass": merged.mass,
                "drift": [_drift(merged, own, samples, m) for own, m in zip(contents, clusters, strict=True)],
                "languages": {name: _told_of(merged, samples[name]) for name in self.languages},
            }

        inputs = made_by(step="merge", models=[one.key for one in models], merge=chosen, shares=shares)
        inputs["samples"] = [step.key for step in samples.values()]
        return self.root.step("merged", inputs, measured(work), shared=True)


def _curve(root: Workspace, name: str, sample: Step, sizes: list[int], trainer: Any, pruned: bool) -> Step:
    return curve_step(root, name, sample, sizes, trainer, pruned=pruned)


def _parts(samples: Mapping[str, Step], members: Sequence[str], *, once: bool = False) -> list[Part]:
    """Samples of some languages, each unit as often as its language's lines count, or once a line."""
    return [(samples[name].folder, 1.0 if once else float(samples[name].result["weight"])) for name in members]


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


def _numbers_of_file(file: str, languages: list[str]) -> dict[str, float]:
    try:
        content = json.loads(Path(file).expanduser().read_text(encoding="utf8"))
        numbers = {name: float(content[name]) for name in languages}
    except KeyError as error:
        raise DataError(
            f"it has no number for {error.args[0]!r}", where=file, fix="add it, or leave out its text"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"can't be read as JSON of language -> pieces: {error}", where=file) from error
    if min(numbers.values()) <= 0:
        raise DataError("a number of pieces has to be above 0", where=file)
    return numbers


def _write_pieces(path: Path, merged: MergedVocabulary) -> None:
    """One line a piece: the piece, its cluster numbers from 1, its scores there."""
    with gzip.GzipFile(path, "wb", compresslevel=1, mtime=0) as file:
        for piece, found in merged.origins.items():
            clusters = ",".join(str(number + 1) for number in found)
            scores = ",".join(f"{score:.6g}" for score in found.values())
            file.write(f"{piece}\t{clusters}\t{scores}\n".encode())


def _drift(
    merged: MergedVocabulary, own: bytes, samples: Mapping[str, Step], members: Sequence[str]
) -> dict[str, float]:
    texts = [line for name in members for line in read_examples(samples[name].folder)[: max(20, 1000 // len(members))]]
    return segmentation_drift(merged.content, own, texts)


def _told_of(merged: MergedVocabulary, sample: Step) -> dict[str, float]:
    """Tokens a line and a letter, and unknown ones, on the examples of a language."""
    lines = read_examples(sample.folder)
    encoded = Segmenter(merged.content).encode(lines)
    tokens = sum(map(len, encoded))
    unknown = sum(ids.count(0) for ids in encoded)
    letters = sum(map(len, lines))
    return {
        "tokens": tokens / max(1, len(lines)),
        "tokens_a_letter": tokens / max(1, letters),
        "unknown": unknown / max(1, tokens),
    }


def _places(prints: Fingerprints) -> dict[str, tuple[float, float]]:
    """The two principal coordinates of the fingerprints."""
    points = prints.factor()
    centred = points - points.mean(axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    flat = np.zeros((len(points), 2))
    flat[:, : min(2, left.shape[1])] = (left * size)[:, :2]
    flat *= np.where(flat[np.abs(flat).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    return {name: (float(x), float(y)) for name, (x, y) in zip(prints.languages, flat, strict=True)}
