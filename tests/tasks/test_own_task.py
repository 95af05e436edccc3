"""A task that this module registers is read, trained, judged and asked like those that Luthier has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from luthier.api import run
from luthier.cli import main
from luthier.data import DataSettings, load_data
from luthier.data.batches.encoders import Encoded, Encoder, encode_texts
from luthier.data.schemas import IGNORED, LabelKind, infer_task
from luthier.errors import DataError, ModelError, RecipeError
from luthier.prediction import predict_file, predict_texts
from luthier.registry import TASKS
from luthier.tasks.base import Row, Task
from luthier.tasks.running.judged import Judged
from tests.data.tokenizers import word_tokenizer

TOPICS = ("animals", "food", "places")


class Topics(Task):
    """Any number of topics a text, each learned as a yes or no."""

    name: ClassVar[str] = "topics"
    summary: ClassVar[str] = "texts with any number of topics each"
    columns: ClassVar[tuple[str, ...]] = ("headline",)
    label_column: ClassVar[str | None] = "topics"
    label_kind: ClassVar[LabelKind | None] = "classes"
    metrics: ClassVar[tuple[str, ...]] = ("topic_accuracy",)
    guess_rank: ClassVar[int | None] = 100
    head = "sequence_classification"
    one_output: ClassVar[bool] = False

    def encode(self, columns: Mapping[str, Sequence[Any]], encoder: Encoder) -> Encoded:
        encoded = encode_texts({"text": columns["headline"], "row": columns["row"]}, encoder)
        return encoded | ({"labels": list(columns["topics"])} if "topics" in columns else {})

    def items(self, batch: Mapping[str, Any], *, shifted: bool = False) -> int:
        return len(batch["labels"])

    def loss(self, logits: Any, batch: Mapping[str, Any], *, items: float, shifted: bool = False) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(logits, told(batch["labels"], logits), reduction="sum") / items

    def outputs(self, out: Any, batch: Mapping[str, Any], *, shifted: bool) -> Iterator[dict[str, Any]]:
        for i, logits in enumerate(out.logits):
            labels = told(batch["labels"][i : i + 1], logits[None])[0] if "labels" in batch else None
            nll = 0.0 if labels is None else F.binary_cross_entropy_with_logits(logits, labels, reduction="sum").item()
            yield {
                "logits": logits.cpu().numpy(),
                "label": None if labels is None else labels.cpu().numpy() > 0,
                "nll": nll,
                "items": 1,
            }

    def judge(self, predictions: Any, data: Any, examples: Any, rows: Any) -> Judged:
        return Judged(np.stack(predictions.labels), np.stack(predictions.logits) > 0)

    def own_metrics(self) -> Mapping[str, Callable[[Any, Any], float]]:
        return {"topic_accuracy": lambda gold, guess: float((gold == guess).mean())}

    def describe(self, predictions: Any, rows: Sequence[Row], encoded: Any, card: Any) -> list[Row]:
        pairs = zip(rows, predictions.logits, strict=True)
        return [
            self.shown(row) | {"topics": [name for name, x in zip(card.labels, some, strict=True) if x > 0]}
            for row, some in pairs
        ]

    def row_of_text(self, column: str, text: str, number: int) -> Row | None:
        return {column: text}


def told(labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """(B, K) padded class ids -> (B, C) of zeros and ones."""
    classes = torch.arange(logits.shape[-1], device=labels.device)
    return ((labels[:, :, None] == classes) & (labels != IGNORED)[:, :, None]).any(dim=1).to(logits.dtype)


@pytest.fixture
def topics() -> Iterator[None]:
    TASKS.register(Topics)
    yield
    del TASKS._entries["topics"]


def rows_of(count: int) -> list[dict[str, Any]]:
    words = {"animals": "a cat", "food": "ripe figs", "places": "mud"}
    subsets = [[topic for bit, topic in enumerate(TOPICS) if number >> bit & 1] for number in range(8)]
    chosen = [subsets[1 + number % 7] for number in range(count)]
    return [{"headline": " ".join(words[topic] for topic in some), "topics": some} for some in chosen]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_it_is_found_by_its_columns_or_its_name(topics, tmp_path):
    file = write(tmp_path / "a.jsonl", rows_of(4))
    for settings in (DataSettings(train=file), DataSettings(train=file, task="topics")):
        data = load_data(settings)
        assert (data.schema.name, data.labels, data.metrics) == ("topics", sorted(TOPICS), ("topic_accuracy",))
    assert infer_task({"headline", "topics"}, set()) == "topics"


def test_its_cells_are_checked_like_others(topics, tmp_path):
    file = write(tmp_path / "a.jsonl", [*rows_of(3), {"headline": "", "topics": 3}])
    with pytest.raises(DataError, match=r"row 4.*headline.*holds no text(.|\n)*topics.*no list of labels"):
        load_data(DataSettings(train=file))


def test_a_task_that_nobody_registered_is_told_with_the_nearest_one(tmp_path):
    with pytest.raises(RecipeError, match=r"there is no task called 'single_sentense'(.|\n)*'single_sentence'"):
        run({"name": "a", "model": "m", "stages": [{"tune": {"data": {"train": "a.csv", "task": "single_sentense"}}}]})


def test_a_metric_that_is_none_is_told_before_anything_is_trained(topics, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    model = BertModel(BertConfig(vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    model.save_pretrained("model")
    word_tokenizer().save_pretrained("model")
    tune = {"data": {"train": write(Path("train.jsonl"), rows_of(14)), "task": "topics"}}
    Path("recipe.yaml").write_text(json.dumps({"name": "a", "model": "./model", "stages": [{"tune": tune}]}))
    monkeypatch.setattr(Topics, "metrics", ("topic_acuracy",))
    assert main(["plan", "recipe.yaml"]) == 2
    assert "there is no metric called 'topic_acuracy'\n  fix: did you mean 'topic_accuracy'?" in capsys.readouterr().err
    monkeypatch.setattr(Topics, "own_metrics", Task.own_metrics)
    monkeypatch.setattr(Topics, "metrics", ("acuracy",))
    assert main(["run", "recipe.yaml"]) == 2
    assert "there is no metric called 'acuracy'\n  fix: did you mean 'accuracy'?" in capsys.readouterr().err


def test_it_is_trained_judged_and_asked(topics, tmp_path, capsys):
    torch.manual_seed(0)
    tokenizer = word_tokenizer()
    tokenizer.model_max_length = 32
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertModel(BertConfig(vocab_size=len(tokenizer), **sizes, max_position_embeddings=32))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    train, test = write(tmp_path / "train.jsonl", rows_of(56)), write(tmp_path / "test.jsonl", rows_of(7))
    validation = write(tmp_path / "validation.jsonl", rows_of(7))
    data = {"train": train, "validation": validation, "test": test, "task": "topics"}
    tune = {"method": "full", "data": data, "epochs": 20, "batch_size": 7, "accumulation": 2, "learning_rate": 3e-3}
    recipe = {"name": "own", "model": str(tmp_path / "model"), "stages": [{"tune": tune}, {"evaluate": {}}]}
    record = run(recipe, output=tmp_path / "runs")
    folder = tmp_path / "runs" / "own"
    metrics = json.loads(next(folder.glob("**/*evaluate*/metrics.json")).read_text())
    assert record is not None
    assert metrics["scores"]["test/topic_accuracy"] > 0.9
    if metrics["scores"]["test/topic_accuracy"] == 1:  # that it is a mean over rows only its plugin knows
        assert "test/topic_accuracy" not in metrics["intervals"]
        assert any("no interval of topic_accuracy: every row is right" in mark for mark in metrics["marks"])
    else:
        low, high = metrics["intervals"]["test/topic_accuracy"]
        assert low < metrics["scores"]["test/topic_accuracy"] < high

    rows = rows_of(7)
    unlabelled = write(tmp_path / "asked.jsonl", [{"headline": row["headline"]} for row in rows])
    answers = predict_file(folder, unlabelled)
    assert [answer["headline"] for answer in answers] == [row["headline"] for row in rows]
    pairs = [(a["topics"], r["topics"]) for a, r in zip(answers, rows, strict=True)]
    right = sum((topic in guess) == (topic in gold) for guess, gold in pairs for topic in TOPICS)
    assert right / 21 == pytest.approx(metrics["scores"]["test/topic_accuracy"])
    assert predict_texts(folder, [row["headline"] for row in rows]) == answers
    assert main(["predict", str(folder), "--text", "a cat"]) == 0
    assert "a cat" in capsys.readouterr().out

    with pytest.MonkeyPatch.context() as without:
        without.delitem(TASKS._entries, "topics")
        with pytest.raises(ModelError, match="trained for the task topics, which nothing that is installed brings"):
            predict_texts(folder, "a cat")


@pytest.mark.parametrize("name", ["columns", "metrics", "targets"])
def test_a_text_in_place_of_names_is_refused_where_the_task_is_written(name):
    with pytest.raises(TypeError, match=rf"{name} of Hasty is no tuple but the text 'text': write \('text',\)"):
        type("Hasty", (Topics,), {name: "text", "__qualname__": "Hasty"})
