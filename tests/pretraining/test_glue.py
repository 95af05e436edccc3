"""The `glue` stage: one fine-tuning for each model, task, rate and seed, done once; what the table says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.cli.arguments import main
from luthier.errors import DataError, RecipeError
from luthier.pretraining import glue_run
from luthier.pretraining.glue import AT_HAND, GLUE
from luthier.pretraining.glue_run import METRICS
from luthier.pretraining.glue_table import Line, averages, difference, sections
from luthier.recipe import load_recipe
from luthier.registry import STAGES
from tests.cli.conftest import sentences, tiny_model

__all__ = ["tiny_model"]
ALL = list(GLUE)


def line(name: str, scores: dict[str, list[float]]) -> Line:
    """A model with the scores of its seeds."""
    metrics = {task: METRICS.get(task, ("accuracy",)) for task in scores}
    found = {task: {1e-4: [dict.fromkeys(metrics[task], value) for value in own]} for task, own in scores.items()}
    return Line(name, 4, 1_000_000, 0.5, found)


def test_the_table_has_the_mean_of_eight_and_of_nine_where_all_are_there() -> None:
    one = line("large", {task: [0.5, 0.9, 0.7] for task in ALL} | {"wnli": [0.3, 0.1, 0.2]})
    other = line("small", {task: [0.5, 0.7, 0.6] for task in ALL})
    first, _ = sections([one, other], ALL, "small", 3, "hub")
    assert first.table is not None
    row = dict(zip(first.table.columns, first.table.rows[0], strict=True))
    assert list(first.table.columns[4:13]) == ["CoLA", "MNLI", "MRPC", "QNLI", "QQP", "RTE", "SST-2", "STS-B", "WNLI"]
    assert row["mean of 8, without WNLI"] == pytest.approx(70)
    assert row["mean of 9"] == pytest.approx((8 * 70 + 20) / 9)
    # Seeds differ by 0, 20 and 10: 10 on average, with a t interval of 4.303 * 10 / sqrt(3) to both sides.
    assert row["mean of 8, without WNLI, less small [95 %]"] == "+10.00 [-14.84, +34.84]"
    assert "Not among them" not in first.text


def test_tasks_that_are_not_at_hand_are_named_and_their_columns_empty() -> None:
    tasks = [task for task in GLUE if task in AT_HAND]
    first, every = sections([line("m", {task: [0.5] for task in tasks})], tasks, None, 1, "data")
    assert first.table is not None
    assert every.table is not None
    row = dict(zip(first.table.columns, first.table.rows[0], strict=True))
    assert [name for name, value in row.items() if value == ""] == ["MNLI", "QQP", "STS-B"]
    assert "Not among them: MNLI, QQP, STS-B, so that no mean is that of GLUE." in first.text
    assert set(averages(tasks)) == {"mean of 5, without WNLI", "mean of 6"}
    assert [found[3] for found in every.table.rows if found[1] == "MRPC"] == ["accuracy", "f1"]


def test_tasks_of_ones_own_have_columns_behind_those_of_glue() -> None:
    tasks = ["rte", "wnli", "sick"]
    first, _ = sections([line("m", {"rte": [0.5], "wnli": [0.3], "sick": [0.7]})], tasks, None, 1, "data")
    assert first.table is not None
    row = dict(zip(first.table.columns, first.table.rows[0], strict=True))
    assert list(first.table.columns[12:]) == [
        "WNLI",
        "sick",
        "mean of 1, without WNLI",
        "mean of 2",
        "mean of 3",
    ]
    assert (row["mean of 2"], row["mean of 3"]) == (pytest.approx(40), pytest.approx(50))
    alone, _ = sections([line("m", {"sick": [0.7]})], ["sick"], None, 1, "data")
    assert alone.table is not None
    assert list(alone.table.columns[4:]) == ["sick", "mean of 1"]
    assert "Not among them" not in alone.text


def test_the_rate_with_the_best_median_counts() -> None:
    own = {1e-4: [0.9, 0.5, 0.5], 3e-4: [0.6, 0.6, 0.1]}
    found = {"rte": {rate: [{"accuracy": value} for value in values] for rate, values in own.items()}}
    one = Line("m", 1, 1, 1.0, found)
    assert (one.rate("rte"), one.score("rte"), one.means_by_seed(["rte"])) == (3e-4, 0.6, [0.6, 0.6, 0.1])
    assert difference(one, one, ["rte"]).startswith("+0.00")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "a", "models": {"x": "b"}}, "both say what is scored"),
        ({"models": {"x": None}}, "has no reference"),
        ({"models": {"a/b": "c"}}, "becomes a folder"),
        ({"models": {"x": "b"}, "baseline": "y"}, "which is none of x"),
        ({"tasks": ["cola", "mnli"]}, "MNLI is not among the sets under LUTHIER_DATA"),
        ({"learning_rate": 1e-4, "learning_rates": [1e-4]}, "both say the rate"),
        ({"patience": 2}, "`patience` has no effect"),
        ({"tasks": []}, "there is no task"),
        ({"more": {"rte": "data:sick"}}, "which is a task of GLUE"),
        ({"more": {"own": {"train": "a.tsv"}}}, "`more.own` has no rows to score"),
        ({"more": {"own": {"train": "a.txt", "validation": "b.txt"}}}, "`more.own` has no labels"),
        ({"learning_rates": [1e-4, 1e-4]}, "has a rate twice"),
        ({"evaluate_every": "never"}, "would leave no scores"),
    ],
)
def test_settings_that_don_t_fit_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"name": "x", "model": "a/b", "stages": [{"glue": settings}]}))
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


@pytest.fixture
def two_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of data with RTE and WNLI as they are laid out, of a few rows."""
    for task, labels in (("rte", ("entailment", "not_entailment")), ("wnli", ("0", "1"))):
        (tmp_path / "data" / task).mkdir(parents=True)
        for split, count in (("train", 24), ("dev", 8)):
            rows = [f"{i}\t{words}\t{words}\t{labels[i % 2]}" for i, (words, _) in enumerate(sentences(count, 0))]
            place = tmp_path / "data" / task / f"{split}.tsv"
            place.write_text("\n".join(["index\tsentence1\tsentence2\tlabel", *rows]) + "\n")
    monkeypatch.setenv("LUTHIER_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_every_fine_tuning_is_done_once(two_tasks: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[str, int]] = []
    work = glue_run.train_supervised

    def counted(settings: Any, inputs: Any, folder: Path) -> Any:
        trained.append((str(settings.data.source), inputs.seed))
        return work(settings, inputs, folder)

    monkeypatch.setattr(glue_run, "train_supervised", counted)
    stage = {"models": {"one": str(tiny_model), "same": str(tiny_model)}, "baseline": "one", "tasks": ["rte", "wnli"]}
    stage |= {"seeds": 1, "max_steps": 1, "batch_size": 8, "max_length": 32}
    recipe = {"name": "run", "seed": 2**32 - 1, "stages": [{"glue": stage}]}
    record = luthier.run(recipe, output=two_tasks / "runs")
    # Two lines with one model share what is trained.
    assert sorted(trained) == [("data:rte", 2**32 - 1), ("data:wnli", 2**32 - 1)]
    metrics = record.stages[0].metrics
    assert metrics["scores"]["validation/one/mean"] == metrics["scores"]["validation/same/mean"]
    assert metrics["details"]["not_at_hand"] == ["cola", "mnli", "mrpc", "qnli", "qqp", "sst2", "stsb"]
    title = metrics["details"]["sections"][0]
    assert title["title"] == "GLUE"
    assert title["table"]["rows"][1][-1] == "+0.00"
    assert not list((two_tasks / "cache").rglob("*.safetensors"))

    more = luthier.run({**recipe, "name": "more", "stages": [{"glue": {**stage, "seeds": 2}}]}, output=two_tasks / "r")
    assert sorted(trained[2:]) == [("data:rte", 0), ("data:wnli", 0)]
    assert len(more.stages[0].metrics["details"]["by_seed"]["one"]["rte"]) == 2


def test_faulty_rows_of_all_tasks_are_told_before_any_is_learned(two_tasks: Path, tiny_model: Path) -> None:
    for task in ("rte", "wnli"):
        with (two_tasks / "data" / task / "dev.tsv").open("a") as file:
            file.write("8\ta film\n")
    stage = {"tasks": ["rte", "wnli"], "seeds": 1, "max_steps": 1}
    recipe = {"name": "run", "model": str(tiny_model), "stages": [{"glue": stage}]}
    with pytest.raises(DataError, match=r"(?s)rte/dev.tsv: .*wnli/dev.tsv: "):
        luthier.run(recipe, output=two_tasks / "runs")
    assert not (two_tasks / "runs" / "run" / "00-glue").exists()


def test_the_dry_run_counts_the_fine_tunings(
    two_tasks: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = {"tasks": ["rte"], "seeds": 2, "max_steps": 2, "learning_rates": [1e-4, 3e-4]}
    path = two_tasks / "glue.yaml"
    path.write_text(json.dumps({"name": "run", "model": str(tiny_model), "stages": [{"glue": stage}]}))
    assert main(["plan", str(path)]) == 0
    told = capsys.readouterr().out
    assert "fine-tunings" in told
    assert "CoLA, MNLI, MRPC" in told


def test_a_file_of_the_method_is_part_of_what_is_known(two_tasks: Path) -> None:
    place = two_tasks / "rows.safetensors"
    place.write_bytes(b"one")
    method = {"name": "residual_prompt", "init": "tensor", "init_file": str(place)}
    stage = STAGES.get("glue").resolved()(models={"one": "a/b"}, tasks=["rte"], method=method)
    first = stage.external_inputs(None)
    assert stage.method.file_fingerprints().items() <= first.items()
    place.write_bytes(b"two")
    assert stage.external_inputs(None) != first
