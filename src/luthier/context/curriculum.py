"""Lengths that change while a model trains, at the same number of tokens a step, and what that saves.

Section 4.3 of “Effective Long-Context Scaling of Foundation Models” (Xiong et al., NAACL 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from luthier.errors import RecipeError


@dataclass(frozen=True)
class LengthCurriculum:
    """Stages of (length, share of all tokens), one after another.

    A step takes the same number of tokens in every stage: in rows of the longest length, each of which is cut into
    as many of the stage's length as fit. So a row of the stream holds the same text whatever the stage, and a change
    of length neither skips nor repeats any.

    Attributes:
        stages: (tokens of a row, share of all tokens), in the order in which they are trained; the shares sum to 1.
    """

    stages: tuple[tuple[int, float], ...]

    def __init__(self, stages: Sequence[tuple[int, float]]) -> None:
        """Raises:
        RecipeError: there is no stage, a share is not above 0, they do not sum to 1, or a length does not divide the
            longest.
        """
        object.__setattr__(self, "stages", tuple((int(length), float(share)) for length, share in stages))
        if not self.stages or any(length < 2 or share <= 0 for length, share in self.stages):
            raise RecipeError("every stage of a curriculum needs a length and a share above 0")
        if abs(sum(share for _, share in self.stages) - 1) > 1e-9:
            raise RecipeError(f"the shares of a curriculum have to sum to 1, and come to {self._sum:g}")
        for length, _ in self.stages:
            if self.longest % length:
                raise RecipeError(
                    f"rows of {self.longest:,} tokens can't be cut into ones of {length:,}",
                    fix="take lengths that divide the longest one, such as halves of it",
                )

    @property
    def _sum(self) -> float:
        return sum(share for _, share in self.stages)

    @property
    def longest(self) -> int:
        """Tokens of a row in the longest stage."""
        return max(length for length, _ in self.stages)

    def switches(self, steps: int) -> list[int]:
        """The step, from 0, at which each stage begins.

        Args:
            steps: of the whole training.

        Raises:
            RecipeError: a stage would get no step.
        """
        ends = [round(share * steps) for share in accumulate(share for _, share in self.stages)]
        starts = [0, *ends[:-1]]
        for (length, share), start, end in zip(self.stages, starts, ends, strict=True):
            if end <= start:
                raise RecipeError(
                    f"the stage at {length:,} tokens is {share:.2%} of {steps:,} steps, less than one",
                    fix="train for more steps, or give it a larger share",
                )
        return starts

    def length_at(self, step: int, steps: int) -> int:
        """Tokens of a row at a step, from 0, of a training of so many."""
        place = max(n for n, start in enumerate(self.switches(steps)) if start <= step)
        return self.stages[place][0]

    def trained(self, steps: int, done: int) -> LengthCurriculum:
        """What of it was trained, where a training of `steps` ended after fewer: stages that it did not reach are not
        there, and of the last one the share is that of the steps that were done."""
        if done >= steps or done <= 0 or len(self.stages) == 1:
            return self
        starts = self.switches(steps)
        parts = [
            (length, (min(end, done) - start) / done)
            for (length, _), start, end in zip(self.stages, starts, [*starts[1:], steps], strict=True)
        ]
        return LengthCurriculum([(length, share) for length, share in parts if share > 0])

    def mean(self, cost_of: Callable[[int], float]) -> float:
        """The mean over all tokens of a cost that goes by the length.

        Args:
            cost_of: a function of the length.
        """
        return float(sum(share * cost_of(length) for length, share in self.stages))

    def flops(self, tokens: float, layers: int, hidden: int, *, causal_half: bool = False) -> float:
        """Operations of the training as the paper counts them, sum of 72 tokens l h^2 (1 + L / 6h) over the stages.

        Args:
            tokens: of all stages.
            layers, hidden: l and h.
            causal_half: count only the half of attention that a causal mask leaves.
        """
        from luthier.language_modeling.budget import paper_flops

        return self.mean(lambda length: paper_flops(tokens, layers, hidden, length, causal_half=causal_half))

    def saving(self, layers: int, hidden: int, *, longest: int | None = None, causal_half: bool = False) -> float:
        """Share of the operations that training at the longest length from the start would take more.

        Args:
            layers, hidden: l and h.
            longest: that length, where no stage of these has it.
            causal_half: as in `flops`.
        """
        whole = LengthCurriculum([(longest or self.longest, 1.0)]).flops(1, layers, hidden, causal_half=causal_half)
        return 1 - self.flops(1, layers, hidden, causal_half=causal_half) / whole

    def __str__(self) -> str:
        return ", ".join(f"{share:.0%} at {length:,}" for length, share in self.stages)
