"""Answers are written as they come: what a stopped command left is gone on with, where model and file are the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from luthier.cli.arguments import main
from luthier.errors import WorkspaceError
from luthier.models.card import ModelCard, write_card
from luthier.models.manifest import write_manifest
from luthier.models.predictor import Predictor, in_parts
from luthier.prediction import embed_file, predict_file
from luthier.prediction.writing import write_predictions
from luthier.registry import PREDICTORS
from luthier.storage.part_file import Arrays, Lines, part_file

KEY, OTHER = "a" * 64, "b" * 64


class Speller(Predictor):
    """Counts letters, row by row, and takes note of what it was asked."""

    name = "speller"
    made_by = "a spell stage"
    embeds = True
    asked: list[str] = []
    stops_at: str | None = None

    def predict_file(self, file: str | Path, *, batch_size: int = 64) -> list[dict[str, Any]]:
        return self._answers(Path(file).read_text().splitlines())

    def answers_in_parts(
        self, file: str | Path, *, batch_size: int = 64, after: int = 0
    ) -> Iterator[list[dict[str, Any]]]:
        return in_parts(Path(file).read_text().splitlines(), self._answers, batch_size, after)

    def embed(self, texts: Any, *, batch_size: int = 64, dtype: str = "float32") -> np.ndarray:
        return np.array([[one["length"]] for one in self._answers(texts)], dtype=dtype)

    def _answers(self, texts: list[str]) -> list[dict[str, Any]]:
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
    PREDICTORS.register(Speller)
    yield "runs/spelt"
    del PREDICTORS._entries["speller"]


def written(file: str = "out.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def stopped(run: str, at: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a command leaves that is stopped when it comes to a row; two rows a batch make parts of 8, 16, ..."""
    with monkeypatch.context() as patch:
        patch.setattr(Speller, "stops_at", f"row {'a' * at}")
        assert main(["predict", run, "--file", "rows.txt", "--output", "out.jsonl", "--batch-size", "2"]) == 130
    Speller.asked.clear()
    (part,) = Path().glob("out.jsonl.*.part")
    return part


def test_a_stopped_command_goes_on_behind_the_answers_that_are_there(run: str, monkeypatch, capsys):
    Path("out.jsonl").write_text("older\n")
    part = stopped(run, 10, monkeypatch)
    assert "goes on behind the rows that were answered" in capsys.readouterr().err
    assert Path("out.jsonl").read_text() == "older\n"
    with part.open("ab") as file:
        file.write(b'{"text": "torn')
    assert main(["predict", run, "--file", "rows.txt", "--output", "out.jsonl"]) == 0
    assert "wrote 40 predictions to out.jsonl, 8 of them by an earlier command" in capsys.readouterr().out
    assert Speller.asked == Path("rows.txt").read_text().splitlines()[8:]
    assert written() == predict_file(run, "rows.txt")
    assert sorted(path.name for path in Path().iterdir()) == ["out.jsonl", "rows.txt", "runs"]


def test_answers_are_not_kept_for_another_file_or_another_model(run: str, monkeypatch):
    first = stopped(run, 30, monkeypatch)
    assert first.read_text().count("\n") == 24
    Path("rows.txt").write_text(Path("rows.txt").read_text().replace("row a\n", "raw a\n"))
    second = stopped(run, 30, monkeypatch)
    assert not first.exists()
    card = next(Path("runs").rglob("luthier.json"))
    card.write_text(card.read_text().replace("somewhere", "elsewhere"))
    write_manifest(card.parent)
    assert write_predictions(run, "rows.txt", "out.jsonl") == (40, 0)
    assert not second.exists()
    assert written() == predict_file(run, "rows.txt")


def test_a_file_that_another_process_writes_is_left_alone(run: str):
    with FileLock(".out.jsonl.lock"), pytest.raises(WorkspaceError, match="another process is writing this file"):
        write_predictions(run, "rows.txt", "out.jsonl")
    assert Speller.asked == []


def test_names_are_taken_as_they_are_and_neighbours_stay(tmp_path: Path):
    place, neighbour = tmp_path / "a[b]*? é" / "[x]*.jsonl", tmp_path / "a[b]*? é" / f"x.jsonl.{OTHER[:16]}.part"
    neighbour.parent.mkdir()
    neighbour.touch()
    with suppress(RuntimeError), part_file(place, KEY, Lines, becomes=True) as part:
        part.append("1\n2\n")
        raise RuntimeError("stopped")
    with part_file(place, KEY, Lines, becomes=True) as part:
        assert part.count == 2
        part.append("3\n")
    assert place.read_text() == "1\n2\n3\n"
    assert sorted(path.name for path in place.parent.iterdir()) == sorted([place.name, neighbour.name])


def test_no_rows_make_an_empty_file(tmp_path: Path):
    with part_file(tmp_path / "out.jsonl", KEY, Lines, becomes=True) as part:
        assert part.count == 0
    assert (tmp_path / "out.jsonl").read_text() == ""


def test_arrays_are_gone_on_with_behind_the_last_whole_one(tmp_path: Path):
    place, values = tmp_path / "v.npy", np.arange(24, dtype="float16").reshape(8, 3)
    with suppress(RuntimeError), part_file(place, KEY, Arrays, becomes=False) as part:
        for rows in (values[:2], values[2:5], values[5:]):
            part.append(rows)
        raise RuntimeError("stopped")
    whole = part.path.read_bytes()
    for cut, count in ((0, 8), (1, 5), (19, 5), (130, 5), (150, 2), (len(whole) - 3, 0), (len(whole), 0)):
        part.path.write_bytes(whole[: len(whole) - cut])
        again = Arrays(part.path)
        assert again.count == count
        again.append(values[count:])
        assert (again.joined() == values).all()
    with part_file(place, KEY, Arrays, becomes=False):
        pass
    assert list(tmp_path.iterdir()) == []


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


def test_parts_grow_until_one_takes_a_minute(monkeypatch):
    now, sizes = [0.0], []

    def answer(rows: list[int]) -> list[dict[str, Any]]:
        now[0] += len(rows)  # a second a row
        sizes.append(len(rows))
        return [{"row": row} for row in rows]

    monkeypatch.setattr("luthier.models.predictor.time.monotonic", lambda: now[0])
    found = [one["row"] for part in in_parts(range(400), answer, 4, 10) for one in part]
    assert found == list(range(10, 400))
    assert sizes == [16, 32, 64, 64, 64, 64, 64, 22]


def test_one_bar_shows_all_parts(capsys):
    from luthier.progress import part_of, progress_display, track

    with progress_display(), track("predicting", 4) as bar:
        for before in (0, 2):
            with part_of(bar, before), track("encoding text", 2) as other, track("predicting", 2) as own:
                other.update(2, "unseen")
                own.update(1, f"at {before + 1}")
                assert bar.note == f"at {before + 1}"
    assert capsys.readouterr().err == "predicting: at 3\n"
