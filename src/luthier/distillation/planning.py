"""The dry run of a `distil` stage: what would be trained, without weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from luthier.distillation.nodes import NodeBuilder, check_vocabularies
from luthier.distillation.preparing import tuned
from luthier.distillation.sources import check_begun, forward_passes, node_cost, prepared_source, text_steps
from luthier.language_modeling.preparing import TextJob
from luthier.models.inspect import parameter_counts
from luthier.stages.base import StageInputs, StagePlan
from luthier.training.checkpoints import UNBOUNDED
from luthier.training.estimates import LIBRARIES, memory_estimate, operations_per_second
from luthier.training.job import total_steps
from luthier.training.preparing import described_task, row_counts

if TYPE_CHECKING:
    from luthier.distillation.stage import Distil


def plan_distilling(stage: Distil, inputs: StageInputs) -> StagePlan:
    """Check data, tokenizers and sizes, and count what would be trained."""
    builder = NodeBuilder(stage, inputs)
    source, heads = prepared_source(stage, inputs, builder)
    models: dict[str, Any] = {name: builder.empty(name, heads) for name in stage.nodes}
    check_vocabularies(models, heads)
    builder.check_weights(models, heads)
    with torch.device("meta"):
        for name in stage.trained:
            models[name] = tuned(stage, source, name, models[name], builder.seed(name), heads)
    for name in set(stage.nodes) - set(stage.trained):
        models[name].requires_grad_(False)
    if isinstance(source, TextJob):
        there = {name: model for name, model in models.items() if stage.nodes[name].store is None}
        steps, tokens = text_steps(source, stage, there) or UNBOUNDED, float(source.frame.length)
        longest, about = source.frame.length, "masked tokens" if source.masked else "next token"
    else:
        lengths = [source.max_length] if stage.data and stage.data.streaming else list(source.rows["train"]["length"])
        steps, tokens, longest = total_steps(stage, len(lengths)), sum(lengths) / len(lengths), max(lengths)
        about = described_task(source.task)
    check_begun(stage, steps)
    facts = {"learned": about}
    if not isinstance(source, TextJob):
        counts = row_counts(source).items()
        facts["rows"] = ", ".join(f"{split} {'streamed' if n is None else n}" for split, n in counts)
    memory, seconds = float(LIBRARIES), 0.0
    speed = operations_per_second()
    for name, model in models.items():
        trainable, total = parameter_counts(model)
        facts[f"node {name}"] = _told(stage, name, builder, trainable, total)
        memory += memory_estimate(total, trainable, model.config, longest * stage.batch_size) - LIBRARIES
        one = node_cost(source, model, frozen=stage.nodes[name].frozen)
        cost = one.trained + forward_passes(stage, name) * one.forward
        factor = stage.objective.relative_cost() if stage.objective and name == stage.main else 1.0
        seconds += factor * cost * tokens * stage.batch_size * stage.accumulation * steps / speed
    facts["edges"] = ", ".join(edge.name for edge in stage.edges) or "none"
    if stage.update == "alternating":
        facts["update"] = f"alternating: {', then '.join(stage.trained)}"
    facts["goes on"] = stage.main
    facts["steps"] = f"{steps:,}" if steps < UNBOUNDED else f"what {stage.max_minutes:g} minutes allow"
    limit = 60 * stage.max_minutes if stage.max_minutes else math.inf
    return StagePlan(facts, min(limit, seconds), int(memory))


def _told(stage: Distil, name: str, builder: NodeBuilder, trainable: int, total: int) -> str:
    node = stage.nodes[name]
    if node.frozen:
        kept = "" if node.store is None else ", outputs stored"
        return f"{total:,} parameters, frozen{kept}, {builder.reference(name).reference}"
    origin = {
        "weights": builder.reference(name).reference,
        "random": "random weights",
        "remap": f"weights of {node.like or builder.reference(name).reference}, remapped",
    }[node.start]
    return f"{trainable:,} of {total:,} parameters to train, {node.method.name}, {origin}"
