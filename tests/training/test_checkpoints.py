"""A checkpoint is whole or it is not used."""

from pathlib import Path

import pytest

from luthier.errors import DataError, WorkspaceError
from luthier.training.checkpoints import is_whole, keep_labels, newest_whole, remove_older, writing


def make(folder: Path, step: int) -> Path:
    place = folder / f"checkpoint-{step}"
    with writing(place) as scratch:
        (scratch / "weights").write_bytes(b"w" * 100)
        (scratch / "state").write_text(str(step))
    return place


def test_the_newest_whole_one_is_picked(tmp_path: Path):
    make(tmp_path, 5), make(tmp_path, 10)
    assert newest_whole(tmp_path).name == "checkpoint-10"


@pytest.mark.parametrize("harm", ["truncate", "flip", "delete", "no manifest", "empty manifest"])
def test_a_torn_one_is_passed_over(tmp_path: Path, harm: str):
    make(tmp_path, 5)
    newest = make(tmp_path, 10)
    weights, manifest = newest / "weights", newest / "manifest.json"
    {
        "truncate": lambda: weights.write_bytes(b"w" * 50),
        "flip": lambda: weights.write_bytes(b"w" * 99 + b"v"),
        "delete": weights.unlink,
        "no manifest": manifest.unlink,
        "empty manifest": lambda: manifest.write_text(""),
    }[harm]()
    assert not is_whole(newest)
    assert newest_whole(tmp_path).name == "checkpoint-5"


def test_a_failed_write_leaves_the_older_one_alone(tmp_path: Path):
    make(tmp_path, 5)

    def fail() -> None:
        with writing(tmp_path / "checkpoint-10") as scratch:
            (scratch / "weights").write_bytes(b"w")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-5"]


def test_a_full_disk_is_told_as_such(tmp_path: Path):
    with pytest.raises(WorkspaceError, match="can't write here"), writing(tmp_path / "checkpoint-1"):
        raise OSError(28, "No space left on device")


def test_older_ones_and_leftovers_are_removed(tmp_path: Path):
    make(tmp_path, 5)
    newest = make(tmp_path, 10)
    (tmp_path / ".writing-checkpoint-15").mkdir()
    remove_older(tmp_path, newest)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-10"]


def test_labels_are_kept_with_the_checkpoints_and_compared(tmp_path: Path):
    keep_labels(tmp_path, ["a", "b"], fresh=True)
    keep_labels(tmp_path, ["a", "b"], fresh=False)
    with pytest.raises(DataError, match="trained for are 'a', 'b', and those of the data 'b', 'a'"):
        keep_labels(tmp_path, ["b", "a"], fresh=False)
    (tmp_path / "labels.json").write_text("[")
    with pytest.raises(DataError, match="can't be read"):
        keep_labels(tmp_path, ["a", "b"], fresh=False)
    keep_labels(tmp_path, ["b", "a"], fresh=True)
    keep_labels(tmp_path, ["b", "a"], fresh=False)
