"""Recipes whose stages hand on more than one model, end to end: runs, keys, what is done again, and the dry run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import WorkspaceError
from luthier.training.trainer import LuthierTrainer
from tests.cli.conftest import BAD_WORDS, GOOD_WORDS, PLAIN_WORDS, Workplace, sentences
from tests.evaluation.text_models import model_of, tokenizer_of
from tests.stages.conftest import example_stages

__all__ = ["example_stages"]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every micro-batch that is trained on."""
    taken, step = [], LuthierTrainer.training_step

    def counting(self, *args, **kwargs):
        taken.append(1)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(LuthierTrainer, "training_step", counting)
    return taken


@pytest.fixture
def place(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.setenv("LUTHIER_CACHE", str(workplace.folder / "cache"))
    workplace.tune.update(epochs=1)
    return workplace


def key_of(place: Workplace, stage: str) -> str:
    return json.loads((place.run_folder / stage / "done.json").read_text())["key"]


def plan(place: Workplace, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert place.luthier("plan", place.write(), "--output", str(place.folder / "runs")) == 0
    return capsys.readouterr().out


def test_another_evaluation_in_the_middle_trains_nothing_again(place, trained):
    place.recipe["stages"].append({"tune": {**place.tune, "method": "bitfit"}})
    assert place.run() == 0
    steps, last = len(trained), key_of(place, "02-tune")
    place.recipe["stages"][1]["evaluate"]["suites"] = ["task"]
    assert place.run() == 0
    assert len(trained) == steps
    assert key_of(place, "02-tune") == last
    assert "test/expected_calibration_error" not in place.metrics("01-evaluate")["scores"]


def test_what_is_wrong_with_the_data_of_a_finished_stage_is_told_before_anything_trains(place, trained, capsys):
    assert place.run() == 0
    steps, last = len(trained), key_of(place, "00-tune")
    place.tune["epochs"] = 2
    data = {"validation": str(place.folder / "validation.tsv")}
    place.recipe["stages"][1]["evaluate"] = {"suites": ["task"], "split": "test", "data": data}
    assert place.run() == 3
    assert "the data has no test split; it has validation" in capsys.readouterr().err
    assert len(trained) == steps
    assert key_of(place, "00-tune") == last


def test_naming_what_flows_anyway_changes_nothing(place, trained):
    assert place.run() == 0
    steps = len(trained)
    place.recipe["stages"][1]["evaluate"]["model"] = "stages.0"
    done = (place.run_folder / "01-evaluate" / "done.json").read_bytes()
    assert place.run() == 0
    assert len(trained) == steps
    assert (place.run_folder / "01-evaluate" / "done.json").read_bytes() == done


def test_an_earlier_model_can_be_judged_and_gone_on_from(place, trained):
    place.recipe["stages"] += [
        {"tune": {**place.tune, "epochs": 2, "model": {"reference": str(place.folder / "model")}}}
    ]
    place.recipe["stages"] += [{"evaluate": {"model": "stages.0.model"}}, {"evaluate": {}}]
    assert place.run() == 0
    first, again, other = (place.metrics(f"0{n}-evaluate")["scores"] for n in (1, 3, 4))
    assert {k: first[k] for k in again} == again
    assert other["test/loss"] != first["test/loss"]


def test_a_run_goes_on_from_another_run(place, trained, capsys):
    assert place.run() == 0
    scores = place.metrics("01-evaluate")["scores"]
    data, steps = {"data": place.tune["data"], "suites": ["task", "calibration"]}, len(trained)
    for model in (place.run_folder, place.run_folder / "00-tune", place.run_folder / "00-tune" / "model"):
        place.recipe.update(name="other", model=str(model), stages=[{"evaluate": data}])
        assert place.run() == 0
        other = place.folder / "runs" / "other" / "00-evaluate" / "metrics.json"
        assert json.loads(other.read_text())["scores"] == scores
    assert len(trained) == steps


def test_several_artefacts_go_in_and_come_out_and_what_is_no_model_too(place, example_stages, trained):
    del place.recipe["stages"][1:]
    place.recipe["stages"] += [
        {"words": {"words": ["a"]}},
        {"twins": {"elder": str(place.folder / "model"), "younger": "stages.0", "list": "stages.1.list"}},
        {"look": {"model": "stages.2.younger"}},
    ]
    assert place.run() == 0
    assert example_stages == ["words", "twins", "look"]
    assert place.metrics("02-twins")["details"] == {"words": '["a"]'}
    run = place.run_folder
    assert place.metrics("03-look")["details"] == {"model": str((run / "02-twins" / "younger").resolve())}
    assert json.loads((run / "02-twins" / "key.json").read_text())["gives"] == {"elder": "task", "younger": "task"}

    example_stages.clear()
    place.recipe["stages"][3]["look"]["how"] = "again"
    assert place.run() == 0
    assert example_stages == ["look"]
    place.recipe["stages"][1]["words"]["words"] = ["b"]
    assert place.run() == 0
    assert example_stages == ["look", "words", "twins", "look"]

    example_stages.clear()
    place.recipe.update(name="next", stages=[{"look": {"model": str(run / "02-twins" / "younger")}}])
    assert place.run() == 0
    twins = {"elder": "stages.0", "younger": str(run / "02-twins" / "elder"), "list": str(run / "01-words" / "list")}
    place.recipe.update(name="more", model=str(run / "00-tune"), stages=[{"look": {}}, {"twins": twins}])
    assert place.run() == 2  # look gives nothing
    twins["elder"] = str(run / "00-tune")
    assert place.run() == 0


def test_a_recipe_without_a_model_runs(place, example_stages, capsys):
    del place.recipe["model"]
    place.recipe["stages"] = [{"words": {}}]
    assert "00-words  to do" in plan(place, capsys)
    assert place.run("--no-report") == 0
    assert example_stages == ["words"]


def test_what_a_stage_does_not_leave_is_an_error_of_the_stage(place, example_stages, monkeypatch):
    from luthier.recipe.loading import load_recipe
    from luthier.runs.runner import run_cell
    from luthier.stages import StageOutputs, metrics_record
    from tests.stages.examples import Words

    place.recipe["stages"] = [{"words": {}}]
    monkeypatch.setattr(Words, "run", lambda *_: StageOutputs(metrics_record("words")))
    with pytest.raises(TypeError, match="the stage words says that it gives"):
        run_cell(load_recipe(place.write()), place.run_folder)
    assert not (place.run_folder / "00-words" / "done.json").exists()


def test_a_dry_run_tells_of_every_stage(place, capsys):
    place.recipe["stages"] += [{"tune": {**place.tune, "method": "bitfit"}}, {"evaluate": {"split": "validation"}}]
    planned = plan(place, capsys)
    assert planned.count("to do") == 4
    assert planned.count("parameters to train") == 2
    assert "rows                 32 of test" in planned
    assert "rows                 32 of validation" in planned
    made = f"00-tune/model, to be made; planned on {place.folder / 'model'}"
    assert planned.count(made) == 2
    del place.recipe["stages"][2:]
    assert place.run() == 0
    place.recipe["stages"] += [{"tune": {**place.tune, "method": "bitfit"}}]
    planned = plan(place, capsys)
    assert planned.count("done already") == 2
    assert "starts from" not in planned
    assert planned.count("parameters to train") == 1


def test_a_dry_run_trains_an_adapter_on_that_is_not_there_yet(place, capsys):
    place.tune["method"] = "lora"
    place.recipe["stages"] = [{"tune": place.tune}, {"tune": {**place.tune, "continue_adapter": True}}]
    planned = plan(place, capsys)
    assert planned.count("parameters to train") == 2
    assert place.run() == 0


def test_a_dry_run_says_what_nothing_can_be_told_of(place, example_stages, capsys):
    del place.recipe["stages"][1:]
    place.recipe["stages"] += [
        {"words": {}},
        {"twins": {"elder": "stages.0", "younger": "stages.0", "list": "stages.1"}},
    ]
    assert "starts from          01-words/list, of which nothing can be told before it is there" in plan(place, capsys)


# -- language models ---------------------------------------------------------------------------------------------


@pytest.fixture
def language(place: Workplace) -> Workplace:
    """A tiny decoder and plain text."""
    folder = place.folder / "llama"
    tokenizer = tokenizer_of([*GOOD_WORDS, *BAD_WORDS, *PLAIN_WORDS], "llama")
    tokenizer.save_pretrained(folder)
    model_of("llama", len(tokenizer)).save_pretrained(folder)
    draw = [" ".join(text.split()[:4]) for text, _ in sentences(40, 3)]
    for split, rows in (("train", draw[:24]), ("validation", draw[24:32]), ("test", draw[32:])):
        (place.folder / f"{split}.txt").write_text("".join(f"{row}\n" for row in rows))
    data = {split: str(place.folder / f"{split}.txt") for split in ("train", "validation", "test")}
    tune = {"method": "full", "data": data, "epochs": 3, "batch_size": 8, "learning_rate": 1e-2}
    judge = {"data": data, "suites": ["perplexity"]}
    place.recipe.update(model=str(folder), stages=[{"evaluate": judge}, {"tune": tune}, {"evaluate": judge}])
    return place


@pytest.mark.parametrize("method", ["full", "lora"])
def test_perplexity_before_and_after_tuning_on_text_and_a_further_tune(method, language, trained, capsys):
    labelled = {split: str(language.folder / f"{split}.tsv") for split in ("train", "validation", "test")}
    language.recipe["stages"][1]["tune"]["method"] = method
    language.recipe["stages"] += [
        {"tune": {"method": "lora", "data": labelled, "epochs": 1, "batch_size": 8}},
        {"evaluate": {"suites": ["task"]}},
    ]
    assert plan(language, capsys).count("to do") == 5
    assert language.run() == 0
    before, after = (language.metrics(f"0{n}-evaluate")["scores"]["test/perplexity"] for n in (0, 2))
    assert after < before
    assert 0 <= language.metrics("04-evaluate")["scores"]["test/accuracy"] <= 1
    assert json.loads((language.run_folder / "01-tune" / "key.json").read_text())["gives"] == {"model": "pretrained"}

    language.recipe.update(name="later", model=str(language.run_folder / "01-tune"))
    language.recipe["stages"] = language.recipe["stages"][2:3]
    assert language.run() == 0
    later = json.loads((language.folder / "runs" / "later" / "00-evaluate" / "metrics.json").read_text())
    assert later["scores"]["test/perplexity"] == pytest.approx(after)


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda p: no_decoder(p), 2, "predicts no text from left to right"),
        (lambda p: judged(p)["suites"].append("calibration"), 2, "calibration can't be judged"),
        (lambda p: judged(p).update(data={"test": str(p.folder / "test.tsv")}), 2, "no head for a single_sentence"),
    ],
)
def test_what_is_no_language_model_or_no_text_is_refused_before_anything_runs(
    change, code, message, language, trained, capsys
):
    language.recipe["stages"] = language.recipe["stages"][1::-1]
    change(language)
    assert language.run() == code
    assert message in capsys.readouterr().err
    assert not trained


def no_decoder(place: Workplace) -> None:
    place.recipe.update(model=str(place.folder / "model"), stages=place.recipe["stages"][1:])


def judged(place: Workplace) -> dict[str, Any]:
    return place.recipe["stages"][1]["evaluate"]


# -- keys ----------------------------------------------------------------------------------------------------------


def test_editing_a_plugin_runs_its_stages_again_and_no_others(place, trained, monkeypatch):
    import importlib
    import sys

    from luthier.registry import METHODS

    file = place.folder / "own_method.py"
    file.write_text((Path(__file__).parent / "own_method.txt").read_text())
    monkeypatch.syspath_prepend(str(place.folder))
    monkeypatch.setattr(METHODS, "_entries", {name: METHODS.get(name) for name in METHODS.names()})
    place.recipe["plugins"] = ["own_method"]
    place.recipe["stages"] = [{"tune": place.tune}, {"tune": {**place.tune, "method": "head_bias"}}]
    assert place.run() == 0
    plain, own = key_of(place, "00-tune"), key_of(place, "01-tune")
    file.write_text(file.read_text() + "\n# A comment.\n")
    assert place.run() == 0
    assert key_of(place, "01-tune") == own
    steps = len(trained)
    file.write_text(file.read_text().replace('"classifier.bias"', '"classifier.weight"'))
    importlib.reload(sys.modules["own_method"])
    assert place.run() == 0
    assert (key_of(place, "00-tune"), len(trained)) == (plain, steps + 16)
    assert key_of(place, "01-tune") != own
    assert place.metrics("01-tune")["cost"]["trainable_parameters"] == 64


def test_the_code_of_the_task_is_in_the_key(place):
    from luthier.recipe.loading import load_recipe
    from luthier.runs.keys import stage_modules
    from luthier.stages.base import StageInputs

    def modules(inputs: StageInputs) -> list[set[str]]:
        stages = load_recipe(place.write()).stage_list()
        return [{m for m in stage_modules(stage, inputs) if m.startswith("luthier.tasks.")} for stage in stages]

    anything, nothing = modules(StageInputs({}, 0))
    assert {"luthier.tasks.single_sentence", "luthier.tasks.token_labels"} < anything
    assert not nothing
    place.tune["data"]["task"] = "single_sentence"
    stated, _ = modules(StageInputs({}, 0))
    shared = {"luthier.tasks.base", "luthier.tasks.classes", "luthier.tasks.as_text"}
    assert stated == {"luthier.tasks.single_sentence", *shared}
    data = load_recipe(place.write()).stage_list()[0].data
    assert modules(StageInputs({}, 0, data)) == [stated, stated]


def test_one_of_several_processes_that_cannot_find_each_other_is_refused(place, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert place.run() == WorkspaceError.exit_code
    told = capsys.readouterr().err
    assert "WORLD_SIZE says that 2 processes were started, and RANK, MASTER_ADDR, MASTER_PORT is not set" in told
    assert not place.run_folder.exists()
