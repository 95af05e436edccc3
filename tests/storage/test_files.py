"""Files are whole, whoever else writes them, and links stay links."""

from __future__ import annotations

import os
import threading
from functools import partial

import pytest

from luthier.errors import WorkspaceError
from luthier.storage.files import write_bytes, write_text
from luthier.storage.output_places import check_place_of


@pytest.mark.parametrize("dangling", [False, True])
def test_what_a_link_leads_to_is_written(tmp_path, dangling):
    there = tmp_path / "there" / "page.html"
    if not dangling:
        there.parent.mkdir()
        there.write_text("old")
    link = tmp_path / "page.html"
    link.symlink_to(there)
    write_text(link, "new")
    assert link.is_symlink()
    assert there.read_text() == "new"
    assert [path.name for path in there.parent.iterdir()] == ["page.html"]


def test_two_writers_of_one_file_leave_one_that_is_whole(tmp_path):
    place, begun, goes_on = tmp_path / "report.html", threading.Event(), threading.Event()

    def slowly():
        yield b"a" * 1000
        begun.set()
        assert goes_on.wait(30)
        yield b"a" * 1000

    first = threading.Thread(target=write_bytes, args=(place, slowly()))
    first.start()
    assert begun.wait(30)
    write_bytes(place, b"b" * 10)
    assert place.read_bytes() == b"b" * 10
    goes_on.set()
    first.join()
    assert place.read_bytes() == b"a" * 2000
    assert os.listdir(tmp_path) == ["report.html"]


def test_what_a_kill_left_is_written_over(tmp_path):
    place, left = tmp_path / "a.json", tmp_path / ".writing-a.json"
    left.write_text("half")
    os.utime(left, (0, 0))
    write_text(place, "whole")
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_writer_that_fails_takes_away_its_own_file_alone(tmp_path):
    def broken():
        yield b"some"
        raise ValueError("no more")

    other = tmp_path / ".writing-a.json"
    other.write_text("of another process")
    with pytest.raises(ValueError, match="no more"):
        write_bytes(tmp_path / "a.json", broken())
    assert os.listdir(tmp_path) == [".writing-a.json"]


@pytest.mark.parametrize("name", ["lines.jsonl.gz", "lines.ZST"])
@pytest.mark.parametrize("write", [check_place_of, partial(write_bytes, content=b"x"), partial(write_text, text="x")])
def test_no_plain_file_is_called_compressed(name, write, tmp_path):
    with pytest.raises(WorkspaceError, match="written uncompressed"):
        write(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
