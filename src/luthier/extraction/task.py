"""Entities in texts and relations between them, learned together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.data.rows.canonical import BadCellError, as_label, json_cell
from luthier.data.schemas import LabelKind
from luthier.data.table import shorten
from luthier.errors import DataError
from luthier.extraction.types import ENTITY, RELATION, Types, types_file_beside
from luthier.models.head_kinds import register_head
from luthier.registry import TASKS
from luthier.tasks.base import Row
from luthier.tasks.words import TaskOnWords

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.data.batches.collating import Padding
    from luthier.data.batches.encoders import Encoded, Encoder
    from luthier.data.reading.lines import ReadOptions
    from luthier.data.sources.base import FileSource, FolderSource
    from luthier.data.table import Problems, Table
    from luthier.data.task_data import TaskData
    from luthier.models.card import ModelCard
    from luthier.models.head_kinds import Head
    from luthier.report.sections import Section
    from luthier.tasks.running.judged import Judged
    from luthier.tasks.running.predicting import Predictions

register_head(
    "joint_extraction",
    "luthier.extraction.auto:AutoModelForJointExtraction",
    peft_task_type="TOKEN_CLS",
    has_labels=True,
    model_type="sinet",
)


@TASKS.register
class JointExtraction(TaskOnWords):
    """Tells entities, spans of words with a type, and relations between two of them."""

    name: ClassVar[str] = "joint_extraction"
    summary: ClassVar[str] = "texts with entities and the relations between them"
    label_column: ClassVar[str | None] = "entities"
    label_kind: ClassVar[LabelKind | None] = "own"
    optional: ClassVar[tuple[str, ...]] = ("relations",)
    unsure: ClassVar[tuple[str, ...]] = ("ignore", "ignore_pairs", "ignore_types")
    learned: ClassVar[tuple[str, ...]] = ("relations", *unsure)
    tells_labels: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("relation_strict_f1", "relation_f1", "entity_f1")
    guess_rank: ClassVar[int | None] = 12
    head: ClassVar[Head | None] = "joint_extraction"
    head_settings: ClassVar[str] = "luthier.extraction.options:ExtractionHead"
    targets: ClassVar[tuple[str, ...]] = ()
    one_pass: ClassVar[bool] = False

    # -- rows ----------------------------------------------------------------------------------------------

    def read_source(self, source: FileSource | FolderSource, read: ReadOptions, noted: Problems | None) -> Table | None:
        from luthier.extraction.rows import annotated_table

        return annotated_table(source, read, noted)

    def tidied(self, table: Table) -> Table:
        from luthier.extraction.rows import with_unsure

        return with_unsure(table)

    def cells(self) -> Mapping[str, Callable[[Any], Any]]:
        return {
            "entities": partial(_as_items, places=("start", "end")),
            "relations": lambda value: [] if value is None else _as_items(value, places=("head", "tail")),
            "ignore": _as_pairs,
            "ignore_pairs": _as_pairs,
            "ignore_types": _as_labels,
        }

    def check_row(self, row: Mapping[str, Any]) -> list[tuple[str, str]]:
        words, entities = len(row["tokens"]), row.get("entities")
        if entities is None:
            return []
        problems = [
            ("entities", f"entity {n} is words {one['start']} to {one['end']} (the last one not counted) of {words}")
            for n, one in enumerate(entities)
            if not 0 <= one["start"] < one["end"] <= words
        ]
        for n, one in enumerate(row.get("relations") or ()):
            ends = one["head"], one["tail"]
            if not all(0 <= end < len(entities) for end in ends):
                problems.append(("relations", f"relation {n} is between {ends[0]} and {ends[1]} of {len(entities)}"))
            elif ends[0] == ends[1]:
                problems.append(("relations", f"relation {n} is between entity {ends[0]} and itself"))
        for start, end in row.get("ignore") or ():
            if not 0 <= start < end <= words:
                problems.append(("ignore", f"holds the words {start} to {end} (the last one not counted) of {words}"))
        for pair in row.get("ignore_pairs") or ():
            if not all(0 <= one < len(entities) for one in pair):
                problems.append(("ignore_pairs", f"holds {pair[0]} and {pair[1]} of {len(entities)} entities"))
        return problems

    def arrow_types(self) -> Mapping[str, Any]:
        import pyarrow

        def items(*places: str) -> Any:
            fields = [("type", pyarrow.string()), *((place, pyarrow.int64()) for place in places)]
            return pyarrow.list_(pyarrow.struct(fields))

        pairs = pyarrow.list_(pyarrow.list_(pyarrow.int64()))
        unsure = {"ignore": pairs, "ignore_pairs": pairs, "ignore_types": pyarrow.list_(pyarrow.string())}
        return {"entities": items("start", "end"), "relations": items("head", "tail"), **unsure}

    def labels_of(self, row: Mapping[str, Any]) -> list[str]:
        entities = [ENTITY + one["type"] for one in row.get("entities") or ()]
        return entities + [RELATION + one["type"] for one in row.get("relations") or ()]

    def labels_beside(self, row: Mapping[str, Any]) -> list[str]:
        return list(row.get("ignore_types") or ())

    def files_beside(self, file: FileSource) -> list[FileSource]:
        found = types_file_beside(file) if file.format in ("json", "jsonl") else None
        return [] if found is None else [found]

    def labels_beside_file(self, file: FileSource) -> list[str]:
        from luthier.extraction.formats.spert import read_types

        return [label for one in self.files_beside(file) for label in read_types(one).labels]

    def known_as(self, label: str, labels: Sequence[str]) -> str | None:
        symmetric = f"symmetric {label}"
        return next((one for one in (label, symmetric) if one in labels), None)

    def check_labels(self, labels: Sequence[str]) -> None:
        try:
            Types.of_labels(labels)
        except ValueError as error:
            raise DataError(str(error), fix="correct `labels`") from error

    def metrics_for(self, labels: Sequence[str]) -> tuple[str, ...]:
        return self.metrics if Types.of_labels(labels).relations else ("entity_f1",)

    # -- learning ------------------------------------------------------------------------------------------

    def encode(self, columns: Mapping[str, Sequence[Any]], encoder: Encoder) -> Encoded:
        from luthier.extraction.encoding import encode_documents

        return encode_documents(columns, encoder)

    def collate(self, rows: Sequence[Mapping[str, Any]], padding: Padding) -> dict[str, Tensor]:
        from luthier.extraction.encoding import collate_documents

        return collate_documents(rows, padding)

    def items(self, batch: Mapping[str, Any], *, shifted: bool = False) -> int:
        return len(batch["input_ids"])

    def logits(self, outputs: Any) -> Any:
        return {"logits": outputs.logits, "row_loss": outputs.row_loss}

    def loss(self, logits: Any, batch: Mapping[str, Any], *, items: float, shifted: bool = False) -> Tensor:
        summed: Tensor = logits["row_loss"].sum()
        return summed / items

    # -- answers -------------------------------------------------------------------------------------------

    def outputs(self, out: Any, batch: Mapping[str, Any], *, shifted: bool) -> Iterator[dict[str, Any]]:
        from luthier.extraction.telling import kept_outputs

        losses = [0.0] * len(batch["input_ids"]) if out.row_loss is None else out.row_loss.tolist()
        words = (batch["word_start"] >= 0).sum(dim=1).tolist()
        for kept, loss, count in zip(kept_outputs(out), losses, words, strict=True):
            kept["words"] = count
            yield {"logits": kept, "label": None, "nll": loss, "items": 1}

    def judge(self, predictions: Predictions, data: TaskData, examples: Any, rows: Any) -> Judged | None:
        from luthier.extraction.documents import whole
        from luthier.extraction.scoring import counts
        from luthier.tasks.running.judged import Judged

        types = Types.of_labels(data.labels)
        told = _told(predictions, list(examples["row"]), rows, types)
        return Judged(*counts([whole(one) for one in examples], told, types))

    def own_metrics(self) -> Mapping[str, Callable[[Any, Any], float]]:
        from luthier.extraction.scoring import LEVELS, f1

        micro = {f"{name}_f1": partial(f1, level=name) for name in LEVELS}
        return micro | {f"{name}_macro_f1": partial(f1, level=name, macro=True) for name in LEVELS}

    def own_statistics(self, judged: Judged) -> Mapping[str, Callable[[Any], Any]]:
        from luthier.extraction.scoring import LEVELS, drawn_f1

        both = {"there": judged.gold, "found": judged.guess}
        micro = {f"{name}_f1": partial(drawn_f1, level=name, **both) for name in LEVELS}
        return micro | {f"{name}_macro_f1": partial(drawn_f1, level=name, macro=True, **both) for name in LEVELS}

    def sections(
        self, predictions: Predictions, data: TaskData, split: str, rows: Any, config: Any
    ) -> list[Section] | None:
        from luthier.extraction.documents import whole
        from luthier.extraction.sections import evaluation_sections

        types, gold = Types.of_labels(data.labels), [whole(one) for one in data.splits[split]]
        told = _told(predictions, [one["row"] for one in gold], rows, types)
        told = [{"tokens": one["tokens"], **other} for one, other in zip(gold, told, strict=True)]
        training = [whole(one) for one in data.splits.get("train") or ()]
        return evaluation_sections(gold, told, training, types, max_span_size=config.max_span_size)

    def prior(self, data: TaskData) -> dict[str, Any]:
        from luthier.extraction.prior import prior_of

        train = data.splits.get("train")
        return {} if train is None or data.schema.label_column not in train.column_names else prior_of(train)

    def by_prior(self, prior: Mapping[str, Any], predictions: Predictions, data: TaskData) -> Predictions | None:
        from luthier.extraction.prior import predicted

        return predicted(prior, predictions, Types.of_labels(data.labels))

    def told_prior(self, prior: Mapping[str, Any]) -> str:
        from luthier.extraction.prior import told

        return told(prior)

    def settle(self, model: Any, data: TaskData, rows: Any, tokenizer: Any, *, batch_size: int = 64) -> dict[str, Any]:
        from luthier.extraction.thresholds import settle_thresholds

        predict = partial(self.predict, model, rows, tokenizer, batch_size=batch_size)
        return settle_thresholds(model, predict, data.labels, data.splits["validation"], rows)

    def describe(self, predictions: Predictions, rows: Sequence[Row], encoded: Any, card: ModelCard) -> list[Row]:
        numbers = [row.get("row", number) for number, row in enumerate(rows, 1)]
        told = _told(predictions, numbers, encoded, Types.of_labels(card.labels or []))
        return [self.shown(row) | one for row, one in zip(rows, told, strict=True)]

    def shown(self, row: Row) -> Row:
        shown = {name: value for name, value in super().shown(row).items() if name != "relations"}
        return shown | ({"offsets": row["offsets"]} if "offsets" in row else {})

    def words_of(self, text: str) -> Row:
        """Parted as the texts of annotation files are; see `luthier.extraction.tokens`."""
        from luthier.extraction.tokens import tokenise

        offsets = tokenise(text)
        return {"tokens": [text[start:end] for start, end in offsets], "offsets": offsets}


def _told(predictions: Predictions, numbers: Sequence[int], rows: Any, types: Types) -> list[dict[str, Any]]:
    """What is told of the texts with these numbers, as documents."""
    from luthier.extraction.telling import Found, found_by_row

    found = found_by_row(predictions.logits, predictions.rows, rows["first_word"], types)
    threshold = predictions.logits[0]["threshold"] if len(predictions.logits) else None
    return [found.get(int(number), Found()).document(types, threshold) for number in numbers]


def _listed(value: Any) -> list[Any]:
    """A list, or the JSON text of one; empty where there is nothing."""
    if isinstance(value, str):
        value = json_cell(value)
    if value is not None and not isinstance(value, list | tuple):
        raise BadCellError(f"holds {shorten(value)}, which is no list")
    return list(value or ())


def _as_pairs(value: Any) -> list[list[int]]:
    found = _listed(value)
    for one in found:
        if not isinstance(one, list | tuple) or len(one) != 2 or any(type(part) is not int for part in one):
            raise BadCellError(f"holds {shorten(one)}, which is no pair of whole numbers")
    return [list(one) for one in found]


def _as_labels(value: Any) -> list[str]:
    found = [as_label(one) for one in _listed(value)]
    try:
        Types.of_labels(found)
    except ValueError as error:
        raise BadCellError(f"is no list of types: {error}") from error
    return found


def _as_items(value: Any, places: tuple[str, str]) -> list[dict[str, Any]]:
    if value is None:
        raise BadCellError(f"holds {shorten(value)}, which is no list")
    found = []
    for one in _listed(value):
        if not isinstance(one, dict) or any(type(one.get(place)) is not int for place in places):
            raise BadCellError(f"holds {shorten(one)}, which is not {{type, {places[0]}, {places[1]}}}")
        found.append({"type": as_label(one.get("type")), **{place: one[place] for place in places}})
    return found
