"""Two processes share the rows of a stream, and the passes of evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luthier.storage.jsonlines import read_log
from tests.cli.conftest import Workplace
from tests.runs.test_ranks import assert_alike, one_process, outcome, place, recipe, told_by_two

__all__ = ["place"]
# What is run once for all of them is run by one worker.
pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group(__name__)]


def evaluated(place: Workplace, name: str, batch_size: int, **tune: Any) -> dict[str, Any]:
    """Tune and evaluate, with four passes over the validation rows and four over the test rows."""
    made = recipe(place, name, batch_size=batch_size, evaluation_batch_size=8, evaluate_every=4, **tune)
    made["stages"][1] = {"evaluate": {**place.recipe["stages"][1]["evaluate"], "batch_size": 8}}
    return made


def streamed(place: Workplace, name: str, batch_size: int, train: str = "train.tsv") -> dict[str, Any]:
    """Tune on a stream, almost twice around."""
    made = evaluated(place, name, batch_size, max_steps=14)
    made["stages"][0]["tune"].pop("epochs")
    data = {**place.tune["data"], "train": str(place.folder / train)}
    made["stages"][0]["tune"]["data"] = data | {"streaming": True, "buffer": 16, "labels": ["negative", "positive"]}
    return made


def with_workers(recipe: dict[str, Any], name: str) -> dict[str, Any]:
    """The same training, with a worker for every process."""
    tune, *others = recipe["stages"]
    return {**recipe, "name": name, "stages": [{"tune": {**tune["tune"], "workers": 1}}, *others]}


def only_evaluated(place: Workplace, name: str) -> dict[str, Any]:
    """Evaluate what `streamed` ended with."""
    model = place.folder / "two" / "streamed" / "00-tune" / "model"
    suites = {**place.recipe["stages"][1]["evaluate"], "batch_size": 8, "data": place.tune["data"]}
    return {"name": name, "model": str(model), "stages": [{"evaluate": suites}]}


@pytest.fixture(scope="module")
def told(place: Workplace) -> list[list[dict[str, Any]]]:
    """What each process says of these runs."""
    rows = (place.folder / "train.tsv").read_text().splitlines()
    (place.folder / "faulty.tsv").write_text("\n".join([*rows[:60], "a fine film\todd", *rows[61:]]))
    two, stream = str(place.folder / "two"), streamed(place, "streamed", batch_size=4)
    plan = [
        {"recipe": stream, "output": two},
        {"recipe": stream | {"name": "stopped"}, "output": two, "harm": "signal"},
        {"recipe": stream | {"name": "stopped"}, "output": two},
        {"recipe": streamed(place, "faulty", batch_size=4, train="faulty.tsv"), "output": two},
        {"recipe": stream | {"name": "pass"}, "output": two, "harm": "pass"},
        {"recipe": stream | {"name": "score"}, "output": two, "harm": "score"},
        {"recipe": only_evaluated(place, "judged"), "output": two, "harm": "pass"},
        {"recipe": only_evaluated(place, "judged"), "output": two},
        {"recipe": with_workers(stream, "helped"), "output": two},
        {"recipe": with_workers(evaluated(place, "rows helped", 4, max_steps=6, objective="roast"), "rows helped")},
        {"recipe": evaluated(place, "rows", 4, max_steps=6, objective="roast")},
    ]
    return told_by_two([{"output": two, **one} for one in plan], place.folder)


def test_a_stream_is_shared_as_one_process_with_the_whole_batch_reads_it(place: Workplace, told: Any) -> None:
    one = one_process(place, streamed(place, "streamed", batch_size=8))
    two = place.folder / "two" / "streamed"
    assert_alike(one / "00-tune" / "model", two / "00-tune" / "model", 1e-6)
    for stage in ("00-tune", "01-evaluate"):
        assert outcome(two, stage)["scores"] == pytest.approx(outcome(one, stage)["scores"], abs=1e-6)


def test_a_stopped_stream_goes_on_in_every_process_and_reads_no_row_again(place: Workplace, told: Any) -> None:
    two = place.folder / "two"
    assert_alike(two / "streamed" / "00-tune" / "model", two / "stopped" / "00-tune" / "model", 0.0)
    for process in told:
        straight, stopped, resumed = (process[number]["read"] for number in range(3))
        looks = straight.index(2) - 1
        assert straight[looks:] == [1 + row % 121 for row in range(len(straight) - looks)]
        assert len(stopped) > looks
        assert stopped + resumed[looks:] == straight


@pytest.mark.parametrize(("alone", "helped"), [("streamed", "helped"), ("rows", "rows helped")])
def test_workers_of_each_process_change_nothing(place: Workplace, told: Any, alone: str, helped: str) -> None:
    two = place.folder / "two"
    assert_alike(two / alone / "00-tune" / "model", two / helped / "00-tune" / "model", 0.0)


def test_a_faulty_row_of_a_stream_is_an_error_of_all(told: Any) -> None:
    main, other = (process[3] for process in told)
    assert main["code"] == other["code"] == 3
    assert "row 60 (line 61), column 'label': the label 'odd'" in main["error"]


def test_both_processes_evaluate_and_score_what_one_does(place: Workplace, told: Any) -> None:
    """Four evaluations while training, and one stage, of four passes each."""
    assert [process[0]["passes"] for process in told] == [10, 10]
    assert [process[7]["passes"] for process in told] == [2, 2]
    model = place.folder / "two" / "streamed" / "00-tune" / "model"
    one = one_process(place, only_evaluated(place, "judged"))
    assert outcome(one, "00-evaluate")["scores"] == outcome(place.folder / "two" / "judged", "00-evaluate")["scores"]
    assert outcome(model.parents[1], "01-evaluate")["scores"] == outcome(one, "00-evaluate")["scores"]


@pytest.mark.parametrize("at", [4, 6])
def test_an_error_of_another_process_in_a_pass_is_an_error_of_all(told: Any, at: int) -> None:
    main, other = (process[at] for process in told)
    assert main["code"] == other["code"] == 3
    assert "process 1: the memory of this accelerator is gone" in main["error"]


def test_an_error_of_the_main_process_in_scoring_is_an_error_of_all(told: Any) -> None:
    main, other = (process[5] for process in told)
    assert main["code"] == other["code"] == 3
    assert main["error"].startswith("nothing can be scored")


def test_what_failed_in_evaluating_left_no_score(place: Workplace, told: Any) -> None:
    for name in ("pass", "score"):
        log = read_log(Path(place.folder) / "two" / name / "00-tune" / "log.jsonl")
        assert not [line for line in log if line["event"] == "evaluate"]
