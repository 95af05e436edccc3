"""From raw text in many languages to one tokenizer: steps S1 to S7 of XLM-V, one after another.

Source: Liang et al., “XLM-V: Overcoming the Vocabulary Bottleneck in Multilingual Masked Language Models” (EMNLP 2023),
section 3. Every step is kept by the hash of its inputs: a build that was stopped goes on, and one with other settings
takes over what they leave as it was.
"""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.storage.files import write_json
from luthier.storage.steps import Step, Workspace
from luthier.vocabulary.capacities import Capacities
from luthier.vocabulary.clustering import cluster_languages
from luthier.vocabulary.fingerprints import Fingerprints, lexical_fingerprints
from luthier.vocabulary.merging import MergedVocabulary, merge_vocabularies, segmentation_drift
from luthier.vocabulary.settings import VocabularySettings
from luthier.vocabulary.steps import (
    Units,
    count_step,
    letters_of,
    longest_pieces,
    made_by,
    measured,
    model_step,
    parts_of,
    read_model,
    sample_step,
)
from luthier.vocabulary.text import language_sources, read_examples, sampling_targets
from luthier.vocabulary.tokenizer_files import save_tokenizer
from luthier.vocabulary.unigram import Segmenter, pieces_of
from luthier.vocabulary.workers import Job, Workers, each, workers_of

log = logging.getLogger(__name__)
MERGED, PIECES, ABOUT = "merged.model", "pieces.tsv.gz", "vocabulary.json"


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
        WorkspaceError: a place can't be written, or is not seen by a machine of the Ray cluster.
    """
    known = VocabularySettings.model_validate(settings)
    place = Path(folder)
    root = workspace or Workspace(place.with_name(f"{place.name}-steps"))
    with workers_of(known, root.folder) as workers:
        return _Builder(known, root, seed, workers).build(place)


class _Builder:
    """The steps of one vocabulary, in order."""

    def __init__(self, settings: VocabularySettings, root: Workspace, seed: int, workers: Workers) -> None:
        self.settings, self.root, self.seed, self.workers = settings, root, seed, workers
        self.sources = language_sources(settings.text)
        self.languages = list(self.sources)
        self.done: dict[str, Step] = {}

    def build(self, folder: Path) -> BuiltVocabulary:
        samples = self._samples()
        pinned = self.settings.cluster.method == "pins"
        prints = None if pinned else self._fingerprints(samples)
        clusters = self._pinned() if prints is None else self._clusters(prints)
        allotted = Capacities(self.settings, self.root, samples, self.workers)
        allocation, facts = allotted.of_languages()
        self.done |= {step.key: step for step in allotted.curves}
        unions = self._unions(samples, clusters) if self.settings.capacity.rule == "union" else None
        capacities = allotted.of_clusters(clusters, allocation, facts, unions)
        models = self._cluster_models(samples, clusters, capacities)
        _tell_of_shortage(clusters, capacities, models)
        merged = self._merged(samples, clusters, models)
        self.done[merged.key] = merged
        tokens = save_tokenizer(folder, (merged.folder / MERGED).read_bytes())
        (folder / PIECES).write_bytes((merged.folder / PIECES).read_bytes())
        samples_told = {name: dict(step.result) for name, step in samples.items()}
        about = {
            "settings": self.settings.model_dump(mode="json", exclude=set(self.settings.without_effect_on_results)),
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
            "cost": {
                "seconds": round(sum(step.result["seconds"] for step in self.done.values()), 3),
                "peak_memory_bytes": max(step.result["peak_memory_bytes"] for step in self.done.values()),
            },
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
            {} if prints is None else prints.places(),
            about,
        )

    def _samples(self) -> dict[str, Step]:
        text, settings = self.settings.text, self.settings.sample
        jobs = [(self.root, name, text, self.sources[name]) for name in self.languages]
        steps = self._each(count_step, jobs, "lines")
        counted = {name: step.result for name, step in zip(self.languages, steps, strict=True)}
        lines = {name: int(result["lines"]) for name, result in counted.items()}
        targets = sampling_targets(lines, settings.lines, settings.exponent)
        drawn = [
            (self.root, name, text, self.sources[name], counted[name], targets[name], settings, self.seed)
            for name in self.languages
        ]
        return dict(zip(self.languages, self._each(sample_step, drawn, "sampling"), strict=True))

    def _each(self, function: Callable[..., Step], jobs: Sequence[Job], told: str) -> list[Step]:
        steps = each(self.workers, function, jobs, told)
        self.done |= {step.key: step for step in steps}
        return steps

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
            pieces = max(settings.language_pieces, letters_of(samples, [name], settings.trainer, once=True))
            jobs.append(
                (self.root, f"mono/{name}", parts_of(samples, [name], once=True), [step.key], pieces, settings.trainer)
            )
        models = self._each(model_step, jobs, "models of languages")
        return {name: pieces_of(read_model(one)) for name, one in zip(samples, models, strict=True)}

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

    def _unions(self, samples: Mapping[str, Step], clusters: Sequence[Sequence[str]]) -> list[int]:
        """Pieces of the languages' own models in each cluster, those of several counted once."""
        vocabularies = self._vocabularies(samples)
        return [len(set().union(*(vocabularies[name] for name in members))) for members in clusters]

    def _cluster_models(
        self, samples: Mapping[str, Step], clusters: Sequence[Sequence[str]], capacities: Sequence[int]
    ) -> list[Step]:
        jobs = [
            (
                self.root,
                f"cluster/{number}",
                parts_of(samples, members),
                [samples[name].key for name in members],
                capacity,
                self.settings.trainer,
            )
            for number, (members, capacity) in enumerate(zip(clusters, capacities, strict=True), 1)
        ]
        return self._each(model_step, jobs, "models of clusters")

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
                units=Units(parts_of(samples, self.languages)) if chosen.rule == "refit" else (),
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


def _tell_of_shortage(clusters: Sequence[Sequence[str]], capacities: Sequence[int], models: Sequence[Step]) -> None:
    for members, capacity, model in zip(clusters, capacities, models, strict=True):
        if (pieces := model.result["pieces"]) < capacity:
            log.warning("%s: the text gives %s pieces of %s", ", ".join(members), f"{pieces:,}", f"{capacity:,}")


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
