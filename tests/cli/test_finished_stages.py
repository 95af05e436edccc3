"""A finished stage: a kill near its end trains nothing again, and a file that changed afterwards is noticed."""

import json
import logging
import os
import sys
from pathlib import Path

import pytest

from luthier.extras import is_installed
from luthier.models import artifacts
from luthier.runs import runner
from luthier.storage import done
from luthier.storage import steps as steps_module
from luthier.storage.done import read_done, sweep, write_done
from luthier.training.trainer import LuthierTrainer

LISTED = {"key.json", "log.jsonl", "metrics.json", "model", "stage.yaml"}


class Killed(BaseException):
    pass


@pytest.fixture
def steps(monkeypatch) -> list[int]:
    """Grows by one with every micro-batch that is trained on."""
    taken, step = [], LuthierTrainer.training_step

    def counting(self, *args, **kwargs):
        taken.append(self.state.global_step)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(LuthierTrainer, "training_step", counting)
    return taken


@pytest.fixture
def tuning(workplace):
    del workplace.recipe["stages"][1:]
    workplace.tune["epochs"] = 1
    return workplace


def killing(module, name: str, *, call: int = 1, after: bool = False):
    """Replace a function by one that dies at the given call, before its work or after it."""
    real, calls = getattr(module, name), []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == call and not after:
            raise Killed
        result = real(*args, **kwargs)
        if len(calls) == call:
            raise Killed
        return result

    return dying


WINDOWS = {
    "before the model": (artifacts, "_write", 1, False),
    "before the model's place": (artifacts, "_put_in_place", 1, False),
    "after the model": (artifacts, "_put_in_place", 1, True),
    "before the marker": (steps_module, "write_done", 1, False),
    "after the marker": (steps_module, "write_done", 1, True),
    "before the checkpoints go": (steps_module, "sweep", 2, False),
    "at the end": (steps_module, "sweep", 2, True),
}


@pytest.mark.parametrize("window", WINDOWS)
def test_a_kill_at_the_end_of_a_stage_trains_nothing_again(tuning, steps, monkeypatch, window):
    module, name, call, after = WINDOWS[window]
    dies(tuning, monkeypatch, module, name, killing(module, name, call=call, after=after))
    finishes_without_training(tuning, steps)


@pytest.mark.parametrize("written", ["metrics.json", "done.json"])
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_around_a_file_at_the_end_trains_nothing_again(tuning, steps, monkeypatch, written, after):
    real = os.replace

    def dying(self, target):
        if self.name == f".writing-{written}" and not after:
            raise Killed
        real(self, target)
        if self.name == f".writing-{written}":
            raise Killed
        return target

    dies(tuning, monkeypatch, Path, "replace", dying)
    finishes_without_training(tuning, steps)


def test_a_kill_amid_the_checkpoints_trains_nothing_again(tuning, steps, monkeypatch):
    real = os.unlink

    def dying(path, *args, **kwargs):
        real(path, *args, **kwargs)
        if (tuning.run_folder / "00-tune" / "done.json").exists():
            raise Killed

    dies(tuning, monkeypatch, os, "unlink", dying)
    finishes_without_training(tuning, steps)


def dies(tuning, monkeypatch, module, name: str, dying) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, name, dying)
        with pytest.raises(Killed):
            tuning.run()


def finishes_without_training(tuning, steps: list[int]) -> None:
    trained = len(steps)
    assert trained == 16
    assert tuning.run() == 0
    assert len(steps) == trained
    stage = tuning.run_folder / "00-tune"
    assert read_done(stage) is not None
    assert {path.name for path in stage.iterdir()} == {*LISTED, "done.json"}


def test_the_environment_is_that_of_what_was_run_and_not_of_a_command_that_found_it_done(tuning, steps):
    assert tuning.run() == 0
    place = tuning.run_folder / "environment.json"
    elsewhere = json.loads(place.read_text()) | {"processor": "of another machine"}
    place.write_text(json.dumps(elsewhere))
    assert tuning.run() == 0
    assert json.loads(place.read_text()) == elsewhere
    tuning.tune["learning_rate"] = 0.5
    assert tuning.run() == 0
    assert json.loads(place.read_text())["processor"] != "of another machine"


def saved(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("recipe.yaml", "environment.json", "00-tune/stage.yaml")}


@pytest.mark.parametrize("refused", ["before any stage", "by the stage"])
def test_a_recipe_that_is_refused_leaves_that_of_the_results(tuning, monkeypatch, refused):
    assert tuning.run() == 0
    place = tuning.run_folder / "environment.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"processor": "of another machine"}))
    before = saved(tuning.run_folder)
    tuning.tune["learning_rate"] = 0.5
    (tuning.folder / "validation.tsv").write_text("text\tlabel\na film\tneither\n")
    if refused == "by the stage":
        monkeypatch.setattr(runner, "_check", lambda *_: None)
    assert tuning.run() == 3
    assert saved(tuning.run_folder) == before
    assert (tuning.run_folder / "00-tune" / "done.json").exists()


def test_a_cell_that_is_refused_leaves_the_environment_of_the_comparison(tuning, monkeypatch):
    tuning.recipe["compare"] = {"over": {"seed": [0, 1]}}
    assert tuning.run() == 0
    place = tuning.run_folder / "environment.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"processor": "of another machine"}))
    before = place.read_text()
    tuning.tune["learning_rate"] = 0.5
    (tuning.folder / "validation.tsv").write_text("text\tlabel\na film\tneither\n")
    monkeypatch.setattr(runner, "_check", lambda *_: None)
    assert tuning.run() == 3
    assert place.read_text() == before


def test_a_recipe_of_which_nothing_finished_is_that_of_the_last_attempt(tuning):
    (tuning.folder / "validation.tsv").write_text("text\tlabel\na film\tneither\n")
    for rate in (0.5, 0.25):
        tuning.tune["learning_rate"] = rate
        assert tuning.run() == 3
        assert f"learning_rate: {rate}" in (tuning.run_folder / "recipe.yaml").read_text()


def test_what_a_kill_left_is_swept_and_never_listed(tuning, steps):
    assert tuning.run() == 0
    stage = tuning.run_folder / "00-tune"
    for leftover in (".writing-metrics.json", ".model.ab12/weights", "checkpoints/0123/checkpoint-4/weights"):
        (stage / leftover).parent.mkdir(parents=True, exist_ok=True)
        (stage / leftover).write_text("half")
    write_done(stage, json.loads((stage / "key.json").read_text())["key"], 0.0)
    listed = json.loads((stage / "done.json").read_text())["files"]
    assert {name.partition("/")[0] for name in listed} == LISTED
    trained = len(steps)
    assert tuning.run() == 0
    assert len(steps) == trained
    assert not (stage / "checkpoints").exists()
    assert not [path for path in stage.iterdir() if path.name.startswith(".")]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", ["other bytes", "other bytes of the same time", "missing"])
def test_a_finished_model_that_changed_is_made_again(tuning, steps, caplog, harm):
    assert tuning.run() == 0
    weights = tuning.run_folder / "00-tune" / "model" / "model.safetensors"
    whole, stat, trained = weights.read_bytes(), weights.stat(), len(steps)
    if harm == "missing":
        weights.unlink()
    else:
        flip(weights)
    if harm.endswith("time"):
        os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with caplog.at_level(logging.WARNING):
        assert tuning.run() == 0
    assert len(steps) == 2 * trained
    assert weights.read_bytes() == whole
    assert "model/model.safetensors" in caplog.text
    assert "it runs again" in caplog.text
    assert len(list((tuning.run_folder / "replaced").iterdir())) == 1
    assert tuning.luthier("predict", str(tuning.run_folder), "--text", "a film") == 0


def test_a_large_file_is_read_only_where_its_time_of_change_is_another(tmp_path: Path, monkeypatch):
    large = tmp_path / "model" / "weights"
    large.parent.mkdir()
    large.write_bytes(bytes(1 << 20))
    write_done(tmp_path, "key", 0.0)
    read, real = [], done.remembered_sha256
    monkeypatch.setattr(done, "remembered_sha256", lambda path: read.append(path) or real(path))
    assert read_done(tmp_path) is not None
    assert not read
    os.utime(large)
    assert read_done(tmp_path) is not None
    assert read == [large]
    flip(large)
    assert read_done(tmp_path) is None


def test_sweeping_keeps_checkpoints_of_a_stage_that_goes_on(tmp_path: Path):
    kept = tmp_path / "checkpoints" / "checkpoint-1"
    kept.mkdir(parents=True)
    (tmp_path / "checkpoints" / ".writing-checkpoint-2").mkdir()
    sweep(tmp_path, finished=False)
    assert [path.name for path in kept.parent.iterdir()] == ["checkpoint-1"]


@pytest.mark.parametrize(("setting", "value"), [("workers", 2), ("checkpoint_every", 3)])
def test_what_changes_no_result_trains_nothing_again(tuning, steps, setting, value):
    assert tuning.run() == 0
    assert steps
    steps.clear()
    tuning.tune[setting] = value
    assert tuning.run() == 0
    assert steps == []


def test_another_value_from_the_environment_is_another_setting(tuning, steps, monkeypatch):
    tuning.tune["method"] = {"name": "prompt", "init": "text", "init_text": "${env:LUTHIER_TEST_START}"}
    tuning.tune["data"]["train"] = "${env:LUTHIER_TEST_ROWS}"
    monkeypatch.setenv("LUTHIER_TEST_ROWS", str(tuning.folder / "train.tsv"))
    for start, trains in (("a lovely plot", True), ("a lovely plot", False), ("a dull and cold scene", True)):
        monkeypatch.setenv("LUTHIER_TEST_START", start)
        steps.clear()
        assert tuning.run() == 0
        assert bool(steps) is trains
    for place in tuning.run_folder.rglob("key.json"):
        assert "scene" not in place.read_text()


def test_a_training_that_fails_before_its_first_checkpoint_costs_no_finished_one(tuning, steps):
    assert tuning.run() == 0
    trained, rate = len(steps), tuning.tune["learning_rate"]
    tuning.tune["learning_rate"] = 1e30
    assert tuning.run() != 0
    assert len(steps) > trained
    failed = len(steps)
    tuning.tune["learning_rate"] = rate
    assert tuning.run() == 0
    assert len(steps) == failed


WRITER = """
import os

__version__ = "0"


class SummaryWriter:
    def __init__(self, log_dir):
        os.makedirs(log_dir, exist_ok=True)
        self.file = open(os.path.join(log_dir, "events.out.tfevents.0"), "w")
        self.add_scalar = self.add_text = lambda *values: print(*values, file=self.file)
        self.flush, self.close = self.file.flush, self.file.close
"""


@pytest.fixture
def tensorboard(tmp_path, monkeypatch):
    """TensorBoard; where it is not installed, a writer in its place."""
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    if not is_installed("tensorboard"):
        for name in ("tensorboard", "tensorboardX"):
            (tmp_path / "writer").mkdir(exist_ok=True)
            (tmp_path / "writer" / f"{name}.py").write_text(WRITER)
            monkeypatch.setitem(sys.modules, name, None)  # so that what is imported is forgotten afterwards
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(tmp_path / "writer")


def test_what_tensorboard_shows_stays_with_a_finished_stage(tuning, steps, tensorboard):
    tuning.tune["report_to"] = ["tensorboard"]
    assert tuning.run() == 0
    trained = len(steps)
    (events,) = (tuning.run_folder / "00-tune").rglob("events.out.tfevents.*")
    assert events.parent == tuning.run_folder / "00-tune" / "tensorboard"
    assert b"loss" in events.read_bytes()
    assert tuning.run() == 0
    assert len(steps) == trained
