"""`compare --preset tuning`: the field of methods under one budget, and which of them to take."""

import html
import json
import re
from pathlib import Path

import pytest

from luthier.api import as_recipe
from luthier.cli.arguments import main
from luthier.cli.commands import _with_comparison
from luthier.errors import RecipeError
from luthier.recipe import recipe_yaml
from luthier.recipe.loading import load_recipe
from luthier.report import recommend
from luthier.training.trainer import LuthierTrainer
from tests.report.fixtures import grid

FEW = ["--preset", "tuning", "--methods", "head_only,bitfit", "--budget-steps", "6"]


@pytest.fixture
def place(workplace):
    workplace.tune.update(learning_rate=0.5, epochs=1)
    workplace.ran_as = "small-compare"
    evaluation = workplace.recipe["stages"].pop()
    workplace.with_evaluation = lambda: workplace.recipe["stages"].append(evaluation)
    workplace.compare = lambda *more: workplace.luthier(
        "compare", workplace.write(), "--output", str(workplace.folder / "runs"), "--quiet", *more
    )
    return workplace


def recipes(place) -> list[dict]:
    return [load_recipe(path) for path in sorted(place.run_folder.glob("cells/*/recipe.yaml"))]


def test_the_field_runs_under_one_budget_with_its_own_rates_and_is_judged_by_validation(place, capsys):
    place.with_evaluation()
    assert place.compare(*FEW, "--seeds", "2") == 0
    ran = recipes(place)
    assert len(ran) == 4
    tunes = [recipe.stage_list()[0] for recipe in ran]
    assert {tune.max_steps for tune in tunes} == {6}
    assert all(tune.learning_rate == tune.method.default_learning_rate for tune in tunes)
    assert {recipe.seed for recipe in ran} == {13, 14}
    choice = recommend(place.run_folder)
    assert choice.score_name == "validation/accuracy"
    assert {c.row.label for c in choice.contenders} == {"head_only", "bitfit"}
    cells = place.run_folder / "cells"
    scores = {
        seed: json.loads((cells / f"method=bitfit,seed={seed}" / "00-tune" / "metrics.json").read_text())["scores"]
        for seed in (13, 14)
    }
    details = json.loads((cells / "method=bitfit,seed=13" / "00-tune" / "metrics.json").read_text())["details"]
    right = details["validation_correct"]
    assert len(right) == 32
    assert right.count("1") / 32 == scores[13]["validation/accuracy"]
    bitfit = next(c.row for c in choice.contenders if c.row.label == "bitfit")
    assert bitfit.scores == {seed: found["validation/accuracy"] for seed, found in scores.items()}
    out = capsys.readouterr().out
    assert choice.chosen.label in choice.lead
    assert choice.lead in " ".join(out.split())
    assert "Chosen by validation scores alone." in out
    page = (place.run_folder / "report.html").read_text(encoding="utf8")
    assert page.index("Recommendation</h2>") < page.index("Scores and cost</h2>")
    assert f'<p class="lead">{choice.lead}' in html.unescape(page)


def test_the_recommended_recipe_runs_alone_and_gives_its_cell_again(place, capsys):
    assert place.compare(*FEW, "--seeds", "2") == 0
    best = place.run_folder / "best.yaml"
    assert f"luthier run {best}" in capsys.readouterr().out
    assert place.luthier("run", str(best), "--quiet", "--output", str(place.folder / "again")) == 0
    chosen = recommend(place.run_folder).chosen
    alone = json.loads((place.folder / "again" / "small-compare-best" / "00-tune" / "metrics.json").read_text())
    assert alone["scores"]["validation/accuracy"] == chosen.scores[13]


def test_one_seed_tells_nothing(place, capsys):
    assert place.compare(*FEW, "--seeds", "1") == 0
    out = capsys.readouterr().out
    assert "Nothing can be recommended: with one seed no method can be told from another." in out
    assert not (place.run_folder / "best.yaml").exists()


def test_methods_that_can_not_run_are_listed_with_the_reason(place, capsys):
    place.tune.update(gradient_checkpointing=True)
    odd = "{name: peft, peft_type: LORA, settings: {target_modules: [nothing_like_it]}}"
    assert place.compare("--preset", "tuning", "--methods", f"prefix,head_only,{odd}", "--seeds", "2") == 0
    choice = recommend(place.run_folder)
    told = dict(choice.left_out)
    assert "does not work with gradient_checkpointing" in told["prefix"]
    assert any("nothing_like_it" in reason for label, reason in told.items() if label.startswith("peft"))
    assert {c.row.label for c in choice.contenders} == {"head_only"}
    assert "Left out: prefix" in capsys.readouterr().out
    assert "Left out:" in (place.run_folder / "report.html").read_text(encoding="utf8")


def test_a_method_that_breaks_in_a_library_is_left_out_too(place, monkeypatch):
    from luthier.tuning.stock.bitfit import BitFit

    def broken(*_):
        raise TypeError("unexpected keyword")

    monkeypatch.setattr(BitFit, "apply", broken)
    assert place.compare(*FEW, "--seeds", "2") == 0
    ((label, reason),) = recommend(place.run_folder).left_out
    assert label == "bitfit"
    assert "unexpected TypeError: unexpected keyword" in reason
    assert "raise TypeError" in (place.run_folder / "cells" / "method=bitfit,seed=13" / "traceback.txt").read_text()


def test_a_finished_comparison_is_not_run_again_and_a_saved_one_means_the_same(place):
    assert place.compare(*FEW, "--seeds", "2") == 0
    done = {path: path.read_text() for path in place.run_folder.glob("cells/*/00-tune/done.json")}
    assert len(done) == 4
    saved = place.run_folder / "recipe.yaml"
    again = Path("again.yaml")
    again.write_text(saved.read_text())
    assert place.luthier("run", str(again), "--quiet", "--output", str(place.folder / "runs")) == 0
    assert {path: path.read_text() for path in place.run_folder.glob("cells/*/00-tune/done.json")} == done
    assert saved.read_text() == again.read_text()


def test_the_recipe_can_hold_the_preset_and_the_command_line_changes_it(place, capsys):
    methods = ["head_only", {"name": "lora", "rank": 2}]
    place.recipe["compare"] = {"preset": {"name": "tuning", "methods": methods, "seeds": [5, 6], "minutes": 0.02}}
    place.ran_as = "small"
    recipe = load_recipe(place.write())
    assert recipe.compare.over == {"stages.0.tune.method": methods, "seed": [5, 6]}
    assert (recipe.stage_list()[0].max_minutes, recipe.stage_list()[0].max_steps) == (0.02, None)
    assert place.compare("--budget-steps", "4", "--seeds", "1") == 0
    assert len(recipes(place)) == 2
    assert recipes(place)[0].stage_list()[0].max_steps == 4
    assert recipes(place)[0].stage_list()[0].max_minutes is None


def test_the_learning_rate_that_the_preset_sets_aside_is_told(place, caplog):
    place.recipe["compare"] = {"preset": {"name": "tuning", "methods": ["head_only"]}}
    told = "stages.0.tune.learning_rate is set aside"
    load_recipe(place.write())
    assert caplog.text.count(told) == 1
    caplog.clear()
    place.tune["learning_rate"] = None
    load_recipe(place.write())
    assert told not in caplog.text


def test_a_budget_of_time(place, monkeypatch):
    monkeypatch.setattr(LuthierTrainer, "seconds", property(lambda self: max(6.0 * self.state.global_step, 0.1)))
    assert place.compare(*FEW[:-2], "--budget-minutes", "0.5", "--seeds", "2") == 0
    steps = [json.loads(p.read_text())["details"]["steps"] for p in place.run_folder.rglob("metrics.json")]
    assert steps == [5, 5, 5, 5]
    assert recommend(place.run_folder).chosen is not None


def test_python_runs_the_preset_too(place):
    import luthier

    settings = {"name": "tuning", "methods": ["head_only", "bitfit"], "seeds": 2, "steps": 4, "prefer": "seconds"}
    record = luthier.run(place.recipe | {"compare": {"preset": settings}}, output=place.folder / "runs")
    assert len(record.cells) == 4
    assert recommend(record.folder).prefer == "seconds"


@pytest.mark.parametrize("without", ["rows", "evaluations"])
@pytest.mark.parametrize("evaluation", [None, {"split": "test"}, {}])
def test_without_validation_nothing_is_run(place, capsys, without, evaluation):
    if evaluation is not None:
        place.recipe["stages"].append({"evaluate": evaluation})
    if without == "rows":
        del place.tune["data"]["validation"]
    else:
        place.tune["evaluate_every"] = "never"
    assert place.compare(*FEW, "--seeds", "2") == 2
    told = capsys.readouterr().err
    assert "--preset: compare.preset: the comparison chooses by validation score, and the run has none" in told
    assert not place.run_folder.exists()


def test_an_evaluation_of_the_validation_rows_is_enough_to_choose_by(place, capsys):
    place.tune["evaluate_every"] = "never"
    place.recipe["stages"].append({"evaluate": {"split": "validation"}})
    place.recipe["compare"] = {"preset": {"name": "tuning", "methods": ["head_only"]}}
    assert place.luthier("validate", place.write()) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "tuning", "--methods", "lroa"], "did you mean 'lora'"),
        (
            ["--preset", "tunning"],
            "--preset: compare.preset.name: there is no preset called 'tunning'\n  fix: did you mean 'tuning'",
        ),
        (["--preset", "tuning", "--methods", "lroa"], "\n--methods: compare.preset.methods: there is no tuning method"),
        (["--preset", "tuning", "--budget-steps", "0"], "\n--budget-steps: compare.preset.steps: "),
        (["--over", "stages.0.tune.methd=lora,full"], "\n--over"),
        (["--preset", "tuning", "--methods", "{name: lora, rnk: 3}"], "lora.rnk: Extra inputs"),
        (["--preset", "tuning", "--seeds", "0"], "at least 1"),
        (["--preset", "tuning", "--over", "seed=1,2"], "not what the preset fills in"),
        (["--seeds", "2"], "add --preset tuning"),
        (["--preset", "tuning", "--methods", "lora,full,lora"], "lora stands there twice with the same settings"),
        (["--preset", "tuning", "--methods", "{name: lora},lora"], "lora stands there twice with the same settings"),
        (
            ["--preset", "tuning", "--budget-minutes", "inf"],
            "--budget-minutes: compare.preset.minutes: has to be a fin",
        ),
        (["--over", "seed=1,2", "--over", "seed=3"], "--over seed is given twice\n  fix: give all values at once"),
    ],
    ids=str,
)
def test_mistakes_are_told(place, capsys, arguments, message):
    assert place.compare(*arguments) == 2
    told = capsys.readouterr().err
    assert message in told
    assert not re.search(r"--[a-z-]+:\d", told)
    assert not place.run_folder.exists()


@pytest.mark.parametrize("seeds", [[13, -1], [1, 2**32]], ids=str)
def test_seeds_that_are_none_are_told_before_anything_runs(place, capsys, seeds):
    place.recipe["compare"] = {"preset": {"name": "tuning", "seeds": seeds}}
    assert place.luthier("validate", place.write()) == 2
    assert f"{seeds[1]} is no seed: they go from 0 to 4294967295" in capsys.readouterr().err


def test_a_setting_of_the_preset_keeps_what_else_the_recipe_compares(place):
    methods = ["head_only", {"name": "lora", "rank": 2}]
    over = {"stages.0.tune.batch_size": [4, 8]}
    place.recipe["compare"] = {"preset": {"name": "tuning", "methods": methods}, "over": over, "baseline": "lora"}
    recipe = _with_comparison(load_recipe(place.write()), [], {"seeds": 2}, "recipe.yaml", "x")
    assert recipe.compare.over == {"stages.0.tune.method": methods, **over, "seed": [13, 14]}
    assert recipe.compare.baseline == "lora"
    recipe = _with_comparison(load_recipe(place.write()), ["stages.0.tune.batch_size=2"], {"seeds": 1}, "r.yaml", "x")
    assert recipe.compare.over["stages.0.tune.batch_size"] == [2]


@pytest.mark.parametrize(
    ("override", "methods", "seeds"),
    [
        ("compare.preset.seeds=1", ["head_only", "bitfit"], [13]),
        ("compare.preset.methods=[lora]", ["lora"], [13, 14]),
        ("seed=42", ["head_only", "bitfit"], [42, 43]),
        ("stages.0.tune.batch_size=4", ["head_only", "bitfit"], [13, 14]),
    ],
)
def test_what_a_saved_preset_filled_in_follows_what_is_set(place, override, methods, seeds):
    place.recipe["compare"] = {
        "preset": {"name": "tuning", "methods": ["head_only", "bitfit"], "seeds": 2},
        "over": {"stages.0.tune.weight_decay": [0.0, 0.1]},
    }
    saved = Path("saved.yaml")
    saved.write_text(recipe_yaml(load_recipe(place.write())))
    recipe = load_recipe(saved, [override])
    rest = {"stages.0.tune.weight_decay": [0.0, 0.1]}
    assert recipe.compare.over == {"stages.0.tune.method": methods, "seed": seeds, **rest}
    assert as_recipe(load_recipe(saved), override).compare.over == recipe.compare.over
    with pytest.raises(RecipeError, match="is not what the preset fills in"):
        load_recipe(saved, ["compare.over.seed=[7]"])


METHOD, EPOCHS, BEST = "stages.0.tune.method", "stages.0.tune.epochs", "stages.0.tune.keep_best"


@pytest.mark.parametrize(
    ("compare", "baseline", "message"),
    [
        (
            {"over": {METHOD: ["lora", "full"]}},
            "lroa",
            "no line of the comparison is called 'lroa'\n  fix: did you mean",
        ),
        ({"over": {METHOD: ["lora", "full"], "seed": [1, 2]}}, "1", "name one of lora, full"),
        ({"over": {EPOCHS: [1, 2]}}, "3", "name one of 1, 2"),
        ({"preset": {"name": "tuning", "methods": ["lora", "bitfit"]}}, "full", "name one of lora, bitfit"),
        ({"search": {"space": {METHOD: ["lora", "full"]}}}, "bitfit", "name one of lora, full"),
        ({"over": {METHOD: ["lora", "full"]}}, "full", ""),
        ({"over": {METHOD: ["lora", {"name": "lora", "rank": 4}]}}, "lora, rank 4", ""),
        ({"over": {EPOCHS: [1, 2]}}, "2", ""),
        ({"over": {EPOCHS: [1, 2]}}, "epochs 2", ""),
        ({"over": {BEST: [True, False]}}, "false", ""),
        ({"search": {"space": {METHOD: ["lora", "full"], EPOCHS: [1, 2]}}}, "full, epochs 2", ""),
        ({"search": {"space": {EPOCHS: {"low": 1, "high": 4}}}}, "3", ""),
    ],
    ids=str,
)
def test_a_baseline_that_names_no_line_is_told_before_anything_runs(place, capsys, compare, baseline, message):
    place.recipe["compare"] = {**compare, "baseline": baseline}
    assert place.luthier("validate", place.write()) == (2 if message else 0)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [["--over", "seed=1,2"], ["--set", "seed=3"], ["--preset", "tuning"], ["--budget-steps", "3"], ["--output", "x"]],
    ids=str,
)
def test_options_for_recipes_are_refused_where_finished_runs_are_compared(tmp_path, capsys, options):
    folder = grid(tmp_path / "grid", seeds=(1,))
    assert main(["compare", str(folder), *options]) == 2
    assert f"{options[0]} says how a recipe is run" in capsys.readouterr().err


def test_validate_and_plan_know_the_preset(place, capsys):
    place.recipe["compare"] = {"preset": "tuning"}
    assert place.luthier("validate", place.write()) == 0
    assert "a grid of 30 runs" in capsys.readouterr().out
    place.recipe["compare"] = {"preset": {"name": "tuning", "methods": ["head_only", "bitfit"], "seeds": 1}}
    assert place.luthier("plan", place.write(), "--output", str(place.folder / "runs")) == 0
    assert capsys.readouterr().out.count("parameters to train") == 2
