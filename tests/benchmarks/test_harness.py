"""Results of cells that ran at different places are told apart."""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path
from typing import Any

import harness
import pytest
import summarise

LIBRARIES = dict.fromkeys(("torch", "transformers", "peft"), "1.0")
HERE = {
    "processor": "first",
    "cores": 2,
    "threads": 1,
    "memory_bytes": 8e9,
    "python": "3.11",
    "libraries": LIBRARIES,
    "git_revision": "a" * 40,
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)

    def cells(numbers: range, **place: Any) -> dict[str, Any]:
        monkeypatch.setattr(harness, "environment", lambda: {**HERE, **place})
        options = argparse.Namespace(only=None, minutes=None, list=False)
        made = [{"n": n} for n in numbers]
        return harness.run_cells("some", {"scale": 1}, made, lambda cell: {"value": cell["n"]}, options)

    return cells


def test_every_cell_names_the_place_it_ran_at(run: Any):
    run(range(2))
    run(range(3), processor="second", git_revision="b" * 40)
    found = run(range(5), git_revision="c" * 40)
    assert [one["environment"] for one in found["cells"].values()] == [0, 0, 1, 2, 2]
    told = summarise.machines(found)
    assert "Machine of 4 cells: first, 2 cores" in told
    assert f"revisions `{'a' * 10}`, `{'c' * 10}`" in told
    assert "Machine of 1 cell: second, 2 cores, 1 threads used, 8 GB, no accelerator. Python 3.11, torch 1.0" in told


def test_a_cell_that_another_process_holds_is_waited_for_and_measured_where_that_one_died(run: Any, tmp_path: Path):
    holds, asked = threading.Event(), threading.Event()

    def other() -> None:
        with harness.begun(tmp_path / "some.json", "n=1"):
            holds.set()
            asked.wait(60)
            time.sleep(0.2)

    thread = threading.Thread(target=other)
    thread.start()
    holds.wait(60)
    asked.set()
    assert list(run(range(3))["cells"]) == ["n=0", "n=2", "n=1"]
    thread.join()


def test_a_file_with_one_environment_for_all_is_read_and_goes_on(run: Any, tmp_path: Path):
    found = run(range(2))
    for one in found["cells"].values():
        del one["environment"]
    old = {key: value for key, value in found.items() if key != "environments"} | {"environment": HERE}
    (tmp_path / "some.json").write_text(json.dumps(old))
    found = run(range(3), processor="second")
    assert [one["environment"] for one in found["cells"].values()] == [0, 0, 1]
    assert summarise.machines(harness.read_results(tmp_path / "some.json")).startswith("Machine of 2 cells: first")
