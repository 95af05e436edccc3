"""What a page says was run, and how a run by itself is shown in every state that it can be in."""

import json
import re
from pathlib import Path

import pytest

from luthier.report.html import write_report
from luthier.report.ran import what_ran
from luthier.report.results import read_run
from luthier.report.scores import score_table

from .fixtures import cell_folder, fail, grid, write_recipe, write_stage

RAN = {
    "model": {
        "reference": "org/tiny", "revision": "abcdef0123456789", "architecture": "bert", "parameters": 22_713_216,
    },
    "method": {"name": "lora", "rank": 8, "alpha": 16.0, "dora": False, "target_modules": None},
    "schema": "single_sentence",
    "columns": {"text": "sentence"},
    "longest": 64,
    "data": {
        "train": {"rows": 400, "labels": {"no": 189, "yes": 211}, "source": "train.tsv", "note": ""},
        "validation": {"rows": 300, "labels": {"no": 144, "yes": 156}, "source": "train.tsv", "note": "a tenth"},
    },
    "training": {
        "steps": 50, "planned_steps": 75, "rows_per_step": 16, "learning_rate": 0.003, "rate_from": "method",
        "schedule": "linear", "warmup_ratio": 0.06, "precision": "float32", "seed": 13,
    },
    "kept": {"step": 60, "by": "validation/accuracy", "higher": True},
}  # fmt: skip
SCORED = {"split": "test", "rows": 200, "labels": {"no": 112, "yes": 88}, "source": "test.tsv", "note": ""}


def run(folder: Path, ran: object = RAN, *, evaluated: bool = True) -> Path:
    stages = "[{tune: {}}, {evaluate: {}}]" if evaluated else "[{tune: {}}]"
    write_recipe(folder, f"name: x\nstages: {stages}\n")
    write_stage(folder / "00-tune", 0.8, details={"ran": ran, "scored_rows": {"validation": "f" * 64}})
    if evaluated:
        write_stage(folder / "01-evaluate", 0.7, details={"ran": {"scored": SCORED}, "scored_rows": {"test": "e" * 64}})
    return folder


def text_of(page: Path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf8")))


def test_the_facts_of_a_run(tmp_path: Path):
    found = read_run(run(tmp_path / "run"))
    (ran,) = what_ran({"run": found.cells}, found.folder)
    assert ran.facts == {
        "model": "org/tiny (bert, 22.7M parameters, revision abcdef012345)",
        "method": "lora (rank 8, alpha 16)",
        "parameters trained": "295,682 of 22,713,986 (1.3 %)",
        "rows are": "single_sentence on sentence, at most 64 tokens",
        "steps": "50 of 75 planned, 16 rows each",
        "learning rate": "0.003 (the method's default)",
        "schedule": "rising over 6 % of the steps, then linear to 0",
        "arithmetic": "float32",
        "seed": "13",
        "weights kept": "of step 60, with the highest validation/accuracy of 10 evaluations",
    }
    assert [tuple(row) for row in ran.data.rows] == [
        ("train", 400, "no 189, yes 211", "train.tsv", "training", ""),
        ("validation", 300, "no 144, yes 156", "train.tsv: a tenth", "choosing the weights", "f" * 12),
        ("test", 200, "no 112, yes 88", "test.tsv", "scoring", "e" * 12),
    ]


def test_every_number_of_a_run_is_shown_once_and_no_legend_has_one_line(tmp_path: Path):
    page = write_report([run(tmp_path / "run")])
    html, text = page.read_text(encoding="utf8"), text_of(page)
    assert html.count("<figure>") == 2
    assert "legend" not in html
    shown = text[text.index("What was run") :]
    for number in ("0.8000", "0.7000", "295,682", "22,713,986", "org/tiny"):
        assert shown.count(number) == 1, number
    assert "test/accuracy 0.7000 (95 % [0.6800, 0.7200] over test rows)." in text
    assert "The validation rows chose which step's weights were kept" in text.replace("&#39;", "'")


@pytest.mark.parametrize("other", [{}, {"odd": 0.25}], ids=["by split", "by name"])
def test_what_two_stages_scored_by_one_name_is_shown_of_both(tmp_path: Path, other: dict):
    """As of a model that is judged, trained on, and judged again."""
    folder = tmp_path / "run"
    for stage, score in (("00-evaluate", 0.61), ("01-tune", 0.9), ("02-evaluate", 0.83)):
        write_stage(folder / stage, score)
        place = folder / stage / "metrics.json"
        metrics = json.loads(place.read_text())
        metrics["scores"] |= other
        place.write_text(json.dumps(metrics))
    write_recipe(folder, "name: x\nstages: [{evaluate: {}}, {tune: {}}, {evaluate: {}}]\n")
    table = score_table(read_run(folder).cells[0])
    found = {row[0][0].removeprefix("test/"): [text for text, _ in row[1:]] for row in table["rows"]}
    newest, first = found["accuracy"], found["accuracy (00-evaluate)"]
    assert "0.8300" in newest
    assert "[0.8100, 0.8500]" in newest
    assert "0.6100" in first
    assert "[0.5900, 0.6300]" in first
    assert not [title for title in found if title.startswith("odd (")]
    page = write_report([folder]).read_text(encoding="utf8")
    assert "accuracy (00-evaluate)" in page


def test_one_evaluation_chooses_nothing_so_that_no_score_is_called_too_good(tmp_path: Path):
    folder = run(tmp_path / "run")
    log = folder / "00-tune" / "log.jsonl"
    log.write_text("".join(line for line in log.open() if '"evaluate"' not in line or '"step": 200' in line))
    assert "too good" not in text_of(write_report([folder]))


def test_without_test_rows_none_are_spoken_of(tmp_path: Path):
    text = text_of(write_report([run(tmp_path / "run", evaluated=False)]))
    assert "test" not in text.lower()
    assert "so scores on them are a little too good. Rows that took no part would tell more." in text


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (
            {"step": 75, "by": None, "why": "there are no validation rows"},
            "of the last step, 75: there are no validation",
        ),
        ({"step": 75, "by": None, "why": "keep_best is false"}, "of the last step, 75: keep_best is false"),
        ({"step": 3, "by": "validation/loss", "higher": False}, "of step 3, with the lowest validation/loss"),
    ],
)
def test_why_a_step_was_kept(tmp_path: Path, kept: dict, said: str):
    assert said in text_of(write_report([run(tmp_path / "run", RAN | {"kept": kept})]))


@pytest.mark.parametrize(
    "ran", [None, 3, [], "x", {"model": 3, "data": [1], "kept": "x", "training": {}}, {"data": {"a": 1}}]
)
def test_what_stages_tell_in_another_shape_is_no_crash(tmp_path: Path, ran: object):
    assert "0.8000" in text_of(write_report([run(tmp_path / "run", ran)]))


def test_a_comparison_tells_once_what_its_cells_share_and_by_line_what_they_do_not(tmp_path: Path):
    folder = grid(tmp_path / "grid", seeds=(1, 2))
    for place in folder.rglob("metrics.json"):
        metrics = json.loads(place.read_text())
        method = re.search(r"method=(\w+),", str(place))[1]
        rate = 0.1 if method == "prompt" else 0.003
        told = RAN | {"method": {"name": method}, "training": RAN["training"] | {"learning_rate": rate}}
        metrics["details"] = {"ran": told}
        place.write_text(json.dumps(metrics))
    run = read_run(folder)
    lines = {m: [c for c in run.cells if c.factors["stages.0.tune.method"] == m] for m in ("full", "prompt")}
    (ran,) = what_ran(lines, folder)
    assert ran.facts["learning rate"] == "full: 0.003 (the method's default); prompt: 0.1 (the method's default)"
    assert ran.facts["method"] == "full; prompt"
    text = text_of(write_report([folder]))
    assert text.count("org/tiny") == 1


def test_what_every_cell_complains_of_is_said_once_with_their_number(tmp_path: Path):
    folder = grid(tmp_path / "grid", seeds=(1, 2))
    for place in folder.rglob("metrics.json"):
        metrics = json.loads(place.read_text())
        metrics["scores"]["validation/odd"] = None
        place.write_text(json.dumps(metrics))
    own = cell_folder(folder, "lora", 1) / "00-tune" / "metrics.json"
    own.write_text(own.read_text().replace('"validation/odd"', '"validation/other"'))
    text = text_of(write_report([folder]))
    assert text.count("validation/odd is no finite number") == 1
    assert "In 7 of 8 runs: 00-tune: validation/odd is no finite number." in text
    assert text.count("validation/other is no finite number") == 1


STATES = {
    "failed": ("The run failed; 00-tune had logged step 200 of 300", "nan in the loss"),
    "stopped": ("Not finished; 00-tune had logged step 200 of 300", "`luthier run` with the same recipe goes on"),
    "not begun": ("Not finished: no stage has begun to train.",),
    "second stage missing": ("Not finished, with 00-tune done.", "validation/accuracy 0.8000"),
    "one stage only": ("validation/accuracy 0.8000",),
}


@pytest.mark.parametrize("state", STATES)
def test_a_run_in_any_state_gets_a_page_that_says_so(tmp_path: Path, state: str):
    folder = run(tmp_path / "run", evaluated=state == "second stage missing")
    if state == "second stage missing":
        for left in (folder / "01-evaluate").iterdir():
            left.unlink()
        (folder / "01-evaluate").rmdir()
    elif state in ("failed", "stopped", "not begun"):
        log = folder / "00-tune" / "log.jsonl"
        log.write_text(json.dumps({"event": "start", "step": 0, "max_steps": 300}) + "\n" + log.read_text())
        for name in ("done.json", "metrics.json", *(["log.jsonl"] if state == "not begun" else [])):
            (folder / "00-tune" / name).unlink()
    if state == "failed":
        (folder / "failed.json").write_text(json.dumps({"error": "nan in the loss"}))
    if state == "not begun":
        (folder / "00-tune").rmdir()
    text = text_of(write_report([folder]))
    for said in STATES[state]:
        assert said in text
    assert ("What was run" in text) == (state in ("second stage missing", "one stage only"))


def test_a_failed_cell_does_not_hide_the_others(tmp_path: Path):
    folder = grid(tmp_path / "grid", seeds=(1, 2))
    fail(folder, "full", 1, "no memory")
    text = text_of(write_report([folder]))
    assert "8 runs: 7 finished, 1 failed." in text
    assert "no memory" in text


def test_plots_alone_stand_side_by_side_and_none_is_shown_twice(tmp_path: Path):
    bins = [{"confidence": 0.7, "accuracy": share, "count": 9} for share in (0.5, 0.6, 0.5)]
    plots = [{"title": f"set {n}", "plot": {"kind": "reliability", "bins": [one]}} for n, one in enumerate(bins)]
    table = {"title": "a table", "table": {"columns": ["a"], "rows": [[1]]}, "plot": plots[0]["plot"]}
    folder = run(tmp_path / "run", evaluated=False)
    place = folder / "00-tune" / "metrics.json"
    metrics = json.loads(place.read_text())
    metrics["details"]["sections"] = [*plots, table]
    place.write_text(json.dumps(metrics))
    page = write_report([folder]).read_text(encoding="utf8")
    assert page.count("<figure>") == 2 + 2 + 1
    gallery = page[page.rindex('<div class="gallery">') :].partition("</div>")[0]
    assert gallery.count("<figure>") == 2
    assert "set 2" not in page
    assert "<h3>a table</h3>" in page
