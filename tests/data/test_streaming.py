from itertools import islice

import pytest

from luthier.data.batches.encoding import encode
from luthier.data.loading import load_data
from luthier.data.settings import DataSettings
from luthier.errors import DataError
from tests.data.tokenizers import decoder_tokenizer

LETTERS = "abcdefghij"
ROWS = "text,label\n" + "".join(f"{LETTERS[i // 10]} {LETTERS[i % 10]},{'xy'[i % 2]}\n" for i in range(60))


def stream(path, **fields):
    return load_data(DataSettings(train=path, streaming=True, buffer=8, **fields)).splits["train"]


def test_every_row_comes_once_in_an_order_of_its_own_each_epoch(write):
    rows = stream(write("a.csv", ROWS), labels=["x", "y"])
    first = [row["row"] for row in rows]
    assert sorted(first) == list(range(1, 61)) != first
    assert [row["row"] for row in rows] == first
    rows.set_epoch(1)
    assert sorted(row["row"] for row in rows) == sorted(first)
    assert [row["row"] for row in rows] != first


@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize("done", [0, 5, 31, 59])
def test_a_resumed_stream_gives_the_very_rows_that_would_have_come(write, tokenizer, done, epoch):
    path = write("a.csv", ROWS)

    def encoded():
        data = load_data(DataSettings(train=path, streaming=True, buffer=8, labels=["x", "y"]))
        return encode(data, tokenizer, max_length=16)["train"]

    running = encoded()
    running.set_epoch(epoch)
    rows = iter(running)
    before = list(islice(rows, done))
    state = running.state_dict()
    after = list(rows)
    resumed = encoded()
    resumed.load_state_dict(state)
    resumed.set_epoch(epoch)
    assert list(resumed) == after
    assert len(before + after) == 60


def test_packed_blocks_resume_too(write):
    path = write("a.txt", "".join(f"{letter} {letter} {letter}\n" for letter in LETTERS * 4))

    def blocks():
        data = load_data(DataSettings(train=path, streaming=True, buffer=8))
        return encode(data, decoder_tokenizer(eos_token="<eos>"), max_length=7)["train"]

    running = blocks()
    rows = iter(running)
    list(islice(rows, 9))
    state, after = running.state_dict(), list(rows)
    resumed = blocks()
    resumed.load_state_dict(state)
    assert list(resumed) == after
    assert sum(block["length"] for block in blocks()) == 160


def test_formats_and_tasks_that_stream(write):
    path = write("a.jsonl", '{"prompt": "a", "response": "b"}\n{"prompt": "c", "response": "d"}\n')
    assert sorted(row["prompt"] for row in stream(path)) == ["a", "c"]
    rows = stream(write("b.tsv", "text\tlabel\na\t0.5\nb\t2\n"), task="regression")
    assert sorted(row["label"] for row in rows) == [0.5, 2.0]


@pytest.mark.parametrize(
    ("name", "content", "fields", "told"),
    [
        ("a.csv", "text,label\na,x\nb,z\n", {"labels": ["x", "y"]}, r"row 2 \(line 3\), column 'label': the label 'z'"),
        ("a.csv", "text,label\na,x\n ,y\n", {"labels": ["x", "y"]}, r"row 2 \(line 3\), column 'text': holds no text"),
        ("a.csv", "text,label\na,x\nb\n", {"labels": ["x", "y"]}, r"row 2 \(line 3\): has 1 fields"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', {}, "row 2: is not valid JSON"),
    ],
)
def test_faults_are_told_when_they_are_met(write, name, content, fields, told):
    with pytest.raises(DataError, match=told):
        list(stream(write(name, content), **fields))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", ROWS, "its labels are not known"),
        ("a.json", '[{"text": "a"}]', "json files can't be streamed"),
        ("a.csv", "txt,label\na,x\n", "fit no task"),
        ("a.conll", "a O\n", "conll files can't be streamed"),
    ],
)
def test_what_can_not_be_streamed_is_told_at_once(write, name, content, told):
    with pytest.raises(DataError, match=told):
        stream(write(name, content))


def test_other_splits_are_loaded_whole(write):
    settings = DataSettings(
        train=write("a.csv", ROWS), test=write("b.csv", "text,label\na,y\n"), streaming=True, labels=["x", "y"]
    )
    data = load_data(settings)
    assert data.splits["test"]["label"][:] == [1]
    assert data.summary["train"].rows is None


def test_a_streamed_regression_reads_a_second_text_as_its_other_splits_do(write):
    train = write("pairs.csv", "text,text_pair,label\na,b,0.5\nc,d,1\n")
    test = write("more.csv", "text,text_pair,label\ne,f,1\ng,h,2\n")
    data = load_data(DataSettings(train=train, test=test, streaming=True, task="regression"))
    assert data.columns == {"text": "text", "text_pair": "text_pair"}
    assert {row["text_pair"] for row in data.splits["train"]} == {"b", "d"}
    assert data.splits["test"]["text_pair"][:] == ["f", "h"]
