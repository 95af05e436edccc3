"""The steps of a vocabulary, each kept by the hash of what it depends on."""

from __future__ import annotations

import gzip
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.storage.code import code_digest
from luthier.storage.steps import Step, Workspace
from luthier.vocabulary.log_probability import average_log_probability
from luthier.vocabulary.settings import LanguageText, SampleSettings, TrainerSettings
from luthier.vocabulary.text import (
    clean_lines,
    corpus_of,
    count_lines,
    is_spaced,
    read_units,
    sample_language,
    write_sample,
)
from luthier.vocabulary.unigram import (
    NORMAL,
    Segmenter,
    letters_needed,
    parse_model,
    pieces_of,
    pruned_model,
    train_unigram,
)

MODEL = "unigram.model"
_SPECIALS = 3
Part = tuple[Path, float]


def made_by(**inputs: Any) -> dict[str, Any]:
    """What a step's key is made from: its inputs, and the code that it runs."""
    return {**inputs, "code": code_digest(["luthier.vocabulary.steps", "luthier.vocabulary.merging"])}


def measured(work: Callable[[Workspace], dict[str, Any]]) -> Callable[[Workspace], dict[str, Any]]:
    """The work, whose result tells its seconds and the peak memory of its process in bytes."""

    def run(place: Workspace) -> dict[str, Any]:
        started = time.perf_counter()
        result = work(place)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return {**result, "seconds": round(time.perf_counter() - started, 3), "peak_memory_bytes": peak}

    return run


def count_step(root: Workspace, language: str, text: LanguageText, sources: list[str]) -> Step:
    """Lines of a language."""
    corpus = corpus_of(text, sources)
    inputs = made_by(step="count", text=corpus.fingerprint(), read=_reading(text))
    return root.step(f"count/{language}", inputs, measured(lambda _: count_lines(corpus)), shared=True)


def sample_step(
    root: Workspace,
    language: str,
    text: LanguageText,
    sources: list[str],
    counted: dict[str, Any],
    target: int,
    settings: SampleSettings,
    seed: int,
) -> Step:
    """S1: counted words, or sentences, of a language."""
    corpus = corpus_of(text, sources)
    spaced = is_spaced(text, language, counted)
    available = int(counted["lines"])
    bounds = {"most_words": settings.most_words, "most_sentences": settings.most_sentences}
    draw = f"{seed} {language}"

    def work(place: Workspace) -> dict[str, Any]:
        found = sample_language(clean_lines(corpus), available, target, spaced=spaced, seed=draw, **bounds)
        write_sample(found, place.folder)
        corpus.check_unchanged()
        return {
            "language": language,
            "available": available,
            "lines": found.taken,
            "kept": found.kept,
            "target": target,
            "weight": found.weight,
            "spaced": found.spaced,
            "units": len(found.units),
            "characters": sum(map(len, found.units)),
            "pruned": found.pruned,
        }

    inputs = made_by(
        step="sample", text=corpus.fingerprint(), read=_reading(text), target=target, spaced=spaced, seed=draw, **bounds
    )
    return root.step(f"sample/{language}", inputs, measured(work), shared=True)


def _reading(text: LanguageText) -> dict[str, Any]:
    return text.model_dump(mode="json", include={"text", "format", "encoding"})


def model_step(
    root: Workspace, name: str, parts: list[Part], keys: list[str], pieces: int, trainer: TrainerSettings
) -> Step:
    """S2 and S6: a unigram model of one or several samples.

    Args:
        parts: folders of samples, and how often each unit counts.
        keys: of the samples.
    """

    def work(place: Workspace) -> dict[str, Any]:
        content = train_unigram(weighted_units(parts), pieces, trainer, named=name)
        (place.folder / MODEL).write_bytes(content)
        return {"pieces": len(parse_model(content).pieces)}

    weights = [weight for _, weight in parts]
    inputs = made_by(step="model", samples=keys, weights=weights, pieces=pieces, trainer=trainer)
    return root.step(name, inputs, measured(work), shared=True)


def weighted_units(parts: Iterable[Part]) -> Iterator[tuple[str, int]]:
    """Units of samples, each count by its weight, at least 1; what rounding takes from one unit the next ones get, so
    that all of a sample count for as much as its weight says."""
    for folder, weight in parts:
        left = 0.0
        for unit, count in read_units(folder):
            wanted = count * weight + left
            whole = max(1, round(wanted))
            left = wanted - whole
            yield unit, whole


class Units:
    """Units of samples, read anew whenever they are asked for.

    Args:
        parts: as of `weighted_units`.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return weighted_units(self.parts)


def parts_of(samples: Mapping[str, Step], members: Sequence[str], *, once: bool = False) -> list[Part]:
    """Samples of some languages, each unit as often as its language's lines count, or once a line."""
    return [(samples[name].folder, 1.0 if once else float(samples[name].result["weight"])) for name in members]


def letters_of(
    samples: Mapping[str, Step], members: Sequence[str], trainer: TrainerSettings, *, once: bool = False
) -> int:
    """Pieces that a model of some languages can't do without.

    Args:
        once: as of `parts_of`, as the model is trained.
    """
    letters = letters_needed(weighted_units(parts_of(samples, members, once=once)), trainer.character_coverage)
    return letters + _SPECIALS + 1 + (256 if trainer.byte_fallback else 0)


def curve_step(
    root: Workspace, language: str, sample: Step, sizes: list[int], trainer: TrainerSettings, *, pruned: bool
) -> Step:
    """ALP of a language at every size, and the pieces of each."""

    def work(place: Workspace) -> dict[str, Any]:
        models = _curve_models(language, sample.folder, sizes, trainer, pruned)
        curve: list[list[float]] = []
        first: dict[str, int] = {}
        for number, content in enumerate(models):
            counts = Segmenter(content).token_counts(read_units(sample.folder))
            curve.append([sizes[number], average_log_probability(counts, sample.result["kept"])])
            for piece in pieces_of(content):
                first.setdefault(piece, 0)
                first[piece] |= 1 << number
        with gzip.GzipFile(place.folder / "pieces.json.gz", "wb", compresslevel=1, mtime=0) as file:
            file.write(json.dumps({piece: hex(bits) for piece, bits in first.items()}, ensure_ascii=False).encode())
        return {"curve": curve, "pruned": pruned}

    inputs = made_by(step="curve", sample=sample.key, sizes=sizes, trainer=trainer, pruned=pruned)
    return root.step(f"curve/{language}", inputs, measured(work), shared=True)


def _curve_models(
    language: str, sample: Path, sizes: list[int], trainer: TrainerSettings, pruned: bool
) -> Iterator[bytes]:
    if not pruned:
        for size in sizes:
            yield train_unigram(read_units(sample), size, trainer, named=language)
        return
    largest = train_unigram(read_units(sample), sizes[-1], trainer, named=language)
    for size in sizes:
        yield pruned_model(largest, size)


def curve_pieces(step: Step) -> dict[str, int]:
    """Piece -> bits, of which bit i says whether the i-th size has it."""
    with gzip.open(step.folder / "pieces.json.gz", "rt", encoding="utf8") as file:
        return {piece: int(bits, 16) for piece, bits in json.load(file).items()}


def read_model(step: Step) -> bytes:
    """The serialised model of a step."""
    return (step.folder / MODEL).read_bytes()


def longest_pieces(content: bytes, count: int = 8) -> list[str]:
    """The longest pieces of a model, ties by score."""
    found = [one for one in parse_model(content).pieces if one.type == NORMAL]
    return [one.piece for one in sorted(found, key=lambda one: (-len(one.piece), -one.score, one.piece))[:count]]
