"""Runs of two processes beside the same runs of one; torchrun starts those of which one is killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from luthier.data.batches.sampling import LengthBucketSampler
from luthier.storage.jsonlines import read_log
from tests.cli.conftest import Workplace, sentences, write_tsv
from tests.evaluation.text_models import model_of, tokenizer_of
from tests.processes import ranks
from tests.redteaming.conftest import WORDS, loop_settings

# What is run once for all of them is run by one worker.
pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group(__name__)]
SCRIPT = Path(__file__).with_name("along.py")
SOURCES = Path(__file__).parents[2]


def torchrun(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    paths = os.pathsep.join([str(SOURCES / "src"), str(SOURCES), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [*command, str(SCRIPT), *arguments],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "LUTHIER_CACHE": str(folder / "cache")},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
    )


def told_by_two(plan: list[dict[str, Any]], folder: Path) -> list[list[dict[str, Any]]]:
    """What each of two processes says of the runs of a plan, started as torchrun starts them."""
    (folder / "plan.json").write_text(json.dumps(plan))
    environment = os.environ | {"LUTHIER_CACHE": str(folder / "cache")}
    for done in ranks(2, SCRIPT, "many", folder / "plan.json", cwd=folder, env=environment, timeout=500):
        assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"told-{number}.json").read_text()) for number in range(2)]


def recipe(place: Workplace, name: str, **tune: Any) -> dict[str, Any]:
    """Tune and evaluate, without anything drawn while training."""
    data = place.tune["data"]
    settings = {**place.tune, "epochs": 2, "learning_rate": 1e-3, "accumulation": 2, "checkpoint_every": 5, **tune}
    return {**place.recipe, "name": name, "stages": [{"tune": settings | {"data": data}}, place.recipe["stages"][1]]}


def represent(place: Workplace, name: str, batch_size: int) -> dict[str, Any]:
    data = {split: place.tune["data"][split] for split in ("train", "validation", "test")}
    tasks = {"films": {"data": {split: data[split] for split in ("train", "validation")}}}
    heads = {"mood": {"data": {split: data[split] for split in ("train", "test")}}}
    stage = {"tasks": tasks, "heads": heads, "epochs": 1, "batch_size": batch_size}
    return {"name": name, "model": place.recipe["model"], "stages": [{"represent": stage}]}


def redteam(folder: Path, name: str, batch_size: int) -> dict[str, Any]:
    """Two rounds of a tiny speaker against its twin."""
    things = "kettle garden ladder violin pillow harbour candle meadow".split()
    (folder / "seeds.txt").write_text("".join(f"how may i hide the {x} quietly\n" for x in things))
    (folder / "held.txt").write_text("".join(f"tell me to take one {x} without a word\n" for x in things[:6]))
    side = {"max_steps": 2, "batch_size": batch_size}
    settings = loop_settings(folder, seeds=str(folder / "seeds.txt"), adversary=side, target=side)
    settings["evaluation"] = {"transfer": False, "final_attacks": False, "every_round": False}
    return {"name": name, "model": str(folder / "speaker"), "seed": 5, "stages": [{"redteam": settings}]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workplace:
    """The model is without dropout; the last step of an epoch has one row, fewer than there are processes."""
    place = Workplace(tmp_path_factory.mktemp("place"), tiny_model)
    config = place.folder / "model" / "config.json"
    known = json.loads(config.read_text())
    config.write_text(json.dumps(known | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}))
    write_tsv(place.folder / "train.tsv", sentences(121, 0))
    tokenizer = tokenizer_of(WORDS, "llama")
    tokenizer.save_pretrained(place.folder / "speaker")
    model_of("llama", len(tokenizer)).save_pretrained(place.folder / "speaker")
    return place


@pytest.fixture(scope="module")
def killed(place: Workplace) -> subprocess.CompletedProcess[str]:
    """A run whose other process was killed after a checkpoint."""
    file = place.folder / "killed.json"
    file.write_text(json.dumps(recipe(place, "killed", batch_size=4)))
    return torchrun("one", str(file), "two", folder=place.folder)


@pytest.fixture(scope="module")
def told(place: Workplace, killed: Any) -> list[list[dict[str, Any]]]:
    """What each process says of the runs that follow, those of `killed` among them."""
    shutil.copytree(place.folder / "two" / "killed", place.folder / "as-killed")
    small, two = recipe(place, "straight", batch_size=4), str(place.folder / "two")
    noisy = recipe(place, "noisy", batch_size=4, method="lora", objective="roast", epochs=1)
    plan = [
        {"recipe": small, "output": two},
        {"recipe": recipe(place, "killed", batch_size=4), "output": two},
        {"recipe": small | {"name": "nan"}, "output": two, "harm": "loss"},
        {"recipe": small | {"name": "gone"}, "output": two, "harm": "data"},
        {"recipe": represent(place, "represent", 4), "output": two},
        {"recipe": recipe(place, "minutes", batch_size=4, max_steps=4, max_minutes=5), "output": two},
        {"recipe": recipe(place, "adapter", batch_size=4, method="head_only", max_steps=4), "output": two},
        {
            "recipe": recipe(place, "grid", batch_size=4, max_steps=4)
            | {"compare": {"over": {"stages.0.tune.learning_rate": [1e-3, 1e30]}}},
            "output": two,
        },
        {"recipe": small | {"name": "stopped"}, "output": two, "harm": "signal"},
        {"recipe": small | {"name": "stopped"}, "output": two},
        {"recipe": noisy | {"name": "noisy"}, "output": two},
        {"recipe": noisy | {"name": "noisy stopped"}, "output": two, "harm": "signal"},
        {"recipe": noisy | {"name": "noisy stopped"}, "output": two},
        {"recipe": redteam(place.folder, "redteam", batch_size=4), "output": two},
    ]
    return told_by_two(plan, place.folder)


def outcome(folder: Path, stage: str) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / stage / "metrics.json").read_text())
    return metrics


def assert_alike(one: Path, other: Path, within: float) -> None:
    files = sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    assert files
    for path in files:
        weights, others = load_file(one / path), load_file(other / path)
        assert weights.keys() == others.keys()
        assert max(float((weights[name] - others[name]).abs().max()) for name in weights) <= within


def one_process(place: Workplace, recipe: dict[str, Any]) -> Path:
    import luthier

    return luthier.run(recipe, output=place.folder / "one").folder


def test_two_processes_end_as_one_with_the_whole_batch(place: Workplace, told: Any) -> None:
    one = one_process(place, recipe(place, "straight", batch_size=8))
    two = place.folder / "two" / "straight"
    assert_alike(one / "00-tune" / "model", two / "00-tune" / "model", 1e-6)
    for stage in ("00-tune", "01-evaluate"):
        expected = outcome(one, stage)["scores"]
        assert outcome(two, stage)["scores"] == pytest.approx(expected, abs=1e-6)
    logs = [read_log(folder / "00-tune" / "log.jsonl") for folder in (one, two)]
    assert [(line["event"], line["step"]) for line in logs[0]] == [(line["event"], line["step"]) for line in logs[1]]
    losses = [[line["loss"] for line in log if "loss" in line] for log in logs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_one_process_writes(place: Workplace, told: Any) -> None:
    for process in told:
        assert process[0]["folder"] == str(place.folder / "two" / "straight")
        assert process[0]["errors"] == []
    log = read_log(place.folder / "two" / "straight" / "00-tune" / "log.jsonl")
    counted = Counter((line["event"], line["step"]) for line in log)
    assert set(counted.values()) == {1}
    names = {path.name for path in (place.folder / "two" / "straight").rglob("*")}
    assert not any(name.startswith((".writing", "replaced", "checkpoint")) for name in names)


def test_a_killed_process_ends_the_others(place: Workplace, killed: Any, told: Any) -> None:
    assert killed.returncode != 0
    assert "another process of the run has ended" in killed.stderr or "Signal 9 (SIGKILL)" in killed.stderr
    assert not list((place.folder / "as-killed").rglob("done.json"))
    assert list((place.folder / "as-killed").rglob("checkpoint-10"))


def test_a_killed_run_goes_on_exactly(place: Workplace, told: Any) -> None:
    two = place.folder / "two"
    assert any(line["event"] == "resume" for line in read_log(two / "killed" / "00-tune" / "log.jsonl"))
    assert_alike(two / "straight" / "00-tune" / "model", two / "killed" / "00-tune" / "model", 0.0)
    assert outcome(two / "killed", "00-tune")["scores"] == outcome(two / "straight", "00-tune")["scores"]


@pytest.mark.parametrize(("at", "name"), [(8, "stopped"), (11, "noisy stopped")])
def test_a_signal_to_one_process_stops_all_with_one_checkpoint(place: Workplace, told: Any, at: int, name: str) -> None:
    main, other = (process[at] for process in told)
    assert main["code"] == other["code"] == 75
    assert "stopped at step 7 of" in main["error"]
    assert "the newest checkpoint is checkpoint-7" in main["error"]
    two = place.folder / "two"
    straight = two / {"stopped": "straight", "noisy stopped": "noisy"}[name]
    assert_alike(straight / "00-tune" / "model", two / name / "00-tune" / "model", 0.0)


def test_an_error_of_one_process_is_an_error_of_all(told: Any) -> None:
    main, other = (process[2] for process in told)
    assert main["code"] == other["code"] == 5
    assert "process 1: " in main["error"]
    assert "the loss is not finite at step 1" in main["error"]
    assert "training rows" in main["error"]
    main, other = (process[3] for process in told)
    assert main["code"] == other["code"] == 3
    assert "process 1 could not begin: train.tsv: the disk of this machine is gone" in main["error"]


def test_prefixes_are_trained_by_all(place: Workplace, told: Any) -> None:
    one, two = one_process(place, represent(place, "represent", 8)), place.folder / "two" / "represent"
    assert_alike(one / "00-represent" / "model" / "prefixes", two / "00-represent" / "model" / "prefixes", 1e-6)
    scores = outcome(one, "00-represent")["scores"]
    assert outcome(two, "00-represent")["scores"] == pytest.approx(scores, abs=1e-3)


def test_a_frozen_part_is_computed_once_for_all(place: Workplace, told: Any) -> None:
    one = one_process(place, recipe(place, "adapter", batch_size=8, method="head_only", max_steps=4))
    assert_alike(one / "00-tune" / "model", place.folder / "two" / "adapter" / "00-tune" / "model", 1e-6)


def test_both_sides_of_red_teaming_are_trained_by_all_and_written_to_by_one(place: Workplace, told: Any) -> None:
    one = one_process(place, redteam(place.folder, "redteam", batch_size=8))
    two = place.folder / "two" / "redteam"
    assert_alike(one, two, 1e-5)
    for file in ("answers/answers.jsonl", "selected/target.jsonl", "selected/adversary.jsonl"):
        for number in (1, 2):
            found = [folder / "00-redteam" / f"round-0{number}" / file for folder in (one, two)]
            assert found[0].read_bytes() == found[1].read_bytes()


def test_one_clock_ends_all(place: Workplace, told: Any) -> None:
    assert outcome(place.folder / "two" / "minutes", "00-tune")["details"]["steps"] == 4


def test_a_cell_that_fails_leaves_the_processes_in_step(told: Any) -> None:
    good, bad = told[0][7]["errors"]
    assert good is None
    assert "not finite" in bad
    assert told[1][7]["errors"] == [good, bad]


@pytest.mark.parametrize("rows", [1, 2, 7, 16, 33, 64])
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_processes_share_the_rows_of_every_step_out(rows: int, processes: int, batch_size: int) -> None:
    lengths = [3 + i % 5 for i in range(rows)]
    whole = LengthBucketSampler(lengths, batch_size * processes, 2, seed=3)
    own = [LengthBucketSampler(lengths, batch_size, 2, 3, processes, number) for number in range(processes)]
    shares = [list(sampler) for sampler in own]
    assert [len(share) for share in shares] == [len(sampler) for sampler in own]
    passes = [[share[i : i + batch_size] for i in range(0, len(share), batch_size)] for share in shares]
    assert len({len(of_one) for of_one in passes}) == 1
    seen = [[row for part in together for row in part if row < rows] for together in zip(*passes, strict=True)]
    order = whole.order(0)
    size = batch_size * processes
    assert [sorted(rows) for rows in seen] == [sorted(order[i : i + size]) for i in range(0, rows, size)]
