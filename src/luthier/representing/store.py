"""Representations on disk, computed once.

Shapes: N texts, D width.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from luthier.representing.encoder import PrefixEncoder
from luthier.representing.texts import Texts, listed
from luthier.storage.arrays import STORED, check_dtype, identity, packed, unpacked
from luthier.storage.sealed_arrays import stored_arrays, writing_arrays
from luthier.storage.sealed_folder import tell_of_damage

logger = logging.getLogger(__name__)

_FORMAT = 2


class RepresentationStore:
    """A folder of representations, each set of texts under each representation in a folder of its own.

    What is stored is found again by the encoder's fingerprint, the number format, what happens to long texts, and the
    texts in their order. So a combination with another task, another weight or another pooling never reads the vectors
    of this one. What is damaged is computed again.

    Args:
        directory: where they are kept.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def vectors(self, encoder: PrefixEncoder, texts: Texts, *, dtype: str = "float32", **options: Any) -> np.ndarray:
        """Representations (N, D), float32, computed when they are not there yet.

        Args:
            encoder: makes them.
            texts: N texts or pairs; a single string is one text.
            dtype: of the stored numbers: float32, which is memory-mapped and read-only, or bfloat16.
            options: of `PrefixEncoder.batches`: batch_size, batched and too_long.

        Raises:
            ValueError: an unknown dtype.
            DataError: as `PrefixEncoder.encode`.
            WorkspaceError: the directory can't be written.
        """
        check_dtype(dtype)
        texts = listed(texts)
        if not len(texts):
            return encoder.encode(texts)
        said = (json.dumps(text, default=repr) for text in texts)
        too_long = str(options.get("too_long", "truncate"))
        folder = self.directory / identity([str(_FORMAT), encoder.fingerprint, dtype, too_long, *said])
        shape = (len(texts), encoder.width)
        try:
            return _opened(folder, shape, dtype)
        except ValueError as error:
            tell_of_damage(folder, error)
        logger.info("computing %d representations", len(texts))
        about = {"format": _FORMAT, "dtype": dtype, "fingerprint": encoder.fingerprint}
        with writing_arrays(folder, about) as writer:
            array = writer.table("vectors", shape, dtype)
            for places, vectors in encoder.batches(texts, **options):
                array[places] = packed(vectors, dtype)
        return _opened(folder, shape, dtype)


def _opened(folder: Path, shape: tuple[int, int], dtype: str) -> np.ndarray:
    """The vectors of a folder after comparing every byte with what was written; ValueError where it is not whole."""
    array = stored_arrays(folder, _FORMAT, "representations")[1]["vectors"]
    if array.shape != shape or array.dtype != STORED[dtype]:
        raise ValueError(f"{folder} holds representations of another form")
    return array if dtype == "float32" else unpacked(array, dtype).numpy()
