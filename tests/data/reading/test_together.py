"""Files that are read many lines at a time give what they give line by line, faults included."""

import csv
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from luthier.data.reading import lines, readers
from luthier.data.reading.lines import decoded_lines
from luthier.data.reading.readers import ReadOptions, iterate_rows, read_table
from luthier.data.rows.canonical import canonical_columns, canonical_row
from luthier.data.schemas import SCHEMAS
from luthier.data.table import Problems, Table
from luthier.errors import DataError
from tests.data.reading.test_readers import Memory

PIECES = ["a", "bc,d", ",", '"', '""', "\n", "\r\n", "\r", "\t", " ", "é", "中", '{"a": 1}', "0.5", "\n\n"]
BROKEN = [b"\0", b"\xff", b"\xed\xa0\x80", b"x" * 40, b"\xef\xbb\xbf", b"\xff\xfe"]
contents = st.lists(st.sampled_from([piece.encode() for piece in PIECES]) | st.sampled_from(BROKEN), max_size=40)
tables = st.lists(st.sampled_from([piece.encode() for piece in PIECES]), max_size=60)


def outcome(work):
    """What the work gives, or what it says is wrong."""
    try:
        return work()
    except DataError as error:
        return str(error)


def line_by_line(content, limit):
    """Lines as `readline` finds them, each checked and decoded alone; the first fault as (line, kind)."""
    stream, found, number, offset = io.BytesIO(content), [], 0, 0
    while raw := stream.readline():
        number += 1
        start = 3 if number == 1 and raw.startswith(b"\xef\xbb\xbf") else 0
        if len(raw) > limit:
            return found, f"line {number} is"
        if number == 1 and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            return found, f"byte order mark of utf-{32 if raw.startswith(bytes((0xFF, 0xFE, 0, 0))) else 16}"
        if b"\0" in raw:
            return found, f"line {number} holds a NUL byte, at byte {offset + raw.index(0)} of"
        try:
            text = raw[start:].decode()
        except UnicodeDecodeError as error:
            return found, f"line {number} is not valid utf-8: .* at byte {offset + start + error.start} of"
        found.append((number, text.rstrip("\r\n")))
        offset += len(raw)
    if b"\n" not in content and content.strip(b"\r").count(b"\r") > 1:
        return [], "end with carriage returns alone"
    return found, None if any(text.strip() for _, text in found) else "the file is empty"


@settings(max_examples=300, deadline=None)
@given(contents.map(b"".join), st.integers(1, 20), st.sampled_from([30, 1000]))
@example(b"\xff\xfe\0\0", 1, 30)
@example(b"a\rb\rc", 1, 30)
@example(b"a\rb\rc\n", 1, 30)
@example(b"a\rb\rc\0", 1, 30)
def test_lines_are_those_that_are_read_one_by_one(content, block, limit):
    expected, fault = line_by_line(content, limit)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_BLOCK", block)
        if fault is None:
            found += decoded_lines(io.BytesIO(content), "x", ReadOptions(max_line_bytes=limit))
        else:
            with pytest.raises(DataError, match=fault):
                found.extend(decoded_lines(io.BytesIO(content), "x", ReadOptions(max_line_bytes=limit)))
    assert found == expected


@settings(max_examples=300, deadline=None)
@given(tables.map(b"".join), st.sampled_from(["x.csv", "x.tsv", "x.jsonl", "x.txt"]), st.integers(1, 5))
def test_tables_are_those_of_the_row_checker(content, name, together):
    options = ReadOptions(max_line_bytes=1000)

    def row_by_row():
        problems = Problems(name)
        rows = list(iterate_rows(Memory(name, content), options, problems))
        problems.raise_if_any(readers.FIX_ROWS)
        if not rows:
            raise DataError("the file has no rows", where=name, fix="is it the right file?")
        table = Table.of_records(name, [row.cells for row in rows], [row.line for row in rows])
        return table.columns, list(table.lines)

    def all_at_once():
        table = read_table(Memory(name, content), options)
        return table.columns, list(table.lines)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "_TOGETHER", together)
        assert outcome(all_at_once) == outcome(row_by_row)


def test_a_fault_far_down_a_large_file_has_its_row_and_line():
    rows = [["text", "label"], *([f"line\nof {i}", "x"] for i in range(9000))]
    rows[7001] = ["only one"]
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    with pytest.raises(DataError, match=r"row 7001 \(line 14002\): has 1 fields, but there are 2 columns"):
        read_table(Memory("x.csv", written.getvalue().encode()), ReadOptions())


CELLS = [
    None,
    "",
    " ",
    "a",
    " b ",
    "\ud800",
    1,
    1.0,
    True,
    0,
    False,
    2.5,
    float("nan"),
    float("inf"),
    "1",
    "nan",
    [],
    ["a"],
]
CELLS += [["a", " "], ["a", "b"], {"a": 1}, {"text": ["a"], "answer_start": [0]}, -0.0, 10**400, b"x", "0.5"]
SHAPES = {
    "single_sentence": ("text", "label"),
    "pair": ("text", "text_pair", "label"),
    "regression": ("text", "label"),
    "token_labels": ("tokens", "tags"),
    "multiple_choice": ("context", "choices", "label"),
    "extractive_qa": ("question", "context", "answers"),
    "prompt_response": ("prompt", "response"),
}


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_columns_are_those_of_the_row_checker(data):
    name = data.draw(st.sampled_from(sorted(SHAPES)))
    schema, columns = SCHEMAS[name], SHAPES[name]
    wanted = {column: column for column in columns}
    rows = data.draw(st.lists(st.tuples(*[st.sampled_from(CELLS)] * len(columns)), min_size=1, max_size=4))
    one_by_one = [canonical_row(schema, dict(zip(columns, row, strict=True)), wanted) for row in rows]
    together = canonical_columns(schema, dict(zip(columns, zip(*rows, strict=True), strict=True)), wanted)
    if any(problems for _, problems in one_by_one):
        assert together is None
    else:
        expected = {column: [row[column] for row, _ in one_by_one] for column in columns}
        assert repr(together) == repr(expected)
