"""Marks of runs in the table of a comparison, and their legend, in the terminal and on the page."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

from rich.console import Console

from luthier.report import comparison_table, print_table, read_run
from luthier.report.html import render
from luthier.report.tables import to_csv, to_json, to_markdown
from tests.report.fixtures import cell_folder, grid

ONE_CLASS = "predicts one class only: 'O'"
NO_BETTER = "not shown to be better than the trivial baseline by accuracy, f1"
LONGER = "it may be trained too little: the score was still rising at the last step, 9: train longer, e.g. `epochs: 2`"
REPEATED = "3 of 60 test rows stand in the training rows, too: scores on them tell nothing of new text"


def marked(folder: Path) -> Path:
    """A grid: every cell of `full` predicts one class, one of them has more marks; `lora` was scored on 40 rows."""
    place = grid(folder)
    for seed in (1, 2, 3):
        add(place, "full", seed, marks=[ONE_CLASS, *([NO_BETTER, LONGER, REPEATED] if seed == 2 else [])])
        add(place, "lora", seed, details={"rows": {"validation": 40}})
        add(place, "prompt", seed, marks=["something of a later version"], details={"rows": {"validation": 100}})
    return place


def add(place: Path, method: str, seed: int, **parts: object) -> None:
    file = cell_folder(place, method, seed) / "00-tune" / "metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | parts))


def test_every_line_has_its_marks_in_few_words(tmp_path: Path) -> None:
    table = comparison_table([read_run(marked(tmp_path / "grid"))])
    some = "not shown better by f1 (1 of 3), train longer (1 of 3), repeated rows (1 of 3)"
    assert [line.marks for line in table.lines] == [f"one class, {some}", "few rows", "other", ""]
    assert [one["marks"] for one in to_json(table)] == [line.marks for line in table.lines]
    assert to_csv(table).splitlines()[2].endswith(",few rows")
    assert to_markdown(table).splitlines()[1].endswith("| --- |")


def test_the_legend_stands_once_in_the_terminal_and_on_the_page(tmp_path: Path) -> None:
    run = read_run(marked(tmp_path / "grid"))
    console = Console(file=StringIO(), width=120)
    print_table(comparison_table([run]), console)
    terminal = console.file.getvalue()  # type: ignore[attr-defined]
    page = render([run])
    for text in (terminal, page):
        shown = " ".join(text.split())
        assert shown.count("one class: it answers every row with the same class;") == 1
        assert shown.count("few rows: fewer than 100 rows were scored") == 1
        assert "no interval:" not in shown
    table = page[page.index('id="comparison"') :]
    assert "<td>few rows</td>" in table
    assert "train longer (1 of 3)" in table


def test_one_run_has_its_marks_in_full_and_none_in_the_table(tmp_path: Path) -> None:
    place = marked(tmp_path / "grid")
    table = comparison_table([read_run(cell_folder(place, "full", 1))])
    assert [line.marks for line in table.lines] == [""]
    assert not any(note.startswith("Marks.") for note in table.notes)
