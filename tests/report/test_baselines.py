"""The trivial baseline beside scores, in the terminal, on the page, in rows of comparisons; numbers for people."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from luthier.report import comparison_table, print_table, read_run, to_json
from luthier.report.baselines import baselines_of, marks_of
from luthier.report.html import render
from luthier.report.statistics import value_text
from luthier.report.tables import to_csv
from luthier.report.terminal import print_details
from luthier.report.text import number_text
from tests.report.fixtures import grid, write_recipe, write_stage

MARK = "not shown to be better than the trivial baseline by accuracy"
TRIVIAL = {"answer": "always '<b>no</b>'", "score": 0.5, "difference": 0.01, "interval": [-0.1, 0.1], "better": False}


def add(file: Path, **parts: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | parts))


def alone(folder: Path) -> Path:
    write_stage(folder / "00-evaluate", 0.51)
    write_recipe(folder, "name: x\n")
    scores, about = {"test/accuracy": 0.51, "test/f1": 0.123456789}, {"test/f1": "of the label 'yes'"}
    parts = {"scores": scores, "baselines": {"test/accuracy": TRIVIAL}, "marks": [MARK], "about": about}
    add(folder / "00-evaluate" / "metrics.json", **parts)
    return folder


def test_the_terminal_shows_the_baseline_and_the_mark_of_a_model_that_learned_nothing(tmp_path: Path) -> None:
    console = Console(file=StringIO(), width=200)
    table = comparison_table([read_run(alone(tmp_path / "a"))])
    print_table(table, console)
    print_details(table, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "0.5000, not shown better" in text
    mark = "Not shown to be better than the trivial baseline by accuracy (always '<b>no</b>')."
    assert text.index(mark) < text.index("0.5000, not shown better")
    assert "f1 of the label 'yes'" in text
    assert "0.1235" in text
    assert "0.12345" not in text


def test_the_page_shows_them_escaped(tmp_path: Path) -> None:
    text = render([read_run(alone(tmp_path / "a"))])
    assert "0.5000, not shown better" in text
    assert "always &#39;&lt;b&gt;no&lt;/b&gt;&#39;" in text
    assert "<b>no</b>" not in text
    assert "f1 of the label &#39;yes&#39;" in text


def test_rows_of_a_comparison_tell_of_how_many_seeds_the_model_is_not_better(tmp_path: Path) -> None:
    place = grid(tmp_path / "grid")
    for number, file in enumerate(sorted(place.rglob("metrics.json"))):
        add(file, baselines={"validation/accuracy": {**TRIVIAL, "better": number > 0}})
    table = comparison_table([read_run(place)])
    told = [row[table.columns.index("trivial baseline")] for row in table.cells()]
    assert sum(text == "0.5000, 1 of 3 not shown better" for text in told) == 1
    assert all(text.startswith("0.5000") for text in told if text)
    assert to_json(table)[0]["trivial_baseline"] == 0.5
    assert to_csv(table).splitlines()[0].endswith(",trivial_baseline,marks")


def test_a_mark_names_the_answers_of_its_own_scores_and_head() -> None:
    def trivial(answer: str) -> dict[str, object]:
        return {**TRIVIAL, "answer": answer}

    baselines = {
        "test/topic/accuracy": trivial("always 'a'"),
        "test/topic/loss": trivial("the shares"),
        "test/mood/accuracy": trivial("always 'b'"),
    }
    marks = [f"mood: {MARK}", f"topic: {MARK}, loss", "mood: predicts one class only: 'b'"]
    told = [f"mood: {MARK} (always 'b')", f"topic: {MARK}, loss (always 'a', the shares)", marks[2]]
    assert marks_of({"baselines": baselines, "marks": marks}) == told


@pytest.mark.parametrize("kept", [None, [], "x", {"a": None}, {"a": {"score": "1"}}, {"a": {"score": float("nan")}}])
def test_what_is_no_baseline_is_left_out(kept: object) -> None:
    assert baselines_of({"baselines": kept}) == {}
    assert marks_of({"marks": kept if isinstance(kept, dict) else None}) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.8733333333333333, "0.8733"),
        (0.8, "0.8000"),
        (0.0, "0.0000"),
        (12.3456789, "12.3457"),
        (0.00001234567, "1.235e-05"),
        (123456.7, "123457"),
        (1e40, "1.000e+40"),
        (float("nan"), "nan"),
        (0.9999999999999999, "1.0000"),
        (0.99997, "0.99997"),
    ],
)
def test_scores_have_four_decimals_or_four_significant_digits(value: float, text: str) -> None:
    assert number_text(value) == text


def test_factors_have_four_significant_digits() -> None:
    assert value_text(0.00023456789012345678) == "0.0002346"
    assert value_text({"name": "lora", "dropout": 0.12345678901234567}) == "lora, dropout 0.1235"
