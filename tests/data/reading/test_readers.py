import codecs
import csv
import io
import json
import string

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.reading.heads import head_of_parquet
from luthier.data.reading.readers import ReadOptions, read_table
from luthier.data.sources.base import FileSource, resolve
from luthier.errors import DataError

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1).filter(str.strip)
PLAIN = st.text(string.ascii_letters + ' "\u00e9\u4e2d', min_size=1).filter(str.strip)


class Memory(FileSource):
    """A file whose bytes are at hand."""

    def __init__(self, name, content):
        object.__setattr__(self, "content", content)
        from pathlib import Path

        super().__init__(Path(name), None, name)

    def open(self):
        return io.BytesIO(self.content)


def read(name: str, content: bytes | str, **options):
    content = content if isinstance(content, bytes) else content.encode()
    return read_table(Memory(name, content), ReadOptions(**options))


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1))
def test_csv_round_trip(rows):
    buffer = io.StringIO()
    csv.writer(buffer).writerows([("a", "b"), *rows])
    table = read("x.csv", buffer.getvalue())
    assert list(zip(table.columns["a"], table.columns["b"], strict=True)) == rows


@given(st.lists(st.tuples(PLAIN, PLAIN), min_size=1), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_tsv_round_trip_keeps_quotes(rows, newline, mark):
    text = newline.join("\t".join(row) for row in [("a", "b"), *rows]) + newline
    table = read("x.tsv", (b"\xef\xbb\xbf" if mark else b"") + text.encode())
    assert list(zip(table.columns["a"], table.columns["b"], strict=True)) == rows


@given(st.lists(st.fixed_dictionaries({"a": TEXT, "n": st.integers() | st.none()}), min_size=1))
def test_jsonl_round_trip(records):
    table = read("x.jsonl", "\n".join(map(json.dumps, records)))
    assert [table.record(i) for i in range(len(table))] == records


def test_json_forms_and_parquet(write, tmp_path):
    records = [{"a": 1, "b": [1, 2]}, {"a": 2}]
    expected = {"a": [1, 2], "b": [[1, 2], None]}
    assert read("x.json", json.dumps(records)).columns == expected
    assert read("x.json", json.dumps({"data": records, "version": 1})).columns == expected
    assert read("x.json", json.dumps(expected)).columns == expected
    pyarrow.parquet.write_table(pyarrow.table(expected), tmp_path / "x.parquet")
    assert read_table(resolve(str(tmp_path / "x.parquet")), ReadOptions()).columns == expected


def test_text_lines_and_conll():
    table = read("x.txt", "one\n\n two \n")
    assert (table.columns, list(table.lines)) == ({"text": ["one", " two "]}, [1, 3])
    table = read("x.conll", "-DOCSTART- O\n\na B-X\nb\tO\n\n\nc O")
    assert table.columns == {"tokens": [["a", "b"], ["c"]], "tags": [["B-X", "O"], ["O"]]}
    assert list(table.lines) == [3, 7]


def test_options_of_delimited_files():
    assert read("x.csv", "1;2\n", delimiter=";", column_names=("a", "b")).columns == {"a": ["1"], "b": ["2"]}
    assert read("x.data", "a\tb\n1\t2\n", format="tsv").columns == {"a": ["1"], "b": ["2"]}
    assert read("x.csv", "a\n\xe9\n".encode("latin-1"), encoding="latin-1").columns == {"a": ["\xe9"]}


def test_an_empty_cell_in_quotes_is_a_row_and_an_empty_line_is_none():
    table = read("x.csv", 'a\none\n""\n\nthree\n')
    assert (table.columns, list(table.lines)) == ({"a": ["one", "", "three"]}, [2, 3, 5])
    assert read("x.tsv", "a\none\n\nthree\n").columns == {"a": ["one", "three"]}
    with pytest.raises(DataError, match="has 1 fields, but there are 2 columns"):
        read("x.csv", 'a,b\n1,2\n""\n')


def test_a_first_line_of_the_names_that_were_given_is_no_row():
    for content in ("A, b\n1,2\n", "1,2\n"):
        assert read("x.csv", content, column_names=("a", "b")).columns == {"a": ["1"], "b": ["2"]}
    again = read("x.csv", "a,b\n1,2\na,b\n", column_names=("a", "b"))
    assert again.columns == {"a": ["1", "a"], "b": ["2", "b"]}
    assert read("x.tsv", "a\n1\n", column_names=("a",)).columns == {"a": ["1"]}


@pytest.mark.parametrize("encoding", ["windows-1252", "latin-1", "cp037"])
def test_a_file_with_the_mark_of_utf_8_is_read_as_nothing_else(encoding):
    with pytest.raises(DataError):
        read("x.csv", codecs.BOM_UTF8 + "a\né\n".encode(), encoding=encoding)


def test_words_alone_are_read_where_none_has_a_tag():
    assert read("x.conll", "a\nb\n\nc X\n", tagged=False).columns == {"tokens": [["a", "b"], ["c"]]}


def test_of_conll_u_the_words_and_their_parts_of_speech_are_read():
    lines = [
        "# A book",
        "# sent_id = 1",
        "1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\t_",
        "1\tdo\tdo\tAUX\tVB\t_\t0\troot\t_\t_",
        "2\tn't\tnot\tPART\tRB\t_\t1\tadvmod\t_\t_",
        "2.1\tgo\tgo\tVERB\tVB\t_\t_\t_\t0:root\t_",
        "",
        "#checked",
        "1\t#\t#\tSYM\tNN\t_\t0\troot\t_\t_",
        "2\t1999\t1999\tNUM\tCD\t_\t1\tdep\t_\t_",
    ]
    table = read("x.conllu", "\n".join(lines))
    assert table.columns == {
        "tokens": [["do", "n't"], ["#", "1999"]],
        "tags": [["AUX", "PART"], ["SYM", "NUM"]],
    }
    # Ten columns of another kind, of which the first is the word.
    assert read("x.conll", "1999 _ _ _ _ _ _ _ _ O\nwas _ _ _ _ _ _ _ _ O\n").columns["tokens"] == [["1999", "was"]]


def test_the_line_that_tells_excel_the_separator_is_no_row():
    expected = {"a": ["1"], "b": ["sep=;"]}
    assert read("x.csv", "sep=;\na;b\n1;sep=;\n".replace(";sep=;", ';"sep=;"'), delimiter=";").columns == expected
    assert read("x.csv", "sep=,\na,b\n1,sep=;\n").columns == expected
    assert read("x.csv", "sep=,\n1,sep=;\n", column_names=("a", "b")).columns == expected
    assert read("x.tsv", "sep=\t\na\tb\n1\tsep=;\n").columns == expected
    assert read("x.csv", "sep=\nx\n").columns == {"sep=": ["x"]}


def test_objects_behind_one_another_are_read_as_json(tmp_path):
    rows = [{"a": 1, "b": [{"c": "}\n{"}]}, {"a": 2, "b": []}]
    for indent in (None, 2):
        for between in ("\n", "", " \n\n"):
            text = between.join(json.dumps(row, indent=indent) for row in rows) + "\n"
            assert read("x.json", text).columns == {"a": [1, 2], "b": [row["b"] for row in rows]}
    assert read("x.json", json.dumps(rows, indent=1).replace("\n", "\r")).columns["a"] == [1, 2]
    letters = json.dumps([{"a": "\u0d0d\u0d05"}], ensure_ascii=False)  # bytes of UTF-16 that are a carriage return
    assert read("x.json", letters.encode("utf-16"), encoding="utf-16").columns["a"] == ["\u0d0d\u0d05"]


def test_columns_of_one_name_of_a_parquet_file_are_refused(tmp_path):
    columns = [pyarrow.array(["x"]), pyarrow.array(["y"])]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names=["a", "a"]), tmp_path / "x.parquet")
    source = resolve(str(tmp_path / "x.parquet"))
    for reads in (lambda: read_table(source, ReadOptions()), lambda: head_of_parquet(source, 5)):
        with pytest.raises(DataError, match="names a column twice: 'a'"):
            reads()


def test_a_quoted_field_may_hold_line_breaks():
    table = read("x.csv", 'a,b\n"one\ntwo",1\nthree,2\n')
    assert (table.columns["a"], list(table.lines)) == (["one\ntwo", "three"], [2, 4])


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.csv", b"", "the file is empty"),
        ("x.csv", b"\xef\xbb\xbf", "the file is empty"),
        ("x.jsonl", b"\n\n", "the file is empty"),
        ("x.json", b"", "the file is empty"),
        ("x.csv", b"a,b\n", "no rows"),
        ("x.json", b"[]", "no rows"),
        ("x.csv", b"a\nok\nb\0d\n", r"line 3 holds a NUL byte, at byte 6"),
        ("x.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', r"line 2 is not valid utf-8: byte 0xff at byte 16"),
        ("x.csv", b"\xef\xbb\xbfa\n\xff\n", r"line 2 is not valid utf-8: byte 0xff at byte 5"),
        ("x.csv", "a\nb\n".encode("utf-16"), "byte order mark of utf-16"),
        (
            "x.csv",
            b"a,b\n1,2\n3\n4,5,6\n",
            r"2 problems\n  row 2 \(line 3\): has 1 fields(.|\n)*row 3 \(line 4\): has 3",
        ),
        ("x.csv", b"a,b,a\n1,2,3\n", "names a column twice: 'a'"),
        ("x.csv", b'a\n"open\n', "row that starts at line 2 is not valid csv"),
        ("x.jsonl", b'{"a": 1}\n{"a": \n', r"row 2: is not valid JSON: .* at character"),
        ("x.jsonl", b"[1]\n", "not an object with named fields"),
        ("x.json", b'{"a": 1}\n{"a": \n', "set `format: jsonl`"),
        ("x.json", b'{"a": 1}\n[2]\n', "is not valid JSON: Extra data"),
        ("x.jsonl", b'{\n "a": 1\n}\n', "set `format: json`"),
        ("x.jsonl", b'[{"a": 1}, {"a": 2}]\n', "set `format: json`"),
        ("x.csv", b"sep=;\na;b\n1;2\n", 'set `delimiter: ";"`'),
        ("x.csv", b'a, b\n1, "2, 3"\n', "row 1 .line 2.: has 3 fields, .*a blank stands in front of a quote"),
        ("x.csv", b"a,b\r1,2\r3,4\r", "end with carriage returns alone"),
        ("x.txt", b"one\rtwo\rthree", "end with carriage returns alone"),
        ("x.jsonl", b'{"a": 1}\r{"a": 2}\r' * 100_000, "end with carriage returns alone"),
        ("x.conllu", b"1\tEU\teu\tPROPN\t_\t_\t0\troot\t_\t_\n2\tsaid\n", "is not a line of CoNLL-U"),
        ("x.json", b"3", "neither a list of objects"),
        ("x.json", b'{"a": [1], "b": []}', "differ in length"),
        ("x.json", b"[1]", "not an object"),
        ("x.json", b"[" * 200_000, "nested too deeply|not valid JSON"),
        ("x.parquet", b"PAR1 no", "not a whole parquet file"),
        ("x.conll", b"word\n", "is not a word and its tag"),
        ("x.data", b"a", "does not tell its format"),
        ("x", b"a", "does not tell its format"),
    ],
)
def test_faults_are_told(name, content, told):
    with pytest.raises(DataError, match=told) as caught:
        read(name, content)
    assert caught.value.where == name


def test_a_ten_megabyte_line_is_told_and_can_be_allowed():
    content = b"text\nshort\n" + b"x" * 10_000_000 + b"\nshort\n"
    with pytest.raises(DataError, match=r"line 3 is 10\.0 MB long"):
        read("x.csv", content)
    table = read("x.csv", content, max_line_bytes=11_000_000)
    assert [len(text) for text in table.columns["text"]] == [5, 10_000_000, 5]


def test_only_the_first_problems_are_shown_but_all_are_counted():
    with pytest.raises(DataError, match=r"30 problems(.|\n)*row 20 (.|\n)*and 10 more") as caught:
        read("x.csv", "a,b\n" + "1\n" * 30)
    assert "row 21 " not in str(caught.value)


def test_an_unknown_encoding_is_told():
    with pytest.raises(DataError, match="no encoding called 'utf-99'"):
        read("x.csv", b"a\nb\n", encoding="utf-99")


WIDE = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-8-sig", "cp037")
SPREAD = 'text,label\r\nfilm \u0a0d \u2028\u010a,1\r\n\n"two\nlines",2\r\n'


@pytest.mark.parametrize("encoding", WIDE)
def test_encodings_whose_line_break_is_not_one_byte_are_read(encoding):
    text = SPREAD if encoding != "cp037" else SPREAD.replace("\u0a0d \u2028\u010a", "x")
    expected = read("x.csv", text.encode()).columns
    assert len(expected["text"]) == 2
    assert read("x.csv", text.encode(encoding), encoding=encoding).columns == expected
    marked = ("\ufeff" + text).encode(encoding) if encoding.endswith("e") else text.encode(encoding)
    assert read("x.csv", marked, encoding=encoding).columns == expected


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.tsv", "x.txt", "x.conll"])
def test_every_text_format_is_read_in_utf_16(name):
    rows = {
        "x.jsonl": '{"text": "\u010a"}\n{"text": "b"}\n',
        "x.json": '[{"text": "\u010a"},\n {"text": "b"}]',
        "x.tsv": "text\n\u010a\nb\n",
        "x.txt": "\u010a\nb\n",
        "x.conll": "\u010a O\nb O\n",
    }[name]
    assert read(name, rows.encode("utf-16"), encoding="utf-16").columns == read(name, rows.encode()).columns


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        ("a\nb\n".encode("utf-16-le"), "utf-16", "is not valid utf-16: UTF-16 stream does not start with BOM"),
        ("a\nb\n".encode("utf-16")[:-1], "utf-16", "line 2, or one soon after it, is not valid utf-16: truncated data"),
        (b"\xff\xfea\x00\n\x00\x00\xd8a\x00", "utf-16", "is not valid utf-16: illegal UTF-16 surrogate"),
        ("a\n\0\n".encode("utf-16"), "utf-16", "line 2 holds a NUL byte"),
        ("a\nb\n".encode("utf-32"), "utf-8", "byte order mark of utf-32"),
        ("a\nb\n".encode("utf-16"), "latin-1", "not LATIN-1 text"),
        (b"", "utf-16", "the file is empty"),
        (codecs.BOM_UTF16_LE, "utf-16", "the file is empty"),
        (b"a\nb\n", "hex", "no encoding called 'hex' for text"),
        (b"a\nb\n", "undefined", "no encoding called 'undefined' for text"),
        (b"a\nb\n", "u\0", "no encoding called"),
        (b"a\nb\xff\n", "idna", "not valid|no encoding"),
    ],
)
def test_what_is_not_in_the_encoding_is_told(content, encoding, message):
    with pytest.raises(DataError, match=message):
        read("x.csv", content, encoding=encoding)


def test_a_long_line_in_utf_16_is_told():
    with pytest.raises(DataError, match=r"line 2 is 0\.0 MB long"):
        read("x.csv", ("a\n" + "b" * 500 + "\nc\n").encode("utf-16"), encoding="utf-16", max_line_bytes=100)


@given(st.lists(TEXT, min_size=1, max_size=5), st.sampled_from(WIDE[:5]))
def test_lines_in_any_encoding_come_back(texts, encoding):
    content = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    assert read("x.jsonl", content.encode(encoding), encoding=encoding).columns == {"text": texts}
