"""One vector for each key, kept in a folder that is whole or not there, and found again by the keys.

Shapes: N keys, g numbers of a vector.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from torch import Tensor

from luthier.storage.arrays import check_dtype, unpacked
from luthier.storage.sealed_arrays import stored_arrays, writing_arrays
from luthier.storage.sealed_folder import tell_of_damage

logger = logging.getLogger(__name__)

FORMAT = 2
KEY_BYTES = 16
Fill = Callable[[np.ndarray, dict[bytes, int]], None]


class KeyedVectors:
    """A read-only, memory-mapped store of N vectors.

    Attributes:
        folder: where it lies.
        width: g.
    """

    # What messages call the vectors.
    of: str = "vectors"

    def __init__(self, folder: Path) -> None:
        """Open a store after comparing every byte with what was written.

        Raises:
            ValueError: it is not whole.
        """
        about, arrays = stored_arrays(folder, FORMAT, self.of)
        self._keys, self._vectors = arrays["keys"], arrays["vectors"]
        self.width, self._dtype, self.folder = int(about["width"]), str(about["dtype"]), folder

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, keys: Sequence[bytes]) -> Tensor | None:
        """The vectors (B, g), float32, of B keys; None where one of them is not in the store."""
        wanted = _as_numbers(keys)
        place = np.searchsorted(self._keys[:, 0], wanted[:, 0]).clip(max=max(len(self._keys) - 1, 0))
        if not len(self._keys) or not (self._keys[place] == wanted).all():
            return None
        return unpacked(self._vectors[place], self._dtype)

    @classmethod
    def kept_or_made(
        cls, directory: Path, name: str, keys: Sequence[bytes], *, width: int, dtype: str, fill: Fill
    ) -> Self:
        """The store of that name, which is filled now unless it is whole already.

        Args:
            keys: N keys of 16 bytes, in ascending order.
            width: g.
            dtype: of the stored numbers, float32 or bfloat16.
            fill: puts every vector into the table (N, g) that it is given, at the place of its key.

        Raises:
            ValueError: an unknown dtype.
            WorkspaceError: the directory can't be written.
        """
        check_dtype(dtype)
        folder = directory / name
        try:
            return cls(folder)
        except ValueError as error:
            tell_of_damage(folder, error)
            logger.info("computing %d %s", len(keys), cls.of)
        about = {"format": FORMAT, "count": len(keys), "width": width, "dtype": dtype}
        with writing_arrays(folder, about) as writer:
            writer.keep("keys", _as_numbers(keys))
            table = writer.table("vectors", (len(keys), width), dtype)
            fill(table, {key: place for place, key in enumerate(keys)})
        return cls(folder)


def _as_numbers(keys: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(keys), dtype=">u8").astype(np.uint64).reshape(len(keys), 2)
