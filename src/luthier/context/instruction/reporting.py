"""What the page shows of long instruction tuning: what became of the documents, and samples to be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from luthier.context.instruction.samples import Sample
from luthier.report.sections import Bars, Section, SectionTable, Value, cut

if TYPE_CHECKING:
    from luthier.context.instruction.run import Learned
    from luthier.context.instruction.settings import InstructionSettings
    from luthier.context.instruction.synthesis import Synthesis

_SHOWN, _DEPTHS, _LONGEST = 8, 5, 600


def sections(
    stage: InstructionSettings, found: Synthesis, learned: Learned, looked_at: dict[str, str]
) -> list[Section]:
    """What was left after each step, where the answers stand, what is learned, and some samples."""
    return [_steps(found), _learned(stage, found, learned, looked_at), _depths(found.samples), _samples(stage, found)]


def _steps(found: Synthesis) -> Section:
    rows: list[list[Value]] = [[name, count] for name, count in found.counts.items()]
    return Section(
        "From documents to samples",
        text="What was left after each step. Every text that was written is kept in the folders of the steps.",
        table=SectionTable(["step", "left"], rows),
    )


def _learned(stage: InstructionSettings, found: Synthesis, learned: Learned, looked_at: dict[str, str]) -> Section:
    lengths = [one.tokens for one in found.learned]
    facts: dict[str, Value] = {
        "samples": f"{len(found.learned):,} learned, {len(found.held_out):,} held out",
        "tokens of a sample": f"{min(lengths):,} to {max(lengths):,}, of at most {learned.length:,}",
        "weight of a token": f"{stage.input_loss_weight:g} in document and question, 1 in the answer",
        "short instructions": f"{learned.short:,}",
        "tokens": ", ".join(f"{count:,} {name}" for name, count in learned.tokens.items()),
        **{f"checked: {name}": told for name, told in looked_at.items()},
    }
    return Section("What is learned", facts=facts)


def _depths(samples: Sequence[Sample]) -> Section:
    counts, _ = np.histogram([one.depth for one in samples], bins=_DEPTHS, range=(0, 1))
    names = [f"{n / _DEPTHS:.0%} to {(n + 1) / _DEPTHS:.0%}" for n in range(_DEPTHS)]
    values = {name: float(count) for name, count in zip(names, counts, strict=True)}
    return Section(
        "Where the answers stand",
        text="Samples by the depth at which the part that is asked about stands in the document.",
        plot=Bars(values, x_label="samples"),
    )


def _samples(stage: InstructionSettings, found: Synthesis) -> Section:
    step = max(1, len(found.samples) // _SHOWN)
    shown = [
        {
            "question": one.question,
            "answer": one.answer,
            "kind": one.kind,
            "depth": f"{one.depth:.0%} of {one.tokens:,} tokens",
            "the part that was asked about": cut(one.prompt[one.start : one.end], _LONGEST),
        }
        for one in found.samples[::step][:_SHOWN]
    ]
    text = "Questions and answers that a model wrote" + (" and found right." if stage.writing.verify else ".")
    return Section("Samples", text=text, samples=shown)
