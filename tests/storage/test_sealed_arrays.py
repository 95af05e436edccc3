"""Arrays on disk: written whole, mapped when they are read, and refused where they are another's or damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from luthier.storage.sealed_arrays import stored_arrays, writing_arrays


def written(folder: Path) -> Path:
    with writing_arrays(folder, {"format": 3, "width": 2}) as writer:
        writer.table("numbers", (4, 2), "float32")[:] = np.arange(8).reshape(4, 2)
        writer.keep("names", np.array([5, 6], np.int64))
    return folder


def test_they_come_back_mapped_with_what_was_kept_beside_them(tmp_path: Path):
    about, arrays = stored_arrays(written(tmp_path / "some"), 3, "numbers")
    assert about == {"format": 3, "width": 2}
    assert sorted(arrays) == ["names", "numbers"]
    assert arrays["numbers"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert isinstance(arrays["numbers"], np.memmap)
    assert not arrays["numbers"].flags.writeable


def test_a_block_that_fails_leaves_nothing(tmp_path: Path):
    def fail() -> None:
        with writing_arrays(tmp_path / "some", {"format": 3}) as writer:
            writer.table("numbers", (4, 2), "float32")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_another_layout_and_damage_are_refused(tmp_path: Path):
    folder = written(tmp_path / "some")
    with pytest.raises(ValueError, match="holds numbers of another form"):
        stored_arrays(folder, 4, "numbers")
    (folder / "names.npy").unlink()
    with pytest.raises(ValueError, match="holds no numbers: its files are not as they were written"):
        stored_arrays(folder, 3, "numbers")
    with pytest.raises(ValueError, match="holds no numbers"):
        stored_arrays(tmp_path / "other", 3, "numbers")
