"""Turns text into vectors with an encoder that a `represent` stage made.

Shapes: N texts, D width of a representation.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import DataError, ModelError

if TYPE_CHECKING:
    import numpy as np

    from luthier.representing.shared_encoder import SharedEncoder

FORMATS = (".npy", ".parquet")


def embed(
    run: str | Path,
    texts: list[str] | str,
    pairs: list[str] | str | None = None,
    *,
    batch_size: int = 64,
    dtype: str = "float32",
) -> np.ndarray:
    """Texts -> vectors (N, D), by the encoder that a `represent` stage made.

    Args:
        run: a run, cell, stage or encoder directory.
        texts: N texts; a single string is one.
        pairs: the N second texts, which are read together with the first ones.
        batch_size: texts in one forward pass.
        dtype: of the vectors: float32, float64 or float16.

    Raises:
        ModelError: the directory holds no whole encoder.
        DataError: an entry is no text.
    """
    return shared_encoder(run).encode(paired(texts, pairs), batch_size=batch_size, dtype=dtype)


def embed_texts(
    run: str | Path,
    texts: list[str] | str,
    output: str | Path,
    pairs: list[str] | str | None = None,
    *,
    batch_size: int = 64,
    dtype: str = "float32",
) -> tuple[int, int]:
    """Write the vectors of texts; see `embed` and `write_vectors`."""
    return _written(run, paired(texts, pairs), output, batch_size, dtype)


def embed_file(
    run: str | Path,
    file: str | Path,
    output: str | Path,
    *,
    text: str = "text",
    text_pair: str | None = None,
    batch_size: int = 64,
    dtype: str = "float32",
) -> tuple[int, int]:
    """Write the vectors of a file's texts; see `write_vectors`.

    Args:
        file: csv, tsv, jsonl, parquet or txt.
        text, text_pair: columns of the text, and of the second text of pairs.

    Returns:
        N and D.

    Raises:
        DataError: the file can't be read, or lacks a column.
        WorkspaceError: the output can't be written.
    """
    return _written(run, texts_of_file(file, text, text_pair), output, batch_size, dtype)


def _written(run: str | Path, texts: Any, output: str | Path, batch_size: int, dtype: str) -> tuple[int, int]:
    check_output(output)
    vectors = shared_encoder(run).encode(texts, batch_size=batch_size, dtype=dtype)
    write_vectors(output, texts, vectors)
    return vectors.shape[0], vectors.shape[1]


def check_output(output: str | Path) -> None:
    """Refuse a file name of another kind than .npy and .parquet.

    Raises:
        DataError: it is.
    """
    if Path(output).suffix not in FORMATS:
        raise DataError("vectors are written as .npy or .parquet", where=str(output), fix="name the output so")


def write_vectors(output: str | Path, texts: Any, vectors: np.ndarray) -> None:
    """Write vectors (N, D) as an array in `.npy`, or as `.parquet` with the columns text, text_pair and vector.

    The file appears whole or not at all.

    Raises:
        DataError: another kind of file name.
        WorkspaceError: the place can't be written.
    """
    import numpy as np

    from luthier.storage.files import write_bytes

    check_output(output)
    content = io.BytesIO()
    if Path(output).suffix == ".npy":
        np.save(content, vectors, allow_pickle=False)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        columns = {"text": pa.array([one if isinstance(one, str) else one[0] for one in texts], pa.string())}
        if len(texts) and not isinstance(texts[0], str):
            columns["text_pair"] = pa.array([one[1] for one in texts], pa.string())
        columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        pq.write_table(pa.table(columns), content)
    write_bytes(Path(output), content.getvalue())


def paired(texts: list[str] | str, pairs: list[str] | str | None) -> Any:
    """The texts, or (text, second text) where there are second texts; a single string is one text.

    Raises:
        DataError: their numbers differ, or an entry is no text, or one that can't be written as UTF-8.
    """
    from luthier.data.rows.canonical import BadCellError, whole_characters

    texts = _listed(texts)
    for column, some in (("text", texts), ("second text", _listed(pairs or []))):
        for number, text in enumerate(some, start=1):
            try:
                whole_characters(text)
            except BadCellError as error:
                raise DataError(f"{column} {number} {error}", fix="correct it, or give it in UTF-8") from error
    if pairs is None:
        return texts
    pairs = _listed(pairs)
    if len(pairs) != len(texts):
        raise DataError(f"{len(texts)} texts but {len(pairs)} second texts", fix="give one --pair for every --text")
    return list(zip(texts, pairs, strict=True))


def _listed(texts: list[str] | str) -> list[str]:
    texts = [texts] if isinstance(texts, str) else list(texts)
    wrong = next(((number, text) for number, text in enumerate(texts, 1) if not isinstance(text, str)), None)
    if wrong is not None:
        raise DataError(f"text {wrong[0]} is {wrong[1]!r}, which is no text", fix="give a string for every text")
    return texts


def texts_of_file(file: str | Path, text: str = "text", text_pair: str | None = None) -> Any:
    """The texts of a file, or pairs of them where a second column is named.

    Raises:
        DataError: the file can't be read, or lacks a column.
    """
    from luthier.data.loading import load_data
    from luthier.data.settings import DataSettings

    def rows(schema: str, **columns: str) -> Any:
        settings = DataSettings.model_validate({"test": str(file), "task": schema, "labelled": False, **columns})
        return load_data(settings, splits=("test",)).splits["test"]

    if text_pair is None:
        return list(rows("single_sentence", text=text)["text"])
    found = rows("pair", text=text, text_pair=text_pair)
    return list(zip(found["text"], found["text_pair"], strict=True))


def is_shared_encoder(run: str | Path) -> bool:
    """Whether a `represent` stage, or `SharedEncoder.save`, made what is there."""
    from luthier.models.references import resolve
    from luthier.representing.saving import COMBINATION

    source = resolve(str(run))
    return source.kind == "artifact" and (Path(str(source.path)) / COMBINATION).is_file()


def shared_encoder(run: str | Path) -> SharedEncoder:
    """The encoder that a `represent` stage made, on the accelerator where there is one."""
    import torch

    from luthier.representing.shared_encoder import SharedEncoder

    if not Path(run).exists():
        raise ModelError("there is no such folder", where=str(run), fix="name a run that has a represent stage")
    if not is_shared_encoder(run):
        raise ModelError(
            "there is no encoder here that a represent stage made",
            where=str(run),
            fix="run a recipe with a represent stage; `luthier predict` labels text with a tuned model",
        )
    encoder = SharedEncoder.load(run)
    return encoder.to("cuda") if torch.cuda.is_available() else encoder
