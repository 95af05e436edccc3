"""Texts without labels: given one by one, in pairs, or in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.data.rows.canonical import BadCellError, MissingColumnsError, whole_characters
from luthier.errors import DataError


def paired(texts: list[str] | str, pairs: list[str] | str | None) -> Any:
    """The texts, or (text, second text) where there are second texts; a single string is one text.

    Raises:
        DataError: their numbers differ, or an entry is no text, or one that can't be written as UTF-8.
    """
    texts = listed(texts)
    for column, some in (("text", texts), ("second text", listed(pairs or []))):
        for number, text in enumerate(some, start=1):
            try:
                whole_characters(text)
            except BadCellError as error:
                raise DataError(f"{column} {number} {error}", fix="correct it, or give it in UTF-8") from error
    if pairs is None:
        return texts
    pairs = listed(pairs)
    if len(pairs) != len(texts):
        raise DataError(f"{len(texts)} texts but {len(pairs)} second texts", fix="give one --pair for every --text")
    return list(zip(texts, pairs, strict=True))


def listed(texts: list[str] | str) -> list[str]:
    """The texts as a list; a single string is one of them, not its characters.

    Raises:
        DataError: an entry is no text.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    wrong = next(((number, text) for number, text in enumerate(texts, 1) if not isinstance(text, str)), None)
    if wrong is not None:
        raise DataError(f"text {wrong[0]} is {wrong[1]!r}, which is no text", fix="give a string for every text")
    return texts


def texts_of_file(file: str | Path, text: str = "text", text_pair: str | None = None) -> Any:
    """The texts of a file, or pairs of them where a second column is named.

    Raises:
        MissingColumnsError: the file lacks a column.
        DataError: it can't be read.
    """
    from luthier.data.loading import load_data
    from luthier.data.settings import DataSettings

    read = {"encoding": encoding_of(file)} | delimiter_of(file)

    def rows(schema: str, **columns: str) -> Any:
        settings = DataSettings.model_validate(
            {"test": str(file), "task": schema, "labelled": False, **read, **columns}
        )
        try:
            return load_data(settings, splits=("test",)).splits["test"]
        except MissingColumnsError as error:  # which advises keys of a recipe
            raise error.advising("name another one") from None

    if text_pair is None:
        return list(rows("single_sentence", text=text)["text"])
    found = rows("pair", text=text, text_pair=text_pair)
    return list(zip(found["text"], found["text_pair"], strict=True))


def delimiter_of(file: str | Path) -> dict[str, str]:
    """The separator of a csv or tsv that is not part of a recipe, as `delimiter`, where its first lines show another
    one than is usual.

    Raises:
        DataError: the file can't be read.
    """
    from luthier.data.guessing.sample import read_sample
    from luthier.data.sources.base import FileSource, resolve

    source = resolve(str(file))
    if not isinstance(source, FileSource) or source.format not in ("csv", "tsv"):
        return {}
    return {name: value for name, value in read_sample(source).keys.items() if name == "delimiter"}


def encoding_of(file: str | Path, stated: str = "utf-8") -> str:
    """The encoding of a file that is not part of a recipe: as stated, unless its bytes show another one.

    Raises:
        DataError: the file can't be read.
    """
    from luthier.data.reading.lines import shown_encoding
    from luthier.data.sources.base import FileSource, resolve

    source = resolve(str(file))
    return shown_encoding(source, stated) if isinstance(source, FileSource) else stated
