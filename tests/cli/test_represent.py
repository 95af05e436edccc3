"""Prefixes of source tasks, one representation, many heads: through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from luthier.cli.arguments import main
from luthier.representing.states import TaskPrefix
from tests.cli.conftest import Workplace, sentences, write_tsv

STAGE = "00-represent"


@pytest.fixture
def encoders(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A recipe with two source tasks and two heads, and a cache of its own."""
    monkeypatch.setenv("LUTHIER_CACHE", str(workplace.folder / "cache"))
    write_tsv(workplace.folder / "other.tsv", sentences(64, 5))
    rows = [(text, "long" if len(text.split()) > 5 else "short") for text, _ in sentences(128, 6)]
    write_tsv(workplace.folder / "length.tsv", rows[:96])
    write_tsv(workplace.folder / "length-test.tsv", rows[96:])
    at = {name: str(workplace.folder / f"{name}.tsv") for name in ("train", "validation", "test", "other", "length")}
    workplace.recipe["stages"] = [
        {
            "represent": {
                "tasks": {
                    "films": {"data": {"train": at["train"], "validation": at["validation"]}},
                    "others": {"data": {"train": at["other"], "validation": at["validation"]}},
                },
                "heads": {
                    "mood": {"data": {"train": at["train"], "test": at["test"]}},
                    "length": {
                        "data": {"train": at["length"], "test": str(workplace.folder / "length-test.tsv")},
                        "kind": "mlp",
                        "hidden": 16,
                    },
                },
                "pooling": "mean",
                "epochs": 1,
                "batch_size": 8,
            }
        }
    ]
    return workplace


def stage_of(place: Workplace) -> dict:
    return place.recipe["stages"][0]["represent"]


def without_training(place: Workplace, tasks: dict) -> None:
    """Other source tasks, none of which is trained."""
    stage = stage_of(place)
    stage["tasks"] = tasks
    del stage["epochs"], stage["batch_size"]


def prefix_file(place: Workplace, task: str) -> Path:
    return place.run_folder / STAGE / "model" / "prefixes" / f"{task}.safetensors"


def test_the_stage_scores_every_head_and_the_report_shows_them(encoders, capsys):
    assert encoders.run() == 0
    metrics = encoders.metrics(STAGE)
    scores = metrics["scores"]
    assert scores["test/mood/accuracy"] > 0.8
    assert {"test/length/accuracy", "source/films/accuracy", "source/others/accuracy"} <= scores.keys()
    mean = (scores["test/mood/accuracy"] + scores["test/length/accuracy"]) / 2
    assert metrics["primary"] == "heads/mean_score"
    assert scores["heads/mean_score"] == pytest.approx(mean)
    low, high = metrics["intervals"]["test/mood/accuracy"]
    assert low <= scores["test/mood/accuracy"] <= high
    # Two layers of 32 wide, five columns of keys and values, two tasks; 2 outputs of 32, and 16 hidden units.
    assert metrics["cost"]["trainable_parameters"] == 2 * 2 * 5 * 32 * 2 + 2 * 33 + (33 * 16 + 17 * 2)
    plain = metrics["details"]["without_prefixes"]
    assert plain.keys() == {name for name in scores if name.startswith("test/")}
    heads = next(one for one in metrics["details"]["sections"] if one["title"] == "Heads")["table"]
    assert [row[-1] for row in heads["rows"]] == [plain["test/mood/accuracy"], plain["test/length/accuracy"]]
    low, high = metrics["intervals"]["heads/mean_score"]
    assert low <= scores["heads/mean_score"] <= high
    page = (encoders.run_folder / "report.html").read_text()
    assert "without prefixes" in page.replace("<wbr>", "")
    assert "Source tasks and their prefixes" in page
    assert "Attention that each prefix takes" in page
    assert "heads/mean_score" in capsys.readouterr().out


def test_heads_without_prefixes_are_those_of_a_run_without_source_tasks(encoders):
    assert encoders.run() == 0
    beside = encoders.metrics(STAGE)["details"]["without_prefixes"]
    without_training(encoders, {})
    assert encoders.run() == 0
    metrics = encoders.metrics(STAGE)
    assert metrics["details"]["without_prefixes"] == {}
    assert beside == {name: score for name, score in metrics["scores"].items() if name.startswith("test/")}


def test_a_head_is_what_a_logistic_regression_on_the_written_vectors_is(encoders, capsys):
    stage_of(encoders)["heads"]["mood"]["l2"] = 2.0
    assert encoders.run() == 0
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    run, vectors, labels = str(encoders.run_folder), {}, {}
    for split in ("train", "test"):
        path = encoders.folder / f"{split}.npy"
        source = str(encoders.folder / f"{split}.tsv")
        assert main(["embed", run, "--file", source, "--output", str(path)]) == 0
        vectors[split] = np.load(path)
        labels[split] = [line.split("\t")[1] for line in Path(source).read_text().splitlines()[1:]]
    scale = StandardScaler().fit(vectors["train"])
    peer = LogisticRegression(C=0.5, max_iter=1000).fit(scale.transform(vectors["train"]), labels["train"])
    expected = peer.score(scale.transform(vectors["test"]), labels["test"])
    assert encoders.metrics(STAGE)["scores"]["test/mood/accuracy"] == pytest.approx(expected)

    capsys.readouterr()
    assert main(["predict", run, "--file", str(encoders.folder / "test.tsv")]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["heads"]["mood"]["label"] for row in found] == list(peer.predict(scale.transform(vectors["test"])))
    assert set(found[0]["heads"]) == {"mood", "length"}
    assert sum(found[0]["heads"]["length"]["probabilities"].values()) == pytest.approx(1)


def test_files_to_predict_have_the_columns_of_a_training_file(encoders, capsys):
    named = encoders.folder / "named.tsv"
    named.write_text((encoders.folder / "train.tsv").read_text().replace("text\tlabel", "review\tverdict", 1))
    heads = stage_of(encoders)["heads"]
    without_training(encoders, {})
    heads["mood"]["data"] = {"train": str(named), "text": "review", "label": "verdict", "validation_fraction": 0.2}
    assert encoders.run() == 0
    run, found = str(encoders.run_folder), []
    for file in ("named", "train"):
        capsys.readouterr()
        assert main(["predict", run, "--file", str(encoders.folder / f"{file}.tsv")]) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1]
    # A semicolon between the fields is seen in the first lines.
    (encoders.folder / "named.csv").write_text(named.read_text().replace("\t", ";"))
    assert main(["predict", run, "--file", str(encoders.folder / "named.csv")]) == 0
    assert capsys.readouterr().out == found[0]
    (encoders.folder / "other.tsv").write_text("word\tlabel\na good film\tx\n")
    assert main(["predict", run, "--file", str(encoders.folder / "other.tsv")]) == 3
    assert (
        "there is no column 'review'\n  fix: name another one; the columns are: word, label" in capsys.readouterr().err
    )
    assert main(["embed", run, "--file", str(encoders.folder / "other.tsv"), "--output", "v.npy"]) == 3
    assert "there is no column 'text'\n  fix: name it with --column, or --pair-column; the" in capsys.readouterr().err


def test_another_task_leaves_the_prefixes_that_are_there_as_they_are(encoders, capsys):
    assert encoders.run() == 0
    before = prefix_file(encoders, "films").read_bytes()
    extra = {"data": dict(stage_of(encoders)["tasks"]["others"]["data"], subset_seed=1, examples=32)}
    stage_of(encoders)["tasks"]["extra"] = extra
    assert main(["plan", encoders.write(), "--output", str(encoders.folder / "runs")]) == 0
    planned = capsys.readouterr().out
    assert planned.count("trained already") == 2
    assert encoders.run() == 0
    told = encoders.metrics(STAGE)["details"]["tasks"]
    assert [told[name]["kept"] for name in ("films", "others", "extra")] == [True, True, False]
    assert prefix_file(encoders, "films").read_bytes() == before

    del stage_of(encoders)["tasks"]["extra"], stage_of(encoders)["tasks"]["others"]
    assert encoders.run() == 0
    assert list(encoders.metrics(STAGE)["details"]["tasks"]) == ["films"]
    assert prefix_file(encoders, "films").read_bytes() == before


def test_a_prefix_from_elsewhere_is_taken_instead_of_data(encoders, monkeypatch):
    assert encoders.run() == 0
    given = encoders.folder / "given.safetensors"
    shutil.copy(prefix_file(encoders, "others"), given)
    scores = encoders.metrics(STAGE)["scores"]
    (encoders.folder / "elsewhere").mkdir()
    monkeypatch.chdir(encoders.folder / "elsewhere")
    stage_of(encoders)["tasks"]["others"] = {"prefix": given.name}  # beside the recipe
    assert encoders.run() == 0
    again = encoders.metrics(STAGE)["scores"]
    for name in ("test/mood/accuracy", "test/length/loss", "test/mood/loss"):
        assert again[name] == scores[name]


@pytest.mark.parametrize("name", ["model/adapter_model.safetensors", "model/manifest.json", "metrics.json"])
def test_a_damaged_kept_prefix_is_trained_again(name, encoders, caplog):
    assert encoders.run() == 0
    before = prefix_file(encoders, "films").read_bytes()
    for path in (encoders.folder / "cache" / "steps").glob(f"*/{name}"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
    shutil.rmtree(encoders.run_folder)
    assert encoders.run() == 0
    assert sum("is damaged and is computed again" in record.getMessage() for record in caplog.records) == 2
    told = encoders.metrics(STAGE)["details"]["tasks"]
    assert not any(one["kept"] for one in told.values())
    assert prefix_file(encoders, "films").read_bytes() == before


def test_without_source_tasks_the_heads_read_the_model_itself(encoders):
    without_training(encoders, {})
    assert encoders.run() == 0
    metrics = encoders.metrics(STAGE)
    assert metrics["details"]["tasks"] == {}
    assert metrics["scores"]["test/mood/accuracy"] > 0.5


def test_parquet_has_the_texts_beside_the_vectors(encoders):
    import pyarrow.parquet as pq

    assert encoders.run() == 0
    path, run = encoders.folder / "some.parquet", str(encoders.run_folder)
    assert main(["embed", run, "--text", "a fine film", "--text", "a dull plot", "--output", str(path)]) == 0
    table = pq.read_table(path)
    assert table["text"].to_pylist() == ["a fine film", "a dull plot"]
    from luthier import embed

    np.testing.assert_array_equal(
        np.array(table["vector"].to_pylist(), np.float32), embed(run, ["a fine film", "a dull plot"])
    )


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda s: s["tasks"]["films"].update(prefix="x"), 2, "give `data` to train a prefix, or `prefix`"),
        (lambda s: s["tasks"].update({"a/b": s["tasks"]["films"]}), 2, "can't be a name here"),
        (lambda s: s["prefix"].update(prefix_lenght=3), 2, "did you mean 'prefix_length'"),
        (lambda s: s["heads"]["mood"]["data"].pop("test"), 3, "no rows to score it on"),
        (lambda s: s["heads"]["mood"]["data"].update(task="plain_text"), 3, "heads.mood: the rows have no labels"),
        (lambda s: s["tasks"]["films"]["data"].update(task="plain_text"), 3, "tasks.films: the rows have no labels"),
        (lambda s: s["heads"]["mood"]["data"].update(max_length=9), 2, "data.max_length would have no effect"),
        (lambda s: s["heads"]["mood"].update(kind="linear", hidden=9), 2, "`hidden` belongs to `kind: mlp`"),
        (lambda s: s.update(max_length=4), 3, "longer than 4 tokens"),
        (lambda s: s["tasks"].update(gone={"prefix": "no/such.safetensors"}), 4, "there is no such file or folder"),
        (lambda s: s["tasks"]["films"].update(weight=float("inf")), 2, "has to be a finite number"),
        (lambda s: (s.pop("tasks"), s.pop("heads")), 2, "give `tasks` to learn prefixes on, `heads` to fit, or both"),
    ],
)
def test_a_bad_recipe_says_what_to_do_before_anything_is_trained(encoders, capsys, change, code, message):
    stage_of(encoders)["prefix"] = {}
    change(stage_of(encoders))
    assert encoders.run() == code
    assert message in capsys.readouterr().err
    assert not (encoders.folder / "cache" / "steps").exists()


def test_a_prefix_of_another_model_is_refused_before_others_are_trained(encoders, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(encoders.folder))
    key, value = torch.zeros(5, 32), torch.ones(5, 32)
    TaskPrefix({"layers.0.self": (key, value)}).write(encoders.folder / "alien.safetensors", "alien", "0" * 64)
    stage_of(encoders)["tasks"]["alien"] = {"prefix": "~/alien.safetensors"}
    assert encoders.run() == 4
    assert "the base of 'alien'" in capsys.readouterr().err
    assert not (encoders.folder / "cache" / "steps").exists()


def test_an_encoder_is_neither_evaluated_nor_embedded_with_a_tuned_model(encoders, workplace, capsys):
    encoders.recipe["stages"].append({"evaluate": {}})
    assert encoders.run() == 2
    assert "it takes task or pretrained, and gets encoder" in capsys.readouterr().err
    assert main(["embed", str(workplace.folder / "model"), "--text", "a", "--output", "v.npy"]) == 4
    assert "no encoder here that a represent stage made" in capsys.readouterr().err
    assert main(["embed", "no/such/run", "--text", "a", "--output", "v.npy"]) == 4
    assert "there is no such folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["embed", str(workplace.folder / "model"), "--text", "a", "--output", "v.npy", "--batch-size", "0"])
    assert "'0' is no whole number above 0" in capsys.readouterr().err
    assert main(["embed", str(workplace.folder / "model"), "--text", "a", "--output", "v.csv"]) == 3
    assert "written as .npy or .parquet" in capsys.readouterr().err


def test_heads_of_pairs_are_not_asked_about_single_texts(encoders, capsys):
    rows = [
        (f"{a}\t{b}", "same" if x == y else "other")
        for (a, x), (b, y) in zip(sentences(64, 8), sentences(64, 9), strict=True)
    ]
    for name, some in (("pairs", rows[:40]), ("pairs-test", rows[40:])):
        lines = "".join(f"{text}\t{label}\n" for text, label in some)
        (encoders.folder / f"{name}.tsv").write_text("text\ttext_pair\tlabel\n" + lines)
    files = {"train": str(encoders.folder / "pairs.tsv"), "test": str(encoders.folder / "pairs-test.tsv")}
    stage_of(encoders)["heads"]["agree"] = {"data": files}
    assert encoders.run() == 0
    run = str(encoders.run_folder)
    capsys.readouterr()
    assert main(["predict", run, "--text", "a fine film"]) == 0
    assert set(json.loads(capsys.readouterr().out)["heads"]) == {"mood", "length"}
    assert main(["predict", run, "--text", "a fine film", "--pair", "a dull plot"]) == 0
    assert set(json.loads(capsys.readouterr().out)["heads"]) == {"agree"}
