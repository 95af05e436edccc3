"""The suite `lm_eval`: what the harness is asked, and what is taken over of its answers."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from luthier.cli.arguments import main
from luthier.data.loading import load_data
from luthier.data.settings import DataSettings
from luthier.errors import DataError, RecipeError
from luthier.evaluation.run import merge
from luthier.evaluation.standard_tasks import TaskScore, _scores, _section, known_tasks
from luthier.evaluation.subject import SuiteResult
from luthier.evaluation.suites.standard_tasks import StandardTasksSuite
from luthier.registry import STAGES
from luthier.stages import StageInputs
from tests.evaluation.test_untuned import metrics_of

HARNESS = importlib.util.find_spec("lm_eval") is not None
QUESTIONS = [("a good bad", ["film was", "plot the not"], 0), ("very not", ["it", "good good"], 1)]


@pytest.fixture
def own_tasks(tmp_path: Path) -> Path:
    """A folder with one task of two choices, over a file of six questions."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"question": q, "choices": c, "answer": a} for q, c, a in 3 * QUESTIONS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "own_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "own_choice.yaml").write_text(json.dumps(task))
    return folder


def judged(folder: Path, tasks: Path, tune: dict[str, Any], **more: Any) -> dict[str, Any]:
    suite = {"name": "lm_eval", "tasks": ["own_choice"], "folder": str(tasks), **more}
    return metrics_of(folder, tune, {"suites": [suite]})


@pytest.mark.skipif(not HARNESS, reason="needs the extra lm-eval")
def test_a_choice_is_right_where_its_log_likelihood_is_the_largest(tmp_path: Path, own_tasks: Path):
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    found = judged(tmp_path, own_tasks, {})
    name = "validation/own_choice/acc"
    assert found["scores"].keys() == {name}
    right = [log_likelihoods(tmp_path / "llama", q, c).argmax() == a for q, c, a in 3 * QUESTIONS]
    assert found["scores"][name] == pytest.approx(np.mean(right))
    low, high = found["intervals"][name]
    assert 0 <= low < high <= 1
    assert found["details"]["lm_eval"].keys() == {"harness", "versions"}
    assert random.getstate() == state[0]
    assert np.random.get_state()[1].tolist() == state[1]


def log_likelihoods(model: Path, question: str, choices: list[str]) -> np.ndarray:
    """Of every choice behind the question, a blank between them."""
    network, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    start = tokenizer(question)["input_ids"]
    found = []
    for choice in choices:
        ids = tokenizer(f"{question} {choice}")["input_ids"]
        with torch.inference_mode():
            logs = network(torch.tensor([ids])).logits[0].log_softmax(-1)
        found.append(sum(float(logs[n - 1, ids[n]]) for n in range(len(start), len(ids))))
    return np.array(found)


@pytest.mark.skipif(not HARNESS, reason="needs the extra lm-eval")
def test_the_model_before_tuning_stands_beside_the_adapter(tmp_path: Path, own_tasks: Path):
    alone = judged(tmp_path, own_tasks, {})
    tuned = judged(tmp_path, own_tasks, {"method": "lora", "learning_rate": 0.01}, limit=2)
    assert tuned["details"]["untuned"].keys() == alone["scores"].keys()
    assert "before tuning" in json.dumps(tuned["details"]["sections"])


@pytest.mark.skipif(not HARNESS, reason="needs the extra lm-eval")
def test_unknown_tasks_are_refused_with_the_nearest(own_tasks: Path):
    with pytest.raises(RecipeError, match="no task 'own_choise'") as raised:
        known_tasks(StandardTasksSuite(tasks=["own_choise"], folder=str(own_tasks)))
    assert "own_choice" in str(raised.value)


@pytest.mark.skipif(not HARNESS, reason="needs the extra lm-eval")
def test_the_list_of_tasks_is_made_once_for_what_the_folder_holds(own_tasks: Path):
    suite = StandardTasksSuite(tasks=["own_choice"], folder=str(own_tasks))
    first = known_tasks(suite)
    assert known_tasks(suite.model_copy(update={"shots": 1})) is first
    (own_tasks / "other.yaml").write_text((own_tasks / "own_choice.yaml").read_text().replace("own_choice", "other"))
    assert "other" in known_tasks(suite).all_tasks


@pytest.mark.skipif(not HARNESS, reason="needs the extra lm-eval")
def test_data_that_cannot_be_had_are_the_users_error(tmp_path: Path, own_tasks: Path, capsys):
    judged(tmp_path, own_tasks, {})
    (own_tasks / "rows.jsonl").unlink()
    assert (
        main(["run", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path), "--quiet", "--no-report"])
        == DataError.exit_code
    )
    assert "can't ask own_choice" in capsys.readouterr().err


def test_its_folder_is_part_of_the_key(own_tasks: Path):
    suite = StandardTasksSuite(tasks=["own_choice"], folder=str(own_tasks))
    before = suite.external_inputs()
    assert before.keys() == {"own_choice.yaml", "rows.jsonl"}
    (own_tasks / "own_choice.yaml").write_text("task: other")
    assert suite.external_inputs()["own_choice.yaml"] != before["own_choice.yaml"]


def test_files_of_one_name_in_the_folders_of_two_suites_are_told_apart(own_tasks: Path, tmp_path: Path):
    shutil.copytree(own_tasks, tmp_path / "others")
    suites = [
        {"name": "lm_eval", "tasks": [task], "folder": str(folder)}
        for task, folder in (("own_choice", own_tasks), ("other", tmp_path / "others"))
    ]
    stage = STAGES.get("evaluate").resolved()(suites=suites)
    found = [stage.external_inputs(StageInputs({}, 0))]
    for folder in (own_tasks, tmp_path / "others"):
        (folder / "own_choice.yaml").write_text(f"task: {folder.name}")
        found.append(stage.external_inputs(StageInputs({}, 0)))
    assert len(found[0]) == 4
    assert found[0] != found[1] != found[2]


def test_versions_of_the_tasks_of_two_suites_stand_side_by_side(tmp_path: Path):
    (tmp_path / "text.txt").write_text("a film\n" * 20)
    data = load_data(DataSettings(train=str(tmp_path / "text.txt"), validation_fraction=0.5))
    results = [
        SuiteResult(scores={f"{task}/acc": 0.5}, details={"lm_eval": {"harness": "0.4", "versions": {task: version}}})
        for task, version in (("arc_easy", "1.0"), ("hellaswag", "2.0"))
    ]
    record = merge(results, "validation", data, {}, {})
    assert record["details"]["lm_eval"] == {"harness": "0.4", "versions": {"arc_easy": "1.0", "hellaswag": "2.0"}}


def test_a_missing_folder_and_extra_are_told_before_anything_runs(tmp_path: Path, capsys):
    (tmp_path / "text.txt").write_text("a film\n" * 20)
    suite = {"name": "lm_eval", "tasks": ["arc_easy"], "folder": str(tmp_path / "none")}
    stage = {"evaluate": {"data": {"train": str(tmp_path / "text.txt"), "validation_fraction": 0.5}, "suites": [suite]}}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"name": "run", "model": "some/model", "stages": [stage]}))
    assert main(["validate", str(recipe)]) != 0
    told = capsys.readouterr().err
    assert "there is no folder" in told
    assert HARNESS or "luthier[lm-eval]" in told


FOUND = {
    "results": {
        "group": {"alias": "group", "acc,none": 0.5, "acc_stderr,none": 0.1, "sample_len": 20},
        "inside": {"alias": "inside", "acc,none": 0.5, "acc_stderr,none": 0.2},
        "sums": {
            "alias": "sums",
            "exact_match,strict-match": 1.0,
            "exact_match_stderr,strict-match": 0.0,
            "perplexity,none": 7.0,
            "perplexity_stderr,none": "N/A",
        },
    },
    "group_subtasks": {"group": ["inside"]},
    "n-samples": {"inside": {"effective": 20}, "sums": {"effective": 8}},
    "n-shot": {"inside": 3, "sums": 5},
}


def test_groups_and_tasks_outside_of_them_are_taken_over():
    found = {one.name: one for one in _scores(FOUND)}
    assert found.keys() == {"group/acc", "sums/exact_match strict-match", "sums/perplexity"}
    assert found["sums/exact_match strict-match"].shots == 5
    assert math.isnan(found["sums/perplexity"].error)


def test_of_a_group_without_numbers_its_tasks_count():
    """And of one inside it that has some, that group."""
    results = {
        "board": {"alias": "board", "name": "board"},
        "sums": {"acc,none": 0.4},
        "hard": {"acc,none": 0.5},
        "hard_a": {"acc,none": 0.6},
        "deep": {"acc,none": 0.7},
    }
    groups = {"board": ["sums", "hard"], "hard": ["hard_a", "bare"], "bare": ["deep"]}
    found = _scores({"results": results, "group_subtasks": groups, "n-samples": {}, "n-shot": {}})
    assert [one.name for one in found] == ["sums/acc", "hard/acc"]


@pytest.mark.parametrize(
    ("score", "ends"),
    [
        (TaskScore("a/acc", 0.5, 0.1, 20, 0), (0.304, 0.696)),
        (TaskScore("a/acc", 0.9, 0.1, 20, 0), (0.704, 1.0)),
        (TaskScore("a/perplexity", 7.0, math.nan, 20, 0), None),
        (TaskScore("a/word_perplexity", 7.0, 0.0, 20, 0), None),
        (TaskScore("group/acc", 1.0, 0.0, 0, None), None),
    ],
)
def test_intervals_stay_inside_what_a_score_can_be(score: TaskScore, ends):
    assert score.interval() == (ends if ends is None else pytest.approx(ends))


def test_the_page_shows_scores_and_intervals_as_everywhere():
    sure = TaskScore("a/acc", 0.99985, 0.00002, 400_000, 0)
    section = _section(StandardTasksSuite(tasks=["a"]), [sure], {"a/acc": 0.99951})
    assert section.table.rows == [["a/acc", "400,000", "0", "0.9998", "[0.9998, 0.9999]", "0.9995"]]


def test_questions_that_all_came_out_alike_are_not_exact():
    low, high = TaskScore("a/acc", 1.0, 0.0, 8, 0).interval()
    assert 0.5 < low < 0.8
    assert high == 1.0
