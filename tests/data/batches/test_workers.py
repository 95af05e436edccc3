"""Worker processes change neither rows, nor their order, nor the state of a stream; errors come in their place."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.data.batches.encoding import encode
from luthier.data.batches.stream import EndlessStream, Share
from luthier.data.batches.workers import InOrder
from luthier.data.loading import load_data
from luthier.data.settings import DataSettings
from luthier.errors import DataError
from luthier.language_modeling import PackedStream
from tests.data.tokenizers import decoder_tokenizer, word_tokenizer
from tests.language_modeling.test_packing import corpus_of, stream_of
from tests.language_modeling.test_packing import texts as documents

WORKERS = 2


def doubled(number: int) -> int:
    if number == 5:
        raise DataError("five can't be doubled", where="here", fix="leave it out")
    return 2 * number


def numbered(items: list[int]) -> Iterator[tuple[int, str]]:
    for item in items:
        if item == 99:
            raise DataError("there are no more")
        yield item, f"after {item}"


@pytest.mark.parametrize("workers", [0, WORKERS])
def test_results_come_in_order_and_errors_in_their_place(workers: int) -> None:
    work = InOrder(doubled, workers)
    try:
        assert list(work(numbered([1, 2, 3]))) == [(2, "after 1"), (4, "after 2"), (6, "after 3")]
        for items, told in (([4, 5, 6], "five can't be doubled"), ([4, 99], "there are no more")):
            found: list[Any] = []
            with pytest.raises(DataError, match=told) as error:
                found.extend(iter_into(work(numbered(items)), found))
            assert found == [(8, "after 4")]
        assert (error.value.where, error.value.fix) == (None, None)
        # Whoever leaves off and begins again gets nothing of what was left.
        assert next(work(numbered([1, 2, 3, 4]))) == (2, "after 1")
        assert list(work(numbered([7]))) == [(14, "after 7")]
    finally:
        work.close()


def iter_into(results: Iterator[Any], found: list[Any]) -> list[Any]:
    for one in results:
        found.append(one)
    return []


def test_without_workers_nothing_is_drawn_ahead() -> None:
    drawn = iter([1, 2, 3])
    results = InOrder(doubled)((item, None) for item in drawn)
    assert next(results) == (2, None)
    assert next(drawn) == 2


def ended(number: int) -> int:
    if number == 3 and multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_where_a_worker_is_killed_the_work_is_done_here(caplog: pytest.LogCaptureFixture) -> None:
    work = InOrder(ended, WORKERS)
    items = numbered(list(range(20)))
    assert list(work(items)) == [(number, f"after {number}") for number in range(20)]
    assert [record.message for record in caplog.records if "worker" in record.message] == [
        "a worker that makes rows ready has ended: from here on they are made ready without any"
    ]


def test_workers_end_with_the_process_that_they_work_for() -> None:
    script = """
import json, multiprocessing, os, signal
from luthier.data.batches.workers import InOrder
def told(number):
    return number
results = InOrder(told, 2)((number, None) for number in range(50))
first = [next(results)[0] for _ in range(4)]
print(json.dumps([first, [child.pid for child in multiprocessing.active_children()]]), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    first, workers = json.loads(done.stdout)
    assert (first, len(workers)) == ([0, 1, 2, 3], 2)
    for _ in range(200):
        if not any(running(pid) for pid in workers):
            break
        time.sleep(0.01)
    assert not [pid for pid in workers if running(pid)]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- streams: the rows, and the state behind each of them ------------------------------------------------------------

LETTERS = "abcdefghij"


def classified(folder: Path) -> EndlessStream:
    path = folder / "a.jsonl"
    lines = [{"text": f"{LETTERS[i % 10]} {LETTERS[i // 60]}" * (1 + i % 3), "label": "xy"[i % 2]} for i in range(600)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = load_data(DataSettings(train=str(path), streaming=True, buffer=20, labels=["x", "y"]))
    return encode(data, word_tokenizer(), max_length=16)["train"]


def packed(folder: Path) -> EndlessStream:
    path = folder / "texts.txt"
    path.write_text("".join(f"{' '.join(LETTERS[: 1 + i % 7])}\n" for i in range(700)))
    data = load_data(DataSettings(train=str(path), streaming=True, buffer=20))
    return encode(data, decoder_tokenizer(eos_token="<eos>"), max_length=25)["train"]


STREAMS: dict[str, Callable[[Path, int], Any]] = {
    "rows": lambda folder, workers: EndlessStream(classified(folder).shared(Share(), workers)),
    "a share": lambda folder, workers: EndlessStream(classified(folder).shared(Share(4, 1, 2), workers)),
    "blocks": lambda folder, workers: EndlessStream(packed(folder).shared(Share(2, 0, 2), workers)),
    "corpus": lambda folder, workers: stream_of(
        corpus_of(folder, documents(700)), window=300, held_out=0.1, workers=workers
    ),
}


def saved(state: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in row.items()}


@pytest.mark.parametrize("name", STREAMS)
def test_workers_change_neither_rows_nor_state(name: str, tmp_path: Path) -> None:
    alone, helped = STREAMS[name](tmp_path, 0), STREAMS[name](tmp_path, WORKERS)
    assert (alone.workers, helped.workers) == (0, WORKERS)
    count, states = 0, []
    try:
        for one, other in islice(zip(alone, helped, strict=True), 1000):
            assert plain(one) == plain(other)
            count += 1
            if count in (1, 255, 256, 300, 512, 700, 999):
                states.append(saved(alone.state_dict()))
                assert repr(helped.state_dict()) == repr(alone.state_dict())
        for state in states[1::2]:
            went_on = STREAMS[name](tmp_path, WORKERS)
            went_on.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
            again = STREAMS[name](tmp_path, 0)
            again.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
            rows = [plain(row) for row in islice(again, 60)]
            assert [plain(row) for row in islice(went_on, 60)] == rows
            went_on.close()
    finally:
        helped.close()


def test_a_row_that_cant_be_encoded_comes_behind_those_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [{"text": "a" if i != 700 else "a " * 30, "label": "x"} for i in range(900)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = load_data(DataSettings(train=str(path), streaming=True, buffer=1, labels=["x", "y"], too_long="error"))
    stream = encode(data, word_tokenizer(), max_length=16)["train"].shared(Share(), WORKERS)
    given: list[Any] = []
    with pytest.raises(DataError, match="row 701 with 32 tokens"):
        iter_into(iter(stream), given)
    stream.close()
    assert [row["row"] for row in given] == list(range(1, 513))


def test_a_packed_stream_says_its_workers(tmp_path: Path) -> None:
    stream = stream_of(corpus_of(tmp_path, documents(5)), workers=3)
    assert isinstance(stream, PackedStream)
    assert stream.workers == 3
