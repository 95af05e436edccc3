"""Language models that learn text and one another: the same numbers as from all logits, without holding them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from luthier.distillation import DistillationTrainer, Edge
from luthier.distillation.divergences import divergence, divergence_of_predictions
from luthier.language_modeling.rows import PredictionRows
from luthier.objectives.part import Part
from luthier.objectives.part_list import PartList
from tests.robustness import tiny

LENGTH, ROWS, MASKED = 8, 8, -100


def masked(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 16}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForMaskedLM(BertConfig(vocab_size=tiny.WORDS, hidden_size=width, **sizes, **dropout)).double()


def causal(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 16}
    config = LlamaConfig(vocab_size=tiny.WORDS, hidden_size=width, **sizes, pad_token_id=0)
    return LlamaForCausalLM(config).double()


KINDS: dict[str, Any] = {"masked_lm": masked, "causal_lm": causal}


def rows(kind: str) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(2, tiny.WORDS, (ROWS, LENGTH), generator=draw)
    labels = ids.clone()
    if kind == "masked_lm":  # the first row has nothing masked
        labels[torch.rand(ROWS, LENGTH, generator=draw) < 0.7] = MASKED
        labels[0] = MASKED
    return [{"input_ids": i, "labels": y} for i, y in zip(ids, labels, strict=True)]


def collate(some: list[dict[str, Any]]) -> dict[str, Tensor]:
    batch = {name: torch.stack([row[name] for row in some]) for name in ("input_ids", "labels")}
    return batch | {"attention_mask": torch.ones_like(batch["input_ids"])}


def gradients(folder: Path, kind: str, edges: list[Edge], size: int) -> dict[str, dict[str, Tensor]]:
    """Of one step over all rows, that many in a pass."""
    found: dict[str, dict[str, Tensor]] = {}

    class Look(Part):
        def after_backward(self, trainer: Any) -> None:
            for name, place in trainer.nodes.places.items():
                parameters = trainer.models[place].named_parameters()
                found[name] = {n: p.grad.clone() for n, p in parameters if p.grad is not None}

    made = DistillationTrainer(
        {"s": KINDS[kind](16, 0), "l": KINDS[kind](32, 1)},
        edges,
        args=tiny.arguments(
            folder, max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=ROWS // size
        ),
        train_dataset=rows(kind),
        data_collator=collate,
        task=kind,
    )
    made.parts = PartList([*made.parts, Look()])
    made.train()
    return found


@pytest.mark.parametrize("size", [8, 4, 1])
@pytest.mark.parametrize("positions", ["masked", "non_pad"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_losses_are_those_of_all_logits(tmp_path: Path, kind: str, positions: Any, size: int) -> None:
    """Against plain operations on all logits at once; in batches of one, one batch has no masked token at all."""
    edges = [
        Edge(teacher="l", student="s", weight=3.0, temperature=2.0, positions=positions),
        Edge(teacher="s", student="l", kl_direction="reverse", positions=positions),
    ]
    found = gradients(tmp_path, kind, edges, size)
    models, batch = {"s": KINDS[kind](16, 0), "l": KINDS[kind](32, 1)}, collate(rows(kind))
    logits = {n: m(batch["input_ids"], attention_mask=batch["attention_mask"]).logits for n, m in models.items()}
    labels, compared = batch["labels"], torch.ones_like(batch["labels"], dtype=torch.bool)
    if kind == "causal_lm":
        logits, labels, compared = {n: x[:, :-1] for n, x in logits.items()}, labels[:, 1:], compared[:, 1:]
    counted = labels != MASKED
    compared = counted if positions == "masked" else compared
    items = counted.sum()
    total = sum(F.cross_entropy(x[counted], labels[counted], reduction="sum") for x in logits.values())
    p, q = (logits["l"][compared].detach() / 2).softmax(-1), (logits["s"][compared] / 2).softmax(-1)
    total = total + 3 * (p * (p / q).log()).sum()
    p, q = logits["s"][compared].detach().softmax(-1), logits["l"][compared].softmax(-1)
    total = total + (q * (q / p).log()).sum()
    (total / items).backward()
    for name, model in models.items():
        for key, g in found[name].items():
            torch.testing.assert_close(g, model.get_parameter(key).grad, atol=1e-6, rtol=1e-4, msg=f"{name} {key}")


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("direction", ["forward", "reverse", "jsd"])
def test_from_hidden_vectors_as_from_logits(direction: Any, stop: bool) -> None:
    draw = torch.Generator().manual_seed(1)

    def side(width: int) -> list[Tensor]:
        shapes = ((9, width), (31, width), (31,))
        return [torch.randn(*s, generator=draw, dtype=torch.float64).requires_grad_() for s in shapes]

    one, other = side(5), side(7)
    logits = [F.linear(h, w, b) for h, w, b in (one, other)]
    leaves = one if stop else [*one, *other]
    whole = divergence(*logits, temperature=2.0, direction=direction, stop_gradient=stop)
    expected = torch.autograd.grad(whole, leaves)
    rows = [PredictionRows(h, w, b, torch.zeros(9, dtype=torch.long)) for h, w, b in (one, other)]
    found = divergence_of_predictions(
        *rows, temperature=2.0, direction=direction, stop_gradient=stop, chunk_elements=62
    )
    torch.testing.assert_close(found, whole)
    for a, b in zip(torch.autograd.grad(found, leaves), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_no_masked_token_gives_zero() -> None:
    empty = PredictionRows(torch.zeros(0, 4, requires_grad=True), torch.randn(9, 4), None, torch.zeros(0).long())
    value = divergence_of_predictions(empty, empty)
    value.backward()
    assert value.item() == 0
