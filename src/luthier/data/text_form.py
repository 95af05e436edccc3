"""How a task is posed as text: a prompt that shows the example, and the text that each label is answered with.

Source: Raffel et al., JMLR 2020, section 2.4 (the task's name and the name of every field before its text; numbers
rounded to a step); the prompt-tuning papers pose GLUE and SuperGLUE the same way.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from luthier.errors import DataError

# The task that has the batches of one that is posed as text.
REPLIES = "prompt_response"
_PLACES = ("text", "text_pair", "context", "choices", "question")


@dataclass(frozen=True)
class TextForm:
    """A task posed as text.

    Attributes:
        template: the prompt, with canonical columns in braces.
        labels: in the order of their ids; indices of choices; numbers, for regression. Empty where every row is a
            candidate answer of its own (ReCoRD), whose text is then what is answered.
        words: the text of each label.
        scoring: whether the answer is the most likely text, or what the model writes.
    """

    template: str
    labels: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    scoring: Literal["likelihood", "generate"] = "likelihood"

    @property
    def ranks_candidates(self) -> bool:
        """Whether rows are candidates that are ranked among those with the same prompt."""
        return not self.labels

    @property
    def columns(self) -> tuple[str, ...]:
        """Canonical columns that the prompt shows."""
        return template_columns(self.template)

    def values(self, row: Mapping[str, Any]) -> dict[str, str]:
        """The text of every column that the prompt shows.

        Raises:
            KeyError: the row lacks one.
        """
        return {name: self._choices(row) if name == "choices" else str(row[name]) for name in self.columns}

    def options(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The answers that are compared for a row."""
        return (str(row["candidate"]),) if self.ranks_candidates else self.words

    def for_labels(self, labels: Sequence[str]) -> TextForm:
        """The same form with class labels in another order.

        Args:
            labels: in the order of their ids; empty where the task has no classes.

        Raises:
            DataError: a label has no text.
        """
        if not labels or self.ranks_candidates:
            return self
        unknown = [label for label in labels if label not in self.labels]
        if unknown:
            raise DataError(
                f"the model answers with {', '.join(map(repr, self.words))}, none of which is the label {unknown[0]!r}",
                fix="rename labels with `label_map`, or set `as_text` and `verbalizers` for these data",
            )
        texts = dict(zip(self.labels, self.words, strict=True))
        return replace(self, labels=tuple(labels), words=tuple(texts[label] for label in labels))

    def _choices(self, row: Mapping[str, Any]) -> str:
        if self.ranks_candidates:
            return ", ".join(row["choices"])
        return " ".join(f"{word}: {choice}" for word, choice in zip(self.words, row["choices"], strict=True))


def template_columns(template: str) -> tuple[str, ...]:
    """The columns that a template names, each once.

    Raises:
        ValueError: a brace is not closed, a column does not exist, or none is named.
    """
    found = []
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"the template can't be read: {error}; a brace that is meant is written twice") from error
    for _, name, specification, conversion in parts:
        if name is None:
            continue
        if name not in _PLACES or specification or conversion:
            raise ValueError(f"the template names {{{name}}}; it may name {', '.join(f'{{{p}}}' for p in _PLACES)}")
        found.append(name)
    if not found:
        raise ValueError("the template shows nothing of the example: name a column in it, as in `review: {text}`")
    return tuple(dict.fromkeys(found))
