"""What the page shows of pretraining beside its scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.pretraining.cloze import ClozeScore
from luthier.report.sections import Section, SectionTable, Value

if TYPE_CHECKING:
    from luthier.pretraining.run import Ready
    from luthier.training.job import TrainingResult


def sections(
    ready: Ready, result: TrainingResult, before: ClozeScore | None, after: ClozeScore | None
) -> list[Section]:
    """The budget as it was spent, and the sentences that were completed."""
    return [_budget(ready, result), *([] if before is None or after is None else [_sentences(before, after)])]


def _budget(ready: Ready, result: TrainingResult) -> Section:
    budget, held_out = ready.text.budget(ready.model), ready.text.held_out
    tokens = result.steps * budget.tokens_per_step
    facts: dict[str, Value] = {
        "objective": "masked tokens" if ready.start.masked else "next token",
        "tokens": f"{tokens:,} in blocks of {ready.text.frame.length}",
        "floating-point operations": f"{tokens * budget.cost.training:.3g}",
        "operations a second": f"{tokens * budget.cost.training / max(result.seconds, 1e-9):.3g}, evaluations included",
        "held-out blocks": "none" if held_out is None else len(held_out.rows),
    }
    return Section("What was trained on", facts=facts)


def _sentences(before: ClozeScore, after: ClozeScore) -> Section:
    text = (
        f"{after.share:.1%} of {len(after.ranks)} words are among the {after.top} likeliest tokens; before training "
        f"{before.share:.1%}, by chance {after.chance:.2%}."
    )
    if after.left_out:
        text += f" {len(after.left_out)} words are no one token or stand in too long a sentence, and were left out."
    rows: list[list[Value]] = [[one, before.ranks[one] + 1, rank + 1] for one, rank in after.ranks.items()]
    return Section("Words to guess", text=text, table=SectionTable(["sentence", "rank before", "rank after"], rows))
