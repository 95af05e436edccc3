"""Encoded rows on disk: found again by the rows, the tokenizer and the code that they were made with.

Every entry is a sealed folder with one Arrow file, which is mapped into memory where it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow

from luthier.storage.code import code_digest
from luthier.storage.files import write_json
from luthier.storage.folder_cache import FolderCache, mark_used
from luthier.storage.hashing import cache_directory
from luthier.storage.keys import digest_of
from luthier.storage.provenance import version
from luthier.storage.sealed_folder import check_seal, tell_of_damage, whole_folder

# Rows that are encoded, written and hashed together.
CHUNK = 1000
# Texts of fewer bytes than this are encoded in less time than it takes to look for them.
WORTH_KEEPING = 1 << 20
MAX_BYTES = 20 << 30
_FORMAT = 1
_ROWS, _ABOUT = "rows.arrow", "about.json"


class EncodedCache(FolderCache):
    """Encoded splits, bounded in size."""

    marker = _ABOUT
    holds = "encoded rows"
    fix = "free space, or set LUTHIER_CACHE to a folder on a larger disk"

    def __init__(self) -> None:
        super().__init__(cache_directory() / "encoded", MAX_BYTES)

    def open(self, key: str) -> tuple[Any, dict[str, Any]] | None:
        """The rows under a key, memory-mapped, and what was noted with them; None where there are none, or they are
        not as they were written."""
        folder = self.directory / key[:32]
        try:
            check_seal(folder)
            about = json.loads((folder / _ABOUT).read_text(encoding="utf8"))
            if about["format"] != _FORMAT or about["key"] != key:
                raise ValueError("it holds other rows")
            table = mapped(folder / _ROWS)
        except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
            tell_of_damage(folder, error)
            return None
        mark_used(folder)
        return table, about["notes"]

    @contextmanager
    def writing(self, key: str) -> Iterator[tuple[Path, Callable[[Mapping[str, Any]], None]]]:
        """The file to write the rows of a key to, and a function that is called last, with what is noted with them.

        Raises:
            WorkspaceError: the place can't be written, or they are too many for it.
        """

        def finish(notes: Mapping[str, Any]) -> None:
            self.make_room((scratch / _ROWS).stat().st_size)
            write_json(scratch / _ABOUT, {"format": _FORMAT, "key": key, "notes": dict(notes)})

        with whole_folder(self.directory / key[:32]) as scratch:
            yield scratch / _ROWS, finish


def mapped(path: Path) -> Any:
    """The rows in an Arrow file, as a table that `datasets` takes."""
    from datasets.table import MemoryMappedTable

    return MemoryMappedTable.from_file(str(path))


def encoding_key(rows: Any, tokenizer: Any, task: Any, options: Mapping[str, Any]) -> str | None:
    """The key of encoded rows: SHA-256, in hex, over all that they are made from. None where the tokenizer is one whose
    behaviour can't be told from its data.

    Args:
        rows: a `datasets.Dataset`.
        tokenizer: of the model.
        task: that encodes the rows.
        options: how, in JSON's types.
    """
    known = tokenizer_identity(tokenizer)
    if known is None:
        return None
    parts = {
        "rows": rows_digest(rows),
        "tokenizer": known,
        "task": f"{type(task).__module__}.{type(task).__qualname__}",
        "options": dict(options),
        "code": code_digest([type(task).__module__, "luthier.data.batches.encoding"]),
        "tokenizers": version("tokenizers"),
    }
    return digest_of(parts)


def rows_digest(rows: Any) -> str:
    """SHA-256, in hex, over the content of a `datasets.Dataset`, however it lies in memory."""
    total = hashlib.sha256(str(rows.data.schema.remove_metadata()).encode())
    for start in range(0, len(rows), CHUNK):
        total.update(arrow_rows(rows, start, start + CHUNK).serialize())
    return total.hexdigest()


def arrow_rows(rows: Any, start: int, stop: int) -> pyarrow.RecordBatch:
    """Rows `start` to `stop`, without the latter, of a `datasets.Dataset`."""
    table = rows.with_format("arrow")[start:stop]
    return table.combine_chunks().to_batches()[0]


def tokenizer_json(tokenizer: Any) -> str | None:
    """What a `tokenizer.json` would hold; None for a tokenizer that has none."""
    backend = tokenizer if hasattr(tokenizer, "to_str") else getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None else str(backend.to_str())


def tokenizer_identity(tokenizer: Any) -> str | None:
    """A digest of all that decides on the ids that a tokenizer gives; None for one that runs code of its own."""
    if not type(tokenizer).__module__.startswith(("transformers.", "luthier.")):
        return None
    written = tokenizer_json(tokenizer)
    if written is None:
        return None
    state = json.loads(written)
    for of_last_call in ("truncation", "padding"):
        state.pop(of_last_call, None)
    about = {
        "class": type(tokenizer).__qualname__,
        "chat_template": str(getattr(tokenizer, "chat_template", None)),
        "special": {name: str(value) for name, value in tokenizer.special_tokens_map.items()},
        "ids": [tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id],
        "sides": [tokenizer.padding_side, tokenizer.truncation_side],
        "inputs": list(tokenizer.model_input_names),
        "split_special": bool(getattr(tokenizer, "split_special_tokens", False)),
        "state": state,
    }
    return digest_of(about)
