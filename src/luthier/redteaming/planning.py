"""The dry run of a `redteam` stage: prompts, texts to be written, and rough estimates; no weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.generation.instructions import MEASURED_SPLITS, prompts_with_responses
from luthier.models.inspect import parameter_counts
from luthier.models.loading import empty_model
from luthier.redteaming.seeds import read_prompts, split_seeds
from luthier.redteaming.settings import MartSettings
from luthier.stages.base import StagePlan
from luthier.training.estimates import memory_estimate, operations_per_second

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
    model = empty_model(inputs.model, "causal_lm")
    total = parameter_counts(model)[1]
    facts = {
        "seeds": f"{len(split.train)}, {len(split.dropped)} left out as near-duplicates",
        "held out": str(len(split.held_out)),
        "rounds": f"at most {stage.rounds}",
        "texts to write": f"at most {written:,} of {stage.limits.generations:,} allowed",
        "tokens to write": f"at most {tokens:,}",
        "adversary": f"{stage.adversary.method.name}" if stage.trains_adversary() else "not trained",
        "target": f"{stage.target.method.name}" if stage.target.train else "not trained",
        "judges": f"{stage.judges.safety.kind} and {stage.judges.helpfulness.kind}",
    }
    # Reading weights bounds the writing of tokens: about a fifth of the arithmetic speed is reached in batches.
    seconds = 2 * total * tokens / (0.2 * operations_per_second())
    longest = min(stage.max_length, stage.answers.max_new_tokens + stage.attacks.max_new_tokens)
    memory = memory_estimate(total, total // 100, model.config, longest * stage.target.batch_size)
    return StagePlan(facts, seconds, int(memory))


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
