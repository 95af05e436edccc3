"""Steps: done once, found by key, continued, shared with other runs within a bound."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from luthier.settings import Settings
from luthier.storage import steps
from luthier.storage.folder_cache import FolderCache
from luthier.storage.keys import digest_of
from luthier.storage.steps import Step, Workspace, shared_step


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "steps"


class Work:
    """Writes a file of some bytes, and counts how often it was asked to."""

    def __init__(self, size: int = 10) -> None:
        self.size, self.calls = size, 0

    def __call__(self, workspace: Workspace) -> dict[str, Any]:
        self.calls += 1
        (workspace.folder / "model").mkdir(exist_ok=True)
        (workspace.folder / "model" / "weights").write_bytes(bytes(self.size))
        (workspace.folder / "checkpoints").mkdir(exist_ok=True)
        (workspace.folder / "log.jsonl").write_text("{}\n")
        return {"score": self.size}


def test_a_step_is_done_once_and_again_only_for_other_inputs(tmp_path: Path):
    work, run = Work(), Workspace(tmp_path)
    first = run.step("00-a", {"x": 1}, work)
    assert first == Step(tmp_path / "00-a", digest_of({"x": 1}), {"score": 10}, cached=False)
    assert run.step("00-a", {"x": 1}, work).cached
    assert work.calls == 1
    assert not (first.folder / "checkpoints").exists()
    assert not run.step("00-a", {"x": 2}, work).cached
    assert [path.name for path in (tmp_path / "replaced").iterdir()] == [f"00-a-{first.key[:8]}"]


def test_of_many_steps_in_a_folder_that_are_replaced_one_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    names = ["00-a", "01-b", "mono/afr", "mono/deu", "mono/swa", "cluster/1", "cluster/2"]
    for inputs in ({"x": 1}, {"x": 2}):
        caplog.clear()
        run = Workspace(tmp_path)
        for name in names:
            run.step(name, inputs, Work())
    told = [record.args[0] for record in caplog.records if record.levelname == "WARNING"]
    assert told == [tmp_path / name for name in ("00-a", "01-b", "mono/afr", "cluster/1")]
    assert len(list((tmp_path / "mono" / "replaced").iterdir())) == 3


def test_a_finished_step_that_was_put_aside_is_never_deleted(tmp_path: Path):
    def killed(workspace: Workspace) -> dict[str, Any]:
        (workspace.folder / "half").write_text(str(time.time_ns()))
        raise KeyboardInterrupt

    run, key = Workspace(tmp_path), digest_of({"x": 1})[:8]
    run.step("00-a", {"x": 1}, Work())
    run.step("00-a", {"x": 2}, Work())
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run.step("00-a", {"x": 1}, killed, notes={"other": "notes"})
        half = (tmp_path / "00-a" / "half").read_text()
        run.step("00-a", {"x": 2}, Work())
    aside = tmp_path / "replaced"
    assert (aside / f"00-a-{key}" / "model" / "weights").exists()
    assert (aside / f"00-a-{key}-2" / "half").read_text() == half
    assert not (aside / f"00-a-{key}-3").exists()


def test_each_finished_step_that_changed_is_kept(tmp_path: Path):
    run, texts = Workspace(tmp_path), {b"1234567890", b"0987654321"}
    for text in texts:
        (run.step("a", {}, Work()).folder / "model" / "weights").write_bytes(text)
    run.step("a", {}, Work())
    assert {path.read_bytes() for path in (tmp_path / "replaced").glob("a-*-changed*/model/weights")} == texts


def test_a_changed_file_is_noticed_in_every_artefact(tmp_path: Path):
    work, run = Work(), Workspace(tmp_path)
    (run.step("a", {}, work).folder / "model" / "weights").write_bytes(b"1234567890")
    assert not run.step("a", {}, work).cached


def test_a_stopped_step_finds_what_it_left(tmp_path: Path):
    seen = []

    def work(workspace: Workspace) -> dict[str, Any]:
        seen.append((workspace.folder / "half").exists())
        (workspace.folder / "half").write_text("")
        if len(seen) == 1:
            raise RuntimeError
        return {}

    with pytest.raises(RuntimeError):
        Workspace(tmp_path).step("a", {}, work)
    Workspace(tmp_path).step("a", {}, work)
    assert seen == [False, True]


def test_steps_inside_a_step_are_kept_while_it_is_stopped(tmp_path: Path):
    inner, stops = Work(), [True, False]

    def outer(workspace: Workspace) -> dict[str, Any]:
        step = workspace.step("rounds/0", {"of": workspace.key}, inner)
        if stops.pop(0):
            raise RuntimeError
        return {"inner": step.result, "cached": step.cached}

    with pytest.raises(RuntimeError):
        Workspace(tmp_path).step("a", {}, outer)
    assert Workspace(tmp_path).step("a", {}, outer).result == {"inner": {"score": 10}, "cached": True}
    assert inner.calls == 1
    assert Workspace(tmp_path).step("a", {}, outer).cached


def test_a_shared_step_is_found_from_another_folder_and_checked(tmp_path: Path, cache: Path):
    work = Work()
    first = Workspace(tmp_path / "one").step("a", {"x": 1}, work, shared=True)
    assert first.folder.parent == cache
    assert sorted(path.name for path in (tmp_path / "one" / "a").iterdir()) == ["key.json", "log.jsonl", "metrics.json"]
    again = Workspace(tmp_path / "two").step("b", {"x": 1}, work, shared=True)
    assert (again.folder, again.result, again.cached, work.calls) == (first.folder, {"score": 10}, True, 1)
    assert shared_step({"x": 2}) is None
    (first.folder / "model" / "weights").write_bytes(b"1234567890")
    assert shared_step({"x": 1}) is None
    assert not Workspace(tmp_path / "two").step("b", {"x": 1}, work, shared=True).cached


def test_shared_steps_make_room_for_each_other_and_too_large_ones_stay(tmp_path: Path, cache: Path, monkeypatch):
    import os

    monkeypatch.setattr(steps, "SHARED_BYTES", 5000)
    work = Work(2000)
    for number in (1, 2):
        Workspace(tmp_path / "run").step(str(number), {"x": number}, work, shared=True)
    os.utime(steps._shared_place(digest_of({"x": 2})), (1, 1))
    Workspace(tmp_path / "run").step("3", {"x": 3}, work, shared=True)
    assert [number for number in (1, 2, 3) if shared_step({"x": number})] == [1, 3]
    run = Workspace(tmp_path / "run")
    large = run.step("4", {"x": 4}, Work(9000), shared=True)
    assert large.folder == tmp_path / "run" / "4"
    assert run.step("4", {"x": 4}, Work(9000), shared=True).cached


def test_shared_steps_of_one_piece_of_work_make_no_room_for_each_other(tmp_path: Path, cache: Path, monkeypatch):
    monkeypatch.setattr(steps, "SHARED_BYTES", 5000)
    Workspace(tmp_path / "other").step("0", {"x": 0}, Work(2000), shared=True)
    run = Workspace(tmp_path / "run")
    done = [run.step(str(number), {"x": number}, Work(2000), shared=True) for number in (1, 2, 3)]
    assert [(one.folder / "model" / "weights").exists() for one in done] == [True, True, True]
    assert [one.folder.parent == cache for one in done] == [True, True, False]
    assert shared_step({"x": 0}) is None


def test_a_cache_that_can_not_be_written_stops_no_run(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture):
    cache.parent.parent.mkdir(exist_ok=True)
    cache.parent.write_text("a file in the cache's place")
    work = Work()
    first = Workspace(tmp_path / "run").step("a", {"x": 1}, work, shared=True)
    again = Workspace(tmp_path / "run").step("a", {"x": 1}, work, shared=True)
    assert (first.folder, first.result, again.cached, work.calls) == (tmp_path / "run" / "a", {"score": 10}, True, 1)
    assert "can't write here" in caplog.text


def test_what_killed_processes_left_in_the_cache_goes_after_two_days(tmp_path: Path, cache: Path):
    for name, days in ((".writing-a-1-ff", 3), (".removing-b-ff", 3), (".writing-c-2-ff", 1), ("d", 3)):
        folder = cache / name
        folder.mkdir(parents=True)
        for path in (folder / "0.npy", folder / "seal.txt", folder):
            if path != folder:
                path.write_text("x")
            os.utime(path, (time.time() - days * 86400,) * 2)
    FolderCache(cache, 1000).make_room(1)
    assert sorted(path.name for path in cache.iterdir()) == [".writing-c-2-ff", "d"]


def test_keys_are_of_content_alone():
    class Some(Settings):
        a: int = 1
        b: str = "x"

    assert digest_of({"p": 1, "q": Some()}) == digest_of({"q": {"b": "x", "a": 1}, "p": 1})
    assert digest_of({"p": Some(a=2)}) != digest_of({"p": Some()})
    with pytest.raises(TypeError, match="a key can't be made of"):
        digest_of(Path())


def fails(workspace: Workspace) -> dict[str, Any]:
    """As training does before its first checkpoint."""
    (workspace.folder / "log.jsonl").write_text("{}\n")
    (workspace.folder / "checkpoints" / "key").mkdir(parents=True)
    (workspace.folder / "checkpoints" / "key" / "labels.json").write_text("[]")
    raise RuntimeError


@pytest.mark.parametrize(("notes", "back"), [({"made_from": "a"}, True), ({"made_from": "b"}, False)])
def test_a_step_comes_back_where_another_one_of_the_same_inputs_fails(tmp_path: Path, notes: dict, back: bool):
    run, work = Workspace(tmp_path), Work()
    run.step("00-a", {"x": 1}, work, notes={"made_from": "a"})
    with pytest.raises(RuntimeError):
        run.step("00-a", {"x": 2}, fails, notes=notes)
    assert (tmp_path / "00-a" / "done.json").exists() is back
    assert run.step("00-a", {"x": 1}, work, notes={"made_from": "a"}).cached is back


def test_what_can_be_gone_on_with_stays_in_its_place(tmp_path: Path):
    def stopped(workspace: Workspace) -> dict[str, Any]:
        (workspace.folder / "checkpoints" / "key" / "checkpoint-5").mkdir(parents=True)
        raise RuntimeError

    run = Workspace(tmp_path)
    run.step("00-a", {"x": 1}, Work())
    with pytest.raises(RuntimeError):
        run.step("00-a", {"x": 2}, stopped)
    assert (tmp_path / "00-a" / "checkpoints" / "key" / "checkpoint-5").exists()
    assert len(list((tmp_path / "replaced").iterdir())) == 1
