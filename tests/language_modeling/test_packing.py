"""Packing loses no token and sees none twice, and a stream goes on exactly where it was."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luthier.errors import DataError, RecipeError
from luthier.language_modeling import Frame, Masking, PackedStream, Packer, pack_documents
from luthier.language_modeling.corpus_settings import CorpusSettings
from luthier.language_modeling.documents import Corpus, check_corpora, is_held_out
from luthier.language_modeling.stream import Share
from tests.language_modeling.models import word_pieces

DOCUMENTS = st.lists(st.lists(st.integers(10, 99), min_size=1, max_size=9), max_size=20)


@given(DOCUMENTS, st.integers(1, 12), st.sampled_from([None, 3]))
def test_packing_is_concatenation_and_cutting(documents: list[list[int]], length: int, separator: int | None):
    flat = [token for one in documents for token in [*one, *([] if separator is None else [separator])]]
    expected = [flat[start : start + length] for start in range(0, len(flat), length)]
    assert list(pack_documents(documents, length, separator=separator)) == expected
    whole = [one for one in expected if len(one) == length]
    assert list(pack_documents(documents, length, separator=separator, keep_rest=False)) == whole


def test_masked_blocks_have_their_frame():
    blocks = list(pack_documents([[11, 12, 13], [14]], 5, before=[2], after=[3], separator=3))
    assert blocks == [[2, 11, 12, 13, 3], [2, 3, 14, 3, 3]]
    frame = Frame.of(word_pieces(), 8, masked=True)
    assert (frame.before, frame.after, frame.separator, frame.room) == ((2,), (3,), 3, 6)


def test_a_block_knows_its_documents():
    packer = Packer(Frame(4, (2,), (3,), 3))
    packer.add([11])
    packer.add([12, 13], [True, False])
    (first, second) = packer.blocks()
    assert first.documents.tolist() == [-1, 0, 0, -1]
    assert second.documents.tolist() == [-1, 1, 1, -1]
    assert second.word_starts is not None
    assert second.word_starts.tolist() == [True, True, False, True]
    assert packer.waiting == 1


def test_a_length_without_room_is_refused():
    with pytest.raises(ValueError, match="no room"):
        Packer(Frame(2, (2,), (3,)))


# -- streams -----------------------------------------------------------------------------------------------

WORDS = ["undo", "undoing", "play", "played", "the", "a", "cat", "cats", "dog", "running", "."]


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(count)]


def corpus_of(folder: Path, lines: list[str], **settings: Any) -> Corpus:
    path = folder / "text.txt"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf8")
    return Corpus([str(path)], CorpusSettings(train=str(path), **settings))


def stream_of(corpus: Corpus, *, masked: bool = True, **settings: Any) -> PackedStream:
    tokenizer = word_pieces()
    masking = Masking.of(tokenizer, seed=5, whole_words=True) if masked else None
    frame = Frame.of(tokenizer, 16, masked=masked)
    return PackedStream(corpus, tokenizer, frame, masking=masking, seed=5, **settings)


def taken(stream: PackedStream, count: int) -> list[dict[str, Any]]:
    return list(itertools.islice(stream, count))


def same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    return len(one) == len(other) and all(
        a["row"] == b["row"] and all((a[k] == b[k]).all() for k in ("input_ids", "labels", "attention_mask"))
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("window", [0, 37, 10_000])
def test_two_passes_hold_every_token_twice(tmp_path: Path, window: int):
    lines = texts(300)
    stream = stream_of(corpus_of(tmp_path, lines), masked=False, window=window)
    tokenizer = word_pieces()
    whole = [tuple(tokenizer(line, add_special_tokens=False)["input_ids"]) for line in lines]
    total = sum(len(one) + 1 for one in whole)
    ids = [int(token) for row in taken(stream, 2 * total // 16) for token in row["input_ids"]]
    assert len(ids) == 2 * total // 16 * 16
    documents = list(_documents(ids + stream.state_dict()["packer"]["ids"], tokenizer.sep_token_id))
    assert sorted(documents[: len(lines)]) == sorted(documents[len(lines) :]) == sorted(whole)
    if window:
        assert documents[: len(lines)] != whole
        assert documents[: len(lines)] != documents[len(lines) : 2 * len(lines)]
    else:
        assert documents[: len(lines)] == whole


def _documents(ids: list[int], separator: int):
    held: list[int] = []
    for token in ids:
        if token == separator:
            yield tuple(held)
            held = []
        else:
            held.append(token)


@pytest.mark.parametrize("window", [0, 50])
@pytest.mark.parametrize("at", [0, 1, 7, 60, 150, 220])
def test_a_stream_goes_on_where_its_state_was_taken(tmp_path: Path, window: int, at: int):
    corpus = corpus_of(tmp_path, texts(300))
    whole = taken(stream_of(corpus, window=window, held_out=0.1), 260)
    stream = stream_of(corpus, window=window, held_out=0.1)
    rows = iter(stream)
    for _ in range(at):
        next(rows)
    torch.save(stream.state_dict(), tmp_path / "state.pt")
    other = stream_of(corpus, window=window, held_out=0.1)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert same(taken(other, 260 - at), whole[at:])


def test_processes_share_the_rows_of_one_stream_and_go_on_each_by_itself(tmp_path: Path):
    corpus = corpus_of(tmp_path, texts(300))
    whole = taken(stream_of(corpus, window=50), 60)
    streams = [stream_of(corpus, window=50, share=Share(p, 3, 4)) for p in range(3)]
    shares = [taken(stream, 20) for stream in streams]
    assert [row["row"] for row in shares[1]] == [r for r in range(60) if r // 4 % 3 == 1]
    assert same(sorted(itertools.chain(*shares), key=lambda row: row["row"]), whole)
    other = stream_of(corpus, window=50, share=Share(1, 3, 4))
    other.load_state_dict(streams[1].state_dict())
    assert same(taken(other, 4), taken(streams[1], 4))


def test_held_out_documents_are_never_trained_on(tmp_path: Path):
    lines = list(dict.fromkeys(texts(400)))
    corpus, share = corpus_of(tmp_path, lines), 0.2
    held = [line for line in lines if is_held_out(line, share)]
    assert 0.1 < len(held) / len(lines) < 0.3
    trained = [text for some in stream_of(corpus, held_out=share).texts() for text in some]
    assert trained == [line for line in lines if line not in held]


def write(folder: Path, kind: str, lines: list[str]) -> Path:
    path = folder / f"text.{kind}"
    rows = [{"text": line, "n": number} for number, line in enumerate(lines)]
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=7)
    elif kind == "csv":
        path.write_text("text,n\n" + "".join(f'"{r["text"]}",{r["n"]}\n' for r in rows), encoding="utf8")
    else:
        text = "".join(f"{json.dumps(r)}\n" for r in rows) if kind.startswith("jsonl") else "\n".join(lines)
        data = text.encode("utf-16" if kind.startswith("utf16") else "utf8")
        path = folder / "text.txt" if kind == "utf16" else path
        path.write_bytes(gzip.compress(data) if kind.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("kind", ["txt", "txt.gz", "jsonl", "jsonl.gz", "csv", "parquet", "utf16"])
def test_every_format_is_read_from_any_place(tmp_path: Path, kind: str):
    lines = texts(60, seed=3)
    path = write(tmp_path, kind, lines)
    settings = CorpusSettings(train=str(path), encoding="utf-16" if kind == "utf16" else "utf-8")
    documents = list(Corpus([str(path)], settings).documents())
    assert [one.text for one in documents] == lines
    for number in (0, 1, 30, 58, 59):
        rest = Corpus([str(path)], settings).documents(documents[number].after)
        assert [one.text for one in rest] == lines[number + 1 :], number


def test_a_set_of_the_hub_is_read_from_any_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What `datasets` streams from files on this machine stands for what it streams from the Hub."""
    lines = texts(50, seed=4)
    files = [tmp_path / f"{part}.jsonl" for part in range(3)]
    for part, path in enumerate(files):
        path.write_text("".join(f"{json.dumps({'text': line})}\n" for line in lines[part::3]))

    def streamed(_origin: Any, *, streaming: bool) -> Any:
        assert streaming
        return datasets.load_dataset("json", data_files=[str(path) for path in files], split="train", streaming=True)

    monkeypatch.setattr("luthier.language_modeling.documents.load_hub_split", streamed)
    name = "hub:some/texts"
    corpus = Corpus([name], CorpusSettings(train=name))
    documents = list(corpus.documents())
    assert sorted(one.text for one in documents) == sorted(lines)
    for number in (0, 20, 48, 49):
        rest = [one.text for one in corpus.documents(documents[number].after)]
        assert rest == [one.text for one in documents[number + 1 :]], number
    whole = taken(stream_of(corpus, window=20), 30)
    stream = stream_of(corpus, window=20)
    taken(stream, 13)
    torch.save(stream.state_dict(), tmp_path / "state.pt")
    other = stream_of(corpus, window=20)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert same(taken(other, 17), whole[13:])


def test_several_sources_and_patterns_follow_one_another(tmp_path: Path):
    for name, lines in (("b1", ["cat"]), ("b2", ["dog", "", " "]), ("a", ["the"])):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    names = [str(tmp_path / "b*.txt"), str(tmp_path / "a.txt")]
    settings = CorpusSettings(train=names)
    documents = list(Corpus(names, settings).documents())
    assert [one.text for one in documents] == ["cat", "dog", "the"]
    assert [one.text for one in Corpus(names, settings).documents(documents[0].after)] == ["dog", "the"]


@pytest.mark.parametrize(("document", "expected"), [("paragraph", ["a\nb", "c"]), ("file", ["a\nb\n\n\nc"])])
def test_a_document_may_be_several_lines(tmp_path: Path, document: Any, expected: list[str]):
    path = tmp_path / "text.txt"
    path.write_text("a\nb\n\n\nc\n")
    corpus = Corpus([str(path)], CorpusSettings(train=str(path), document=document))
    documents = list(corpus.documents())
    assert [one.text for one in documents] == expected
    assert [one.text for one in corpus.documents(documents[0].after)] == expected[1:]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b'{"text": "fine"}\n{"text": 3}\n', "row 2: `text` is 3, not text"),
        ("b.jsonl", b'{"body": "fine"}\n', "no field `text`"),
        ("c.jsonl", b'{"text": "fine"}\n{"text": \n', "line 2 is not valid JSON"),
        ("d.txt", b"fine\n\xff\xfe\n", "line 2 is not valid utf-8"),
        ("e.txt", b"fine\nno\0t\n", "NUL"),
        ("f.parquet", b"nothing of the kind", "not a whole parquet file"),
        ("g.conll", b"a\tb\n", "can't be read document by document"),
        ("h.txt.gz", b"no gzip", "can't be read"),
    ],
)
def test_a_damaged_text_is_told_with_its_place(tmp_path: Path, name: str, content: bytes, told: str):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=told) as caught:
        list(Corpus([str(path)], CorpusSettings(train=str(path))).documents())
    assert name in str(caught.value)


def test_a_text_without_documents_is_told(tmp_path: Path):
    with pytest.raises(DataError, match="no documents to train on"):
        next(iter(stream_of(corpus_of(tmp_path, ["", "  "]))))


# -- files ---------------------------------------------------------------------------------------------------


def read(train: str, **settings: Any) -> list[str]:
    chosen = CorpusSettings(train=train, **settings)
    return [one.text for one in Corpus(chosen.train, chosen).documents()]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "gb18030", "cp932"])
def test_a_byte_order_mark_is_dropped_whatever_the_encoding(tmp_path: Path, encoding: str):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone two\r\nthree\n")
    assert read(str(tmp_path / "a.txt"), encoding=encoding) == ["one two", "three"]


def test_patterns_are_those_of_the_shell_and_names_come_first(tmp_path: Path):
    for name in ("a1.txt", "a2.txt", "b1.txt", "c[1].txt", "deep/er/a3.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n")
    assert read(str(tmp_path / "a?.txt")) == ["a1.txt", "a2.txt"]
    assert read(str(tmp_path / "[ab]1.txt")) == ["a1.txt", "b1.txt"]
    assert read(str(tmp_path / "c[1].txt")) == ["c[1].txt"]
    assert read(str(tmp_path / "**/a*.txt")) == ["a1.txt", "a2.txt", "deep/er/a3.txt"]
    for name in ("d*.txt", "d?.txt"):
        with pytest.raises(DataError, match="no such file"):
            read(str(tmp_path / name))


@pytest.mark.parametrize(
    ("train", "validation"), [("*.txt", "b.txt"), ("./b.txt", "b.txt"), (["a.txt", "b.txt"], "?.txt")]
)
def test_what_is_held_out_is_not_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Any, validation: str
):
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("the cat\n")
    with pytest.raises(DataError, match="trained on, and held out"):
        check_corpora(CorpusSettings(train=train, validation=validation))
    one, other = CorpusSettings(train="a.txt", validation="b.txt"), CorpusSettings(train="b.txt")
    check_corpora(one)
    with pytest.raises(DataError, match="trained on, and held out"):
        check_corpora(one, other)


def test_half_a_character_is_told_by_its_row(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": "the cat"}\n{"text": "cut \\ud83d off"}\n')
    with pytest.raises(DataError, match=r"(?s)2.*half a character"):
        read(str(tmp_path / "a.jsonl"))


def test_settings_of_other_formats_are_refused(tmp_path: Path):
    (tmp_path / "a.txt").write_text("the cat\n")
    (tmp_path / "a.jsonl").write_text('{"body": "the cat"}\n')
    txt, jsonl = (str(tmp_path / f"a.{kind}") for kind in ("txt", "jsonl"))
    check_corpora(CorpusSettings(train=[txt, jsonl], text="body", document="paragraph"))
    with pytest.raises(RecipeError, match="`text` has no effect on txt"):
        check_corpora(CorpusSettings(train=txt, text="body"))
    with pytest.raises(RecipeError, match="`document` has no effect on jsonl"):
        check_corpora(CorpusSettings(train=jsonl, text="body", document="file"))


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "tsv", "parquet"])
def test_an_empty_file_of_a_pattern_is_passed_over(tmp_path: Path, kind: str):
    for name in ("a", "b", "c"):
        place = tmp_path / f"{name}.{kind}"
        if name == "b":
            place.touch()
        elif kind == "parquet":
            pyarrow.parquet.write_table(pyarrow.table({"text": [name]}), place)
        else:
            place.write_text({"txt": name, "jsonl": f'{{"text": "{name}"}}'}.get(kind, f"text\n{name}") + "\n")
    assert read(str(tmp_path / f"*.{kind}")) == ["a", "c"]
    check_corpora(CorpusSettings(train=str(tmp_path / f"*.{kind}")))
    with pytest.raises(DataError, match="no text in it"):
        check_corpora(CorpusSettings(train=str(tmp_path / f"b.{kind}")))


def test_each_file_of_a_pattern_is_looked_at(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": "the cat"}\n')
    (tmp_path / "b.jsonl").write_text('{"body": "the cat"}\n')
    with pytest.raises(DataError, match="no field `text`"):
        check_corpora(CorpusSettings(train=str(tmp_path / "*.jsonl")))
