"""The dry run of a `redteam` stage: prompts, texts to be written, and rough estimates; no weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    written, tokens = most_written(stage, len(split.train), len(split.held_out))
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


def most_written(settings: MartSettings, seeds: int, held_out: int) -> tuple[int, int]:
    """Texts and tokens that a loop writes where every attack succeeds and every text is as long as it may be."""
    attacks = prompts = answers = 0
    parents = seeds
    for number in range(1, settings.rounds + 1):
        parents = min(parents, settings.attacks.max_parents or parents)
        parents *= settings.attacks.per_parent
        variants = 1 + (number in settings.answers.distillation_rounds)
        attacks += parents
        prompts += parents if settings.attacks.list is None else 0
        answers += parents * variants * len(settings.temperatures(number))
    measured = held_out * (1 + (settings.rounds if settings.evaluation.every_round else bool(settings.rounds)))
    tokens = prompts * settings.attacks.max_new_tokens + (answers + measured) * settings.answers.max_new_tokens
    return prompts + answers + measured, tokens
