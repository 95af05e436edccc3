"""What `luthier list` and `luthier explain` say of every kind of part."""

from __future__ import annotations

import pytest

from luthier.cli.arguments import main
from luthier.cli.explain import LISTED
from luthier.cli.plain import paragraphs, table
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


def test_paragraphs_of_a_docstring_are_lines_without_its_indentation(capsys: pytest.CaptureFixture[str]):
    assert main(["explain", "multi_label"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert any(line.startswith("A cell holds a list of labels") for line in shown)
    assert not any(line.startswith("    ") for line in shown[:6])


def test_a_table_fits_the_terminal_and_loses_no_word(monkeypatch: pytest.MonkeyPatch):
    rows = [("gate_pooling", "mask_aware | all", "one two three " * 30), ("parts", "list", "short")]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    for columns in (60, 100, 1000):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = table(("setting", "type", "meaning"), rows)
        assert max(map(len, lines)) <= columns
        assert all(line == line.rstrip() for line in lines)
        assert [line.split()[0] for line in lines if not line.startswith(" ")] == ["setting", "gate_pooling", "parts"]
        words = " ".join(lines).split()
        assert sorted(words) == sorted(
            "setting type meaning".split() + [w for row in rows for c in row for w in c.split()]
        )
        assert " ".join(paragraphs(rows[0][2])).split() == rows[0][2].split()


def test_headings_are_bold_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch):
    plain = table(("name",), [("lora",)])
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert table(("name",), [("lora",)]) == [f"\033[1m{plain[0]}\033[0m", plain[1]]
