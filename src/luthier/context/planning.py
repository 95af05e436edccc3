"""The dry run of a `lengthen` stage: positions, tokens, operations, and whether a length fits, without weights."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from luthier.context.memory import training_memory
from luthier.context.rope import recommended_base
from luthier.context.rope_config import rope_in, rope_overrides, with_rope
from luthier.context.text import long_text
from luthier.language_modeling.budget import budget_of
from luthier.language_modeling.context_parallel import refuse_to_share_rows
from luthier.language_modeling.settings import BUDGETS
from luthier.language_modeling.telling import (
    budget_in_words,
    cost_in_words,
    is_small,
    sharing_in_words,
    split_in_words,
)
from luthier.models.inspect import parameter_counts
from luthier.models.loading import empty_model, load_config, load_tokenizer
from luthier.stages.base import StagePlan
from luthier.storage.ranks import world_size
from luthier.training.estimates import operations_per_second, split_states
from luthier.training.split import whole_at_once

if TYPE_CHECKING:
    from luthier.context.stage import Lengthen
    from luthier.stages.base import StageInputs


def plan_lengthening(stage: Lengthen, inputs: StageInputs) -> StagePlan:
    """Check the text and the model, and count what would be trained."""
    if inputs.stands_in:
        return StagePlan({"length": f"{stage.length:,} tokens", "model": "told when it is there"})
    config: Any = load_config(inputs.model)
    before, after = rope_in(config), rope_in(with_rope(config, stage.rope, stage.length))
    overrides = rope_overrides(config, stage.rope, stage.length)
    model = empty_model(inputs.model, "causal_lm", config_overrides=overrides)
    refuse_to_share_rows(model, stage.context_parallel_size, stage.length)
    old = stage.rope.old_length(before)
    text = long_text(stage, load_tokenizer(inputs.model), old)
    in_epochs = all(getattr(stage, name) is None for name in BUDGETS)
    known = text.tokens() if in_epochs or (stage.corpus.is_plain and is_small(text.corpus)) else None
    cost, (_, total) = text.cost(model), parameter_counts(model)
    blocks = known // text.frame.room if known else None
    budget = budget_of(stage, cost, processes=text.share.processes, blocks=blocks)
    lengths = stage.lengths()
    text = replace(text, steps=budget.steps or text.steps)
    if budget.steps:
        lengths.switches(budget.steps)
    whole, processes = whole_at_once(model) if stage.split_weights else 0, max(2, world_size())
    memory = training_memory(
        config,
        total,
        stage.batch_size * stage.length,
        stage.length,
        checkpointing=stage.gradient_checkpointing,
        masked=stage.document_mask == "block" and stage.document_attention == "mask",
        states=split_states(total, whole, processes) if stage.split_weights else None,
        sharing=stage.context_parallel_size,
    )
    advice = recommended_base(before.dim, stage.length, old_base=before.base, old_length=old)
    facts = {
        "positions": f"{stage.rope.kind}; base {before.base:,.0f} before, {after.base:,.0f} after "
        f"({advice.base:,.0f} would be {advice.reason})",
        "length": f"{old:,} tokens before, {stage.length:,} after",
        "lengths": str(lengths),
        "text": f"{known:,} tokens"
        if known
        else ", ".join(f"{name} {one.weight:g}" for name, one in stage.corpus.by_name.items()),
        "held out": f"{len(text.held_out.rows)} rows" if text.held_out else "nothing",
        "operations a token": f"{cost.training:.3g} ({cost_in_words(cost)})",
        "budget": budget_in_words(budget, stage.max_minutes),
        "memory": f"{memory.total / 1e9:.2f} GB in float32: weights and their state {memory.states / 1e9:.2f}, "
        f"activations {memory.activations / 1e9:.2f}; {_fits(memory.total)}",
    }
    if stage.context_parallel_size > 1:
        facts["rows"] = sharing_in_words(stage.context_parallel_size, stage.length)
    if stage.split_weights:
        facts["split"] = split_in_words(total, whole, world_size())
    if len(lengths.stages) > 1:
        sizes = int(config.num_hidden_layers), int(config.hidden_size)
        facts["saved by shorter rows"] = f"{lengths.saving(*sizes):.1%} of the operations, as the paper counts them"
    seconds = math.inf if budget.flops is None else budget.flops / world_size() / operations_per_second()
    limit = 60 * stage.max_minutes if stage.max_minutes else math.inf
    return StagePlan(facts, min(seconds, limit), memory.total)


def _fits(needed: int) -> str:
    """Whether this machine, or its accelerator, has as much."""
    import torch

    if torch.cuda.is_available():
        there, name = torch.cuda.get_device_properties(0).total_memory, "the accelerator"
    else:
        import psutil

        there, name = psutil.virtual_memory().total, "this machine"
    told = f"{name} has {there / 1e9:.1f}"
    return (
        told if needed <= there else f"too much: {told}; set gradient_checkpointing, or a smaller batch_size or length"
    )
