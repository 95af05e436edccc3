"""Which suites and tasks fit a model that has no head of a task."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.data.schemas import SCHEMAS
from luthier.data.settings import DataSettings
from luthier.data.stated import learns_text
from luthier.evaluation.subject import Suite

_NAMES = {"masked_lm": "masked language model", "causal_lm": "causal language model", "seq2seq_lm": "encoder-decoder"}


def language_misfit(task: str | None, suites: Sequence[Suite], head: str = "") -> str:
    """Why suites can't judge a language model on a task.

    Args:
        task: name of the schema of the data, not posed as text; None where it is not known yet.
        suites: that are to judge.
        head: of the model; empty where it is not known yet.

    Returns:
        The reason with what to do; empty where they can.
    """
    if task is not None and not learns_text(task):
        return (
            f"a pretrained model has no head for a {task} task, so only its text can be judged: tune it first, give "
            f"data without labels{'' if head == 'masked_lm' else ', or pose the task as text with `as_text: true`'}"
        )
    others = [s.name for s in suites if s.label_kinds is not None and None not in s.label_kinds]
    if others:
        return f"of a pretrained model, {' and '.join(others)} can't be judged: leave it out of `suites`"
    return head_misfit(suites, head)


def head_misfit(suites: Sequence[Suite], head: str) -> str:
    """Why suites can't judge a language model with such a head; empty where they can, or the head is not known."""
    others = [s.name for s in suites if s.language_heads is not None and head not in s.language_heads]
    if not head or not others:
        return ""
    if head == "masked_lm":
        return (
            f"a masked language model predicts no text from left to right, so that {' and '.join(others)} can't judge "
            "it: use `suites: [pseudo_perplexity]`, or tune it first"
        )
    return f"{' and '.join(others)} can't judge a {_NAMES.get(head, head)}: leave it out of `suites`, or use perplexity"


def wanted_splits(split: str) -> tuple[str, ...]:
    """The splits that a stage judges on, of which the first that there is counts."""
    return ("test", "validation") if split == "auto" else (split,)


def cut_splits(data: DataSettings) -> set[str]:
    """The splits that are cut off from the training rows, or that others become."""
    if data.validation_fraction is None and data.validation_examples is None:
        return set()
    # The validation split of a set that has one then is the test split.
    return {"validation", "test"} if data.validation_examples is not None and data.source else {"validation"}


def may_have(split: str, data: DataSettings) -> bool:
    """Whether data may have a split; those that name their splits one by one tell."""
    return data.source is not None or getattr(data, split) is not None or split in cut_splits(data)


def check_patience(patience: int | None, data: DataSettings) -> None:
    """Raises:
    ValueError: there are no validation rows, whose scores could stop improving.
    """
    if patience is not None and not may_have("validation", data):
        raise ValueError("patience needs evaluations, but there are no validation rows: give some, or leave it out")


def suites_misfit(task: str | None, suites: Sequence[Suite]) -> str:
    """Why suites can't judge rows of a task; empty where they can, or the task is not known before rows are read."""
    if task is None or task not in SCHEMAS:
        return ""
    kind = SCHEMAS[task].label_kind
    others = [s.name for s in suites if s.label_kinds is not None and kind not in s.label_kinds]
    return f"{' and '.join(others)} can't judge a {task} task: leave it out of `suites`" if others else ""


def task_misfit(suites: Sequence[Suite]) -> str:
    """Why suites can't judge a model with the head of a task; empty where they can."""
    others = [s.name for s in suites if s.language_heads == ("masked_lm",)]
    return (
        f"{' and '.join(others)} judges masked language models, and this one has the head of a task" if others else ""
    )
