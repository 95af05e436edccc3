"""The data block of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.data.schemas import SCHEMAS, TaskSchema, text_tasks
from luthier.data.text_form import template_columns
from luthier.registry import TASKS, NameIn
from luthier.settings import Settings

TaskName = Annotated[str, NameIn(TASKS)]
FileFormat = Literal["csv", "tsv", "jsonl", "json", "parquet", "txt", "conll"]
SPLITS = ("train", "validation", "test")

_TEXT_FIELDS = ("text", "label", "text_pair", "tokens", "tags", "question", "context", "answers", "choices")
_COLUMN_FIELDS = (*_TEXT_FIELDS, "prompt", "response")


class DataSettings(Settings):
    """Where the examples come from, what they mean, and which of them are used."""

    path_fields: ClassVar[tuple[str, ...]] = ("source", *SPLITS)

    source: str | None = Field(
        None,
        description="A set with its own splits: `data:sst2`, `hub:nyu-mll/glue:sst2`, `glue/rte`, `superglue/cb`.",
    )
    train: str | None = Field(
        None,
        description="Training examples: a file (csv, tsv, jsonl, json, parquet, txt, conll; .gz, .zst; "
        "`some.zip!member`), `package:NAME/path`, `data:SET`, `hub:ID[:config][@revision]`, or a known set; `#split` "
        "picks a set's split.",
    )
    validation: str | None = Field(None, description="Examples that choose between checkpoints; written like `train`.")
    test: str | None = Field(None, description="Examples for the final score; written like `train`.")

    task: TaskName | None = Field(
        None, description="What the examples are. Left out: known set, else inferred from the columns."
    )
    text: str | None = Field(None, description="Column of the text, or of the first text of a pair (default `text`).")
    text_pair: str | None = Field(None, description="Column of the second text of a pair (default `text_pair`).")
    label: str | Annotated[list[str], Field(min_length=2)] | None = Field(
        None,
        description="Column of the label or score (default `label`), or, for task multi_label, the columns of 0 and 1, "
        "one a class.",
    )
    tokens: str | None = Field(None, description="Column of the list of words (default `tokens`).")
    tags: str | None = Field(None, description="Column of the list of word labels (default `tags`).")
    context: str | None = Field(None, description="Column of the passage or premise (default `context`).")
    question: str | None = Field(None, description="Column of the question (default `question`).")
    answers: str | None = Field(
        None, description="Column of answers, `{text: [...], answer_start: [...]}` (default `answers`)."
    )
    choices: str | list[str] | None = Field(
        None,
        description="Column with the list of choices, or the columns that hold one choice each (default `choices`).",
    )
    prompt: str | None = Field(None, description="Column of the prompt (default `prompt`).")
    response: str | None = Field(None, description="Column of the response (default `response`).")

    labelled: bool = Field(True, description="false: the examples carry no labels; the label column is not read.")
    labels: list[str] | None = Field(
        None,
        min_length=1,
        description="All labels in the order of their ids. Left out: from the known set, else sorted values.",
    )
    label_map: dict[str, str] | None = Field(
        None, description="Value in the file -> label. Values that are not named stay as they are."
    )

    as_text: bool = Field(
        False,
        description="Pose the task as text: a language model reads a prompt and answers with the label's text. "
        "For tasks single_sentence, pair, regression and multiple_choice.",
    )
    template: str | None = Field(
        None,
        description="The prompt of `as_text`, as in `question: {text} passage: {text_pair}`, with the columns {text}, "
        "{text_pair}, {context}, {choices}. Left out: the known set's, else every text after its column's name.",
    )
    verbalizers: dict[str, str] | None = Field(
        None,
        description="Label -> the text that `as_text` has the model answer. Labels that are not named answer as "
        "themselves; choices are named by their index, 0, 1, ..., and answer choice1, choice2, ...",
    )
    number_step: float | None = Field(
        None,
        gt=0,
        description="`as_text` with task regression: scores are rounded to a multiple of this (default 0.2).",
    )
    label_scoring: Literal["likelihood", "generate"] = Field(
        "likelihood",
        description="How the answer of `as_text` is found: `likelihood` takes the label whose text is the most likely, "
        "`generate` decodes greedily and takes the label whose text comes out, which gives no probabilities.",
    )

    format: FileFormat | None = Field(None, description="Format of the files, when their names do not tell.")
    delimiter: str | None = Field(None, min_length=1, max_length=1, description="Field separator of csv and tsv files.")
    column_names: list[str] | None = Field(
        None,
        min_length=1,
        description="Names of the columns of csv and tsv files that have no header line. A first line that is these "
        "names is one, and no row.",
    )
    encoding: str = Field("utf-8", description="Encoding of text files. A UTF-8 byte order mark is dropped.")
    max_line_megabytes: float = Field(
        8.0,
        gt=0,
        description="Longest line of a text file that is believed. Longer ones are an error that names the line.",
    )

    invalid_rows: Literal["refuse", "drop"] = Field(
        "refuse",
        description="What happens to rows that can't be used: missing or empty cells, unknown labels, fields too many "
        "or too few. `drop` leaves them out and names them; where they are more than half, they are refused.",
    )
    max_length: int | None = Field(
        None,
        gt=0,
        description="Longest example in tokens, at most what the model can read. Left out: that, up to 512.",
    )
    too_long: Literal["error", "truncate"] = Field(
        "error", description="What happens to examples that are longer than `max_length`; truncation is reported."
    )

    limit: int | None = Field(
        None, gt=0, description="Use at most this many examples of every split, drawn with `subset_seed`."
    )
    evaluation_limit: int | None = Field(
        None, gt=0, description="Use at most this many validation and test examples, drawn with `subset_seed`."
    )
    per_class: int | None = Field(None, gt=0, description="Train on this many examples of every label (k-shot).")
    examples: int | None = Field(None, gt=0, description="Train on this many examples in total.")
    subset_seed: int = Field(0, ge=0, description="Seed of the draw of training examples.")
    validation_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Cut this share off the training examples for validation, always with the same seed; of every "
        "class the same share, where each example has one.",
    )
    validation_examples: int | None = Field(
        None,
        gt=0,
        description="Validate on the next n examples after the `examples` drawn for training; "
        "the set's own validation split then becomes the test split (the protocol of UniPELT).",
    )

    streaming: bool = Field(False, description="Read the training examples while training instead of loading them.")
    buffer: int = Field(1000, gt=0, description="Examples in the shuffle buffer of a stream.")

    def columns(self) -> dict[str, str | list[str]]:
        """The columns named by the user."""
        return {name: getattr(self, name) for name in _COLUMN_FIELDS if getattr(self, name) is not None}

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _sources_fit(self) -> DataSettings:
        given = [name for name in SPLITS if getattr(self, name) is not None]
        if self.source is None and not given:
            raise ValueError("no data: give `source` (a set with its own splits), or `train` and others")
        if self.source is not None and self.train is not None:
            raise ValueError("`source` and `train` both name the training examples: keep one of them")
        for i, one in enumerate(given):
            for other in given[i + 1 :]:
                if getattr(self, one) == getattr(self, other) and _is_one_table(getattr(self, one)):
                    raise ValueError(f"`{one}` and `{other}` are the same examples: {getattr(self, one)}")
        return self

    @model_validator(mode="after")
    def _columns_differ(self) -> DataSettings:
        read: dict[str, str] = {}
        for name, column in self.columns().items():
            if isinstance(column, list) and len(set(column)) < len(column):
                raise ValueError(f"`{name}` names a column twice")
            for one in [column] if isinstance(column, str) else column:
                if read.setdefault(one, name) != name:
                    raise ValueError(
                        f"`{read[one]}` and `{name}` are both read from the column {one!r}: name another one"
                    )
        return self

    @model_validator(mode="after")
    def _subset_fits(self) -> DataSettings:
        if self.per_class is not None and self.examples is not None:
            raise ValueError("`per_class` and `examples` both size the training subset: keep one of them")
        if self.validation_fraction is not None and self.validation_examples is not None:
            raise ValueError(
                "`validation_fraction` and `validation_examples` both cut a validation split: keep one of them"
            )
        if self.validation_examples is not None and self.examples is None:
            raise ValueError("`validation_examples` are those after the first `examples`: set `examples` too")
        for cut in ("validation_fraction", "validation_examples"):
            if getattr(self, cut) is not None and self.validation is not None:
                raise ValueError(f"`{cut}` cuts a validation split, but `validation` names one: keep one of them")
        return self

    @model_validator(mode="after")
    def _task_fits(self) -> DataSettings:
        if self.task is not None:
            schema = SCHEMAS[self.task]
            allowed = schema.all_columns
            for name in self.columns():
                if name not in allowed:
                    raise ValueError(
                        f"`{name}` has no effect for task {self.task}, whose columns are {', '.join(allowed)}"
                    )
            if ignored := self.ignored_names(schema):
                raise ValueError(f"`{ignored}` has no effect for task {self.task}")
            if self.per_class is not None and schema.label_kind != "class":
                raise ValueError(f"`per_class` needs one label an example, which task {self.task} does not have")
            if self.labels and len(self.labels) < 2 and not schema.tells_labels:
                raise ValueError(f"`labels` needs at least 2 labels for task {self.task}")
        if isinstance(self.label, list):
            if self.task is None or not SCHEMAS[self.task].labels_by_column:
                raise ValueError("`label` names several columns, one a class, which is for `task: multi_label`")
            if self.labels:
                raise ValueError("`label` names the classes, and `labels` does, too: keep one of them")
        if self.labels and len(set(self.labels)) != len(self.labels):
            raise ValueError("`labels` names a label twice")
        if not self.labelled and self.per_class is not None:
            raise ValueError("`per_class` needs labels, but `labelled` is false")
        return self

    def ignored_names(self, schema: TaskSchema) -> str:
        """Which of `labels` and `label_map` is given and no part of a task; empty where none is."""
        taken = {
            "labels": schema.has_classes or schema.tells_labels,
            "label_map": schema.has_classes or schema.label_kind == "choice",
        }
        return next((name for name, fits in taken.items() if getattr(self, name) and not fits), "")

    @model_validator(mode="after")
    def _text_fits(self) -> DataSettings:
        given = [name for name in ("template", "verbalizers", "number_step") if getattr(self, name) is not None]
        given += ["label_scoring"] if self.label_scoring != "likelihood" else []
        if given and not self.as_text:
            raise ValueError(f"`{given[0]}` has no effect without `as_text: true`")
        if self.task is not None:
            self._text_fits_task(SCHEMAS[self.task])
        if self.template is not None:
            template_columns(self.template)
        return self

    def _text_fits_task(self, schema: TaskSchema) -> None:
        if self.as_text and not schema.prompt_columns:
            raise ValueError(f"task {self.task} can't be posed as text: `as_text` is for {', '.join(text_tasks())}")
        if self.number_step is not None and schema.label_kind != "score":
            raise ValueError(f"`number_step` has no effect for task {self.task}")
        if self.verbalizers is not None and schema.label_kind == "score":
            raise ValueError(f"`verbalizers` have no effect for task {self.task}, whose answers are numbers")

    @model_validator(mode="after")
    def _stream_fits(self) -> DataSettings:
        if not self.streaming:
            if self.changed("buffer"):
                raise ValueError("`buffer` shuffles a stream: it has no effect without `streaming: true`")
            return self
        whole = ("limit", "evaluation_limit", "per_class", "examples", "validation_fraction", "validation_examples")
        for name in whole:
            if getattr(self, name) is not None:
                raise ValueError(f"`{name}` needs all examples at once, so it can't be used with `streaming`")
        if self.invalid_rows == "drop":
            raise ValueError("`invalid_rows: drop` needs all examples at once, so it can't be used with `streaming`")
        if self.task is not None and not SCHEMAS[self.task].streamed:
            raise ValueError(f"task {self.task} can't be streamed")
        return self


def _is_one_table(source: str) -> bool:
    """Whether a source names one table of rows, and not a set that picks its own split for each use."""
    if "#" in source:
        return True
    known = source.startswith(("hub:", "data:", "glue/", "superglue/"))
    return not known and "." in source.rpartition("/")[2]
