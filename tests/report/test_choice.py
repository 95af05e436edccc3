"""What a comparison recommends: by validation scores alone, and the cheapest of what can't be told from the best."""

import html
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from luthier.report.choice import cheapest, recommend
from luthier.report.html import write_report
from luthier.report.intervals import crossed_interval
from luthier.report.results import read_run

from .fixtures import HOSTILE, TRAINED, add_evaluation, cell_folder, fail, grid, write_recipe, write_stage

SEEDS = (1, 2, 3)


def preset_run(folder: Path, scores: dict[str, list[float]], **settings: object) -> Path:
    """A finished preset: validation scores by method and seed."""
    seeds = list(range(1, 1 + max(map(len, scores.values()))))
    over = json.dumps({"stages.0.tune.method": list(scores), "seed": seeds})
    preset = json.dumps({"name": "tuning", **settings})
    write_recipe(folder, f"name: x\nstages: [{{tune: {{}}}}]\ncompare: {{preset: {preset}, over: {over}}}\n")
    for method, found in scores.items():
        for seed, score in zip(seeds, found, strict=False):
            cell = cell_folder(folder, method, seed)
            write_stage(cell / "00-tune", score, method=method, seed=seed)
            write_recipe(cell, f"seed: {seed}\nstages: [{{tune: {{}}}}]\n")
            (cell / "cell.json").write_text(json.dumps({"factors": {"stages.0.tune.method": method, "seed": seed}}))
    return folder


CLOSE = {
    "full": [0.80, 0.84, 0.82],
    "lora": [0.81, 0.82, 0.82],
    "prompt": [0.60, 0.63, 0.62],
    "residual_prompt": [0.79, 0.84, 0.81],
}


def test_the_cheapest_of_those_that_can_not_be_told_from_the_best(tmp_path: Path):
    choice = recommend(preset_run(tmp_path / "run", CLOSE))
    assert [c.row.label for c in choice.contenders] == ["full", "lora", "residual_prompt", "prompt"]
    assert [c.level for c in choice.contenders] == [True, True, True, False]
    assert min(("full", "lora", "residual_prompt"), key=TRAINED.get) == choice.chosen.label == "lora"
    assert choice.lead == "Recommended: lora."
    text = " ".join(choice.reasons)
    assert "Can't be told apart from it: lora, residual_prompt; all others are." in text
    assert "lora trains the fewest parameters: 295,682 parameters" in text


def correct(folder: Path, method: str, seed: int, outcomes: str) -> None:
    place = cell_folder(folder, method, seed) / "00-tune" / "metrics.json"
    metrics = json.loads(place.read_text())
    metrics["details"]["validation_correct"] = outcomes
    place.write_text(json.dumps(metrics))


def test_what_every_seed_says_alike_is_told_apart_where_the_rows_do_not_speak_against_it(tmp_path: Path):
    scores = {"full": [0.9, 0.9], "prompt": [0.8, 0.8]}
    assert recommend(preset_run(tmp_path / "bare", scores)).chosen.label == "full"
    for rows, chosen in ((10, "prompt"), (1000, "full")):
        folder = preset_run(tmp_path / str(rows), scores)
        for seed in (1, 2):
            correct(folder, "full", seed, "1" * (rows * 9 // 10) + "0" * (rows // 10))
            correct(folder, "prompt", seed, "1" * (rows * 8 // 10) + "0" * (rows * 2 // 10))
        choice = recommend(folder)
        assert choice.chosen.label == chosen
        assert choice.contenders[1].by_rows
        assert "other seeds and other rows" in choice.reasons[-1]


def test_methods_that_are_all_right_have_intervals_and_differences_that_are_not_exact(tmp_path: Path):
    folder = preset_run(tmp_path / "run", {"full": [1.0, 1.0], "prompt": [1.0, 1.0]})
    for method in ("full", "prompt"):
        for seed in (1, 2):
            correct(folder, method, seed, "1" * 20)
    choice, least = recommend(folder), binomtest(20, 20).proportion_ci(0.95, "exact").low
    for contender in choice.contenders:
        assert contender.row.interval == pytest.approx((least, 1.0))
        assert contender.level
    assert choice.contenders[1].gap.interval == pytest.approx((least - 1, 1 - least))
    assert choice.contenders[1].by_rows
    assert "[1.0000, 1.0000]" not in write_report([folder]).read_text(encoding="utf8")


def test_the_interval_is_that_of_seeds_and_rows_together(tmp_path: Path):
    folder = preset_run(tmp_path / "run", {"full": [0.75, 1.0, 0.75], "prompt": [0.5, 0.5, 0.25]})
    outcomes = {"full": ["1110", "1111", "0111"], "prompt": ["1010", "0101", "0001"]}
    for method, found in outcomes.items():
        for seed, told in zip(SEEDS, found, strict=True):
            correct(folder, method, seed, told)
    best, other = (np.array([[int(row) for row in told] for told in found]) for found in outcomes.values())
    found = recommend(folder).contenders[1]
    assert found.gap.mean == pytest.approx((best - other).mean())
    assert found.gap.interval == pytest.approx(crossed_interval(best - other))
    assert found.row.interval == pytest.approx(crossed_interval(other))
    assert -1 <= found.gap.interval[0] <= found.gap.interval[1] <= 1


@pytest.mark.parametrize("outcomes", ["", "2", None, 3])
def test_rows_that_do_not_pair_are_left_out_of_the_interval(tmp_path: Path, outcomes: object):
    folder = preset_run(tmp_path / "run", CLOSE)
    for method in CLOSE:
        for seed in SEEDS:
            correct(folder, method, seed, "1010" if (method, seed) != ("full", 2) else outcomes)
    assert not any(c.by_rows for c in recommend(folder).contenders)


def set_score(folder: Path, method: str, seed: int, score: float, name: str = "validation/accuracy") -> None:
    place = cell_folder(folder, method, seed) / "00-tune" / "metrics.json"
    metrics = json.loads(place.read_text()) | {"primary": name, "scores": {name: score}}
    place.write_text(json.dumps(metrics))


@pytest.mark.parametrize("method", ["full", "lora", "prompt"])
def test_a_method_that_was_scored_on_other_rows_is_left_out(tmp_path: Path, method: str):
    folder = preset_run(tmp_path / "run", CLOSE)
    for one in CLOSE:
        for seed in SEEDS:
            correct(folder, one, seed, "1010" if one != method else "10101")
    choice = recommend(folder)
    assert method not in {c.row.label for c in choice.contenders}
    usual = "full" if method != "full" else "lora"
    assert choice.left_out == [(method, f"its validation rows are not those of {usual}")]
    assert choice.contenders[0].row.label != method


def test_a_method_whose_score_is_the_mean_over_other_tokens_is_left_out(tmp_path: Path):
    folder = preset_run(tmp_path / "run", CLOSE)
    for method, scores in CLOSE.items():
        for seed, score in zip(SEEDS, scores, strict=True):
            set_score(folder, method, seed, score, "validation/perplexity")
            place = cell_folder(folder, method, seed) / "00-tune" / "metrics.json"
            metrics = json.loads(place.read_text())
            tokens = 1500 if method == "prompt" else 1000
            metrics["details"] |= {"scored_rows": {"validation": "same"}, "scored_tokens": tokens}
            place.write_text(json.dumps(metrics))
    choice = recommend(folder)
    assert choice.left_out == [("prompt", "its score is the mean over other tokens than that of full")]
    assert choice.contenders[0].row.label != "prompt"


def test_a_method_with_another_score_is_left_out(tmp_path: Path):
    folder = preset_run(tmp_path / "run", CLOSE)
    for seed in SEEDS:
        set_score(folder, "full", seed, 0.99, "validation/macro_f1")
    choice = recommend(folder)
    assert choice.left_out == [("full", "its validation score is validation/macro_f1, not validation/accuracy")]
    assert choice.score_name == "validation/accuracy"


@pytest.mark.parametrize("silent", [(3,), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("method", ["full", "prompt"])
def test_a_method_without_a_score_of_every_seed_is_neither_the_best_nor_level(
    tmp_path: Path, method: str, silent: tuple[int, ...]
):
    """prompt trains the fewest parameters, and full is the best: neither may be taken by what is missing."""
    folder = preset_run(tmp_path / "run", CLOSE)
    for seed in silent:
        set_score(folder, method, seed, float("inf"))
    choice = recommend(folder)
    assert choice.chosen.label == "lora"
    assert method not in {c.row.label for c in choice.contenders}
    reason = f"{len(silent)} of 3 runs finished without a validation score that is a number"
    assert choice.left_out == [(method, reason)]
    assert all(c.row.mean <= choice.contenders[0].row.mean for c in choice.contenders)


def test_no_earlier_stage_stands_in_for_a_last_score_that_is_no_number(tmp_path: Path):
    """full scored best after the first stage and came to nothing in the second, as JSON says it: null."""
    folder = preset_run(tmp_path / "run", CLOSE)
    for method, scores in CLOSE.items():
        for seed, score in enumerate(scores, 1):
            add_evaluation(folder, method, seed, {})
            place = cell_folder(folder, method, seed) / "01-evaluate" / "metrics.json"
            found = None if method == "full" else score - 0.1
            named = {"primary": "validation/accuracy", "scores": {"validation/accuracy": found}}
            place.write_text(json.dumps(json.loads(place.read_text()) | named))
    choice = recommend(folder)
    assert choice.left_out == [("full", "3 of 3 runs finished without a validation score that is a number")]
    assert choice.contenders[0].row.mean == pytest.approx(np.mean(CLOSE["lora"]) - 0.1)
    cell = read_run(folder).cells[0]
    assert cell.factors["stages.0.tune.method"] == "full"
    assert cell.primary is None


def test_a_method_that_is_not_done_is_not_recommended_yet(tmp_path: Path):
    folder = preset_run(tmp_path / "run", CLOSE)
    for seed in (2, 3):
        (cell_folder(folder, "prompt", seed) / "00-tune" / "done.json").unlink()
    choice = recommend(folder)
    assert choice.chosen.label == "lora"
    assert choice.left_out == [("prompt", "2 of 3 runs not finished yet")]


def search_run(folder: Path, tried: list[tuple[str, int, float]]) -> Path:
    """A finished search over methods and seeds."""
    space = json.dumps({"stages.0.tune.method": ["full", "lora", "prompt"], "seed": [1, 2]})
    write_recipe(folder, f"name: x\nstages: [{{tune: {{}}}}]\ncompare: {{search: {{space: {space}}}}}\n")
    lines = [json.dumps({"event": "search", "search": "x"})]
    for number, (method, seed, score) in enumerate(tried):
        cell, factors = cell_folder(folder, method, seed), {"stages.0.tune.method": method, "seed": seed}
        write_stage(cell / "00-tune", score, method=method, seed=seed)
        write_recipe(cell, f"seed: {seed}\nstages: [{{tune: {{}}}}]\n")
        (cell / "cell.json").write_text(json.dumps({"factors": factors}))
        lines.append(json.dumps({"event": "ask", "trial": number, "factors": factors}))
    (folder / "trials.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_a_trial_is_chosen_with_its_seed(tmp_path: Path):
    tried = [("full", 1, 0.7), ("full", 2, 0.72), ("lora", 2, 0.9), ("lora", 1, 0.5), ("prompt", 1, 0.6)]
    choice = recommend(search_run(tmp_path / "run", tried))
    assert choice.chosen.factors == {"stages.0.tune.method": "lora", "seed": 2}
    assert choice.lead == "Best of 5 finished trials: lora, seed 2, validation/accuracy 0.9000."


def test_seconds_decide_where_they_are_preferred(tmp_path: Path):
    folder = preset_run(tmp_path / "run", CLOSE, prefer="seconds")
    for seed in SEEDS:
        place = cell_folder(folder, "full", seed) / "00-tune" / "metrics.json"
        metrics = json.loads(place.read_text())
        metrics["cost"]["seconds"] = 1.0
        place.write_text(json.dumps(metrics))
    choice = recommend(folder)
    assert choice.chosen.label == "full"
    assert "full takes the least time" in " ".join(choice.reasons)


def test_test_scores_play_no_part(tmp_path: Path):
    folder = preset_run(tmp_path / "run", CLOSE)
    before = recommend(folder)
    for method in CLOSE:
        for seed in SEEDS:
            add_evaluation(folder, method, seed, {})
            place = cell_folder(folder, method, seed) / "01-evaluate" / "metrics.json"
            score = 0.99 if method == "prompt" else 0.1
            place.write_text(place.read_text().replace("0.72", str(score)))
    after = recommend(folder)
    assert after.chosen.label == before.chosen.label
    assert [c.row.scores for c in after.contenders] == [c.row.scores for c in before.contenders]
    page = write_report([folder]).read_text(encoding="utf8")
    assert "Recommended: lora." in page
    assert "Highest mean test" not in page


def test_one_seed_recommends_nothing(tmp_path: Path):
    choice = recommend(preset_run(tmp_path / "run", {"full": [0.9], "prompt": [0.5]}))
    assert choice.chosen is None
    assert "with one seed no method can be told from another" in choice.lead
    assert "full, 0.9000" in choice.lead


def test_what_failed_is_left_out_with_its_reason_and_escaped(tmp_path: Path):
    folder = preset_run(tmp_path / "run", CLOSE)
    fail(folder, "full", 2, HOSTILE)
    choice = recommend(folder)
    assert choice.left_out == [("full", f"1 of 3 runs failed: {HOSTILE}")]
    assert "full" not in {c.row.label for c in choice.contenders}
    page = write_report([folder]).read_text(encoding="utf8")
    assert "<script>" not in page
    assert "1 of 3 runs failed: &lt;script&gt;" in page


def test_an_unfinished_comparison_says_so(tmp_path: Path):
    folder = preset_run(tmp_path / "run", CLOSE)
    (cell_folder(folder, "lora", 3) / "00-tune" / "done.json").unlink()
    choice = recommend(folder)
    assert choice.unfinished == 1
    assert "1 of the runs are not finished: this may change." in choice.reasons


def test_a_lower_loss_is_better(tmp_path: Path):
    folder = preset_run(tmp_path / "run", {"full": [0.3, 0.31, 0.29], "prompt": [0.6, 0.65, 0.62]})
    for place in folder.rglob("metrics.json"):
        place.write_text(place.read_text().replace('"primary": "validation/accuracy"', '"primary": "validation/loss"'))
    choice = recommend(folder)
    assert choice.contenders[0].row.label == "prompt"
    assert choice.reasons[0].startswith("Lowest mean validation/loss: prompt")
    for seed in (2, 3):
        for method in ("full", "prompt"):
            shutil.rmtree(cell_folder(folder, method, seed))
    (folder / "recipe.yaml").write_text((folder / "recipe.yaml").read_text().replace("[1, 2, 3]", "[1]"))
    assert "Lowest validation/loss of that seed: prompt" in recommend(folder).lead


def test_a_plain_grid_recommends_nothing(tmp_path: Path):
    assert recommend(grid(tmp_path / "grid")) is None
    assert "Recommendation" not in write_report([tmp_path / "grid"]).read_text(encoding="utf8")


def test_a_preset_without_any_score(tmp_path: Path):
    folder = tmp_path / "run"
    write_recipe(folder, "name: x\nstages: [{tune: {}}]\ncompare: {preset: {name: tuning}, over: {seed: [1]}}\n")
    assert "no run has finished with a validation score" in recommend(folder).lead
    write_report([folder])


def test_costs_that_nobody_knows_leave_the_best():
    assert cheapest([], "parameters") is None


@pytest.mark.parametrize("compare", ["{preset: 3}", "{search: [1]}", "{search: {}}", "{preset: {prefer: [x]}}"])
def test_a_block_of_another_shape_is_no_crash(tmp_path: Path, compare: str):
    write_recipe(tmp_path / "run", f"name: x\nstages: [{{tune: {{}}}}]\ncompare: {compare}\n")
    write_report([tmp_path / "run"])


@pytest.mark.parametrize(
    ("rows", "accuracy", "said"),
    [
        (20, 0.6, "can't be told from guessing among 2 labels"),
        (20, 0.9, "by 20 validation rows only: one row is 0.050"),
        (400, 0.6, ""),
        (400, 0.52, "guessing"),
    ],
)
def test_a_choice_that_is_worth_little_says_so_first(tmp_path: Path, rows: int, accuracy: float, said: str):
    folder = preset_run(tmp_path / "run", {"full": [accuracy, accuracy], "lora": [0.5, 0.5]})
    for method, right in (("full", accuracy), ("lora", 0.5)):
        for seed in (1, 2):
            correct(folder, method, seed, "1" * round(rows * right) + "0" * (rows - round(rows * right)))
            place = cell_folder(folder, method, seed) / "00-tune" / "metrics.json"
            metrics = json.loads(place.read_text())
            metrics["details"]["labels"] = ["negative", "positive"]
            place.write_text(json.dumps(metrics))
    first = recommend(folder).reasons[0]
    assert said in first if said else first.startswith("Highest")


@pytest.mark.parametrize("better", [True, False])
def test_a_choice_among_models_that_are_no_better_than_the_trivial_baseline_says_so_first(tmp_path: Path, better: bool):
    """By any score: guessing among the labels is known for accuracy alone."""
    folder, name = preset_run(tmp_path / "run", CLOSE), "validation/macro_f1"
    for method, scores in CLOSE.items():
        for seed, score in zip(SEEDS, scores, strict=True):
            set_score(folder, method, seed, score, name)
            place = cell_folder(folder, method, seed) / "00-tune" / "metrics.json"
            beside = {name: {"score": 0.81, "answer": "always 'a'", "better": better and seed == 2}}
            place.write_text(json.dumps(json.loads(place.read_text()) | {"baselines": beside}))
    first = recommend(folder).reasons[0]
    said = "full, the best of all, is not shown to be better than the trivial baseline, validation/macro_f1 0.8100."
    assert first.startswith("Highest mean" if better else said)


@pytest.mark.parametrize("told_by", ["outcomes", "rows"])
def test_too_few_rows_to_tell_any_method_apart_are_the_headline(tmp_path: Path, told_by: str):
    folder = preset_run(tmp_path / "run", {"full": [0.9, 0.8], "prompt": [0.8, 0.85]})
    for method, right in (("full", (18, 16)), ("prompt", (16, 17))):
        for seed in (1, 2):
            if told_by == "outcomes":
                correct(folder, method, seed, "1" * right[seed - 1] + "0" * (20 - right[seed - 1]))
            else:
                place = cell_folder(folder, method, seed) / "00-tune" / "metrics.json"
                metrics = json.loads(place.read_text())
                metrics["details"]["rows"] = {"train": 100, "validation": 20}
                place.write_text(json.dumps(metrics))
    said = "Too few validation rows to choose: 20 rows. prompt is the cheapest of those that can't be told apart."
    choice = recommend(folder)
    assert choice.lead == said
    assert not any("validation rows only" in text for text in choice.reasons)
    assert html.escape(said, quote=False) in html.unescape(write_report([folder]).read_text(encoding="utf8"))


def test_few_rows_that_tell_some_methods_apart_recommend(tmp_path: Path):
    folder = preset_run(tmp_path / "run", {"full": [1.0, 1.0], "prompt": [0.5, 0.5]})
    for method, outcomes in (("full", "1" * 20), ("prompt", "10" * 10)):
        for seed in (1, 2):
            correct(folder, method, seed, outcomes)
    assert recommend(folder).lead == "Recommended: full."
