"""Dry runs: what would be read, learned and held in memory, language by language."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.models.inspect import parameter_counts
from luthier.stages.base import StagePlan
from luthier.vocabulary.clustering import groups_of
from luthier.vocabulary.text import corpus_of, count_lines, is_spaced, language_sources, sampling_targets

if TYPE_CHECKING:
    from luthier.stages.base import StageInputs
    from luthier.vocabulary.stage import Transplant, Vocabulary

_COUNTED_BYTES = 20_000_000
_FEW = 40
# Measured: what SentencePiece's trainer holds a letter of its units, for 0.4 and 1.5 million letters; a counted
# word; and a piece while the tokenizer is written, for 949,000 pieces (`benchmarks/million.py`).
_BYTES_A_LETTER, _BYTES_TO_BEGIN = 260, 100_000_000
_BYTES_A_WORD, _BYTES_A_PIECE = 140, 6000


def plan_vocabulary(stage: Vocabulary, inputs: StageInputs) -> StagePlan:
    """Count small texts, look at the size of large ones, and estimate the memory of the largest step."""
    sources = language_sources(stage.text)
    corpora = {name: corpus_of(stage.text, one) for name, one in sources.items()}
    sizes = {name: corpus.bytes_here() for name, corpus in corpora.items()}
    known = None if any(size is None for size in sizes.values()) else sum(size or 0 for size in sizes.values())
    facts: dict[str, str] = {"languages": str(len(sources))}
    counted: dict[str, dict[str, Any]] = {}
    if known is not None and known <= _COUNTED_BYTES:
        counted = {name: count_lines(corpus) for name, corpus in corpora.items()}
        targets = sampling_targets(
            {name: one["lines"] for name, one in counted.items()}, stage.sample.lines, stage.sample.exponent
        )
        for name in list(counted)[:_FEW]:
            kind = "words" if is_spaced(stage.text, name, counted[name]) else "sentences"
            facts[f"text {name}"] = f"{counted[name]['lines']:,} lines, counted for {targets[name]:,}, as {kind}"
    else:
        for name in list(sizes)[:_FEW]:
            size = sizes[name]
            facts[f"text {name}"] = "on the Hub" if size is None else f"{size / 1e6:,.1f} MB"
    if len(sources) > _FEW:
        facts["further languages"] = str(len(sources) - _FEW)
    facts["models to train"] = _models(stage, list(sources))
    facts["pieces"] = f"{stage.size:,} of all clusters, less what several have"
    letters = [one["characters"] for one in counted.values()]
    bound = stage.sample.most_words * 12
    most = max([min(one, bound) for one in letters] or [bound])
    here = stage.processes if stage.ray is None else 1
    training = _BYTES_TO_BEGIN + here * most * _BYTES_A_LETTER
    memory = max(training, _BYTES_TO_BEGIN + stage.size * _BYTES_A_PIECE)
    facts["memory of counting"] = f"at most {here * stage.sample.most_words * _BYTES_A_WORD / 1e9:.1f} GB"
    if stage.ray is not None:
        facts["on Ray"] = f"{stage.ray.address}; memory is that of one job at a time"
    return StagePlan(facts, None, int(memory))


def _models(stage: Vocabulary, names: list[str]) -> str:
    capacity, chosen = stage.capacity, stage.cluster
    if chosen.method == "pins":
        clusters = len(set(chosen.pins.values()))
    else:
        _, clusters = groups_of(names, chosen.count, method=chosen.method, must_link=chosen.must_link, pins=chosen.pins)
    languages = len(names)
    curves = 0
    if capacity.rule == "alp":
        steps = len(range(capacity.least, capacity.most + 1, capacity.step))
        curves = (languages - len(capacity.tail)) * (1 if capacity.curve == "pruned" else steps)
    own = stage.cluster.method != "pins" or capacity.rule == "union"
    return f"{languages if own else 0} of languages, {curves} for ALP curves, {clusters} of clusters"


def plan_transplant(stage: Transplant, inputs: StageInputs) -> StagePlan:
    """The model, and where its vocabulary would come from."""
    from luthier.vocabulary.transplant_run import empty_of

    how = next(name for name in ("tokenizer", "prune", "extend") if getattr(stage, name) is not None)
    facts = {
        "vocabulary": {"tokenizer": "of another tokenizer", "prune": "its own, pruned", "extend": "its own, extended"}[
            how
        ]
    }
    facts["new embeddings"] = stage.init
    model = empty_of(inputs)
    _, total = parameter_counts(model)
    embedding = model.get_input_embeddings()
    facts["old vocabulary"] = f"{embedding.num_embeddings:,} tokens of {embedding.embedding_dim} numbers"
    return StagePlan(facts, None, int(total * 4 + embedding.weight.numel() * 8))
