"""The dry run of a `pretrain` stage: tokens, operations, time and memory, without weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from luthier.language_modeling.budget import budget_of
from luthier.language_modeling.chunked_loss import CHUNK_ELEMENTS
from luthier.language_modeling.context_parallel import refuse_to_share_rows
from luthier.language_modeling.telling import (
    budget_in_words,
    cost_in_words,
    is_small,
    sharing_in_words,
    split_in_words,
)
from luthier.models.inspect import parameter_counts
from luthier.pretraining.start import Start, start_of
from luthier.stages.base import StagePlan
from luthier.storage.ranks import world_size
from luthier.training.estimates import gathered_numbers, memory_estimate, operations_per_second, split_states
from luthier.training.split import whole_at_once

if TYPE_CHECKING:
    from luthier.pretraining.stage import Pretrain
    from luthier.stages.base import StageInputs


def plan_pretraining(stage: Pretrain, inputs: StageInputs) -> StagePlan:
    """Check the text and the model, and count what would be trained."""
    if stage.tokenizer is not None:
        return StagePlan(
            {
                "tokenizer": f"new, {stage.tokenizer.kind} of at most {stage.tokenizer.vocabulary:,} tokens",
                "model": f"new, {stage.architecture.model_type if stage.architecture else ''}",
                "budget": "told when the tokenizer is there",
            }
        )
    if stage.initialise_from is not None and inputs.stands_in:
        return StagePlan({"model": "new, of the sizes of one that is not there yet, where the recipe names no others"})
    start = start_of(stage, inputs)
    text = start.text()
    model = start.empty_model()
    refuse_to_share_rows(model, stage.context_parallel_size, stage.length)
    cost, (trainable, total) = text.cost(model), parameter_counts(model)
    in_epochs = all(getattr(stage, name) is None for name in ("max_steps", "max_tokens", "max_flops", "max_minutes"))
    known = text.tokens() if in_epochs or is_small(text.corpus) else None
    budget = budget_of(stage, cost, processes=text.share.processes, blocks=known // text.frame.room if known else None)
    initial = {} if stage.initialise_from is None else {"weights": _remapped(start, model)}
    facts = {
        **initial,
        "objective": "masked tokens" if start.masked else "next token",
        "parameters to train": f"{trainable:,}",
        "text": "more than is counted in a dry run" if known is None else f"{known:,} tokens",
        "held out": f"{len(text.held_out.rows)} blocks" if text.held_out else "nothing",
        "operations a token": f"{cost.training:.3g} ({cost_in_words(cost)})",
        "budget": budget_in_words(budget, stage.max_minutes),
    }
    if known is not None and budget.tokens is not None:
        facts["passes over the text"] = f"{budget.tokens / text.frame.length * text.frame.room / known:.2f}"
    sharing = stage.context_parallel_size
    tokens = stage.batch_size * stage.length // sharing
    memory = memory_estimate(total, trainable, start.config, tokens) + 3 * 4 * CHUNK_ELEMENTS
    if sharing > 1:
        facts["rows"] = sharing_in_words(sharing, stage.length)
        layers = int(start.config.num_hidden_layers)
        memory += 4 * layers * gathered_numbers(start.config, stage.batch_size * stage.length)
    if stage.split_weights:
        whole = whole_at_once(model)
        facts["split"] = split_in_words(total, whole, world_size())
        memory += split_states(total, whole, max(2, world_size())) - 16 * total
    seconds = math.inf if budget.flops is None else budget.flops / world_size() / operations_per_second()
    limit = 60 * stage.max_minutes if stage.max_minutes else math.inf
    return StagePlan(facts, min(seconds, limit), memory)


def _remapped(start: Start, model: Any) -> str:
    """What of the new model is there before training, found out on the meta device."""
    done, sizes = start.remap(model, start.empty_initial()), {n: p.numel() for n, p in model.named_parameters()}
    layers = "; ".join(" ".join(map(str, sources)) for sources in done.sources.values())
    shares = {"copied": done.copied, "fitted": done.widened, "random": done.own}
    told = [f"{sum(map(sizes.__getitem__, names)) / sum(sizes.values()):.0%} {what}" for what, names in shares.items()]
    return f"layers {layers} of the trained model; {', '.join(told)}"
