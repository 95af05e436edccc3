"""Streams go on where they were left, read nothing again, and are shared out without a row lost or seen twice."""

import gzip
import io
import json
from itertools import islice

import datasets
import pytest
import torch
from torch.utils.data import DataLoader

from luthier.data import streamed_rows
from luthier.data.batches.encoding import encode
from luthier.data.batches.stream import EndlessStream, Share
from luthier.data.loading import load_data
from luthier.data.reading.forms import Form
from luthier.data.settings import DataSettings
from luthier.data.streamed_rows import ShapedRows
from luthier.errors import DataError
from tests.data.tokenizers import decoder_tokenizer

LETTERS = "abcdefghij"
PAIRS = [(f"{LETTERS[i // 10]} {LETTERS[i % 10]}", "xy"[i % 2]) for i in range(60)]
CSV = "text,label\n" + "".join(f'"{text}\n",{label}\n\n' for text, label in PAIRS)
TSV = "text\tlabel\n" + "".join(f"{text}\t{label}\r\n" for text, label in PAIRS)
JSONL = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in PAIRS)
TURNS = [(role, turn) for turn in "abc" for role in ("user", "assistant")]
TALKS = "".join(
    json.dumps({"messages": [{"role": role, "content": f"{text} {turn}"} for role, turn in TURNS]}) + "\n"
    for text, _ in PAIRS
)
FORMATS = {
    "a.csv": CSV.encode(),
    "a.tsv": b"\xef\xbb\xbf" + TSV.encode(),
    "a.jsonl": JSONL.encode(),
    "utf16.csv": CSV.encode("utf-16"),
    "b.jsonl.gz": gzip.compress(JSONL.encode()),
}
SETTINGS = {"labels": ["x", "y"]}


@pytest.fixture
def data(tmp_path):
    """Data whose training split is a stream of a file of that name."""

    def loaded(name, content=None, **fields):
        path = tmp_path / name
        path.write_bytes(FORMATS[name] if content is None else content)
        encoding = {"encoding": "utf-16"} if "utf16" in name else {}
        return load_data(DataSettings(train=str(path), streaming=True, **{"buffer": 8, **encoding, **fields}))

    return loaded


@pytest.fixture
def stream(data):
    """A stream of a file of that name."""
    return lambda *arguments, **fields: data(*arguments, **fields).splits["train"]


@pytest.fixture
def read(monkeypatch):
    """The numbers of the rows that files gave, one after another."""
    numbers, iterate = [], streamed_rows.iterate_rows

    def counting(*arguments):
        for row in iterate(*arguments):
            numbers.append(row.number)
            yield row

    monkeypatch.setattr(streamed_rows, "iterate_rows", counting)
    return numbers


def saved(state):
    """A state as a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("done", [0, 1, 7, 31, 52, 59, 60, 75])
def test_what_was_read_is_not_read_again(stream, read, name, done):
    running = EndlessStream(stream(name, **SETTINGS))
    rows = iter(running)
    list(islice(rows, done))
    state, reads = saved(running.state_dict()), len(read)
    after, reads = list(islice(rows, 120)), read[reads:]
    resumed = EndlessStream(stream(name, **SETTINGS))
    resumed.load_state_dict(state)
    read.clear()
    assert list(islice(resumed, 120)) == after
    assert read == reads


def test_a_fault_behind_the_place_is_told_with_its_own_row_and_line(stream):
    running = stream("faulty.tsv", TSV.encode() + b"only one\n", **SETTINGS)
    rows = iter(running)
    list(islice(rows, 40))
    resumed = stream("faulty.tsv", TSV.encode() + b"only one\n", **SETTINGS)
    resumed.load_state_dict(running.state_dict())
    with pytest.raises(DataError, match=r"row 61 \(line 62\): has 1 fields, but there are 2 columns"):
        list(resumed)
    broken = stream("broken.tsv", TSV.encode() + b"\xff\tx\n", **SETTINGS)
    rows = iter(broken)
    list(islice(rows, 40))
    again = stream("broken.tsv", TSV.encode() + b"\xff\tx\n", **SETTINGS)
    again.load_state_dict(broken.state_dict())
    with pytest.raises(DataError, match=f"line 62 is not valid utf-8: byte 0xff at byte {len(TSV)} of the file"):
        list(again)


@pytest.mark.parametrize("done", [1, 9, 30, 44, 60, 61, 170])
def test_blocks_and_leftover_tokens_go_on(data, read, done):
    content = "".join(f"{' '.join(LETTERS[: 1 + i % 7])}\n" for i in range(300)).encode()

    def blocks():
        rows = encode(data("texts.txt", content), decoder_tokenizer(eos_token="<eos>"), max_length=25)["train"]
        return EndlessStream(rows)

    running = blocks()
    rows = iter(running)
    list(islice(rows, done))
    state, reads = saved(running.state_dict()), len(read)
    after, reads = list(islice(rows, 100)), read[reads:]
    resumed = blocks()
    resumed.load_state_dict(state)
    read.clear()
    assert list(islice(resumed, 100)) == after
    assert read == reads


@pytest.mark.parametrize("done", [0, 1, 5, 40])
def test_conversations_go_on(stream, done):
    running = stream("talks.jsonl", TALKS.encode(), buffer=4)
    rows = iter(running)
    list(islice(rows, done))
    state, after = saved(running.state_dict()), list(rows)
    resumed = stream("talks.jsonl", TALKS.encode(), buffer=4)
    resumed.load_state_dict(state)
    assert list(resumed) == after
    assert len(after) == 60 - done


@pytest.mark.parametrize("done", range(60))
def test_rows_that_one_record_became_go_on(stream, done):
    source = stream("a.jsonl", **SETTINGS).rows.source
    form = Form("rows that become none, one or two", {}, lambda cells: [cells] * (ord(cells["text"][-1]) % 3))
    shaped = ShapedRows(source, form, "a.jsonl")
    reading = shaped.read()
    list(islice(reading, done))
    place = saved(reading.place())
    assert list(shaped.read(place)) == list(reading)


@pytest.mark.parametrize("done", [0, 1, 17, 58])
def test_a_set_on_the_hub_goes_on(monkeypatch, done):
    rows = {"text": [text for text, _ in PAIRS], "label": [i % 2 for i in range(60)]}
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["x", "y"]))
    whole = datasets.Dataset.from_dict(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"train": whole.to_iterable_dataset(num_shards=3)})

    def opened():
        settings = DataSettings(train="hub:org/set", text="text", label="label", streaming=True, buffer=5)
        return load_data(settings).splits["train"]

    running = opened()
    given = iter(running)
    list(islice(given, done))
    state, after = saved(running.state_dict()), list(given)
    resumed = opened()
    resumed.load_state_dict(state)
    assert list(resumed) == after
    assert len(after) == 60 - done
    loader = DataLoader(opened(), batch_size=4, num_workers=2, collate_fn=list)
    assert sorted(row["row"] for batch in loader for row in batch) == list(range(1, 61))


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_a_stream_as_one_with_the_whole_batch(stream, tokenizer, batch_size, processes):
    def encoded(share):
        data = stream("a.csv", **SETTINGS)
        data = load_data(
            DataSettings(train=str(data.rows.source._origin.files[0].path), streaming=True, buffer=8, **SETTINGS)
        )
        return EndlessStream(encode(data, tokenizer, max_length=16)["train"].shared(share))

    rows = batch_size * processes * 20
    whole = list(islice(encoded(Share()), rows))
    shares = [list(islice(encoded(Share(batch_size, i, processes)), rows // processes)) for i in range(processes)]
    passes = [
        [row for share in shares for row in share[start : start + batch_size]]
        for start in range(0, rows // processes, batch_size)
    ]
    assert [row for one in passes for row in one] == whole
    assert len({row["row"] for row in whole[:60]}) == min(60, rows)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_each_process_checks_its_own_rows_alone(stream, monkeypatch, name):
    checked, check = [], streamed_rows.canonical_row

    def counting(schema, row, wanted):
        checked.append(row["text"])
        return check(schema, row, wanted)

    monkeypatch.setattr(streamed_rows, "canonical_row", counting)
    whole = list(islice(EndlessStream(stream(name, **SETTINGS)), 80))
    assert len(checked) == 80 + 8 - 1  # those that wait in the buffer, too
    for process in range(2):
        checked.clear()
        share = EndlessStream(stream(name, **SETTINGS).shared(Share(4, process, 2)))
        given = iter(share)
        rows, state = list(islice(given, 20)), saved(share.state_dict())
        assert [row["text"] for row in rows] == checked
        after = list(islice(given, 20))
        assert [*rows, *after] == [row for number, row in enumerate(whole) if number // 4 % 2 == process]
        resumed = EndlessStream(stream(name, **SETTINGS).shared(Share(4, process, 2)))
        resumed.load_state_dict(state)
        assert list(islice(resumed, 20)) == after


def test_a_fault_is_told_by_the_process_whose_row_it_is(stream):
    content = JSONL.replace('"label": "y"', '"label": "odd"', 1).encode()
    shares = [stream("odd.jsonl", content, buffer=1, **SETTINGS).shared(Share(1, i, 2)) for i in range(2)]
    assert len(list(shares[0])) == 30
    with pytest.raises(DataError, match=r"row 2, column .label.: the label .odd."):
        list(shares[1])


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_change_neither_rows_nor_their_order(stream, workers):
    def batches(count):
        rows = EndlessStream(stream("a.csv", **SETTINGS).shared(Share(4, 1, 2)))
        return [list(b) for b in islice(DataLoader(rows, batch_size=4, num_workers=count, collate_fn=list), 25)]

    assert batches(workers) == batches(0)


def test_one_epoch_is_given_once_by_all_workers_together(stream):
    loader = DataLoader(stream("a.csv", **SETTINGS), batch_size=3, num_workers=3, collate_fn=list)
    assert sorted(row["row"] for batch in loader for row in batch) == list(range(1, 61))


def test_a_state_of_another_share_is_refused(stream):
    half = stream("a.csv", **SETTINGS).shared(Share(4, 0, 2))
    with pytest.raises(DataError, match=r"was left by process 0 of 2 with 4 rows at a time, and process 0 of 1"):
        stream("a.csv", **SETTINGS).load_state_dict(half.state_dict())


def test_a_state_stays_as_it_is_while_rows_go_on(stream):
    running = stream("a.csv", **SETTINGS)
    rows = iter(running)
    list(islice(rows, 11))
    state = running.state_dict()
    before = saved(state)
    list(rows)
    assert repr(saved(state)) == repr(before)


def test_every_row_that_is_given_is_drawn_among_the_buffer(stream):
    order = [row["row"] for row in stream("a.csv", buffer=6, **SETTINGS)]
    assert sorted(order) == list(range(1, 61))
    assert all(row <= place + 6 for place, row in enumerate(order))
    assert [row["row"] for row in stream("a.csv", buffer=1, **SETTINGS)] == list(range(1, 61))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_blocks_as_one_with_the_whole_batch(data, processes):
    content = "".join(f"{' '.join(LETTERS[: 1 + i % 7])}\n" for i in range(90)).encode()

    def blocks(share):
        rows = encode(data("texts.txt", content), decoder_tokenizer(eos_token="<eos>"), max_length=25)["train"]
        return EndlessStream(rows.shared(share))

    whole = list(islice(blocks(Share()), 20 * processes))
    shares = [list(islice(blocks(Share(2, i, processes)), 20)) for i in range(processes)]
    passes = [row for start in range(0, 20, 2) for share in shares for row in share[start : start + 2]]
    assert passes == whole
