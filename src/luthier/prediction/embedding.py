"""Turns text into vectors with a saved encoder.

Shapes: N texts, D width of a representation.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.texts import paired, texts_of_file
from luthier.errors import DataError
from luthier.models.quiet import noise_logged
from luthier.models.settings import Danger
from luthier.prediction.loading import check_batch_size, load_embedder

if TYPE_CHECKING:
    import numpy as np

FORMATS = (".npy", ".parquet")


def embed(
    run: str | Path,
    texts: list[str] | str,
    pairs: list[str] | str | None = None,
    *,
    batch_size: int = 64,
    dtype: str = "float32",
    allow: Collection[Danger] = (),
) -> np.ndarray:
    """Texts -> vectors (N, D), by a saved encoder, such as a `represent` stage makes.

    Args:
        run: a run, cell, stage or encoder directory.
        texts: N texts; a single string is one.
        pairs: the N second texts, which are read together with the first ones.
        batch_size: texts in one forward pass.
        dtype: of the vectors: float32, float64 or float16.
        allow: `pickle` or `remote_code`, where the base is refused without; as in a recipe's model.

    Raises:
        ModelError: the directory holds no whole encoder.
        DataError: an entry is no text, or a batch size is below 1.
    """
    check_batch_size(batch_size)
    with noise_logged():
        return load_embedder(run, allow).embed(paired(texts, pairs), batch_size=batch_size, dtype=dtype)


def embed_texts(
    run: str | Path,
    texts: list[str] | str,
    output: str | Path,
    pairs: list[str] | str | None = None,
    *,
    batch_size: int = 64,
    dtype: str = "float32",
    allow: Collection[Danger] = (),
) -> tuple[int, int]:
    """Write the vectors of texts; see `embed` and `write_vectors`."""
    return _written(run, paired(texts, pairs), output, batch_size, dtype, allow)


def embed_file(
    run: str | Path,
    file: str | Path,
    output: str | Path,
    *,
    text: str = "text",
    text_pair: str | None = None,
    batch_size: int = 64,
    dtype: str = "float32",
    allow: Collection[Danger] = (),
) -> tuple[int, int]:
    """Write the vectors of a file's texts; see `write_vectors`. The same call goes on with one that was stopped.

    Args:
        file: csv, tsv, jsonl, parquet or txt.
        text, text_pair: columns of the text, and of the second text of pairs.

    Returns:
        N and D.

    Raises:
        DataError: the file can't be read, or lacks a column.
        WorkspaceError: the output can't be written.
    """
    check_output(output, file)
    return _written(run, texts_of_file(file, text, text_pair), output, batch_size, dtype, allow)


def _written(
    run: str | Path, texts: Any, output: str | Path, batch_size: int, dtype: str, allow: Collection[Danger]
) -> tuple[int, int]:
    from luthier.prediction.writing import answered, key_of
    from luthier.storage.part_file import kept_parts

    check_batch_size(batch_size)
    place = check_output(output, run=run)
    with noise_logged():
        embedder = load_embedder(run, allow)

        def embedded(some: Any) -> np.ndarray:
            return embedder.embed(some, batch_size=batch_size, dtype=dtype)

        with kept_parts(place, key_of(run, dtype)) as kept:
            keys, _ = answered(kept, texts, embedded, _packed, batch_size, told="encoding text")
            vectors = _joined(map(kept.read, keys)) if keys else embedded(texts)
            write_vectors(output, texts, vectors)
    return vectors.shape[0], vectors.shape[1]


def _packed(vectors: np.ndarray) -> bytes:
    import numpy as np

    content = io.BytesIO()
    np.save(content, vectors, allow_pickle=False)
    return content.getvalue()


def _joined(parts: Iterable[bytes]) -> np.ndarray:
    import numpy as np

    return np.concatenate([np.load(io.BytesIO(part), allow_pickle=False) for part in parts])


def check_output(output: str | Path, *read: str | Path, run: str | Path | None = None) -> Path:
    """Refuse a file name of another kind than .npy and .parquet, and a place that can't be written.

    Args:
        output: of the vectors.
        read: files that are read, and may not be written over.
        run: what encodes, as in `place_of_output`.

    Returns:
        The file that is written, where a link leads to it.

    Raises:
        DataError: another kind of file name.
        WorkspaceError: the place can't be written, or is a file that is read.
    """
    from luthier.prediction.writing import place_of_output

    if Path(output).suffix not in FORMATS:
        raise DataError("vectors are written as .npy or .parquet", where=str(output), fix="name the output so")
    return place_of_output(output, *read, run=run)


def write_vectors(output: str | Path, texts: Any, vectors: np.ndarray) -> None:
    """Write vectors (N, D) as an array in `.npy`, or as `.parquet` with the columns text, text_pair and vector.

    The file appears whole or not at all.

    Raises:
        DataError: another kind of file name.
        WorkspaceError: the place can't be written.
    """
    import numpy as np

    from luthier.storage.files import write_bytes

    place = check_output(output)
    if Path(output).suffix == ".npy":
        content = _packed(vectors)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        columns = {"text": pa.array([one if isinstance(one, str) else one[0] for one in texts], pa.string())}
        if len(texts) and not isinstance(texts[0], str):
            columns["text_pair"] = pa.array([one[1] for one in texts], pa.string())
        columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        table = io.BytesIO()
        pq.write_table(pa.table(columns), table)
        content = table.getvalue()
    write_bytes(place, content)
