"""Models that each mask a copy of their own: the soft loss compares what is masked in both."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import luthier
from luthier.distillation import DistillationTrainer, Edge
from luthier.language_modeling.corpus_settings import CorpusSettings
from luthier.language_modeling.documents import Corpus
from luthier.language_modeling.masking import Masking
from luthier.language_modeling.packing import Frame
from luthier.language_modeling.stream import PackedStream
from luthier.objectives.part import Part
from luthier.objectives.part_list import PartList
from luthier.storage.jsonlines import read_log
from tests.cli.conftest import sentences, tiny_model
from tests.distillation.test_language import KINDS, MASKED, collate, rows
from tests.language_modeling.models import word_pieces
from tests.robustness import tiny

__all__ = ["tiny_model"]
ROWS = 8


def with_copies() -> list[dict[str, Any]]:
    """Rows with another mask for the model `l`; the first two have no token that is masked in both."""
    draw, found = torch.Generator().manual_seed(3), []
    for number, row in enumerate(rows("masked_lm")):
        labels = row["input_ids"].clone()
        labels[torch.rand(len(labels), generator=draw) < 0.5] = MASKED
        if number < 2:
            labels[row["labels"] != MASKED] = MASKED
        seen = torch.where(labels != MASKED, 1, row["input_ids"])
        found.append(row | {"input_ids@l": seen, "labels@l": labels})
    return found


def collated(some: list[dict[str, Any]]) -> dict[str, Tensor]:
    return collate(some) | {name: torch.stack([row[name] for row in some]) for name in ("input_ids@l", "labels@l")}


def gradients(folder: Path, edges: list[Edge], size: int) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}

    class Look(Part):
        def after_backward(self, trainer: Any) -> None:
            for name, place in trainer.nodes.places.items():
                parameters = trainer.models[place].named_parameters()
                found[name] = {n: p.grad.clone() for n, p in parameters if p.grad is not None}

    steps = {"max_steps": 1, "per_device_train_batch_size": size, "gradient_accumulation_steps": ROWS // size}
    made = DistillationTrainer(
        {"s": KINDS["masked_lm"](16, 0), "l": KINDS["masked_lm"](32, 1)},
        edges,
        args=tiny.arguments(folder, **steps),
        train_dataset=with_copies(),
        data_collator=collated,
        task="masked_lm",
    )
    made.parts = PartList([*made.parts, Look()])
    made.train()
    return found


@pytest.mark.parametrize("size", [8, 1])
@pytest.mark.parametrize("positions", ["masked", "non_pad"])
def test_each_model_learns_its_own_copy_and_edges_what_both_share(tmp_path: Path, positions: Any, size: int) -> None:
    edges = [
        Edge(teacher="l", student="s", weight=3.0, positions=positions),
        Edge(teacher="s", student="l", positions=positions),
    ]
    found = gradients(tmp_path, edges, size)
    models, batch = {"s": KINDS["masked_lm"](16, 0), "l": KINDS["masked_lm"](32, 1)}, collated(with_copies())
    copies = {"s": ("input_ids", "labels"), "l": ("input_ids@l", "labels@l")}
    logits = {n: models[n](batch[ids], attention_mask=batch["attention_mask"]).logits for n, (ids, _) in copies.items()}
    counted = {n: batch[labels] != MASKED for n, (_, labels) in copies.items()}
    shared = counted["s"] & counted["l"]
    assert 0 < shared.sum() < counted["s"].sum() != counted["l"].sum()
    total: Any = 0
    for teacher, student, weight in (("l", "s", 3.0), ("s", "l", 1.0)):
        labels = batch[copies[student][1]][counted[student]]
        total = total + F.cross_entropy(logits[student][counted[student]], labels)
        compared = shared if positions == "masked" else torch.ones_like(shared)
        items = (shared if positions == "masked" else counted[student]).sum()
        p, q = logits[teacher][compared].detach().softmax(-1), logits[student][compared].softmax(-1)
        total = total + weight * (p * (p / q).log()).sum() / items
    total.backward()
    for name, model in models.items():
        for key, g in found[name].items():
            torch.testing.assert_close(g, model.get_parameter(key).grad, atol=1e-6, rtol=1e-4, msg=f"{name} {key}")


def test_a_stream_gives_copies_with_masks_of_their_own(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat runs\na dog played the cat\nundoing the dog\n" * 20)
    tokenizer, corpus = word_pieces(), {"train": str(text)}
    settings = CorpusSettings.model_validate(corpus)
    made = Corpus(settings.train, settings)
    frame = Frame.of(tokenizer, 12, masked=True)

    def first(seed: int, **copies: int) -> list[dict[str, Any]]:
        maskings = {name: Masking.of(tokenizer, seed=own) for name, own in copies.items()}
        stream = PackedStream(made, tokenizer, frame, masking=Masking.of(tokenizer, seed=seed), copies=maskings)
        return list(islice(stream, 6))

    both, one, other = first(1, l=2), first(1), first(2)
    for row, own, theirs in zip(both, one, other, strict=True):
        for field in ("input_ids", "labels"):
            assert np.array_equal(row[field], own[field])
            assert np.array_equal(row[f"{field}@l"], theirs[field])
    assert any(not np.array_equal(row["labels"], row["labels@l"]) for row in both)


def test_a_stage_trains_with_own_masks_in_turns(tmp_path: Path, tiny_model: Path) -> None:
    for split, seed in (("train", 0), ("held", 1)):
        (tmp_path / f"{split}.txt").write_text("".join(f"{words}\n" for words, _ in sentences(120, seed)))
    corpus = {"train": str(tmp_path / "train.txt"), "validation": str(tmp_path / "held.txt")}
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    nodes = {"large": {"sizes": {**sizes, "num_hidden_layers": 2}}, "small": {"like": "large", "sizes": sizes}}
    edges = [{"teacher": "large", "student": "small"}, {"teacher": "small", "student": "large"}]
    stage = {"text": {"corpus": corpus, "objective": "masked", "length": 16}, "nodes": nodes, "edges": edges}
    stage |= {"give": "large", "update": "alternating", "same_mask": False}
    stage |= {"max_steps": 4, "batch_size": 4, "evaluate_every": 2, "checkpoint_every": 2, "log_every": 1}
    recipe = {"name": "own", "model": str(tiny_model), "stages": [{"distil": stage}]}
    place = luthier.run(recipe, output=tmp_path / "runs").folder / "00-distil"
    terms = [line for line in read_log(place / "log.jsonl") if line["event"] == "terms"]
    assert len(terms) == 4
    assert {"loss of large", "loss of small", "large to small", "small to large"} <= set(terms[0])
    assert (place / "small" / "model.safetensors").is_file()
