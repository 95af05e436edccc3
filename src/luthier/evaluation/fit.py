"""Which suites and tasks fit a model that has no head of a task."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.data.stated import learns_text
from luthier.evaluation.subject import Suite


def language_misfit(task: str | None, suites: Sequence[Suite]) -> str:
    """Why suites can't judge a language model on a task.

    Args:
        task: name of the schema of the data, not posed as text; None where it is not known yet.

    Returns:
        The reason with what to do; empty where they can.
    """
    if task is not None and not learns_text(task):
        return (
            f"a pretrained model has no head for a {task} task, so only its text can be judged: tune it first, give "
            "data without labels, or pose the task as text with `as_text: true`"
        )
    others = [s.name for s in suites if s.label_kinds is not None and None not in s.label_kinds]
    return f"of a pretrained model, {' and '.join(others)} can't be judged: leave it out of `suites`" if others else ""
