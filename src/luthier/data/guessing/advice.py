"""What to write about a file whose columns are not those that a recipe expects."""

from __future__ import annotations

from typing import Any

from luthier.data.guessing.sample import looks_like_conll, read_sample
from luthier.data.settings import DataSettings
from luthier.data.sources.origins import Origin
from luthier.errors import DataError


def advised(origin: Origin, task: str | None) -> dict[str, Any]:
    """Keys of the data block, how the file is read and what its columns hold, as `luthier init` would write them.

    Args:
        origin: a local file; nothing is advised of anything else.
        task: that it has to hold, as in recipes; None takes any.
    """
    if origin.file is None:
        return {}
    from luthier.data.guessing.tasks import guess_task

    try:
        sample = read_sample(origin.file)
        guess, _ = guess_task(sample.table)
    except DataError:
        return {}
    if task not in (None, guess.task):
        return {}
    keys = {"format": sample.keys["format"]} if "format" in sample.keys else {}
    keys |= {"column_names": sample.keys["column_names"]} if "column_names" in sample.keys else {}
    return keys | {"task": guess.task} | guess.keys


def refuse_words_as_rows(origin: Origin, settings: DataSettings) -> None:
    """Refuse to read a word with its tag as a row, where blank lines part the sentences.

    Raises:
        DataError: a file that is read as a table, or as plain lines, is made so.
    """
    if origin.file is None or (settings.format or origin.file.format) not in ("csv", "tsv", "txt"):
        return
    words, named = looks_like_conll(origin.file)
    if words:
        raise DataError(
            "each line holds a word and its tag, and blank lines part the sentences",
            where=origin.name,
            fix="set `format: conll`" + (", and take the first line out, which names the columns" if named else ""),
        )
