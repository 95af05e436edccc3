"""Files that change between the moment a run looks at them first and the moment they are read."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as save_tensors

import luthier
from luthier.data import whole
from luthier.data.loading import load_data
from luthier.data.settings import DataSettings
from luthier.data.sources import fingerprint as fingerprints
from luthier.errors import WorkspaceError
from luthier.models.artifacts import load_model
from luthier.models.references import fingerprint, resolve
from luthier.runs import runner
from luthier.storage.one_version import first_sight, one_version
from tests.cli.conftest import Workplace, sentences, write_tsv
from tests.cli.test_represent import encoders, prefix_file, without_training  # noqa: F401 - a fixture


@pytest.fixture
def after_key(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], Any]], None]:
    """Lets something happen right after the key of one stage is taken, counted over the run from 0."""
    taken, count, planned = runner.stage_key, itertools.count(), {}

    def stage_key(*args: Any) -> str:
        key = taken(*args)
        planned.pop(next(count), lambda: None)()
        return key

    monkeypatch.setattr(runner, "stage_key", stage_key)
    return planned.__setitem__


def other_rows(path: Path) -> None:
    write_tsv(path, sentences(40, 77 + len(path.read_bytes())))


def other_weights(path: Path) -> None:
    save_tensors({name: tensor + 0.01 for name, tensor in load_file(path).items()}, path, {"format": "pt"})


def fails(workplace: Workplace, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert workplace.run() == WorkspaceError.exit_code
    error = capsys.readouterr().err
    assert name in error
    assert "changed while it was in use" in error
    assert "run the same command again" in error


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_data_that_change_before_they_are_read_are_refused_and_the_next_run_is_of_them(
    split, workplace, after_key, capsys
):
    file = workplace.folder / f"{split}.tsv"
    after_key(0, lambda: other_rows(file))
    fails(workplace, capsys, file.name)
    assert not (workplace.run_folder / "00-tune" / "done.json").exists()
    assert not (workplace.run_folder / "failed.json").exists()
    assert workplace.run() == 0
    done = (workplace.run_folder / "00-tune" / "done.json").read_bytes()
    assert workplace.run() == 0
    assert (workplace.run_folder / "00-tune" / "done.json").read_bytes() == done


def test_an_evaluation_judges_the_version_that_the_run_began_with_or_nothing(workplace, after_key, capsys):
    file, first = workplace.folder / "test.tsv", (workplace.folder / "test.tsv").read_bytes()
    after_key(1, lambda: other_rows(file))
    fails(workplace, capsys, file.name)
    assert not (workplace.run_folder / "01-evaluate" / "done.json").exists()
    trained = (workplace.run_folder / "00-tune" / "done.json").read_bytes()
    file.write_bytes(first)
    assert workplace.run() == 0
    assert (workplace.run_folder / "00-tune" / "done.json").read_bytes() == trained


def test_data_that_change_between_two_stages_are_refused(workplace, monkeypatch, capsys):
    file, run_stage = workplace.folder / "test.tsv", runner._run_stage

    def then_change(*args: Any) -> Any:
        record = run_stage(*args)
        other_rows(file)
        return record

    monkeypatch.setattr(runner, "_run_stage", then_change)
    fails(workplace, capsys, file.name)
    assert not (workplace.run_folder / "01-evaluate" / "done.json").exists()


def test_data_that_change_after_they_were_read_cost_no_training(workplace, monkeypatch):
    workplace.recipe["stages"] = workplace.recipe["stages"][:1]
    train = luthier.training.supervised.train

    def change_and_train(job: Any) -> Any:
        other_rows(workplace.folder / "train.tsv")
        return train(job)

    monkeypatch.setattr("luthier.training.supervised.train", change_and_train)
    assert workplace.run() == 0
    key = json.loads((workplace.run_folder / "00-tune" / "done.json").read_text())["key"]
    assert workplace.run() == 0
    assert json.loads((workplace.run_folder / "00-tune" / "done.json").read_text())["key"] != key


def test_cells_of_a_comparison_are_of_one_version(workplace, after_key, capsys):
    workplace.recipe["stages"] = workplace.recipe["stages"][:1]
    workplace.recipe["compare"] = {"over": {"seed": [1, 2]}}
    after_key(1, lambda: other_rows(workplace.folder / "train.tsv"))
    fails(workplace, capsys, "train.tsv")


def test_a_file_that_is_being_written_is_not_called_faulty(workplace, after_key, capsys):
    after_key(0, lambda: (workplace.folder / "train.tsv").write_text("text\tlabel\nonly one fie"))
    fails(workplace, capsys, "train.tsv")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_model_that_changes_before_it_is_read_is_refused(name, workplace, after_key, capsys):
    file = workplace.folder / "model" / name

    def change() -> None:
        if name == "model.safetensors":
            other_weights(file)
        else:
            file.write_text(file.read_text() + "\n")

    after_key(0, change)
    fails(workplace, capsys, str(file.parent))
    assert workplace.run() == 0


def test_the_base_of_a_saved_adapter_is_the_one_that_was_read(workplace, monkeypatch):
    workplace.recipe["stages"] = workplace.recipe["stages"][:1]
    workplace.tune["method"] = "lora"
    source = resolve(str(workplace.folder / "model"))
    before, train = fingerprint(source), luthier.training.supervised.train

    def change_and_train(job: Any) -> Any:
        other_weights(workplace.folder / "model" / "model.safetensors")
        return train(job)

    monkeypatch.setattr("luthier.training.supervised.train", change_and_train)
    assert workplace.run() == 0
    card = json.loads((workplace.run_folder / "00-tune" / "model" / "luthier.json").read_text())
    assert card["base_fingerprint"] == before != fingerprint(source)


def test_a_streamed_file_that_changes_while_it_is_trained_on_is_refused(workplace, monkeypatch, capsys):
    workplace.recipe["stages"] = workplace.recipe["stages"][:1]
    workplace.tune.pop("epochs")
    workplace.tune.update(max_steps=3)
    workplace.tune["data"].update(streaming=True, labels=["negative", "positive"])
    train = luthier.training.supervised.train

    def change_and_train(job: Any) -> Any:
        other_rows(workplace.folder / "train.tsv")
        return train(job)

    monkeypatch.setattr("luthier.training.supervised.train", change_and_train)
    fails(workplace, capsys, "train.tsv")
    workplace.tune["max_steps"] = 40
    fails(workplace, capsys, "train.tsv")


def first_prompt(path: Path, seed: int) -> None:
    save_file({"prompt": np.random.default_rng(seed).normal(size=(4, 32)).astype(np.float32)}, path)


@pytest.mark.parametrize("taken", [3, 4])
def test_the_file_that_a_prompt_starts_from_is_part_of_the_key(workplace, after_key, capsys, taken: int):
    """Where a stage is finished, a run takes its key twice: to look ahead, and to run."""
    file = workplace.folder / "prompt.safetensors"
    first_prompt(file, 0)
    workplace.recipe["stages"] = workplace.recipe["stages"][:1]
    workplace.tune["epochs"] = 1
    workplace.tune["method"] = {"name": "residual_prompt", "length": 4, "init": "tensor", "init_file": str(file)}
    assert workplace.run() == 0
    key = json.loads((workplace.run_folder / "00-tune" / "done.json").read_text())["key"]
    first_prompt(file, 1)
    assert workplace.run() == 0
    assert json.loads((workplace.run_folder / "00-tune" / "done.json").read_text())["key"] != key
    first_prompt(file, 2)
    after_key(taken, lambda: first_prompt(file, 3))
    fails(workplace, capsys, file.name)


def test_the_sources_of_prefixes_and_heads_are_of_one_version(encoders, after_key, capsys):  # noqa: F811
    after_key(0, lambda: other_rows(encoders.folder / "other.tsv"))
    fails(encoders, capsys, "other.tsv")
    after_key(1, lambda: other_rows(encoders.folder / "test.tsv"))
    fails(encoders, capsys, "test.tsv")


def test_a_prefix_from_elsewhere_is_of_one_version(encoders, after_key, capsys):  # noqa: F811
    assert encoders.run() == 0
    kept = {name: prefix_file(encoders, name).read_bytes() for name in ("films", "others")}
    file = encoders.folder / "given.safetensors"
    file.write_bytes(kept["films"])
    encoders.recipe["name"] = "again"
    without_training(encoders, {"films": {"prefix": str(file)}})
    after_key(1, lambda: file.write_bytes(kept["others"]))
    fails(encoders, capsys, file.name)


def test_rows_of_the_hub_are_of_one_version(tmp_path, monkeypatch):
    from luthier.data.sources import hub as hub_sets

    rows = [{"text": text, "label": label} for text, label in sentences(20, 1)]

    def served(*_: Any, **__: Any) -> Any:
        import datasets

        return {"train": datasets.Dataset.from_list(rows)}

    monkeypatch.setattr(hub_sets, "_load", served)
    settings = DataSettings.model_validate({"train": "hub:someone/films"})
    with one_version():
        load_data(settings)
        load_data(settings)
        rows[3]["text"] += " with"
        with pytest.raises(WorkspaceError, match=r"hub:someone/films: changed while it was in use"):
            load_data(settings)
    load_data(settings)


def test_a_file_that_changes_while_it_is_read_outside_of_a_run_is_told(workplace, monkeypatch):
    file, read = workplace.folder / "train.tsv", whole.read_origin

    def then_change(*args: Any) -> Any:
        found = read(*args)
        other_rows(file)
        return found

    monkeypatch.setattr(whole, "read_origin", then_change)
    with pytest.raises(WorkspaceError, match=r"train\.tsv: changed while it was in use"):
        load_data(DataSettings.model_validate({"train": str(file)}))


def test_a_commit_of_the_hub_is_the_one_at_first_sight(workplace, monkeypatch):
    from luthier.models import hub, references

    snapshots = [workplace.folder / "snapshots" / name for name in ("one", "two")]
    for place in snapshots:
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(workplace.folder / "model")
    monkeypatch.setattr(references, "commit_of", lambda _source: "one")
    with one_version():
        fingerprint(resolve("someone/films"))
        monkeypatch.setattr(hub, "fetch", lambda *_, **__: snapshots[0])
        load_model("someone/films", "encoder")
        monkeypatch.setattr(hub, "fetch", lambda *_, **__: snapshots[1])
        with pytest.raises(WorkspaceError, match="someone/films: changed"):
            load_model("someone/films", "encoder")
    torch.manual_seed(0)


def test_a_plan_hashes_every_file_once_for_all_stages_and_once_behind_every_reading(workplace, monkeypatch):
    hashed, real = [], fingerprints.digest
    monkeypatch.setattr(fingerprints, "digest", lambda file: hashed.append(Path(file.name).stem) or real(file))
    assert workplace.luthier("plan", workplace.write(), "--output", str(workplace.folder / "runs")) == 0
    assert len(workplace.recipe["stages"]) == 2
    assert {name: hashed.count(name) for name in hashed} == {"train": 1 + 2, "validation": 1 + 2, "test": 1 + 2}


def test_blocks_inside_a_block_are_part_of_it_and_outside_nothing_is_kept():
    versions = iter("abcdef")
    with one_version():
        assert first_sight("file", lambda: next(versions)) == "a"
        with one_version():
            assert first_sight("file", lambda: next(versions)) == "a"
        assert first_sight("file", lambda: next(versions)) == "a"
    assert first_sight("file", lambda: next(versions)) == "b"
    with one_version():
        assert first_sight("file", lambda: next(versions)) == "c"
