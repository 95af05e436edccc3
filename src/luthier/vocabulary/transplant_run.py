"""Runs a `transplant` stage: the new tokenizer, the model with it, and how well it predicts text before and after."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.evaluation.meters import CostMeter
from luthier.models.artifacts import load_model, save_artifact
from luthier.models.card import describe
from luthier.models.head_kinds import Head
from luthier.models.inspect import bytes_on_disk, language_head, parameter_counts
from luthier.models.loading import empty_model, load_config, load_tokenizer, tokenizer_in
from luthier.report.sections import Section, SectionTable, Value
from luthier.stages.base import StageOutputs, metrics_record
from luthier.vocabulary.day_one import nats_a_letter, unknown_share
from luthier.vocabulary.settings import LanguageText
from luthier.vocabulary.surgery import extend_tokenizer, prune_tokenizer
from luthier.vocabulary.text import (
    check_text_unchanged,
    corpus_of,
    is_spaced,
    language_sources,
    plain_lines,
    sample_language,
)
from luthier.vocabulary.transplanting import Transplanted, transplant_embeddings

if TYPE_CHECKING:
    from luthier.models.settings import ModelSettings
    from luthier.stages.base import StageInputs
    from luthier.vocabulary.stage import Transplant


@dataclass(frozen=True)
class Scored:
    """Of each language, where there is text and a head that predicts some of it.

    Attributes:
        by_language: language -> loss in nats a letter.
        unknown: language -> share of tokens that stand for what the vocabulary lacks.
    """

    by_language: dict[str, float]
    unknown: dict[str, float]


def run_transplant(stage: Transplant, inputs: StageInputs, folder: Path) -> StageOutputs:
    """Load, transplant, save."""
    model, head = loaded(inputs.model, inputs.seed)
    old = load_tokenizer(inputs.model)
    texts = {} if stage.text is None else {n: list(lines) for n, lines in some_lines(stage.text, stage.lines)}
    before = _scored(model, old, head, texts, inputs.seed)
    with CostMeter() as meter:
        new = new_tokenizer(stage, inputs, old)
        new.model_max_length = old.model_max_length  # which is the model's, and not that of whatever it came from
        done = transplant_embeddings(
            model,
            old,
            new,
            init=stage.init,
            weights=stage.weights,
            rescale=stage.rescale,
            texts=[line for lines in texts.values() for line in lines] or None,
            seed=inputs.seed,
        )
    after = _scored(model, new, head, texts, inputs.seed)
    for part in (stage, stage.prune, stage.extend):
        if part is not None and part.text is not None:
            check_text_unchanged(part.text)
    name = stage.name if head == "encoder" else head
    method = {"name": name, "stage": stage.name, "init": stage.init}
    schema = None if head == "encoder" else "plain_text"
    card = describe(inputs.model, head, schema=schema, method=method, columns={"text": "text"})
    artifact = save_artifact(model, new, folder / "model", card)
    trainable, total = parameter_counts(model)
    scores = {f"text/{n}/nats_a_letter": value for n, value in after.by_language.items()}
    cost = {
        "trainable_parameters": trainable,
        "total_parameters": total,
        "bytes_on_disk": bytes_on_disk(artifact),
        "seconds": meter.seconds,
        "peak_memory_bytes": meter.peak_memory_bytes,
    }
    details = {
        "copied": len(done.copied),
        "composed": len(done.composed),
        "drawn": len(done.drawn),
        "before": before.by_language,
        "unknown": {"before": before.unknown, "after": after.unknown},
        "sections": _sections(done, old, new, before, after),
    }
    record = metrics_record(stage.name, scores=scores, primary=next(iter(scores), None), cost=cost, details=details)
    return StageOutputs(record, {"model": artifact})


def loaded(settings: ModelSettings, seed: int) -> tuple[Any, Head]:
    """The model with the head that its checkpoint has weights for, or its body alone."""
    wanted: Any = language_head(load_config(settings))
    if wanted:
        model = load_model(settings, wanted, seed=seed)
        tied = {id(model.get_input_embeddings().weight)}
        new = set(getattr(model, "luthier_new_parameters", ()))
        if not {name for name, p in model.named_parameters() if name in new and id(p) not in tied}:
            return model, wanted
    return load_model(settings, "encoder", seed=seed), "encoder"


def empty_of(inputs: StageInputs) -> Any:
    """The model of a dry run, without numbers."""
    return empty_model(inputs.model, language_head(load_config(inputs.model)) or "encoder")


def new_tokenizer(stage: Transplant, inputs: StageInputs, old: Any) -> Any:
    """The tokenizer that the model gets."""
    if stage.prune is not None:
        lines = (line for _, found in some_lines(stage.prune.text, None) for line in found)
        return prune_tokenizer(old, lines, least=stage.prune.least)
    if stage.extend is not None:
        chosen = stage.extend
        units = [unit for one in _units(chosen.text, inputs.seed) for unit in one.items()]
        return extend_tokenizer(old, units, pieces=chosen.pieces, trainer=chosen.trainer, weight=chosen.weight)
    artifact = inputs.artifacts["tokenizer"]
    if isinstance(artifact.settings, Path):
        return tokenizer_in(artifact.settings)
    return load_tokenizer(artifact.settings)


def some_lines(text: LanguageText, most: int | None) -> Iterator[tuple[str, Iterator[str]]]:
    """Language -> its first lines, or all."""
    for name, sources in language_sources(text).items():
        yield name, itertools.islice(plain_lines(corpus_of(text, sources)), most)


def _units(text: LanguageText, seed: int) -> Iterator[Any]:
    from luthier.vocabulary.settings import SampleSettings
    from luthier.vocabulary.text import count_lines

    bounds = SampleSettings()
    for name, sources in language_sources(text).items():
        corpus = corpus_of(text, sources)
        counted = count_lines(corpus)
        yield sample_language(
            plain_lines(corpus),
            counted["lines"],
            counted["lines"],
            spaced=is_spaced(text, name, counted),
            most_words=bounds.most_words,
            most_sentences=bounds.most_sentences,
            seed=f"{seed} {name}",
        ).units


def _scored(model: Any, tokenizer: Any, head: Head, texts: dict[str, list[str]], seed: int) -> Scored:
    if head not in ("masked_lm", "causal_lm"):
        return Scored({}, {})
    masked = head == "masked_lm"
    losses = {n: nats_a_letter(model, tokenizer, lines, masked=masked, seed=seed) for n, lines in texts.items()}
    known = {name: value for name, value in losses.items() if value is not None}
    return Scored(known, {name: unknown_share(tokenizer, texts[name]) for name in known})


def _sections(done: Transplanted, old: Any, new: Any, before: Scored, after: Scored) -> list[Section]:
    facts: dict[str, Value] = {
        "tokens": f"{len(old):,} before, {len(new):,} now",
        "rows taken over": f"{len(done.copied):,} ({len(done.copied) / len(new):.1%})",
        "rows made of old ones": f"{len(done.composed):,}",
        "rows without old ones of their own": f"{len(done.drawn):,}",
        "input and output embeddings": "one matrix" if done.tied else "two matrices, or none for the output",
    }
    found = [Section("New vocabulary", facts=facts)]
    if scored := [name for name in after.by_language if name in before.by_language]:
        columns = ["text", "before", "after", "unknown before", "unknown after"]
        rows: list[list[Value]] = [
            [
                name,
                round(before.by_language[name], 4),
                round(after.by_language[name], 4),
                f"{before.unknown[name]:.2%}",
                f"{after.unknown[name]:.2%}",
            ]
            for name in scored
        ]
        text = (
            "Loss in nats a letter of the text, which does not depend on how text is cut; for masked models that of "
            "masked tokens, as many as there are tokens. An unknown token is guessed without its letters, so that a "
            "vocabulary that lacks much of a text seems to predict it well."
        )
        found.append(Section("Before any training", text=text, table=SectionTable(columns, rows)))
    return found
