"""The dry run of a `redteam` stage: prompts, texts to be written, and rough estimates; no weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from luthier.generation.instructions import MEASURED_SPLITS, prompts_with_responses
from luthier.methods.base import MethodContext
from luthier.models.head_kinds import peft_task_type
from luthier.models.inspect import parameter_counts
from luthier.models.loading import empty_model, load_tokenizer
from luthier.redteaming.seeds import read_prompts, split_seeds
from luthier.redteaming.settings import MartSettings, Side
from luthier.stages.base import StagePlan
from luthier.training.estimates import LIBRARIES, memory_estimate, operations_per_second

if TYPE_CHECKING:
    from luthier.redteaming.stage import Redteam
    from luthier.stages.base import StageInputs


def plan_redteaming(stage: Redteam, inputs: StageInputs) -> StagePlan:
    """Read all lists of prompts, and count what would be written."""
    held = None if stage.held_out is None else read_prompts(stage.held_out)
    seeds = read_prompts(stage.seeds)
    split = split_seeds(seeds, held, share=stage.held_out_share, similar=stage.near_duplicate, seed=inputs.seed)
    others, attacks = _others(stage), stage.attacks
    listed = len(read_prompts(attacks.list)) if attacks.source == "static" and attacks.list is not None else 0
    written, tokens = most_written(
        stage, len(split.train), len(split.held_out[: stage.evaluation.limit]), others, listed
    )
    total = parameter_counts(empty_model(inputs.model, "causal_lm"))[1]
    longest = min(stage.max_length, stage.answers.max_new_tokens + stage.attacks.max_new_tokens)
    sides, memory = {"adversary": "not trained", "target": "not trained"}, 0
    for name, side in stage.learning_sides().items():
        model = _tuned(side, inputs)
        trainable, whole = parameter_counts(model)
        sides[name] = f"{side.method.name}, {trainable:,} of {whole:,} parameters to train"
        memory = max(memory, memory_estimate(whole, trainable, model.config, longest * side.batch_size, scored=True))
    facts = {
        "seeds": f"{len(split.train)}, {len(split.dropped)} left out as near-duplicates",
        "held out": str(len(split.held_out)),
        "rounds": f"at most {stage.rounds}",
        "texts to write": f"at most {written:,} of {stage.limits.generations:,} allowed",
        "tokens to write": f"at most {tokens:,}",
        **sides,
        "judges": f"{stage.judges.safety.kind} and {stage.judges.helpfulness.kind}",
    }
    # Reading weights bounds the writing of tokens: about a fifth of the arithmetic speed is reached in batches.
    seconds = 2 * total * tokens / (0.2 * operations_per_second())
    return StagePlan(facts, seconds, memory or 4 * total + LIBRARIES)


def _tuned(side: Side, inputs: StageInputs) -> Any:
    """The model as the side trains it, without weights."""
    context = MethodContext(peft_task_type("causal_lm"), inputs.seed, load_tokenizer(inputs.model))
    model = empty_model(inputs.model, "causal_lm")
    with torch.device("meta"):
        return side.method.applied(model, context)


def _others(stage: Redteam) -> int:
    """Prompts beside held-out attacks that every target is measured by."""
    evaluation = stage.evaluation
    helpful = [] if evaluation.helpful is None else prompts_with_responses(evaluation.helpful, *MEASURED_SPLITS)
    alike = [] if evaluation.look_alikes is None else read_prompts(evaluation.look_alikes)
    return len(helpful[: evaluation.limit]) + len(alike[: evaluation.limit])


def most_written(
    settings: MartSettings, seeds: int, held_out: int, others: int = 0, listed: int = 0
) -> tuple[int, int]:
    """Texts and tokens that a loop writes where every attack succeeds and every text is as long as it may be.

    Args:
        settings: of the loop.
        seeds, held_out: prompts of both.
        others: ordinary prompts and harmless look-alikes, which every measured target is asked, too.
        listed: prompts of the list that `source: static` asks.
    """
    evaluation, writes = settings.evaluation, settings.attacks.list is None
    prompts = answers = again = 0
    parents = seeds
    for number in range(1, settings.rounds + 1):
        parents = _next_parents(settings, parents, seeds)
        asked = (listed or parents) * settings.attacks.per_parent
        variants = 1 + (number in settings.answers.distillation_rounds)
        prompts += asked if writes else 0
        answers += asked * variants * len(settings.temperatures(number))
        if evaluation.transfer:
            again += min(asked, evaluation.transfer_prompts) * (settings.rounds + 1)
        parents = asked
    if settings.rounds and evaluation.final_attacks:
        asked = (listed or _next_parents(settings, parents, seeds)) * settings.attacks.per_parent
        prompts += asked if writes else 0
        again += 2 * asked
    times = 1 + (settings.rounds if evaluation.every_round else bool(settings.rounds))
    measured = (held_out + others) * times
    answers += measured + again
    return prompts + answers, prompts * settings.attacks.max_new_tokens + answers * settings.answers.max_new_tokens


def _next_parents(settings: MartSettings, last: int, seeds: int) -> int:
    """Parents of a round behind one in which all of so many attacks succeeded."""
    found = max(last, min(settings.attacks.refill, last + seeds))
    return min(found, settings.attacks.max_parents or found)
