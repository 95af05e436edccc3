"""Arrays that are computed once and kept: a sealed folder of `.npy` files and an `about.json` that says what they are.

A folder is whole or not there, and every byte is compared before it is used (`luthier.storage.sealed_folder`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from luthier.storage.arrays import STORED
from luthier.storage.files import reserve_space, write_json
from luthier.storage.sealed_folder import check_seal, whole_folder

ABOUT = "about.json"


class ArrayWriter:
    """Makes the arrays of one folder."""

    def __init__(self, scratch: Path) -> None:
        self._scratch, self._tables = scratch, list[np.memmap[Any, Any]]()

    def table(self, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """An array on disk to be filled, whose space is taken at once.

        Args:
            name: of its file, without the ending.
            shape: of the array.
            dtype: a number format of `luthier.storage.arrays.STORED`.
        """
        path = self._scratch / f"{name}.npy"
        made = np.lib.format.open_memmap(path, mode="w+", dtype=STORED[dtype], shape=shape)
        reserve_space(path)
        self._tables.append(made)
        return made

    def keep(self, name: str, array: np.ndarray) -> None:
        """Write an array as it is."""
        np.save(self._scratch / f"{name}.npy", array)

    def flush(self) -> None:
        """Write what was filled in."""
        for table in self._tables:
            table.flush()


@contextmanager
def writing_arrays(folder: Path, about: Mapping[str, Any]) -> Iterator[ArrayWriter]:
    """Write a folder of arrays, which takes its place when the block ends and goes away when it fails.

    Args:
        about: what is kept beside them; its `format` is the version of the layout.

    Raises:
        WorkspaceError: the place can't be written.
    """
    with whole_folder(folder) as scratch:
        writer = ArrayWriter(scratch)
        yield writer
        writer.flush()
        write_json(scratch / ABOUT, dict(about))


def stored_arrays(folder: Path, layout: int, holds: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What was kept about the arrays of a folder, and the arrays by name, memory-mapped and read-only.

    Args:
        layout: the version of the layout that is read.
        holds: what the arrays are, for the error.

    Raises:
        ValueError: the folder is not there, not whole, or of another version.
    """
    try:
        paths = list(folder.glob("*.npy"))  # before the seal is compared: a folder that goes away afterwards is missed
        check_seal(folder)
        about = json.loads((folder / ABOUT).read_text(encoding="utf8"))
        arrays = {path.stem: np.load(path, mmap_mode="r") for path in paths}
        same = about["format"] == layout
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} holds no {holds}: {error}") from error
    if not same:
        raise ValueError(f"{folder} holds {holds} of another form")
    return about, arrays
