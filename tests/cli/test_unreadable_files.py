"""A file that may not be opened is told as such, whichever part opens it: it is no defect of Luthier."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.cli.arguments import main

_DENIED: set[str] = set()


def _deny(event: str, arguments: tuple[object, ...]) -> None:
    """What the system does to a user without permission, which root never meets."""
    if event == "open" and _DENIED and str(arguments[0]) in _DENIED:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(arguments[0]))


sys.addaudithook(_deny)


@pytest.fixture
def denied() -> Iterator[set[str]]:
    yield _DENIED
    _DENIED.clear()


def told(capsys: pytest.CaptureFixture[str], code: int, place: Path) -> None:
    said = capsys.readouterr().err
    assert code == 6, said
    assert f"luthier: {place}: can't be opened: Permission denied" in said
    assert "fix: have its permissions changed, or name another file" in said
    assert "defect" not in said


def test_weights_that_may_not_be_opened_are_told(workplace, capsys, denied):
    recipe = workplace.write()
    weights = workplace.folder / "model" / "model.safetensors"
    denied.add(str(weights))
    told(capsys, workplace.luthier("run", recipe, "--quiet"), weights)
    assert not list(workplace.folder.rglob("failed.json"))


def test_files_of_a_finished_run_that_may_not_be_opened_are_told(workplace, capsys, denied):
    recipe = workplace.write()
    assert workplace.luthier("run", recipe, "--quiet") == 0
    run = workplace.folder / "runs" / "small"
    manifest = next(run.glob("00-tune/**/manifest.json"))
    shard = next(manifest.parent.glob("*.safetensors"))
    capsys.readouterr()
    denied.add(str(shard))
    told(capsys, main(["predict", str(run), "--text", "fine"]), shard)
    denied.clear()
    denied.add(str(run / "recipe.yaml"))
    told(capsys, workplace.run(), run / "recipe.yaml")
