"""Texts with any number of labels: from a file to a model, its scores, its page and its answers."""

from __future__ import annotations

import itertools
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import accuracy_score, f1_score
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from luthier.data import DataSettings, load_data
from luthier.errors import DataError
from luthier.objectives.divergence import comparable_rows, symmetric_divergence
from luthier.prediction import predict_file, predict_texts
from luthier.tasks.running.several import SCORES, best_constant, drawn_scores
from tests.cli.conftest import BAD_WORDS, GOOD_WORDS, Workplace

KINDS = {"bad": BAD_WORDS[:1], "good": GOOD_WORDS[:1], "long": ["scene"]}


def rows_of(count: int, seed: int) -> list[dict[str, Any]]:
    """Every kind of word stands in half of the texts, whatever the others do."""
    draw, rows = np.random.default_rng(seed), []
    for _ in range(count):
        there = [kind for kind in KINDS if draw.random() < 0.5]
        words = [*draw.choice(["film", "plot", "the"], 2), *(draw.choice(KINDS[kind]) for kind in there * 2)]
        rows.append({"text": " ".join(draw.permutation(words)), "label": there})
    return rows


@pytest.fixture
def place(workplace: Workplace) -> Workplace:
    for split, count, seed in (("train", 256, 0), ("validation", 64, 1), ("test", 64, 2)):
        lines = "".join(json.dumps(row) + "\n" for row in rows_of(count, seed))
        (workplace.folder / f"{split}.jsonl").write_text(lines)
    data = {split: str(workplace.folder / f"{split}.jsonl") for split in ("train", "validation", "test")}
    workplace.tune.update(data={**data, "task": "multi_label"}, epochs=10, learning_rate=2e-3)
    workplace.recipe["stages"][1] = {"evaluate": {"suites": ["task"]}}
    return workplace


def files(folder: Path, *labels: Any, **more: Any) -> DataSettings:
    lines = [json.dumps({"text": f"a {i}", "label": one}) + "\n" for i, one in enumerate(labels)]
    (folder / "rows.jsonl").write_text("".join(lines))
    return DataSettings(train=str(folder / "rows.jsonl"), task="multi_label", **more)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_model_learns_tells_and_is_taken_up_by_transformers(place: Workplace, method: str, capsys):
    place.tune.update(method=method, learning_rate=2e-3 if method == "full" else 1e-2)
    assert place.luthier("plan", place.write()) == 0
    assert place.run() == 0
    found = place.metrics("01-evaluate")
    scores = found["scores"]
    assert scores["test/micro_f1"] > found["baselines"]["test/micro_f1"]["score"] + 0.1
    assert set(scores) == {f"test/{name}" for name in ("micro_f1", "macro_f1", "subset_accuracy", "loss")}
    page = (place.run_folder / "report.html").read_text()
    assert "Scores by class" in page
    test = [json.loads(line) for line in Path("test.jsonl").read_text().splitlines()]
    told = predict_file(place.run_folder, "test.jsonl")
    assert np.mean([set(one["labels"]) == set(row["label"]) for one, row in zip(told, test, strict=True)]) == (
        pytest.approx(scores["test/subset_accuracy"], abs=1e-6)
    )
    one = predict_texts(place.run_folder, "the film")[0]
    assert list(one["probabilities"]) == ["bad", "good", "long"]
    assert one["labels"] == [name for name, p in one["probabilities"].items() if p > 0.5]
    folder = place.run_folder / "00-tune" / "model"
    if method == "full":
        classify = pipeline("text-classification", str(folder), tokenizer=AutoTokenizer.from_pretrained(folder))
        given = {found["label"]: found["score"] for found in classify("the film", top_k=None)}
        assert given == pytest.approx(one["probabilities"], abs=1e-5)
    else:
        from luthier.models.artifacts import merged_adapter
        from luthier.models.references import resolve
        from luthier.models.settings import ModelSettings

        merged = merged_adapter(resolve(str(folder)), ModelSettings(reference=str(folder)))
        assert merged.config.problem_type == "multi_label_classification"


def test_the_next_stage_goes_on_from_what_was_learned(place: Workplace):
    place.tune.update(method="lora", learning_rate=1e-2)
    again = {"tune": {**place.tune, "method": "full", "epochs": 1, "learning_rate": 1e-6}}
    place.recipe["stages"] = [place.recipe["stages"][0], again]
    assert place.run() == 0
    before, after = (place.metrics(stage)["scores"]["validation/micro_f1"] for stage in ("00-tune", "01-tune"))
    assert after == pytest.approx(before, abs=0.02)
    config = json.loads((place.run_folder / "01-tune" / "model" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"


def test_a_whole_number_is_one_class_however_it_is_written(tiny_model: Path, tmp_path: Path):
    from luthier.data.batches.encoding import encode
    from luthier.models.loading import load_tokenizer

    data = load_data(files(tmp_path, ["1", "2"], ["1.0"], ["2.0", "1"]))
    rows = encode(data, load_tokenizer(str(tiny_model)), max_length=16)["train"]
    assert rows["labels"][:] == [[1, 1], [1, 0], [1, 1]]


def test_the_loss_is_that_of_transformers(tiny_model: Path, tmp_path: Path):
    from luthier.data.batches.collating import make_collator
    from luthier.data.batches.encoding import encode
    from luthier.models.artifacts import load_model
    from luthier.models.loading import load_tokenizer
    from luthier.tasks.base import task_of

    data = load_data(files(tmp_path, ["x"], ["y", "x"], [], "z, x"))
    task, tokenizer = task_of(data), load_tokenizer(str(tiny_model))
    model = load_model(str(tiny_model), "sequence_classification", **task.head_arguments(data.labels))
    rows = encode(data, tokenizer, max_length=16)["train"]
    assert rows["labels"][:] == [[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 1]]
    batch = make_collator("multi_label", tokenizer)(list(rows))
    del batch["row"]
    own = AutoModelForSequenceClassification.from_config(model.config)
    own.load_state_dict(model.state_dict())
    expected = own.eval()(**batch).loss
    found = task.loss(model.eval()(**{k: v for k, v in batch.items() if k != "labels"}).logits, batch, items=12)
    assert task.items(batch) == 12
    assert torch.allclose(found, expected)


def test_scores_are_those_of_scikit_learn_also_over_draws():
    draw = np.random.default_rng(0)
    gold, guess = (draw.random((2, 40, 5)) < 0.3).astype(int)
    gold[:, 4] = guess[:, 4] = 0
    there = [0, 1, 2, 3]
    of = {
        "micro_f1": lambda a, b: f1_score(a, b, average="micro"),
        "macro_f1": lambda a, b: f1_score(a[:, there], b[:, there], average="macro"),
        "subset_accuracy": accuracy_score,
    }
    drawn = drawn_scores(gold, guess)
    times = draw.multinomial(40, np.full(40, 1 / 40), size=6)
    for name, score in of.items():
        assert SCORES[name](gold, guess) == pytest.approx(score(gold, guess))
        rows = [np.repeat(np.arange(40), one) for one in times]
        assert drawn[name](times) == pytest.approx([score(gold[some], guess[some]) for some in rows])
    nothing = np.zeros((3, 2), int)
    assert [SCORES[name](nothing, nothing) for name in SCORES] == [0.0, 0.0, 1.0]


def test_two_passes_are_compared_answer_by_answer():
    draw = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 4, 3, generator=draw, dtype=torch.float64)
    labels = torch.zeros(4, 3)
    found = symmetric_divergence(comparable_rows(one, labels), comparable_rows(other, labels))
    p, q = one.sigmoid(), other.sigmoid()
    expected = ((p - q) * (one - other)).sum()  # KL both ways of two Bernoulli distributions
    assert torch.allclose(found, expected)
    assert comparable_rows(one, torch.zeros(4, dtype=torch.long)).shape == (4, 3)


@pytest.mark.parametrize("objective", ["r_drop", "smart", "roast"])
def test_objectives_of_two_passes_train_it(place: Workplace, objective: str):
    place.tune.update(objective=objective, max_steps=4)
    del place.tune["epochs"]
    assert place.run() == 0


def test_a_teacher_teaches_it(place: Workplace):
    nodes = {"s": {}, "t": {"model": "runs/small", "frozen": True}}
    place.tune.update(max_steps=4)
    del place.tune["epochs"]
    assert place.run() == 0
    distil = {"data": place.tune["data"], "nodes": nodes, "edges": [{"teacher": "t", "student": "s"}], "give": "s"}
    steps = {"max_steps": 4, "batch_size": 8, "learning_rate": 2e-3, "log_every": 1}
    place.recipe["stages"][0] = {"distil": distil | steps}
    place.recipe["name"] = place.ran_as = "taught"
    assert place.run() == 0
    log = [json.loads(line) for line in (place.run_folder / "00-distil" / "log.jsonl").read_text().splitlines()]
    terms = [one["t to s"] for one in log if "t to s" in one]
    assert len(terms) == 4
    assert all(0 < one < 0.1 for one in terms)  # nats a label: neither is sure of anything yet


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        (["b", "a", "b"], ["b", "a"]),
        ("a, b ,", ["a", "b"]),
        ('["a, b", 1.0]', ["a, b", "1"]),
        ("", []),
        (None, []),
        ([], []),
        ([3, 1], ["3", "1"]),
        ("['b', \"it's\"]", ["b", "it's"]),
    ],
)
def test_labels_of_a_cell(tmp_path: Path, cell: Any, labels: list[str]):
    data = load_data(files(tmp_path, cell, ["a"], ["b"], [1, "a, b"], [3]))
    assert data.splits["train"]["label"][0] == labels


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ('["a"', "is not valid JSON"),
        ("['a', b]", "JSON has double quotes"),
        ("[" * 100_000, "nested too deeply"),
        ({"a": 1}, "which is no list of labels"),
        (["a", ["b"]], "is no label"),
        (2.5, "2.5"),
    ],
)
def test_cells_that_hold_no_labels_are_refused(tmp_path: Path, cell: Any, told: str):
    with pytest.raises(DataError, match=told):
        load_data(files(tmp_path, cell, ["a"]))


def test_what_can_not_be_meant_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="nothing to learn"):
        load_data(files(tmp_path, [], []))
    with pytest.raises(ValidationError, match="label_map"):
        files(tmp_path, ["a"], label_map={"a": "b"})
    with pytest.raises(ValidationError, match="stream"):
        files(tmp_path, ["a"], streaming=True)
    with pytest.raises(DataError, match=r"'b', which no training row tells"):
        load_data(files(tmp_path, ["a", "b"], labels=["a", "c"]))
    with pytest.raises(DataError, match="several labels a text are learned with `task: multi_label`"):
        load_data(files(tmp_path, ["a"], ["b"]).model_copy(update={"task": "single_sentence"}))


def test_the_baseline_is_the_constant_answer_with_the_best_f1(place: Workplace):
    from luthier.tasks.base import task_of

    data = load_data(files(place.folder, ["a", "b"], ["a"], ["a"], []))
    prior = task_of(data).prior(data)
    assert prior == {"rows": 4, "shares": {"a": 0.75, "b": 0.25}}
    assert task_of(data).told_prior(prior) == "always 'a'"
    shares = np.random.default_rng(0).random((20, 4))
    for some in shares:
        answers = [np.array(one) for one in itertools.product((0, 1), repeat=4) if any(one)]
        best = max(answers, key=lambda one, some=some: 2 * some @ one / (one.sum() + some.sum()))
        assert best_constant(some).tolist() == best.tolist()
    logits = torch.logit(torch.tensor([4 / 6, 2 / 6], dtype=torch.float64))
    from luthier.tasks.running.predicting import Predictions

    gold = np.array([[1, 0], [0, 1]])
    nothing = Predictions("multi_label", np.zeros((2, 2)), gold, np.arange(2), np.zeros(2), np.ones(2, int))
    found = task_of(data).by_prior(prior, nothing, data)
    assert found is not None
    assert found.guesses.tolist() == [[1, 0], [1, 0]]
    assert found.logits == pytest.approx(np.tile(logits.numpy(), (2, 1)))
    each = F.binary_cross_entropy_with_logits(logits.expand(2, 2), torch.tensor(gold).double(), reduction="none")
    assert found.nll == pytest.approx(each.sum(1).numpy())
    assert found.items.tolist() == [2, 2]


# -- a column for each class -------------------------------------------------------------------------------------------

FLAGS = ["rude", "threat", "spam"]


def flags(folder: Path, *rows: tuple[Any, ...], **more: Any) -> DataSettings:
    (folder / "flags.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in (("text", *FLAGS), *rows)))
    return DataSettings(train=str(folder / "flags.csv"), **{"task": "multi_label", "label": FLAGS, **more})


def test_every_class_may_have_a_column(tmp_path: Path, caplog):
    rows = (("a", 1, 0, 0), ("b", "True", "yes", "false"), ("c", 0, "0.0", "No"), ("d", 1, 1, 0))
    data = load_data(flags(tmp_path, *rows))
    assert data.labels == FLAGS  # in the order that they are named in, and also one that no row has
    assert data.splits["train"]["label"][:] == [["rude"], ["rude", "threat"], [], ["rude", "threat"]]
    assert "no row is of the class 'spam'" in caplog.text


def test_decimal_numbers_of_a_parquet_file_are_numbers(tmp_path: Path):
    marks = [Decimal("1.0"), Decimal("0.0"), Decimal("1.0"), Decimal("0.0")]
    columns = {"text": list("abcd"), "rude": marks, "threat": marks[::-1], "kind": [Decimal("1.0"), Decimal("2.5")] * 2}
    pq.write_table(pa.table(columns), tmp_path / "flags.parquet")
    file = {"train": str(tmp_path / "flags.parquet")}
    several = load_data(DataSettings(**file, task="multi_label", label=["rude", "threat"]))
    assert several.splits["train"]["label"][:] == [["rude"], ["threat"], ["rude"], ["threat"]]
    assert load_data(DataSettings(**file, task="single_sentence", label="kind")).labels == ["1", "2.5"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (("b", 1, -1, 0), "row 2 (line 3), column 'threat': holds '-1', which is neither 0 nor 1"),
        (("b", 1, 0, ""), "row 2 (line 3), column 'spam': is missing"),
        (("b", 1, 0, " "), "row 2 (line 3), column 'spam': is missing"),
        (("b", 0.5, 0, 0), "row 2 (line 3), column 'rude': holds '0.5', which is neither 0 nor 1"),
        (("", 1, 0, 0), "row 2 (line 3), column 'text'"),
    ],
)
def test_a_cell_that_is_no_flag_is_named(tmp_path: Path, row: tuple[Any, ...], told: str):
    given = (("a", 1, 0, 0), row, ("c", 0, 1, 1), ("d", 0, 0, 1))
    with pytest.raises(DataError) as refused:
        load_data(flags(tmp_path, *given))
    assert told in str(refused.value)
    assert len(load_data(flags(tmp_path, *given, invalid_rows="drop")).splits["train"]) == 3


def test_columns_of_classes_are_asked_for_as_they_are(tmp_path: Path):
    rows = (("a", 1, 0, 0), ("b", 0, 1, 1))
    for more, told in (
        ({"task": "single_sentence"}, "one a class, which is for `task: multi_label`"),
        ({"task": None}, "one a class, which is for `task: multi_label`"),
        ({"label": ["rude", "rude"]}, "`label` names a column twice"),
        ({"label": ["rude"]}, "at least 2 items"),
        ({"labels": FLAGS}, "`label` names the classes, and `labels` does, too"),
        ({"text": "rude"}, "are both read from the column 'rude'"),
    ):
        with pytest.raises(ValidationError, match=told):
            flags(tmp_path, *rows, **more)
    with pytest.raises(DataError, match="there is no column 'span'") as refused:
        load_data(flags(tmp_path, *rows, label=["rude", "span"]))
    assert "did you mean 'spam'" in str(refused.value)
    with pytest.raises(DataError, match="there is nothing in 'rude, threat, spam'"):
        load_data(flags(tmp_path, ("a", 0, 0, 0), ("b", 0, 0, 0)))


def test_a_model_learns_from_columns_and_predicts_files_with_and_without_them(place: Workplace):
    names = list(KINDS)
    for split in ("train", "validation", "test"):
        rows = [json.loads(line) for line in Path(f"{split}.jsonl").read_text().splitlines()]
        told = [",".join([row["text"], *(str(int(name in row["label"])) for name in names)]) for row in rows]
        Path(f"{split}.csv").write_text("\n".join([",".join(["text", *names]), *told]) + "\n")
    data = {split: f"{split}.csv" for split in ("train", "validation", "test")}
    place.tune.update(data={**data, "task": "multi_label", "label": names}, method="full")
    assert place.luthier("validate", place.write()) == 0
    assert place.run() == 0
    found = place.metrics("01-evaluate")
    assert found["scores"]["test/micro_f1"] > found["baselines"]["test/micro_f1"]["score"] + 0.1
    with_labels = [one["labels"] for one in predict_file(place.run_folder, "test.csv")]
    lines = Path("test.csv").read_text().splitlines()
    Path("texts.csv").write_text("".join(f"{line.partition(',')[0]}\n" for line in lines))
    assert [one["labels"] for one in predict_file(place.run_folder, "texts.csv")] == with_labels
    assert {name for labels in with_labels for name in labels} == set(names)
