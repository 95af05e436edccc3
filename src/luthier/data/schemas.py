"""What an example of each kind of task holds, as reading, checking and batching see it.

`luthier.tasks.base.Task` adds what models do with such examples. Tasks are registered in `luthier.registry.TASKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from luthier.registry import TASKS

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.data.batches.collating import Padding
    from luthier.data.batches.encoders import Encoded, Encoder
    from luthier.data.reading.lines import ReadOptions
    from luthier.data.sources.base import FileSource, FolderSource
    from luthier.data.table import Problems, Table
    from luthier.data.text_form import TextForm

# The label of a position at which nothing is learned, which torch's cross-entropy leaves out.
IGNORED = -100
# Columns that say which rows belong together, or what one is called.
_ABOUT_ROWS = ("group", "id")
# What a task may have several of.
_SEVERAL = ("columns", "optional", "unsure", "learned", "prompt_columns", "metrics", "targets")
LabelKind = Literal["class", "classes", "choice", "score", "own"]


class TaskSchema:
    """The shape of one kind of task.

    Attributes:
        name: as in recipes.
        columns: canonical columns that every row has.
        label_column: the column that carries what is learned, or None where the text itself is.
        label_kind: what that column holds: one of a closed set of classes; a list of them; the index of one of the
            row's own choices; a number; or whatever the task's own `cells` make of it.
        metrics: metric names by default, the primary one first.
        optional: canonical columns that the rows of a set have all together, or not at all.
        unsure: columns that say what of a row is not known. Where one split has them, nothing is unknown in one that
            lacks them.
        learned: columns among `columns` that are answers, and not shown when a model is asked.
        guess_rank: which of the tasks that fit a table's columns is taken where none is named: the lowest. None is
            never taken.
        scored_as: the task that the same columns are where their labels are fractions.
        prompt_columns: the columns that a prompt shows where the task is posed as text, in their order; empty where it
            can't be.
        streamed: whether training rows can be read while training.
        tells_labels: whether a row whose label is the task's own matter tells names of labels by `labels_of`; `encode`
            finds all of them in the encoder.
        labels_by_column: whether what is learned may stand in several columns, one a class, of 0 and 1.
        packed: whether encoded rows are blocks of the texts of all rows together, so that one is not one row.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    label_column: ClassVar[str | None] = None
    label_kind: ClassVar[LabelKind | None] = None
    metrics: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()
    unsure: ClassVar[tuple[str, ...]] = ()
    learned: ClassVar[tuple[str, ...]] = ()
    guess_rank: ClassVar[int | None] = None
    scored_as: ClassVar[str | None] = None
    prompt_columns: ClassVar[tuple[str, ...]] = ()
    streamed: ClassVar[bool] = False
    packed: ClassVar[bool] = False
    tells_labels: ClassVar[bool] = False
    labels_by_column: ClassVar[bool] = False

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        for name in _SEVERAL:
            if isinstance(given := cls.__dict__.get(name), str):
                raise TypeError(f"{name} of {cls.__qualname__} is no tuple but the text {given!r}: write ({given!r},)")

    @property
    def has_classes(self) -> bool:
        """Whether labels are drawn from a closed set."""
        return self.label_kind in ("class", "classes")

    @property
    def all_columns(self) -> tuple[str, ...]:
        """Every canonical column that a row may have, the label's last."""
        return (*self.columns, *self.optional, *self.unsure, *((self.label_column,) if self.label_column else ()))

    @property
    def shown_columns(self) -> tuple[str, ...]:
        """The columns of `columns` and `optional` that are no answers, nor what only numbers or groups rows."""
        return tuple(c for c in (*self.columns, *self.optional) if c not in self.learned and c not in _ABOUT_ROWS)

    @property
    def fed_as(self) -> str:
        """The registered task that has batches like those that a model is fed."""
        return self.name

    def read(self, mapping: Mapping[str, str | list[str]], present: Collection[str]) -> tuple[str, ...]:
        """The canonical columns that are read from a table: those of every row, and the optional ones that the user
        or the known set names, or that the table has under their own name.

        Args:
            mapping: canonical column -> column of the table, where they differ.
            present: columns of the table.
        """
        taken = {name for source in mapping.values() for name in ([source] if isinstance(source, str) else source)}
        free = set(present) - taken
        optional = (*self.optional, *self.unsure)
        return self.columns + tuple(name for name in optional if name in mapping or name in free)

    def read_source(self, source: FileSource | FolderSource, read: ReadOptions, noted: Problems | None) -> Table | None:
        """The rows of a file or folder in a format of the task's own; None for a file in a usual one, and for a folder
        that the task does not read.

        Args:
            source: the user's file or folder.
            read: encoding and longest line of text.
            noted: where rows that can't be used are noted, to be left out; None refuses them.
        """
        return None

    def tidied(self, table: Table) -> Table:
        """The rows that a file or a set brings, as the task reads them."""
        return table

    def cells(self) -> Mapping[str, Callable[[Any], Any]]:
        """Canonical column -> how its cells are read, where `luthier.data.rows.canonical` doesn't know. A reader
        raises `BadCellError` for a cell that can't be used."""
        return {}

    def check_row(self, row: Mapping[str, Any]) -> list[tuple[str, str]]:
        """What is wrong with the cells of a row together, as (canonical column, message)."""
        return []

    def labels_of(self, row: Mapping[str, Any]) -> list[str]:
        """The labels that a row tells, each as often as it occurs, where the task `tells_labels`."""
        return []

    def labels_beside(self, row: Mapping[str, Any]) -> list[str]:
        """The labels that a row names and does not tell; they have to be known."""
        return []

    def files_beside(self, file: FileSource) -> list[FileSource]:
        """Files beside one with rows that say more of them."""
        return []

    def labels_beside_file(self, file: FileSource) -> list[str]:
        """The labels that `files_beside` name.

        Raises:
            DataError: such a file can't be read.
        """
        return []

    def known_as(self, label: str, labels: Sequence[str]) -> str | None:
        """What a label that a row tells is called among those that are known; None where it is none of them."""
        return label if label in labels else None

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raises:
        DataError: the user's labels are none of this task.
        """

    def metrics_for(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The metrics by default of rows with these labels, the primary one first."""
        return self.metrics

    def arrow_types(self) -> Mapping[str, Any]:
        """Canonical column -> pyarrow type, where it is neither text nor one of `luthier.data.assembly`."""
        return {}

    def posed_as(self, form: TextForm) -> TaskSchema:
        """The same task, posed as text."""
        raise TypeError(f"{type(self).__name__} does not define posed_as()")

    def encode(self, columns: Mapping[str, Sequence[Any]], encoder: Encoder) -> Encoded:
        """Token ids of N rows, with `row`, the number of each one's source row, and `length`, its tokens.

        Args:
            columns: canonical columns of N rows, and `row`.
            encoder: says how text becomes token ids, and takes note of rows that are cut.
        """
        raise TypeError(f"{type(self).__name__} does not define encode()")

    def collate(self, rows: Sequence[Mapping[str, Any]], padding: Padding) -> dict[str, Tensor]:
        """B encoded rows as one batch; see `luthier.data.batches.collating.make_collator`."""
        raise TypeError(f"{type(self).__name__} does not define collate()")


@dataclass(frozen=True)
class TrainedOn:
    """What a model was trained on, which other rows that it meets are read as.

    Attributes:
        task: name of the schema.
        columns: canonical columns that it reads.
    """

    task: str
    columns: tuple[str, ...]


class _Schemas(Mapping[str, TaskSchema]):
    """Every registered task by its name."""

    def __init__(self) -> None:
        self._instances: dict[type[TaskSchema], TaskSchema] = {}

    def __getitem__(self, name: str) -> TaskSchema:
        """Raises:
        RecipeError: there is none; names the nearest one.
        """
        entry = TASKS.get(name)
        return self._instances.setdefault(entry, entry())

    def __contains__(self, name: object) -> bool:
        return name in TASKS

    def __iter__(self) -> Iterator[str]:
        return iter(TASKS.names())

    def __len__(self) -> int:
        return len(TASKS.names())


SCHEMAS: Mapping[str, TaskSchema] = _Schemas()


def text_tasks() -> list[str]:
    """Names of the tasks that can be posed as text."""
    return [name for name, schema in SCHEMAS.items() if schema.prompt_columns]


def infer_task(columns: set[str], named: set[str]) -> str | None:
    """The task that a table's columns fit, or None.

    Args:
        columns: canonical columns that the table has, renamed as the user asked.
        named: canonical columns that the user named, which must be part of the answer.
    """
    fitting = [schema for schema in _guessed(SCHEMAS.values()) if named <= _needed(schema) <= columns]
    return fitting[0].name if fitting else None


def _guessed(schemas: Iterable[TaskSchema]) -> list[TaskSchema]:
    ranked = [(schema.guess_rank, schema.name, schema) for schema in schemas if schema.guess_rank is not None]
    return [schema for _, _, schema in sorted(ranked, key=lambda entry: entry[:2])]


def _needed(schema: TaskSchema) -> set[str]:
    return {*schema.columns, *((schema.label_column,) if schema.label_column else ())}
