"""The comparison table, and what is said of it."""

import csv
import io
import json
import random
from pathlib import Path

import pytest
from rich.console import Console

from luthier.report.findings import headline, states
from luthier.report.results import read_run, read_runs
from luthier.report.statistics import Difference
from luthier.report.tables import (
    comparison_table,
    cost_text,
    difference_text,
    to_csv,
    to_json,
    to_markdown,
)
from luthier.report.terminal import print_table
from luthier.report.text import interval_text

from .fixtures import METHODS, cell_folder, fail, grid, write_recipe, write_stage


def set_scores(folder: Path, scores: dict[tuple[str, int], float], name: str = "validation/accuracy") -> None:
    for (method, seed), score in scores.items():
        path = cell_folder(folder, method, seed) / "00-tune" / "metrics.json"
        metrics = json.loads(path.read_text()) | {"scores": {name: score}, "primary": name}
        path.write_text(json.dumps(metrics))


def flat(folder: Path, values: dict[str, tuple[float, ...]], name: str = "validation/accuracy") -> Path:
    """A grid whose scores are given, one for each seed."""
    grid(folder, seeds=tuple(range(1, 1 + len(next(iter(values.values()))))))
    set_scores(folder, {(m, n + 1): s for m, found in values.items() for n, s in enumerate(found)}, name)
    return folder


def printed(folder: Path, width: int, *, terminal: bool = True) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, color_system=None)
    print_table(comparison_table([read_run(folder)]), console)
    return out.getvalue()


def test_lines_columns_and_missing_seeds(tmp_path: Path):
    folder = grid(tmp_path / "grid")
    fail(folder, "lora", 3, "nan")
    for seed in (1, 2, 3):
        fail(folder, "prompt", seed, "nan")
    table = comparison_table([read_run(folder)])
    assert table.columns[:4] == ["method", "validation/accuracy", "95 %", "difference [95 %]"]
    lines = table.cells()
    assert [line[0] for line in lines] == list(METHODS)
    assert lines[0][3] == "baseline"
    assert lines[1][1].endswith("(2 of 3)")
    assert lines[2][1] == "failed"
    assert states([read_run(folder)]) == "12 runs: 8 finished, 4 failed."


def test_every_factor_has_its_column(tmp_path: Path):
    folder = grid(tmp_path / "grid")
    for cell in (folder / "cells").iterdir():
        factors = json.loads((cell / "cell.json").read_text())["factors"]
        (cell / "cell.json").write_text(json.dumps({"factors": {**factors, "stages.0.tune.learning_rate": 0.1}}))
    (folder / "recipe.yaml").write_text("name: [")
    table = comparison_table([read_run(folder)])
    assert table.name_columns == ["method", "learning_rate"]
    assert table.cells()[0][:2] == ["full", "0.1"]


def with_factor(folder: Path, values: dict[str, object]) -> Path:
    """A grid with one more factor, its value by method."""
    for cell in (folder / "cells").iterdir():
        factors = json.loads((cell / "cell.json").read_text())["factors"]
        more = {"x.rate": values[factors["stages.0.tune.method"]]}
        (cell / "cell.json").write_text(json.dumps({"factors": factors | more}))
    (folder / "recipe.yaml").write_text("name: [")
    return folder


def test_different_factors_look_different_and_a_file_has_all_their_digits(tmp_path: Path):
    folder = with_factor(grid(tmp_path / "grid"), dict(zip(METHODS, (0.123456, 0.2, 0.3, 0.4), strict=True)))
    table = comparison_table([read_run(folder)])
    assert table.cells()[0][1] == "0.1235"
    assert next(csv.DictReader(io.StringIO(to_csv(table))))["rate"] == "0.123456"
    with_factor(folder, dict(zip(METHODS, (0.00012341, 0.00012342, 0.3, 0.4), strict=True)))
    cells = comparison_table([read_run(folder)]).cells()
    assert [line[1] for line in cells] == ["0.00012341", "0.00012342", "0.3", "0.4"]


def test_a_file_for_spreadsheets_has_numbers_and_no_formulas(tmp_path: Path):
    values = dict(zip(METHODS, (-2.5, "\t=1", "\r=1", "-x"), strict=True))
    text = to_csv(comparison_table([read_run(with_factor(grid(tmp_path / "grid"), values))]))
    assert "full,-2.5," in text
    assert all(f"'{value}" in text for value in ("\t=1", "\r=1", "-x"))


def test_one_seed_has_no_interval_and_no_claim(tmp_path: Path):
    table = comparison_table([read_run(grid(tmp_path / "grid", seeds=(1,)))])
    assert all(line.difference is None or line.difference.interval is None for line in table.lines)
    assert "±" not in to_markdown(table)
    assert "no difference can be told" in headline(table)


SAME = {"lora": (0.1, 0.1, 0.1), "prompt": (0.1, 0.1, 0.1)}


def test_the_headline_claims_no_more_than_the_interval(tmp_path: Path):
    clear = flat(tmp_path / "a", {**SAME, "full": (0.5, 0.52, 0.51), "residual_prompt": (0.7, 0.73, 0.71)})
    text = headline(comparison_table([read_run(clear)]))
    assert text.startswith("Highest mean validation/accuracy: residual_prompt, 0.7133 ± 0.0153 over 3 seeds.")
    assert "Against the baseline, full: +0.203 [" in text
    assert "can be told" not in text
    close = flat(
        tmp_path / "b", {"lora": (0.1, 0.1), "prompt": (0.1, 0.1), "full": (0.5, 0.6), "residual_prompt": (0.64, 0.53)}
    )
    assert "no difference can be told at n = 2 seeds" in headline(comparison_table([read_run(close)]))


def test_the_headline_where_lower_is_better_and_where_all_are_equal(tmp_path: Path):
    values = {**SAME, "full": (9.0, 9.1, 9.2), "residual_prompt": (8.0, 8.3, 8.1)}
    folder = flat(tmp_path / "a", values | dict.fromkeys(SAME, (12.0, 12.1, 12.0)), "test/perplexity")
    assert headline(comparison_table([read_run(folder)])).startswith("Lowest mean test/perplexity: residual_prompt")
    folder = flat(tmp_path / "b", dict.fromkeys(METHODS, (0.5, 0.5)))
    assert headline(comparison_table([read_run(folder)])).startswith(
        "Equal mean validation/accuracy 0.5000: full, lora"
    )


def test_a_line_with_fewer_seeds_than_others_is_not_the_best(tmp_path: Path):
    values = {"full": (0.88, 0.6, 0.6), "lora": (0.9, 0.82, 0.81), "prompt": (0.1,) * 3, "residual_prompt": (0.2,) * 3}
    folder = flat(tmp_path / "a", values)
    for seed in (2, 3):
        fail(folder, "full", seed, "nan")
    text = headline(comparison_table([read_run(folder)]))
    assert text.startswith("Highest mean validation/accuracy: lora, 0.8433 ± 0.0493 over 3 seeds.")
    assert "Against the baseline, full: +0.020 on one seed in common" in text
    assert text.endswith(" Left out: full (1 of 3 seeds).")
    for method in ("prompt", "residual_prompt"):
        fail(folder, method, 1, "nan")
    assert headline(comparison_table([read_run(folder)])).startswith("lora: validation/accuracy 0.8433 ± 0.0493 over")


def test_small_and_huge_scores_are_told_apart(tmp_path: Path):
    values = {
        "full": (4.1e-5, 4.2e-5),
        "lora": (2.1e-5, 2.2e-5),
        "prompt": (1e40, 3e40),
        "residual_prompt": (3e40,) * 2,
    }
    table = comparison_table([read_run(flat(tmp_path / "a", values, "validation/mean_squared_error"))])
    shown = [line[1] for line in table.cells()]
    assert shown[:2] == ["4.150e-05 ± 7.071e-07", "2.150e-05 ± 7.071e-07"]
    assert shown[2:] == ["2.000e+40 ± 1.414e+40", "3.000e+40 ± 0.0000"]
    assert headline(table).startswith("Lowest mean validation/mean_squared_error: lora, 2.150e-05 ± 7.071e-07 over 2")


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((0.70004, 0.7412), "[0.7000, 0.7412]"),
        ((0.7 - 0.02, 0.7 + 0.02), "[0.6800, 0.7200]"),
        ((0.99982, 1.0), "[0.9998, 1.0000]"),
        ((0.9998, 0.99998), "[0.9998, 0.99998]"),
        ((0.00003, 0.02), "[3.000e-05, 0.0200]"),
        ((-0.99996, -0.12344), "[-0.99996, -0.1234]"),
        ((12.34567, 12.34568), "[12.3456, 12.3457]"),
        ((12345.6, 2e40), "[12345, 2.000e+40]"),
    ],
)
def test_an_interval_is_rounded_outwards_and_to_no_certainty(ends: tuple[float, float], text: str):
    assert interval_text(ends) == text


@pytest.mark.parametrize(
    ("mean", "interval", "text"),
    [
        (0.031, (0.01, 0.052), "+0.031 [+0.010, +0.052]"),
        (0.0003, (0.00012, 0.00048), "+0.00030 [+0.00012, +0.00048]"),
        (0.025, (-1e-5, 0.05), "+0.025000 [-0.000010, +0.050000]"),
        (0.025, (0.0, 0.05), "+0.025 [+0.000, +0.050]"),
        (-2e-5, (-2.25e-5, -1.75e-5), "-2.000e-05 [-2.250e-05, -1.750e-05]"),
        (1e40, None, "+1.000e+40"),
        (0.00042, None, "+0.00042"),
        (0.0, None, "+0.000"),
    ],
)
def test_a_difference_that_is_told_apart_is_not_shown_as_zero(mean, interval, text: str):
    assert difference_text(Difference(mean, interval, 2)) == text


def test_equal_gaps_are_not_sold_as_certain(tmp_path: Path):
    folder = flat(tmp_path / "a", {**SAME, "full": (0.5, 0.6, 0.7), "residual_prompt": (0.6, 0.7, 0.8)})
    assert "no interval can be given" in headline(comparison_table([read_run(folder)]))


def test_nothing_finished(tmp_path: Path):
    folder = grid(tmp_path / "grid")
    for method in METHODS:
        for seed in (1, 2, 3):
            fail(folder, method, seed, "nan")
    table = comparison_table([read_run(folder)])
    assert headline(table) == "No run has finished with a score."
    assert to_json(table)[0]["mean"] is None


def test_the_recipe_can_name_the_baseline_and_is_told_where_it_has_no_score(tmp_path: Path):
    folder = grid(tmp_path / "grid")
    text = (folder / "recipe.yaml").read_text().replace("{over:", "{baseline: lora, over:")
    (folder / "recipe.yaml").write_text(text)
    assert [line.is_baseline for line in comparison_table([read_run(folder)]).lines] == [False, True, False, False]
    for seed in (1, 2, 3):
        fail(folder, "lora", seed, "nan")
    table = comparison_table([read_run(folder)])
    assert table.lines[0].is_baseline
    assert table.notes == ["The recipe's baseline lora has no score; full stands in for it."]


def test_lines_with_another_score_are_shown_and_not_compared(tmp_path: Path):
    folder = grid(tmp_path / "grid")
    set_scores(folder, {("lora", seed): 30.0 + seed for seed in (1, 2, 3)}, "test/perplexity")
    table = comparison_table([read_run(folder)])
    assert table.lines[1].difference is None
    assert table.cells()[1][1].startswith("test/perplexity 32.0000")
    assert "only lines with the same score are compared" in table.notes[0]
    assert "lora" not in headline(table)


def test_several_runs_with_one_name_stay_apart(tmp_path: Path):
    places = [tmp_path / "a" / "plain", tmp_path / "b" / "plain", tmp_path / "c" / "plain"]
    for number, place in enumerate(places):
        write_stage(place / "00-tune", 0.8 + number / 100)
        write_recipe(place, f"name: plain\nseed: {number // 2}\nstages: [{{tune: {{}}}}]\n")
    table = comparison_table(read_runs(places))
    assert len({line.row.label for line in table.lines}) == 3
    assert table.lines[1].difference.mean == pytest.approx(0.01)
    assert table.lines[2].difference is None


def test_no_two_runs_get_one_name(tmp_path: Path):
    places = [tmp_path / "plain", tmp_path / "plain", tmp_path / "plain (2)"]
    for place in set(places):
        write_stage(place / "00-tune", 0.8)
        write_recipe(place, "name: plain\n")
    labels = [line.row.label.removeprefix(f"{tmp_path}/") for line in comparison_table(read_runs(places)).lines]
    assert labels == ["plain", "plain (3)", "plain (2)"]


def test_a_plain_run_is_one_line(tmp_path: Path):
    write_stage(tmp_path / "plain" / "00-tune", 0.8)
    write_recipe(tmp_path / "plain", "name: plain\n")
    table = comparison_table([read_run(tmp_path / "plain")])
    assert table.cells()[0][:2] == ["plain", "0.8000"]
    assert states([read_run(tmp_path / "plain")]) == ""


def test_a_wide_terminal_shows_all_and_a_narrow_one_spares_costs(tmp_path: Path):
    folder = grid(tmp_path / "grid")
    wide, narrow = printed(folder, 160), printed(folder, 80)
    assert "tokens/s" in wide
    assert "on disk" in wide
    assert "tokens/s" not in narrow
    assert all(method in narrow for method in METHODS)
    assert max(map(len, narrow.splitlines())) <= 80


def test_no_word_of_a_crowded_table_is_cut_off(tmp_path: Path):
    """Least of all an end of an interval, which would be another number."""
    folder = grid(tmp_path / "grid", seeds=(1, 2))
    for number, method in enumerate(METHODS):
        for seed in (1, 2):
            tell_rows(folder, method, seed, "same", outcomes(0.55 + 0.14 * number, seed))
            place = cell_folder(folder, method, seed) / "00-tune" / "metrics.json"
            metrics = json.loads(place.read_text())
            metrics["baselines"] = {"validation/accuracy": {"score": 0.5, "answer": "always 'a'", "better": seed > 1}}
            marks = ["nearly constant predictions: 0.1", "4 rows stand in the training rows"][: number % 2 + 1]
            metrics["marks"] = [*marks, "not shown to be better than the trivial baseline by macro_f1"]
            place.write_text(json.dumps(metrics))
    text, table = printed(folder, 110), comparison_table([read_run(folder)])
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 110
    said = set(text.split())
    assert {word for line in table.lines[1:] for word in table.cells()[1][3].split()} <= said
    assert {"difference", "trivial", "constant,", "better"} <= said


def with_long_values(folder: Path) -> Path:
    """A grid that is too wide for any terminal of 80 columns."""
    values = {method: "/".join(["a_folder"] * 6) + f"/{method}" for method in METHODS}
    return with_factor(grid(folder, seeds=(1, 2)), values)


@pytest.mark.parametrize("width", [40, 60, 80, 110])
def test_no_number_is_cut_off_in_any_terminal_and_the_difference_is_shown(tmp_path: Path, width: int):
    folder = with_long_values(tmp_path / "grid")
    text, table = printed(folder, width), comparison_table([read_run(folder)])
    assert "…" not in text
    said = text.split()
    for line, cells in zip(table.lines, table.cells(), strict=True):
        assert set(cells[2].split() + cells[4].split()) <= set(said)
        assert line.row.factors["x.rate"].rpartition("/")[0] not in said


def test_a_pipe_gets_every_column_on_one_line_each(tmp_path: Path):
    folder = with_long_values(tmp_path / "grid")
    table = comparison_table([read_run(folder)])
    lines = printed(folder, 80, terminal=False).splitlines()
    shown = [" ".join(line.split()) for line in lines]
    for cells in (table.columns, *table.cells()):
        line = next(one for one in shown if one.startswith(f"{cells[0]} "))
        assert all(cell in line for n, cell in enumerate(cells) if n in table.filled_columns())


def test_a_terminal_gets_no_escape_codes_and_no_markup_from_names(tmp_path: Path):
    folder = tmp_path / "[red]x[red]\x1b[31m"
    write_stage(folder / "00-tune", 0.8)
    write_recipe(folder, "name: x\n")
    text = printed(folder, 160)
    assert "\x1b" not in text
    assert "[red]x[red]⟨U+001B⟩[31m" in text


def test_markdown_csv_and_json_of_hostile_names(tmp_path: Path):
    folder = tmp_path / "=1|<b>\n`x` ~y~ _z_ a_b"
    write_stage(folder / "00-tune", 0.8)
    write_recipe(folder, "name: x\n")
    table = comparison_table([read_run(folder)])
    line = to_markdown(table).splitlines()[2]
    assert line.startswith(r"| =1\|&lt;b&gt;⟨U+000A⟩\`x\` \~y\~ \_z\_ a_b | 0.8000 |")
    (read,) = csv.DictReader(io.StringIO(to_csv(table)))
    assert read["run"] == "'=1|<b>\n`x` ~y~ _z_ a_b"
    assert float(read["mean"]) == 0.8


def test_table_as_data_and_text(tmp_path: Path):
    table = comparison_table([read_run(grid(tmp_path / "grid"))])
    data = json.loads(json.dumps(to_json(table)))
    assert data[0]["seeds"].keys() == {"1", "2", "3"}
    assert data[1]["interval"][0] < data[1]["difference"] < data[1]["interval"][1]
    assert to_markdown(table).count("\n") == 2 + len(METHODS)
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [row["method"] for row in rows] == list(METHODS)
    assert float(rows[3]["trainable_parameters"]) == 313_362


@pytest.mark.parametrize(("value", "text"), [(1.5e9, "1.50 GB"), (2e6, "2.0 MB"), (33_800, "33.8 kB"), (0, "0.0 kB")])
def test_bytes_have_a_unit_that_fits(value: float, text: str):
    assert cost_text("bytes_on_disk", value) == text


def tell_rows(folder: Path, method: str, seed: int, rows: str, right: str) -> None:
    place = cell_folder(folder, method, seed) / "00-tune" / "metrics.json"
    metrics = json.loads(place.read_text())
    metrics["details"] |= {"scored_rows": {"validation": rows}, "validation_correct": right}
    metrics["scores"]["validation/accuracy"] = right.count("1") / len(right)
    place.write_text(json.dumps(metrics))


def outcomes(share: float, seed: int, rows: int = 60) -> str:
    draw = random.Random(f"{share}/{seed}")
    return "".join("1" if draw.random() < share else "0" for _ in range(rows))


def test_intervals_are_bounded_and_of_one_kind_and_name_their_split(tmp_path: Path):
    folder = grid(tmp_path / "grid", seeds=(1, 2))
    for number, method in enumerate(METHODS):
        for seed in (1, 2):
            tell_rows(folder, method, seed, "same", outcomes(0.55 + 0.14 * number, seed))
    table = comparison_table([read_run(folder)])
    assert table.by_rows
    assert all(line.difference.by_rows for line in table.lines[1:])
    for line in table.lines:
        low, high = line.row.interval
        assert 0 <= low < line.row.mean < high <= 1
    text = " ".join(table.about_intervals())
    assert "redraws the validation rows and the seeds" in text
    assert "test rows" not in text
    assert "exact" not in text
    # One line that does not tell which rows it got right: no interval is over rows then.
    place = cell_folder(folder, "full", 1) / "00-tune" / "metrics.json"
    place.write_text(place.read_text().replace("validation_correct", "other"))
    table = comparison_table([read_run(folder)])
    assert not table.by_rows
    assert not any(line.difference.by_rows for line in table.lines[1:])
    assert "t intervals over the seeds" in " ".join(table.about_intervals())
    assert all(-1 <= end <= 1 for line in table.lines[1:] for end in line.difference.interval)


def test_an_exact_interval_is_called_no_bootstrap(tmp_path: Path):
    folder = grid(tmp_path / "grid", seeds=(1, 2))
    for method in METHODS:
        for seed in (1, 2):
            tell_rows(folder, method, seed, "same", "1" * 60)
    said = "The 95 % intervals are the exact binomial ones of so many rows that came out alike."
    assert comparison_table([read_run(folder)]).about_intervals()[1] == said
    tell_rows(folder, METHODS[0], 1, "same", outcomes(0.5, 1))
    told = " ".join(comparison_table([read_run(folder)]).about_intervals())
    assert "percentiles of a bootstrap" in told
    assert "Where all rows came out alike, they are the exact binomial ones" in told


def test_runs_that_were_scored_on_other_rows_are_marked_and_not_ranked(tmp_path: Path):
    folder = grid(tmp_path / "grid", seeds=(1, 2))
    for number, method in enumerate(METHODS):
        for seed in (1, 2):
            rows = "others" if method == "residual_prompt" else "same"
            tell_rows(folder, method, seed, rows, outcomes(0.5 + 0.14 * number, seed))
    table = comparison_table([read_run(folder)])
    last = table.lines[-1]
    assert last.on_other_rows
    assert last.difference is None
    assert table.cells()[-1][3] == "other rows"
    assert any("Scored on other rows than full: residual_prompt." in note for note in table.notes)
    assert headline(table).startswith("Highest mean validation/accuracy: prompt")
    for method in METHODS[1:]:
        for seed in (1, 2):
            tell_rows(folder, method, seed, "others", outcomes(0.5, seed))
    assert "scored on different rows" in headline(comparison_table([read_run(folder)]))


def test_runs_on_other_rows_are_not_ranked_where_their_seeds_differ_too(tmp_path: Path):
    places = [tmp_path / name for name in ("a", "b")]
    for number, place in enumerate(places):
        write_stage(place / "00-tune", 0.8, details={"scored_rows": {"validation": place.name}})
        write_recipe(place, f"name: x\nseed: {number}\nstages: [{{tune: {{}}}}]\n")
    table = comparison_table(read_runs(places))
    assert table.lines[1].on_other_rows
    assert "scored on different rows" in headline(table)
    metrics = places[1] / "00-tune" / "metrics.json"
    metrics.write_text(metrics.read_text().replace('{"validation": "b"}', '{"validation": "a"}'))
    assert not comparison_table(read_runs(places)).lines[1].on_other_rows


@pytest.mark.parametrize("metric", ["perplexity", "loss"])
def test_means_over_the_tokens_of_different_tokenizers_are_not_ranked(tmp_path: Path, metric: str):
    values = {"full": (9.0, 9.1), "lora": (8.0, 8.2), "prompt": (7.0, 7.1), "residual_prompt": (2.0, 2.1)}
    folder = flat(tmp_path / "a", values, f"validation/{metric}")

    def tell(tokens: dict[str, int]) -> None:
        for method in METHODS:
            for seed in (1, 2):
                place = cell_folder(folder, method, seed) / "00-tune" / "metrics.json"
                metrics = json.loads(place.read_text())
                metrics["details"] = {"scored_rows": {"validation": "same"}, "scored_tokens": tokens.get(method, 1000)}
                place.write_text(json.dumps(metrics))

    tell({"residual_prompt": 1500})
    table = comparison_table([read_run(folder)])
    assert table.lines[-1].difference is None
    assert table.cells()[-1][3] == "other tokens"
    assert "Scored on another number of tokens than full: residual_prompt." in table.notes[0]
    assert headline(table).startswith(f"Lowest mean validation/{metric}: prompt")
    tell({"full": 900})
    assert "scored on different tokens" in headline(comparison_table([read_run(folder)]))
    set_scores(folder, {(m, n + 1): s / 10 for m, found in values.items() for n, s in enumerate(found)})
    assert comparison_table([read_run(folder)]).lines[-1].difference is not None


def test_one_seed_has_an_interval_over_rows_and_no_claim(tmp_path: Path):
    folder = grid(tmp_path / "grid", seeds=(1,))
    for number, method in enumerate(METHODS):
        tell_rows(folder, method, 1, "same", outcomes(0.3 + 0.2 * number, 1))
    table = comparison_table([read_run(folder)])
    assert table.lines[-1].difference.interval[0] > 0
    assert not table.lines[-1].difference.decided
    assert "another seed may differ more" in " ".join(table.about_intervals())
    assert "no difference can be told from chance" in headline(table)
