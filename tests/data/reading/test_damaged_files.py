"""Files whose insides are damaged or lie: an error that names the file, whatever the library behind it raises."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.data.reading.readers import ReadOptions, read_table
from luthier.data.sources.base import resolve
from luthier.errors import DataError

ROWS = b"text,label\n" + b"a b,x\nc d,y\n" * 20


def refused(path: Path, content: bytes, member: str = "") -> None:
    path.write_bytes(content)
    with pytest.raises(DataError, match=path.name):
        read_table(resolve(f"{path}{member}"), ReadOptions())


def zipped(name: str, method: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr(name, ROWS)
    return stream.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_of_any_compression(tmp_path: Path, method: int):
    content = bytearray(zipped("a.csv", method))
    content[50:60] = b"\xff" * 10
    refused(tmp_path / "a.zip", bytes(content), "!a.csv")


def test_a_member_whose_name_is_no_text(tmp_path: Path):
    content = zipped("é.csv", zipfile.ZIP_STORED).replace("é".encode(), b"\x83\x83")
    refused(tmp_path / "a.zip", content, "!a.csv")


def parquet(column: pa.Array) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table({"text": column}), stream)
    return stream.getvalue()


def test_parquet_that_holds_what_python_can_not(tmp_path: Path):
    days = pa.array([-(2**31) + 3], pa.int32()).cast(pa.date32())
    refused(tmp_path / "days.parquet", parquet(days))
    no_text = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\x8c"))
    refused(tmp_path / "text.parquet", parquet(no_text))


def test_parquet_whose_footer_is_damaged(tmp_path: Path):
    content = bytearray(parquet(pa.array(["a", "b"])))
    length = int.from_bytes(content[-8:-4], "little")
    content[-8 - length : -8] = b"\xff" * length
    refused(tmp_path / "a.parquet", bytes(content))


def test_parquet_with_one_name_twice(tmp_path: Path):
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), stream)
    refused(tmp_path / "a.parquet", stream.getvalue())


@pytest.mark.parametrize("kind", ["zip", "parquet"])
def test_any_changed_byte_is_read_or_refused(tmp_path: Path, kind: str):
    draw = random.Random(0)
    whole = zipped("a.csv", zipfile.ZIP_LZMA) if kind == "zip" else parquet(pa.array(["a", "b"] * 5))
    path = tmp_path / f"a.{kind}"
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(draw.choice((1, 2, 4))):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(content)
        try:
            read_table(resolve(f"{path}!a.csv" if kind == "zip" else str(path)), ReadOptions())
        except DataError:
            continue
