"""Trials on validation, a pilot, and as many seeds as it asks for."""

from dataclasses import replace

import numpy as np
import pytest
from evidence import Claim
from harness import cell_name
from protocol import (
    PILOT,
    TRIAL_SEEDS,
    WITHOUT_END,
    Comparison,
    Study,
    at_rates,
    choices,
    differences,
    finals,
    page,
    seeds_of,
    trials,
)

SETS = ("one", "two")
PAIRS = [(name, arm) for name in SETS for arm in "abc"]


def study(published: float = 0.1, **more) -> Study:
    claim = Claim("A is above B.", "accuracy, A less B", published, "a table", "masked LM")
    return Study(
        name="study",
        title="A against B",
        about="",
        model="package:none",
        sets={name: {"source": name} for name in SETS},
        tune={"max_steps": 1},
        arms={name: at_rates({"name": name}, 0.1, 0.2) for name in ("a", "b", "c")},
        comparisons=(Comparison(claim, "a", ("b",)),),
        **more,
    )


def trial_cells(best: int = 1) -> list[dict]:
    scores = {0: 0.5, 1: 0.4} if best == 0 else {0: 0.4, 1: 0.5}
    return [
        {"cell": cell, "primary": "accuracy", "validation_accuracy": scores[cell["trial"]]} for cell in trials(study())
    ]


def final_cells(of: Study, gain: float, spread: float = 0.0, seeds: int = PILOT) -> list[dict]:
    found = []
    for cell in finals(of, choices(of, trial_cells()), dict.fromkeys(PAIRS, seeds)):
        generator = np.random.default_rng(cell["seed"])
        share = 0.5 + (spread * generator.normal() + gain if cell["arm"] == "a" else 0.0)
        rows = np.random.default_rng(7).random(200) < share
        right = "".join("1" if r else "0" for r in rows)
        scores = {"validation_accuracy": share, "test_accuracy": rows.mean(), "test_right": right}
        found.append({"cell": cell, "primary": "accuracy", "trainable": 10, **scores})
    return found


def test_every_arm_has_as_many_trials():
    cells = trials(study())
    assert len(cells) == len(SETS) * 3 * 2 * len(TRIAL_SEEDS) == len(set(map(cell_name, cells)))


@pytest.mark.parametrize("best", [0, 1])
def test_validation_chooses(best):
    assert set(choices(study(), trial_cells(best)).values()) == {best}


def test_nothing_is_chosen_before_all_trials_are_run():
    assert choices(study(), trial_cells()[:-1]).keys() == {(s, a) for s in SETS for a in "abc"} - {("two", "c")}


def test_seeds_of_trials_are_used_for_nothing_else():
    chosen = choices(study(), trial_cells())
    assert not {cell["seed"] for cell in finals(study(), chosen, dict.fromkeys(PAIRS, 50))} & set(TRIAL_SEEDS)


def test_the_pilot_decides_on_the_seeds_of_the_main_arms():
    clear = seeds_of(study(published=0.4), final_cells(study(), 0.1))
    assert clear == dict.fromkeys(PAIRS, PILOT)
    hard = seeds_of(study(published=0.24), final_cells(study(), 0.1, spread=0.15))
    assert all(PILOT < hard[name, arm] <= 10 for name in SETS for arm in "ab")
    assert all(hard[name, "c"] == PILOT for name in SETS)


def test_no_seeds_are_spent_where_test_rows_decide():
    assert seeds_of(study(published=0.001), final_cells(study(), 0.1))["one", "a"] == WITHOUT_END


def test_only_the_part_that_is_compared_has_more_seeds():
    several = replace(study(published=0.24).comparisons[0], second=("b", "c"), sets=("two",))
    cells = final_cells(study(), 0.1, spread=0.15)
    for entry in cells:
        entry["validation_accuracy"] = {"a": 0.5, "b": 0.4, "c": 0.6}[entry["cell"]["arm"]]
    found = seeds_of(replace(study(), comparisons=(several,)), cells)
    assert {pair for pair, seeds in found.items() if seeds > PILOT} == {("two", "a"), ("two", "c")}


def test_cells_in_which_training_broke_down_are_the_worst_trials_and_no_scores():
    cells = trial_cells(best=1)
    for entry in cells:
        if entry["cell"]["trial"] == 1 and entry["cell"]["arm"] == "a" and entry["cell"]["seed"] == TRIAL_SEEDS[0]:
            entry["failed"] = "the loss is nan"
    chosen = choices(study(), cells)
    assert {pair for pair, trial in chosen.items() if trial == 0} == {(name, "a") for name in SETS}
    ends = final_cells(study(), 0.2)
    ends[0] = {"cell": ends[0]["cell"], "failed": "the loss is nan", "wall_seconds": 1.0}
    assert differences(study(), study().comparisons[0], ends).seeds == PILOT - 1
    assert "broke down in 3 cells" in page(replace(study(), comparisons=()), cells + ends)


def test_differences_are_paired_by_seed_and_row():
    found = differences(study(), study().comparisons[0], final_cells(study(), 0.2))
    assert found.rows == 400
    assert found.mean == pytest.approx(0.2, abs=0.05)


def test_best_part_is_the_one_that_validation_likes():
    several = replace(study().comparisons[0], second=("b", "c"))
    cells = final_cells(study(), 0.2)
    for entry in cells:
        if entry["cell"]["arm"] == "c":
            entry["test_right"] = "1" * 200
            entry["validation_accuracy"] = 0.0
    assert differences(study(), several, cells).mean == pytest.approx(0.2, abs=0.05)


def test_page_has_scores_and_choices():
    text = page(replace(study(), comparisons=()), trial_cells() + final_cells(study(), 0.2))
    assert "| one | a | learning_rate 0.2 | 2 |" in text
    assert "| a | 10 |" in text
