"""What `luthier list` and `luthier explain` say of every kind of part."""

from __future__ import annotations

import pytest

from luthier.cli.arguments import main
from luthier.cli.explain import LISTED
from luthier.registry import TASKS


def test_every_part_is_listed_and_explained(capsys: pytest.CaptureFixture[str]):
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    for kind, registry in LISTED.items():
        assert main(["list", kind]) == 0
        assert capsys.readouterr().out.strip() in listed
        for name in registry.names():
            assert main(["explain", name]) == 0
            assert f"{name}  ({kind.rstrip('s')})" in capsys.readouterr().out


def test_a_task_is_explained_by_its_columns_and_metrics(capsys: pytest.CaptureFixture[str]):
    assert main(["explain", "extractive_qa"]) == 0
    told = capsys.readouterr().out
    task = TASKS.get("extractive_qa")
    assert f"columns: {', '.join(task.columns)}" in told
    assert f"metrics: {', '.join(task.metrics)}" in told
    assert main(["explain", "extractive_qu"]) == 2
    assert "did you mean 'extractive_qa'?" in capsys.readouterr().err
