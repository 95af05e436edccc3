"""Which positions an edge compares in a padded batch: starts and ends of answers, and tokens under an objective."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForQuestionAnswering

from luthier.distillation import DistillationTrainer, Edge
from luthier.distillation.parts import SoftLoss
from luthier.objectives.divergence import comparable_rows, symmetric_divergence
from luthier.objectives.part import Part
from luthier.objectives.part_list import PartList
from luthier.robustness.settings import RoastSettings
from tests.distillation.test_training import Tokens, kl, tagger
from tests.robustness import tiny

ROWS = 4


def reader(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 16}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.3}
    return BertForQuestionAnswering(BertConfig(vocab_size=tiny.WORDS, hidden_size=16, **sizes, **dropout)).double()


def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    batch = tiny.collate(rows)
    places = batch.pop("labels")
    return batch | {"start_positions": places, "end_positions": batch["attention_mask"].sum(1) - 1}


def gradients(folder: Path, edge: Edge, size: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    class Look(Part):
        def after_backward(self, trainer: Any) -> None:
            found.update({n: p.grad.clone() for n, p in trainer.main_model.named_parameters() if p.grad is not None})

    settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": ROWS // size}
    made = DistillationTrainer(
        {"s": reader(0), "l": reader(1).requires_grad_(False)},
        [edge],
        args=tiny.arguments(folder, max_steps=1, **settings),
        train_dataset=tiny.Rows(ROWS).rows,
        data_collator=collate,
        task="extractive_qa",
    )
    made.parts = PartList([*made.parts, Look()])
    made.train()
    return found


@pytest.mark.parametrize("size", [4, 1])
def test_answers_are_compared_at_tokens_alone_and_weigh_as_their_loss_does(tmp_path: Path, size: int) -> None:
    """Against one text after another, without padding: the mean over starts and ends, as the hard loss has it."""
    found = gradients(tmp_path, Edge(teacher="l", student="s", weight=3.0, temperature=2.0), size)
    student, teacher = reader(0), reader(1)
    for row in tiny.Rows(ROWS).rows:
        batch = collate([row])
        shown = batch["input_ids"], batch["attention_mask"]
        one, other = student(*shown), teacher(*shown)
        pairs = [(getattr(one, f"{p}_logits"), getattr(other, f"{p}_logits"), p) for p in ("start", "end")]
        losses = [
            F.cross_entropy(mine, batch[f"{place}_positions"]) + 3 * kl(theirs, mine, 2.0)
            for mine, theirs, place in pairs
        ]
        (sum(losses) / 2 / ROWS).backward()
    for name, g in found.items():
        torch.testing.assert_close(g, student.get_parameter(name).grad, atol=1e-6, rtol=1e-5)


def test_what_no_token_has_adds_nothing_to_a_divergence() -> None:
    logits = [torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(seed)).unbind(0) for seed in (0, 1)]
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
    rows = [comparable_rows(pair, None, mask=mask) for pair in logits]  # one prompt position in front
    expected = sum(
        symmetric_divergence(mine[i : i + 1, 1 : 1 + n], theirs[i : i + 1, 1 : 1 + n])
        for mine, theirs in zip(*logits, strict=True)
        for i, n in enumerate(mask.sum(1).tolist())
    )
    torch.testing.assert_close(symmetric_divergence(*rows), expected)


def test_an_objective_that_attends_to_padding_compares_none_of_it(tmp_path: Path) -> None:
    made = DistillationTrainer(
        {"s": tagger(0), "l": tagger(1).requires_grad_(False)},
        [Edge(teacher="l", student="s", positions="non_pad")],
        args=tiny.arguments(tmp_path, max_steps=1, per_device_train_batch_size=12),
        train_dataset=Tokens().rows,
        data_collator=Tokens.collate,
        task="token_labels",
        main_parts=RoastSettings(pad_mask=False).parts(),
    )
    made.train()
    batch = Tokens.collate(Tokens().rows)
    mask = batch["attention_mask"]
    with torch.no_grad():
        mine = tagger(0)(batch["input_ids"], torch.ones_like(mask)).logits[mask.bool()]
        theirs = tagger(1)(batch["input_ids"], mask).logits[mask.bool()]
    (edge,) = (part for part in made.parts if isinstance(part, SoftLoss))
    expected = kl(theirs, mine) * len(mine) / (batch["labels"] != -100).sum()
    assert edge.mean(1) == pytest.approx(float(expected), rel=1e-5)
