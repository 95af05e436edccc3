"""The loss in chunks is the plain loss, its gradient the plain gradient, and no tensor holds all logits."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Gemma2Config, Gemma2ForCausalLM

from luthier.errors import ModelError
from luthier.language_modeling import causal_lm_loss, chunked_cross_entropy, masked_lm_loss
from luthier.language_modeling.rows import check_head, logits_agree, output_embeddings, prediction_rows
from tests.language_modeling.models import CAUSAL, MASKED, SIZES, VOCABULARY, made


class Largest(TorchDispatchMode):
    """Notes the shapes of all tensors, and the most elements that one has."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.numel())
                self.shapes.add(tuple(one.shape))
        return out


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk_elements", [1, 40, 333, 10**6])
def test_chunks_give_the_plain_loss_and_gradient(bias: bool, chunk_elements: int):
    torch.manual_seed(0)
    hidden = (3 * torch.randn(7, 5)).requires_grad_()
    weight = torch.randn(23, 5, requires_grad=True)
    offset = torch.randn(23, requires_grad=True) if bias else None
    targets, share = torch.randint(23, (7,)), torch.rand(7)
    leaves = [x for x in (hidden, weight, offset) if x is not None]
    plain = F.cross_entropy(F.linear(hidden, weight, offset), targets, reduction="none")
    expected = torch.autograd.grad((plain * share).sum(), leaves)
    found = chunked_cross_entropy(hidden, weight, targets, offset, chunk_elements=chunk_elements)
    torch.testing.assert_close(found, plain, atol=1e-6, rtol=1e-6)
    for one, other in zip(torch.autograd.grad((found * share).sum(), leaves), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_huge_logits_do_not_overflow():
    hidden = torch.tensor([[1e4], [-1e4]])
    weight = torch.tensor([[1.0], [2.0], [-3.0]])
    found = chunked_cross_entropy(hidden, weight, torch.tensor([1, 1]), chunk_elements=2)
    assert found.tolist() == [0.0, 5e4]


def test_no_rows_cost_nothing_and_give_a_gradient():
    hidden, weight = torch.zeros(0, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    loss = chunked_cross_entropy(hidden, weight, torch.zeros(0, dtype=torch.long)).sum()
    loss.backward()
    assert loss.item() == 0
    assert weight.grad is not None
    assert not weight.grad.any()


def test_bfloat16_products_are_summed_in_float32():
    torch.manual_seed(1)
    hidden, weight, targets = torch.randn(50, 64), torch.randn(300, 64), torch.randint(300, (50,))
    found = chunked_cross_entropy(hidden, weight, targets, dtype=torch.bfloat16)
    plain = F.cross_entropy(hidden @ weight.T, targets, reduction="none")
    assert found.dtype == torch.float32
    assert float((found - plain).abs().max()) < 0.3
    assert float((found - plain).mean().abs()) < 0.02


def test_no_tensor_holds_the_logits_of_all_rows():
    rows, width, vocabulary, chunk = 64, 8, 4096, 8192
    hidden, weight = torch.randn(rows, width, requires_grad=True), torch.randn(vocabulary, width, requires_grad=True)
    targets = torch.randint(vocabulary, (rows,))
    with Largest() as seen:
        chunked_cross_entropy(hidden, weight, targets, chunk_elements=chunk).sum().backward()
    assert seen.elements == vocabulary * width
    with Largest() as plain:
        F.cross_entropy(hidden @ weight.T, targets).backward()
    assert plain.elements == rows * vocabulary


def test_a_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="have to be"):
        chunked_cross_entropy(torch.randn(3, 4), torch.randn(9, 5), torch.zeros(3, dtype=torch.long))


def masked_batch() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    ids = torch.randint(5, VOCABULARY, (3, 12), generator=draw)
    labels = torch.where(torch.rand(3, 12, generator=draw) < 0.3, ids, -100)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


@pytest.mark.parametrize("kind", [*MASKED, *CAUSAL])
def test_the_loss_of_a_model_is_that_of_its_own_logits_and_so_is_the_gradient(kind: str):
    model, batch = made({**MASKED, **CAUSAL}[kind]), masked_batch()
    labels = batch["labels"]
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    if kind in CAUSAL:
        expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        found = causal_lm_loss(model, batch)
    else:
        expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        found = masked_lm_loss(model, batch)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    names, parameters = zip(*model.named_parameters(), strict=True)
    want = torch.autograd.grad(expected, parameters, allow_unused=True)
    have = torch.autograd.grad(found, parameters, allow_unused=True)
    for name, one, other in zip(names, have, want, strict=True):
        if other is None or one is None:
            assert one is other is None, name
            continue
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_a_causal_loss_without_labels_is_over_every_following_token():
    model, batch = made(CAUSAL["llama"]), masked_batch()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits = model(**inputs).logits
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())
    torch.testing.assert_close(causal_lm_loss(model, inputs), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", [*MASKED, *CAUSAL])
def test_the_head_runs_on_the_predicted_rows_alone_and_the_model_is_as_before(kind: str):
    model, batch = made({**MASKED, **CAUSAL}[kind]), masked_batch()
    check_head(model)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    before = model(**inputs).logits
    with Largest() as seen:
        rows = prediction_rows(model, batch["labels"], shifted=kind in CAUSAL, inputs=inputs)
    assert len(rows.targets) == int((batch["labels"][:, 1 if kind in CAUSAL else 0 :] != -100).sum())
    assert rows.hidden.shape == (len(rows.targets), output_embeddings(model).in_features)
    whole = (*batch["input_ids"].shape, VOCABULARY)
    assert whole not in seen.shapes
    assert torch.equal(model(**inputs).logits, before)


def test_a_head_that_bends_its_logits_is_refused():
    config = Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5)
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(config).eval()
    nn.init.normal_(output_embeddings(model).weight, std=2.0)
    with pytest.raises(ModelError, match="no linear function"):
        check_head(model)


def test_a_prompt_in_front_of_the_text_is_refused(monkeypatch):
    model = made(CAUSAL["llama"])
    forward = model.forward

    def longer(input_ids, attention_mask):
        return forward(input_ids=torch.cat([input_ids[:, :2], input_ids], dim=1))

    monkeypatch.setattr(model, "forward", longer)
    with pytest.raises(ModelError, match="gives 6 outputs for 4 tokens"):
        check_head(model)


def test_a_model_without_a_vocabulary_is_refused():
    with pytest.raises(ModelError, match="projection onto a vocabulary"):
        output_embeddings(made(MASKED["bert"]).bert)


def test_logits_of_a_new_model_are_held_against_their_own_size():
    small = 1e-3 * torch.linspace(-1, 1, 50).reshape(5, 10)
    assert logits_agree(small * (1 + 1e-5), small, torch.float32)
    assert not logits_agree(small + 1e-5, small, torch.float32)
    assert not logits_agree(small[:4], small, torch.float32)
