"""What an example of each kind of task holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TaskSchema:
    """The shape of one kind of task.

    Attributes:
        name: as in recipes.
        columns: canonical columns that every row has.
        label_column: the column that carries what is learned, or None where the text itself is.
        has_classes: whether labels are drawn from a closed set.
        metrics: metric names by default, the primary one first.
        optional: canonical columns that the rows of a set have all together, or not at all.
    """

    name: str
    columns: tuple[str, ...]
    label_column: str | None
    has_classes: bool
    metrics: tuple[str, ...]
    optional: tuple[str, ...] = ()

    def read(self, mapping: Mapping[str, str | list[str]], present: Collection[str]) -> tuple[str, ...]:
        """The canonical columns that are read from a table: those of every row, and the optional ones that the user
        or the known set names, or that the table has under their own name.

        Args:
            mapping: canonical column -> column of the table, where they differ.
            present: columns of the table.
        """
        taken = {name for source in mapping.values() for name in ([source] if isinstance(source, str) else source)}
        free = set(present) - taken
        return self.columns + tuple(name for name in self.optional if name in mapping or name in free)


@dataclass(frozen=True)
class TrainedOn:
    """What a model was trained on, which other rows that it meets are read as.

    Attributes:
        task: name of the schema.
        columns: canonical columns that it reads.
    """

    task: str
    columns: tuple[str, ...]


SCHEMAS: dict[str, TaskSchema] = {
    schema.name: schema
    for schema in (
        TaskSchema("single_sentence", ("text",), "label", True, ("accuracy", "macro_f1")),
        TaskSchema("pair", ("text", "text_pair"), "label", True, ("accuracy", "macro_f1")),
        TaskSchema("regression", ("text",), "label", False, ("pearson", "spearman"), ("text_pair",)),
        TaskSchema("token_labels", ("tokens",), "tags", True, ("seqeval_f1",)),
        TaskSchema("extractive_qa", ("question", "context"), "answers", False, ("squad_f1", "exact_match")),
        TaskSchema("multiple_choice", ("context", "choices"), "label", False, ("accuracy",)),
        TaskSchema("plain_text", ("text",), None, False, ("perplexity",)),
        TaskSchema("prompt_response", ("prompt", "response"), None, False, ("perplexity",)),
    )
}


def infer_task(columns: set[str], named: set[str]) -> str | None:
    """The task that a table's columns fit, or None.

    Args:
        columns: canonical columns that the table has, renamed as the user asked.
        named: canonical columns that the user named, which must be part of the answer.
    """
    candidates = [
        ("token_labels", {"tokens", "tags"}),
        ("extractive_qa", {"question", "context", "answers"}),
        ("multiple_choice", {"context", "choices", "label"}),
        ("prompt_response", {"prompt", "response"}),
        ("pair", {"text", "text_pair", "label"}),
        ("single_sentence", {"text", "label"}),
        ("plain_text", {"text"}),
    ]
    fitting = [task for task, needed in candidates if needed <= columns and named <= needed]
    return fitting[0] if fitting else None
