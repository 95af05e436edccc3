"""What a language model writes for held-out prompts."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.data.schemas import LabelKind
from luthier.evaluation.subject import Subject, Suite, SuiteResult
from luthier.registry import SUITES
from luthier.report.sections import Section, cut

_LONGEST = 1000
# Of the words of a plain text, the first ones that the model goes on from.
_OPENING = 1 / 3


@SUITES.register
class AnswersSuite(Suite):
    """Some of the judged rows with what the model writes, greedily, beside what stands in the data, to be read.

    Of rows of plain text the model is given the first third of the words.
    """

    name: Literal["answers"] = "answers"
    summary: ClassVar[str] = "some held-out prompts with what the model writes beside what the data say"
    label_kinds: ClassVar[tuple[LabelKind | None, ...] | None] = (None,)

    rows: int = Field(5, gt=0, description="How many rows are shown, drawn by the seed of the run.")
    tokens: int = Field(64, gt=0, description="Tokens that an answer has at most.")

    def run(self, subject: Subject) -> SuiteResult:
        from luthier.evaluation.untuned import untuned_model
        from luthier.models.inspect import model_max_length
        from luthier.tasks.base import task_named

        examples: Any = subject.task.splits[subject.split]
        chosen = sorted(random.Random(subject.seed).sample(range(len(examples)), min(self.rows, len(examples))))
        asked = [_asked(examples[place]) for place in chosen]
        kind: Any = task_named(subject.schema)

        def written(model: Any) -> list[str]:
            longest = subject.card.max_length or model_max_length(subject.model.config, subject.tokenizer) or 512
            rows = [row for row, _ in asked]
            found = kind.written(
                model,
                subject.tokenizer,
                subject.card,
                rows,
                longest=longest,
                most=self.tokens,
                batch_size=subject.batch_size,
            )
            return [str(one["response"]) for one in found]

        answers = written(subject.model)
        with untuned_model(subject) as base:
            earlier = [""] * len(answers) if base is None else written(base)
        samples = [_sample(*one, *told) for one, *told in zip(asked, answers, earlier, strict=True)]
        text = f"{len(samples)} of {len(examples)} rows of {subject.split}, drawn at random; the model writes what is "
        text += f"likeliest, token by token, and at most {self.tokens} of them."
        return SuiteResult(sections=[Section("Answers to held-out rows", text=text, samples=samples)])


def _asked(row: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """What the model is given of a row, and what it does not see."""
    if "prompt" in row:
        return {name: row[name] for name in ("prompt", "history", "row") if name in row}, str(row["response"])
    words = str(row["text"]).split()
    seen = max(1, round(_OPENING * len(words)))
    return {"text": " ".join(words[:seen]), "row": row["row"]}, " ".join(words[seen:])


def _sample(row: Mapping[str, Any], reference: str, answer: str, untuned: str) -> dict[str, str]:
    earlier = [f"{one['role']}: {one['content']}" for one in row.get("history") or ()]
    told = {"before": "\n".join(earlier)} if earlier else {}
    told |= {"prompt" if "prompt" in row else "text": str(row.get("prompt", row.get("text")))}
    told |= {"the model writes": answer}
    told |= {"it wrote before tuning": untuned} if untuned else {}
    told |= {"in the data": reference, "row": str(row["row"])}
    return {name: cut(text, _LONGEST) for name, text in told.items()}
