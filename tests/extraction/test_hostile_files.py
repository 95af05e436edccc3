"""Files of any content are read, or refused in words for the user: never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import LuthierError
from luthier.extraction.checking import check_documents
from luthier.extraction.formats.files import read_documents

# What the formats look for; most of it in the wrong place.
KEYS = "text tokens entities relations type label labels start end head tail id data annotations predictions result"
KEYS += " value from_id to_id start_offset end_offset spans words offsets ignore ignore_pairs score direction symmetric"
simple = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.just(float("nan")),
    st.sampled_from(["", "a b", "IGNORE", "labels", "\ud800"]),
)
anything = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=5)
    ),
    max_leaves=25,
)
RECORD_KEYS = {
    "spert": ("tokens", "entities", "relations", "ignore", "ignore_pairs", "offsets", "text"),
    "offsets_jsonl": ("text", "entities", "relations", "words", "spans"),
    "doccano": ("text", "entities", "relations", "label"),
    "label_studio": ("data", "annotations", "predictions", "id"),
}
lines = st.lists(
    st.text(st.sampled_from("T1R*#AE\t :;'[]019BIO-\nArg:Peop"), max_size=30)
    | st.sampled_from(
        ["T1\tPeop 0 1\ta", "R1\tKill Arg1:T1 Arg2:T1", "0\ta\tB-x\t['N']\t[0]", "1\tb\tI-x\t['k']\t[0]"]
    ),
    max_size=6,
).map("\n".join)


def record(name: str) -> Any:
    """Records that are nearly right, and others."""
    sound = {"tokens": ["a", "b"], "text": "a b", "data": {"text": "a b"}}
    part = {key: anything | st.just(sound[key]) if key in sound else anything for key in RECORD_KEYS[name]}
    return st.fixed_dictionaries({}, optional=part) | anything


def read(path: Path, *arguments: Any, **options: Any) -> None:
    try:
        found = read_documents(path, *arguments, **options)
    except LuthierError:
        return
    again, findings = check_documents(found.documents)
    assert not findings.faults.count
    assert again == found.documents


@pytest.mark.parametrize("name", RECORD_KEYS)
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_records_of_any_shape(name: str, data: Any):
    records = data.draw(st.lists(record(name), min_size=1, max_size=2))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "c.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf8")
        read(path, name, invalid="drop")
        read(path)
        (Path(folder) / "c.types.json").write_text(json.dumps(data.draw(anything)), encoding="utf8")
        read(path, "spert", invalid="drop")


@settings(deadline=None, max_examples=150)
@given(lines, lines)
def test_lines_of_any_kind(text: str, other: str):
    with TemporaryDirectory() as folder:
        for name, content in (("a.txt", text), ("a.ann", other), ("annotation.conf", text)):
            (Path(folder) / name).write_text(content, encoding="utf8")
        read(Path(folder), invalid="drop")
        read(Path(folder) / "a.ann", "columns", invalid="drop")
        read(Path(folder) / "a.txt")
