"""Answers are kept as they come: what a stopped command left is taken over, where model and rows are the same."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from luthier.cli.arguments import main
from luthier.data.batches.encoding import encode_rows
from luthier.data.texts import texts_of_file
from luthier.errors import DataError, WorkspaceError
from luthier.models.card import ModelCard, write_card
from luthier.models.manifest import write_manifest
from luthier.models.predictor import Predictor, RowPredictor, in_parts
from luthier.prediction import embed_file, predict_file
from luthier.prediction.writing import write_predictions
from luthier.registry import PREDICTORS
from luthier.representing.texts import _rows
from luthier.storage.files import write_bytes
from luthier.storage.part_file import KeptParts, kept_parts
from tests.evaluation.text_models import tokenizer_of

KEY, OTHER = "a" * 64, "b" * 64
COMMAND = ["predict", "--file", "rows.txt", "--output", "out.jsonl", "--batch-size", "2"]


class Speller(RowPredictor):
    """Counts letters, row by row, and takes note of what it was asked; parts have 8 rows, then 16, then 32."""

    name = "speller"
    made_by = "a spell stage"
    embeds = True
    asked: list[str] = []
    stops_at: str | None = None

    def rows_of_file(self, file: str | Path) -> list[str]:
        return list(texts_of_file(file))

    def embed(self, texts: Any, *, batch_size: int = 64, dtype: str = "float32") -> np.ndarray:
        return np.array([[one["length"]] for one in self.answers(texts, 64)], dtype=dtype)

    def answers(self, texts: Any, batch_size: int) -> list[dict[str, Any]]:
        if self.stops_at in texts:
            raise KeyboardInterrupt
        self.asked.extend(texts)
        return [{"text": text, "length": len(text)} for text in texts]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A saved speller beside `rows.txt`, of 40 rows."""
    monkeypatch.chdir(tmp_path)
    Path("rows.txt").write_text("".join(f"row {'a' * i}\n" for i in range(40)))
    place = tmp_path / "runs" / "spelt" / "00-spell" / "model"
    place.mkdir(parents=True)
    (place.parent / "done.json").write_text("{}")
    write_card(place, ModelCard("somewhere", "0" * 64, "encoder", method={"name": "speller"}))
    write_manifest(place)
    monkeypatch.setattr(Speller, "asked", [])
    monkeypatch.setattr(Speller, "stops_at", None)
    monkeypatch.setattr("luthier.models.predictor._FIRST_PART", 8)
    PREDICTORS.register(Speller)
    yield "runs/spelt"
    del PREDICTORS._entries["speller"]


def written(file: str = "out.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def stopped(run: str, at: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a command leaves that is stopped when it comes to a row."""
    with monkeypatch.context() as patch:
        patch.setattr(Speller, "stops_at", f"row {'a' * at}")
        assert main([*COMMAND[:1], run, *COMMAND[1:]]) == 130
    Speller.asked.clear()
    (part,) = Path().glob("out.jsonl.*.part")
    return part


def test_a_stopped_command_goes_on_behind_the_answers_that_are_there(run: str, monkeypatch, capsys):
    Path("out.jsonl").write_text("older\n")
    part = stopped(run, 10, monkeypatch)
    assert "goes on behind the rows that were answered" in capsys.readouterr().err
    assert Path("out.jsonl").read_text() == "older\n"
    with part.open("ab") as file:
        file.write(f"{KEY} {100:016x}\ntorn".encode())
    assert main([*COMMAND[:1], run, *COMMAND[1:]]) == 0
    assert "wrote 40 predictions to out.jsonl, 8 of them by an earlier command" in capsys.readouterr().out
    assert Speller.asked == Path("rows.txt").read_text().splitlines()[8:]
    assert written() == predict_file(run, "rows.txt")
    assert sorted(path.name for path in Path().iterdir()) == ["out.jsonl", "rows.txt", "runs"]


def test_of_a_corrected_file_only_the_changed_part_is_answered_again(run: str, monkeypatch):
    part = stopped(run, 30, monkeypatch)
    text = Path("rows.txt").read_text()
    Path("rows.txt").write_text(text.replace("row a\n", "raw a\n") + "row more\n")
    assert write_predictions(run, "rows.txt", "out.jsonl", batch_size=2) == (41, 16)
    assert Speller.asked[:8] == ["row ", "raw a", *(f"row {'a' * i}" for i in range(2, 8))]
    assert not part.exists()
    assert written() == predict_file(run, "rows.txt")


def test_nothing_is_taken_over_from_another_model(run: str, monkeypatch):
    part = stopped(run, 30, monkeypatch)
    card = next(Path("runs").rglob("luthier.json"))
    card.write_text(card.read_text().replace("somewhere", "elsewhere"))
    write_manifest(card.parent)
    assert write_predictions(run, "rows.txt", "out.jsonl", batch_size=2) == (40, 0)
    assert not part.exists()


def test_the_rows_count_and_not_the_file_that_they_come_from(run: str, monkeypatch):
    """The same texts behind a header line, which a text file would have as its first row; and in an archive."""
    stopped(run, 30, monkeypatch)
    text = Path("rows.txt").read_text()
    Path("rows.csv").write_text("text\n" + text)
    assert write_predictions(run, "rows.csv", "out.jsonl", batch_size=2) == (40, 24)
    assert written() == predict_file(run, "rows.txt")
    for content in (text, text.replace("row", "raw"), "one\ntwo\n"):
        with zipfile.ZipFile("rows.zip", "w") as archive:
            archive.writestr("rows.txt", content)
        with suppress(KeyboardInterrupt), monkeypatch.context() as patch:
            patch.setattr(Speller, "stops_at", content.splitlines()[min(30, len(content.splitlines()) - 1)])
            write_predictions(run, "rows.zip!rows.txt", "out.jsonl", batch_size=2)
    assert write_predictions(run, "rows.zip!rows.txt", "out.jsonl", batch_size=2) == (2, 0)
    assert [one["text"] for one in written()] == ["one", "two"]


def test_a_predictor_of_whole_files_writes_them_at_once(run: str, monkeypatch):
    class Whole(Predictor):
        name = "speller"

        def predict_file(self, file: str | Path, *, batch_size: int = 64) -> list[dict[str, Any]]:
            return [{"text": "all"}]

    monkeypatch.setitem(PREDICTORS._entries, "speller", Whole)
    assert write_predictions(run, "rows.txt", "out.jsonl") == (1, 0)
    assert written() == [{"text": "all"}]


def test_a_file_that_another_process_writes_is_left_alone(run: str):
    with FileLock(".out.jsonl.lock"), pytest.raises(WorkspaceError, match="another process is writing this file"):
        write_predictions(run, "rows.txt", "out.jsonl")
    assert Speller.asked == []


@pytest.mark.parametrize("name", ["[x]*.jsonl", "名" * 78 + ".jsonl", "x" * 240])
def test_names_are_taken_as_they_are_and_neighbours_stay(tmp_path: Path, name: str):
    place = tmp_path / "a[b]*? é" / name
    neighbours = {f"x.jsonl.{OTHER[:16]}.part", "y.jsonl"}
    place.parent.mkdir()
    for one in neighbours:
        (place.parent / one).touch()
    with suppress(RuntimeError), kept_parts(place, KEY) as kept:
        kept.add(KEY, b"1\n2\n")
        raise RuntimeError("stopped")
    (kept.path.with_name(kept.path.name.replace(KEY[:16], OTHER[:16]))).mkdir()
    with kept_parts(place, KEY) as kept:
        assert KEY in kept
        write_bytes(place, [kept.read(KEY), b"3\n"])
    assert place.read_bytes() == b"1\n2\n3\n"
    files = {path.name for path in place.parent.iterdir() if path.is_file()}
    assert files == {place.name, *neighbours}


def test_parts_behind_one_that_was_cut_short_are_made_again(tmp_path: Path):
    place, parts = tmp_path / "v.npy", {letter * 64: bytes(range(n)) for letter, n in (("a", 9), ("b", 0), ("c", 200))}
    with suppress(RuntimeError), kept_parts(place, KEY) as kept:
        for key, content in parts.items():
            kept.add(key, content)
        raise RuntimeError("stopped")
    whole = kept.path.read_bytes()
    for cut, count in ((0, 3), (1, 2), (281, 2), (283, 1), (len(whole) - 3, 0), (len(whole), 0)):
        kept.path.write_bytes(whole[: len(whole) - cut])
        again = KeptParts(kept.path)
        assert sum(key in again for key in parts) == count
        for key, content in parts.items():
            if key not in again:
                again.add(key, content)
            assert again.read(key) == content
        assert KeptParts(kept.path).read("c" * 64) == parts["c" * 64]


def test_vectors_are_gone_on_with(run: str, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Speller, "stops_at", f"row {'a' * 10}")
        assert main(["embed", run, "--file", "rows.txt", "--output", "v.npy", "--batch-size", "2"]) == 130
    assert len(Speller.asked) == 8
    assert embed_file(run, "rows.txt", "v.npy", batch_size=2) == (40, 1)
    assert Speller.asked == Path("rows.txt").read_text().splitlines()
    assert np.load("v.npy").tolist() == [[4.0 + i] for i in range(40)]
    assert sorted(path.name for path in Path().iterdir()) == ["rows.txt", "runs", "v.npy"]
    assert embed_file(run, "rows.txt", "v.npy", dtype="float64") == (40, 1)
    assert np.load("v.npy").dtype == "float64"


@pytest.mark.parametrize(
    ("batch_size", "one_by_one", "sizes"),
    [(4, False, [256, 512, 1024, 2048, 160]), (4, True, [64] * 62 + [32]), (3000, False, [3000, 1000])],
)
def test_parts_are_the_same_each_time(batch_size: int, one_by_one: bool, sizes: list[int]):
    found = list(in_parts(range(4000), list, batch_size, one_by_one=one_by_one))
    assert [row for part in found for row in part] == list(range(4000))
    assert [len(part) for part in found] == sizes


def test_what_is_read_is_never_lost(run: str, tmp_path: Path):
    with zipfile.ZipFile("rows.zip", "w") as archive:
        archive.write("rows.txt")
    Path("link.jsonl").symlink_to("rows.txt")
    for file, output in (("rows.txt", "rows.txt"), ("rows.zip!rows.txt", "rows.zip"), ("rows.txt", "link.jsonl")):
        with pytest.raises(WorkspaceError, match="which would be lost"):
            write_predictions(run, file, output)
    os.mkfifo("pipe")
    for output, words in (("runs", "Is a directory"), ("pipe", "no ordinary file"), ("x" * 250, "name too long")):
        with pytest.raises(WorkspaceError, match=words):
            write_predictions(run, "rows.txt", output)
    assert Speller.asked == []


def test_a_link_stays_one(run: str):
    Path("far").mkdir()
    Path("out.jsonl").symlink_to("far/answers.jsonl")
    write_predictions(run, "rows.txt", "out.jsonl")
    assert Path("out.jsonl").is_symlink()
    assert len(written("far/answers.jsonl")) == 40
    Path("v.npy").symlink_to("far/vectors")
    embed_file(run, "rows.txt", "v.npy")
    assert np.load("far/vectors").shape == (40, 1)
    assert sorted(path.name for path in Path("far").iterdir()) == ["answers.jsonl", "vectors"]


def test_only_rows_of_an_earlier_command_are_called_so(run: str):
    Path("rows.txt").write_text("same\n" * 40)
    assert write_predictions(run, "rows.txt", "out.jsonl", batch_size=2) == (40, 0)
    assert len(written()) == 40


def test_rows_are_numbered_from_the_first_and_cut_ones_told_of_once(caplog):
    """Texts of a file that is encoded in parts of two rows."""
    tokenizer = tokenizer_of("a b c".split(), "bert")
    texts = ["a", "b", "a b c a b c", "c", "a b c a b", "b"]

    def encoded(some: list[str]) -> list[int]:
        rows, schema = _rows(some)
        return encode_rows(rows, schema, tokenizer, max_length=4, too_long="truncate")["row"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("luthier.models.predictor._FIRST_PART", 2)
        patch.setattr("luthier.models.predictor._LARGEST_PART", 2)
        assert list(in_parts(texts, encoded, 1)) == [[1, 2], [3, 4], [5, 6]]
        assert [one.getMessage() for one in caplog.records] == [
            "rows: 2 of 6 rows were cut to 4 tokens; the longest, row 3, had 6"
        ]
        with pytest.raises(DataError, match="text 4 is 7"):
            list(in_parts(["a", "b", "c", 7], encoded, 1))


def test_one_bar_shows_all_parts(capsys):
    from luthier.progress import part_of, progress_display, track

    with progress_display(), track("predicting", 4) as bar:
        for before in (0, 2):
            with part_of(bar, before), track("encoding text", 2) as other, track("predicting", 2) as own:
                other.update(2, "unseen")
                own.update(1, f"at {before + 1}")
                assert bar.note == f"at {before + 1}"
    assert capsys.readouterr().err == "predicting: at 3\n"
