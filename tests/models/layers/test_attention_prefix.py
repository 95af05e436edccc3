"""Prefixes in front of the keys and values of any transformers model."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AttentionInterface

from luthier.models.layers.attention_prefix import KeyValuePrefix, active_prefixes, add_provider, remove_provider
from luthier.models.layers.blocks import find_blocks
from luthier.models.layers.serving import is_served, serve_prefixes, stop_serving
from tests.tuning.tiny_models import (
    ALL,
    DECODERS,
    ENCODER_DECODERS,
    TOLERANCE,
    batch_for,
    build,
    logits_of,
    row_logits,
)

LENGTH = 3


class Table(nn.Module):
    """A provider with fixed keys and values for each attention module."""

    def __init__(self, model: Any, seed: int = 1, log_weight: float = 0.0, gate: float | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.states = nn.ParameterList()
        self.log_weight, self.gate, self.of = log_weight, gate, {}
        for block in find_blocks(model):
            for attention in block.attentions.values():
                shape = (2, 1, attention.key_value_heads, LENGTH, attention.head_width)
                self.of[attention.module] = len(self.states)
                self.states.append(nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)))

    def __call__(self, attention: nn.Module) -> list[KeyValuePrefix]:
        key, value = self.states[self.of[attention]]
        gate = None if self.gate is None else torch.full((1, 1, 1), self.gate, dtype=key.dtype)
        return [KeyValuePrefix(key, value, self.log_weight, gate)]

    def put(self, model: Any) -> Any:
        serve_prefixes(model, self.of)
        for attention in self.of:
            add_provider(attention, self)
        return model


def with_prefix(kind: str, attention: str | None = None, **settings: Any) -> tuple[Any, Table]:
    model = build(kind, attention)
    table = Table(model, **settings)
    return table.put(model), table


def reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    visible: torch.Tensor,
    prefixes: list[KeyValuePrefix],
    scaling: float,
    bias: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    """Attention with prefixes, query by query and head by head."""
    examples, heads, length, _ = query.shape
    group = heads // key.shape[1]
    out = torch.zeros(examples, length, heads, value.shape[-1], dtype=query.dtype)
    bias = torch.as_tensor(bias, dtype=query.dtype).expand(1, heads, length, key.shape[2])
    for b in range(examples):
        for h in range(heads):
            for t in range(length):
                q, scores, values = query[b, h, t], [], []
                for p in prefixes:
                    g = 1.0 if p.query_gate is None else p.query_gate[b, t, 0]
                    keys, values_ = p.key[b % len(p.key), h // group], p.value[b % len(p.value), h // group]
                    for k, v in zip(keys, values_, strict=True):
                        scores.append(q @ (g * k) * scaling + p.log_weight)
                        values.append(g * v)
                for s in range(key.shape[2]):
                    if visible[b, t, s]:
                        scores.append(q @ key[b, h // group, s] * scaling + bias[0, h, t, s])
                        values.append(value[b, h // group, s])
                out[b, t, h] = torch.stack(scores).softmax(0) @ torch.stack(values)
    return out


# Eager attention always gets a mask from a causal model.
CALLS = [(name, c, m) for name in ("sdpa", "eager") for c in (False, True) for m in (False, True)]


@pytest.mark.parametrize(("name", "causal", "masked"), [call for call in CALLS if call != ("eager", True, False)])
@pytest.mark.parametrize("weights", [(0.0, 0.0), (0.4, -1.3)])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_attention_function_equals_the_formula(
    name: str, causal: bool, masked: bool, weights: tuple[float, float], gated: bool, biased: bool
) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    torch.manual_seed(0)
    shape = (2, 2, 4, 6)
    query = torch.randn(2, 4, 4, 6, dtype=torch.float64)
    key, value = torch.randn(2, *shape, dtype=torch.float64)
    gate = torch.rand(2, 4, 1, dtype=torch.float64) if gated else None
    prefixes = [
        KeyValuePrefix(*torch.randn(2, 1, 2, 3, 6, dtype=torch.float64), weights[0]),
        KeyValuePrefix(*torch.randn(2, 2, 2, 2, 6, dtype=torch.float64), weights[1], gate),
    ]
    module = T5Attention.__new__(T5Attention)
    nn.Module.__init__(module)
    module.eval()
    module.is_causal, module.num_key_value_groups, module.config = causal, 2, SimpleNamespace()
    add_provider(module, lambda _: prefixes)
    serve_prefixes(build("bert"), find_attentions(build("bert")))
    visible = torch.ones(2, 4, 4, dtype=torch.bool)
    if causal:
        visible = visible.tril()
    mask = None
    if masked:
        visible[1, :, 3] = False
        mask = visible[:, None]
        mask = mask if name == "sdpa" else torch.zeros(mask.shape).double().masked_fill(~mask, -1e300)
    bias = torch.randn(1, 4, 4, 4, dtype=torch.float64) if biased else None
    function = AttentionInterface()[f"luthier_prefix_{name}"]
    if name == "eager":
        # T5's own eager attention has no grouped heads.
        key_states, value_states = (x.repeat_interleave(2, dim=1) for x in (key, value))
        wide = [
            KeyValuePrefix(p.key.repeat_interleave(2, 1), p.value.repeat_interleave(2, 1), p.log_weight, p.query_gate)
            for p in prefixes
        ]
        remove_provider(module, module.__dict__["luthier_prefix_providers"][0])
        add_provider(module, lambda _: wide)
        output, _ = function(module, query, key_states, value_states, mask, scaling=0.3, position_bias=bias)
    else:
        output, _ = function(module, query, key, value, mask, scaling=0.3, position_bias=bias)
    expected = reference(query, key, value, visible, prefixes, 0.3, 0.0 if bias is None else bias)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)


def find_attentions(model: Any) -> list[nn.Module]:
    return [attention.module for block in find_blocks(model) for attention in block.attentions.values()]


@pytest.mark.parametrize("kind", ALL)
def test_serving_alone_changes_no_bit(kind: str) -> None:
    model, batch = build(kind), batch_for(kind)
    before = logits_of(model, batch)
    serve_prefixes(model, find_attentions(model))
    assert all(is_served(attention) for attention in find_attentions(model))
    assert torch.equal(logits_of(model, batch), before)
    stop_serving(model)
    assert not any(is_served(attention) for attention in find_attentions(model))
    assert torch.equal(logits_of(model, batch), before)


@pytest.mark.parametrize("kind", ALL)
def test_weights_and_order(kind: str) -> None:
    batch, close = batch_for(kind), {"rtol": 0, "atol": TOLERANCE.get(kind, 1e-10)}
    model, first = with_prefix(kind)
    once = logits_of(model, batch)
    assert not torch.allclose(once, logits_of(build(kind), batch), atol=1e-4)

    first.log_weight = math.log(2)
    doubled = logits_of(model, batch)
    first.log_weight = 0.0
    for attention in first.of:
        add_provider(attention, first)
    torch.testing.assert_close(logits_of(model, batch), doubled, **close)
    for attention in first.of:
        remove_provider(attention, first)

    second = Table(model, seed=2)
    second.put(model)
    both = logits_of(model, batch)
    second.log_weight = -math.inf
    assert torch.equal(logits_of(model, batch), once)
    second.log_weight = 0.0
    for attention in first.of:
        remove_provider(attention, first)
        add_provider(attention, first)
    torch.testing.assert_close(logits_of(model, batch), both, **close)


@pytest.mark.parametrize("kind", ALL)
def test_query_gates_equal_multiplied_keys_and_values(kind: str) -> None:
    batch = batch_for(kind)
    gated, _ = with_prefix(kind, gate=0.3)
    multiplied, table = with_prefix(kind)
    with torch.no_grad():
        for states in table.states:
            states.mul_(0.3)
    torch.testing.assert_close(
        logits_of(gated, batch), logits_of(multiplied, batch), rtol=0, atol=TOLERANCE.get(kind, 1e-10)
    )


@pytest.mark.parametrize("kind", [kind for kind in ALL if not kind.startswith("deberta")])
@pytest.mark.parametrize("settings", [{}, {"log_weight": 0.5}, {"gate": 0.6}])
def test_sdpa_equals_eager(kind: str, settings: dict[str, float]) -> None:
    batch = batch_for(kind)
    sdpa, eager = (logits_of(with_prefix(kind, name, **settings)[0], batch) for name in ("sdpa", "eager"))
    shown = batch["attention_mask"].bool() if kind in DECODERS else slice(None)
    torch.testing.assert_close(sdpa[shown], eager[shown], rtol=0, atol=TOLERANCE.get(kind, 1e-10))


@pytest.mark.parametrize("kind", ALL)
def test_padding_and_other_rows_change_nothing(kind: str) -> None:
    model, _ = with_prefix(kind, log_weight=0.2)
    alone, beside = batch_for(kind, (7,)), batch_for(kind, (7, 4), width=9)
    if kind in DECODERS:
        beside["position_ids"] = (beside["attention_mask"].cumsum(1) - 1).clamp(min=0)
    torch.testing.assert_close(
        row_logits(kind, logits_of(model, beside), 0, 7),
        row_logits(kind, logits_of(model, alone), 0, 7),
        rtol=0,
        atol=TOLERANCE.get(kind, 1e-10),
    )


@pytest.mark.parametrize("kind", [*DECODERS, *ENCODER_DECODERS])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_decoders_do_not_see_the_future(kind: str, attention: str) -> None:
    model, _ = with_prefix(kind, attention)
    batch = batch_for(kind, (7, 7))
    written = "decoder_input_ids" if kind in ENCODER_DECODERS else "input_ids"
    before = logits_of(model, batch)
    batch[written] = batch[written].clone()
    batch[written][:, -1] = 5
    after = logits_of(model, batch)
    assert torch.equal(after[:, :-1], before[:, :-1])
    assert not torch.equal(after[:, -1], before[:, -1])


@pytest.mark.parametrize("kind", [*DECODERS, *ENCODER_DECODERS])
def test_generating_with_cache_equals_without(kind: str) -> None:
    model, _ = with_prefix(kind, log_weight=0.3)
    batch = {name: value for name, value in batch_for(kind).items() if not name.startswith("decoder")}
    settings = {"max_new_tokens": 6, "num_beams": 2, "do_sample": False}
    cached, full = (model.generate(**batch, **settings, use_cache=cache) for cache in (True, False))
    assert torch.equal(cached, full)
    plain = build(kind).generate(**batch, **settings)
    assert not torch.equal(cached, plain)


@pytest.mark.parametrize("kind", ALL)
def test_checkpointed_gradients_are_the_same(kind: str) -> None:
    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        model, table = with_prefix(kind)
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model(**batch_for(kind)).logits.pow(2).sum().backward()
        return [p.grad for p in table.states]

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        assert plain.abs().sum() > 0
        torch.testing.assert_close(recomputed, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["bert", "llama", "deberta-v2"])
def test_compiled_gives_the_same(kind: str) -> None:
    model, table = with_prefix(kind)
    batch = batch_for(kind)
    expected = logits_of(model, batch)
    torch._dynamo.reset()
    logits = torch.compile(model, backend="eager")(**batch).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
    logits.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in table.states)


def test_a_copy_asks_its_own_providers() -> None:
    model = build("bert")
    attentions = find_attentions(model)
    serve_prefixes(model, attentions)
    model.table = Table(model)
    for attention in attentions:
        add_provider(attention, model.table)
    twin = copy.deepcopy(model)
    assert twin.bert.encoder.layer[0].attention.self.__dict__["luthier_prefix_providers"][0] is twin.table


def test_what_cannot_be_served_is_named() -> None:
    model = build("bert")
    with pytest.raises(ValueError, match="Linear does not call transformers' attention interface"):
        serve_prefixes(model, [model.classifier])
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match="load it with attn_implementation='sdpa'"):
        serve_prefixes(model, find_attentions(model))
    assert active_prefixes(model.classifier) == []
