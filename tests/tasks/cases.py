"""The table of tasks that every check in `test_tasks.py` runs through: a new task adds one row.

The models are tiny, random, in double precision and without dropout, so that every check is exact and fast.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional as F
from transformers import BertConfig, LlamaConfig

from luthier.data.batches.encoding import encode
from luthier.data.loading import load_data
from luthier.data.settings import DataSettings
from luthier.data.task_data import TaskData
from luthier.models.head_kinds import HEAD_KINDS
from luthier.models.heads import auto_class
from luthier.tasks.base import Task, task_of
from tests.data.tokenizers import decoder_tokenizer, word_tokenizer

SURE = 60.0
TEXTS = ["a b", "c", "d e f g", "h i", "j k l", "m", "n o p", "q r s t"]


def sure_of(labels: torch.Tensor, classes: int) -> torch.Tensor:
    return F.one_hot(labels.clamp(min=0), classes).double() * SURE


def classes(batch: dict[str, Any]) -> Any:
    return SimpleNamespace(logits=sure_of(batch["labels"], 2))


def numbers(batch: dict[str, Any]) -> Any:
    return SimpleNamespace(logits=batch["labels"][:, None].double())


def several(batch: dict[str, Any]) -> Any:
    return SimpleNamespace(logits=(batch["labels"].double() * 2 - 1) * SURE)


def tags(batch: dict[str, Any]) -> Any:
    return SimpleNamespace(logits=sure_of(batch["labels"], 3))


def spans(batch: dict[str, Any]) -> Any:
    width = batch["input_ids"].shape[1]
    places = {name: sure_of(batch[name], width) for name in ("start_positions", "end_positions")}
    return SimpleNamespace(start_logits=places["start_positions"], end_logits=places["end_positions"])


def next_tokens(batch: dict[str, Any]) -> Any:
    return SimpleNamespace(logits=sure_of(batch["labels"].roll(-1, dims=1), 64))


def found(batch: dict[str, Any]) -> Any:
    words, kinds, related = batch["entity_words"], batch["entity_types"], batch["relations"]
    pairs = torch.zeros(*kinds.shape, kinds.shape[1], 2)
    for row, some in enumerate(related):
        for head, tail, kind in some[some[:, 0] >= 0]:
            pairs[row, head, tail, kind] = 1.0
    return SimpleNamespace(
        row_loss=torch.zeros(len(words)),
        found_words=words,
        found_types=kinds,
        found_scores=torch.ones(kinds.shape),
        found_pairs=pairs,
        threshold=torch.full((2,), 0.5),
    )


@dataclass(frozen=True)
class Case:
    """One row: eight examples of a task, and what a model without a fault would give.

    Attributes:
        task: as in a recipe.
        rows: as in a file.
        perfect: batch -> the outputs of a model that knows every label; None where answers are no outputs.
        data: further settings of the data.
        model: the architecture.
        max_length: positions that it may use.
    """

    task: str
    rows: list[dict[str, Any]]
    perfect: Callable[[dict[str, Any]], Any] | None = None
    data: dict[str, Any] = field(default_factory=dict)
    model: str = "bert"
    max_length: int = 48

    def __str__(self) -> str:
        return self.task + (" as text" if self.data.get("as_text") else "")


ONE = [{"text": text} for text in TEXTS]
TWO = [{"text": text, "text_pair": other} for text, other in zip(TEXTS, TEXTS[::-1], strict=True)]


def labelled(rows: list[dict[str, Any]], labels: list[Any]) -> list[dict[str, Any]]:
    return [{**row, "label": labels[i % len(labels)]} for i, row in enumerate(rows)]


def with_span(text: str) -> dict[str, Any]:
    words = text.split()
    return {"question": "u v", "context": text, "answers": {"text": [words[-1]], "answer_start": [len(text) - 1]}}


WORDS = [{"tokens": text.split(), "tags": ["B-X", "I-X", "O", "O"][: len(text.split())]} for text in TEXTS]
CHOICES = labelled([{"context": text, "choices": ["x", "y z"]} for text in TEXTS], [0, 1])
ANSWERS = [{"prompt": text, "response": other} for text, other in zip(TEXTS, TEXTS[::-1], strict=True)]


def with_entities(text: str, number: int) -> dict[str, Any]:
    words = text.split()
    entities = [{"type": "XY"[i % 2], "start": i, "end": i + 1} for i in range(len(words) - 1)]
    relations = [{"type": "rs"[number % 2], "head": i + 1, "tail": i} for i in range(len(entities) - 1)]
    return {"tokens": words, "entities": entities, "relations": relations}


DOCUMENTS = [with_entities(text, number) for number, text in enumerate(TEXTS)]
AS_TEXT: dict[str, Any] = {"data": {"as_text": True}, "model": "llama"}
CASES = [
    Case("single_sentence", labelled(ONE, ["no", "yes"]), classes),
    Case("pair", labelled(TWO, ["no", "yes"]), classes),
    Case("regression", labelled(ONE, [0.5, 1.25, 3]), numbers),
    Case("multi_label", labelled(ONE, [["x"], ["x", "y"], [], ["z", "x"]]), several),
    Case("token_labels", WORDS, tags),
    Case("extractive_qa", [with_span(text) for text in TEXTS], spans),
    Case("multiple_choice", CHOICES, classes),
    Case("joint_extraction", DOCUMENTS, found),
    Case("plain_text", ONE, next_tokens, model="llama", max_length=3),
    Case("prompt_response", ANSWERS, next_tokens, model="llama"),
    Case("single_sentence", labelled(ONE, ["n", "y"]), **AS_TEXT),
    Case("pair", labelled(TWO, ["n", "y"]), **AS_TEXT),
    Case("regression", labelled(ONE, [1, 2]), data={"as_text": True, "number_step": 1}, model="llama"),
    Case("multiple_choice", CHOICES, data={"as_text": True, "verbalizers": {"0": "x", "1": "y"}}, model="llama"),
]


class Prepared:
    """A case's data, encoded, and a model for it."""

    def __init__(self, case: Case, folder: Path) -> None:
        path = folder / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in case.rows))
        self.case = case
        self.data: TaskData = load_data(DataSettings(train=str(path), task=case.task, **case.data))
        self.task: Task = task_of(self.data)
        self.tokenizer = word_tokenizer() if case.model == "bert" else decoder_tokenizer(eos_token="<eos>")
        self.tokenizer.add_tokens(["1", "2"])
        self.rows = encode(self.data, self.tokenizer, max_length=case.max_length)["train"]

    @cached_property
    def model(self) -> Any:
        torch.manual_seed(0)
        one_number = self.task.head_arguments(self.data.labels).get("regression")
        outputs = 1 if one_number else len(self.data.labels) or 2
        sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        if self.case.model == "bert":
            config: Any = BertConfig(**sizes, intermediate_size=32, num_labels=outputs)
            if HEAD_KINDS[self.task.head_on(config)].has_labels and self.data.labels and not one_number:
                config.id2label = dict(enumerate(self.data.labels))
        else:
            config = LlamaConfig(**sizes, intermediate_size=32, bos_token_id=None, eos_token_id=4, pad_token_id=4)
        config._attn_implementation = "eager"
        return auto_class(self.task.head_on(config)).from_config(config).double().eval()

    @property
    def shifted(self) -> bool:
        return self.task.predicts_next_token(self.model.config)
