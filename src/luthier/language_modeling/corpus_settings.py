"""The text that language models are trained on, as a recipe names it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from luthier.errors import LuthierError
from luthier.settings import Settings

TextFormat = Literal["txt", "jsonl", "csv", "tsv", "parquet"]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Sources = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]
DEFAULT_SHARE = 0.01


class CorpusSettings(Settings):
    """Text of any size, which is read while it is trained on. A plain string is short for `{train: STRING}`."""

    path_fields: ClassVar[tuple[str, ...]] = ("train", "validation")

    train: Sources = Field(
        min_length=1,
        description="The text: a file (txt, jsonl, csv, tsv, parquet; .gz, .zst; `some.zip!member`), a pattern such as "
        "`texts/*.txt`, `package:NAME/path`, `hub:ID[:config][@revision]`, or a list of these.",
    )
    validation: Sources = Field(
        default_factory=list, description="Text that is held out to score the model on; written like `train`."
    )
    held_out: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of the documents of `train` that is held out instead, chosen by a hash of their text, so "
        "that copies of a document are on one side; null is 0.01 where there is no `validation`, and 0 holds out none.",
    )
    text: str = Field("text", description="Column or field of the text; txt files have no other.")
    document: Literal["line", "paragraph", "file"] = Field(
        "line", description="What one document of a txt file is; paragraphs are parted by empty lines."
    )
    format: TextFormat | None = Field(None, description="Format of the files, when their names do not tell.")
    encoding: str = Field("utf-8", description="Encoding of text files. A UTF-8 byte order mark is dropped.")
    max_line_megabytes: float = Field(
        8.0, gt=0, description="Longest line of a text file that is believed. Longer ones are an error."
    )
    shuffle: int = Field(
        10_000,
        ge=0,
        description="Documents that are read ahead and shuffled together, anew in every pass; 0 keeps their order.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"train": value} if isinstance(value, str | list) else value

    def missing(self) -> Iterator[tuple[str, LuthierError]]:
        """Files that are not there, or empty; patterns are left to what reads them."""
        from luthier.data.sources.base import check_there_and_filled

        for field, sources in (("train", self.train), ("validation", self.validation)):
            for source in sources:
                try:
                    if not set(source) & set("*?["):
                        check_there_and_filled(source)
                except LuthierError as error:
                    yield field, error

    @model_validator(mode="after")
    def _held_out_once(self) -> Self:
        if self.validation and self.held_out is not None:
            raise ValueError("`validation` and `held_out` both name the text to score on: keep one of them")
        both = set(self.train) & set(self.validation)
        if both:
            raise ValueError(f"`train` and `validation` are the same text: {sorted(both)[0]}")
        return self

    @property
    def held_out_share(self) -> float:
        """Share of the documents of `train` that is not trained on."""
        if self.validation:
            return 0.0
        return DEFAULT_SHARE if self.held_out is None else self.held_out
