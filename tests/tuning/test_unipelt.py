"""UniPELT: equations, gates, and what every PEFT tuner has to keep."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification

from luthier.errors import ModelError
from luthier.methods.base import MethodContext
from luthier.peft_bridge.adapter_types import ensure_adapter_type
from luthier.tuning.unipelt import UniPELTConfig, gate_report, part_sizes, record_gates
from luthier.tuning.unipelt.layer import pooling_of
from luthier.tuning.unipelt.settings import UniPELT
from tests.tuning.tiny_models import (
    batch_for,
    build,
    logits_of,
    task_type,
)
from tests.tuning.unipelt_models import APL, layers_of, parts_of, tuned

RELEASED_CENTRAL = {"add_central_gate": True, "central_gate_replaces": True}
SUBSETS = [["adapter"], ["prefix"], ["lora"], ["adapter", "prefix"], APL]


def set_gates(model: Any, bias: float, *names: str) -> None:
    """Make the gates whose names start with one of these constant: sigmoid(bias)."""
    for name, p in model.named_parameters():
        if any(f".learned_gates.{n}" in name for n in names):
            with torch.no_grad():
                p.fill_(bias if name.endswith("bias") else 0.0)


def reference_layer(layer: Any, h: torch.Tensor, text: torch.Tensor, gated: bool, pooling: str) -> torch.Tensor:
    """One BERT layer with the parts of the page's section 2. h (B, T, D); text (B, T), true where not padding."""
    parts, self_, heads = parts_of(layer), layer.attention.self, layer.attention.self.num_attention_heads

    def linear(module: Any, x: torch.Tensor) -> torch.Tensor:
        return x @ module.weight.T + module.bias

    def norm(module: Any, x: torch.Tensor) -> torch.Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x / (x.pow(2).mean(-1, keepdim=True) + module.eps).sqrt() * module.weight + module.bias

    def gate(name: str, x: torch.Tensor) -> torch.Tensor | float:
        if not gated:
            return 1.0
        w = parts.learned_gates[name]
        values = 1 / (1 + torch.exp(-(x @ w.weight[0] + w.bias)))
        counted = torch.ones_like(text) if pooling == "all" else text
        return torch.stack([v[c].mean() for v, c in zip(values, counted, strict=True)])[:, None, None]

    def lora(name: str, x: torch.Tensor) -> torch.Tensor:
        if f"self-{name}" not in parts.lora:
            return torch.zeros_like(x)
        factor = gate(f"lora-self-{name}", x) if gated else parts.config.lora_alpha / parts.config.lora_rank
        low_rank = parts.lora[f"self-{name}"]
        return factor * (x @ low_rank.a.T @ low_rank.b.T)

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    q, k, v = linear(self_.query, h) + lora("query", h), linear(self_.key, h), linear(self_.value, h) + lora("value", h)
    visible = text[:, None, None, :]
    if "self" in parts.prefix:
        g = gate("prefix-self", h)
        table = parts.prefix["self"]
        k, v = (torch.cat([(g * p).expand(len(h), -1, -1), x], 1) for p, x in ((table.key, k), (table.value, v)))
        visible = F.pad(visible, (len(table.key), 0), value=True)
    scores = split(q) @ split(k).mT / math.sqrt(q.shape[-1] // heads)
    context = scores.masked_fill(~visible, -math.inf).softmax(-1) @ split(v)
    o = linear(layer.attention.output.dense, context.transpose(1, 2).flatten(2))
    a = norm(layer.attention.output.LayerNorm, o + h)
    f = linear(layer.output.dense, F.gelu(linear(layer.intermediate.dense, a)))
    u = norm(layer.output.LayerNorm, f + a)
    if parts.adapter is None:
        return u
    adapted = linear(parts.adapter.up, linear(parts.adapter.down, u).clamp(min=0))
    return norm(layer.output.LayerNorm, gate("adapter", u) * adapted + f + a)


@pytest.mark.parametrize("parts", SUBSETS, ids="+".join)
@pytest.mark.parametrize("gates", ["learned", "none"])
@pytest.mark.parametrize("pooling", ["mask_aware", "all"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_layers_equal_the_reference(parts: list[str], gates: str, pooling: str, attention: str) -> None:
    gated = gates == "learned"
    settings = {"gate_pooling": pooling} if gated else {}
    projection = {"prefix_projection": False} if "prefix" in parts else {}
    model = tuned(attention=attention, parts=parts, gates=gates, **projection, **settings)
    batch = batch_for("bert", (7, 4, 6))
    bert = model.base_model.model.bert
    with torch.no_grad():
        h = bert.embeddings(batch["input_ids"])
        for layer in layers_of(model):
            h = reference_layer(layer, h, batch["attention_mask"].bool(), gated, pooling)
        states = bert(**batch).last_hidden_state
    torch.testing.assert_close(states, h, rtol=0, atol=1e-10)


def test_gates_of_one_equal_no_gates_and_of_zero_the_base() -> None:
    batch = batch_for("bert")
    gated = tuned()
    set_gates(gated, 40.0, "")
    plain = tuned(gates="none", lora_alpha=4.0, disturb=False)
    plain.load_state_dict(gated.state_dict(), strict=False)
    torch.testing.assert_close(logits_of(plain, batch), logits_of(gated, batch), rtol=0, atol=1e-12)

    set_gates(gated, -800.0, "adapter", "lora")
    only_prefix = tuned(parts=["prefix"], gates="none", disturb=False)
    only_prefix.load_state_dict(gated.state_dict(), strict=False)
    # Not bit for bit: a processor may pick another kernel where more is added.
    torch.testing.assert_close(logits_of(only_prefix, batch), logits_of(gated, batch), rtol=0, atol=1e-12)

    set_gates(gated, -800.0, "prefix")
    zeros = tuned(parts=["prefix"], gates=0.0, disturb=False)
    zeros.load_state_dict(gated.state_dict(), strict=False)
    torch.testing.assert_close(logits_of(zeros, batch), logits_of(gated, batch), rtol=0, atol=1e-12)
    bare = build("bert")
    with torch.no_grad():
        states = [m.bert(**batch)[0] for m in (gated.base_model.model, bare)]
    assert not torch.allclose(*states, atol=1e-6), "keys of zero still take their share of the softmax"


def test_adapter_and_lora_behind_closed_gates_are_the_base() -> None:
    model, batch = tuned(parts=["adapter", "lora", "bitfit"]), batch_for("bert")
    set_gates(model, -800.0, "")
    with torch.no_grad():
        assert torch.equal(model.base_model.model.bert(**batch)[0], build("bert").bert(**batch)[0])


def test_a_fixed_gate_is_a_learned_one_that_stands_still() -> None:
    model, batch = tuned(), batch_for("bert")
    set_gates(model, math.log(0.3 / 0.7), "")
    fixed = tuned(gates=0.3, disturb=False)
    fixed.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(logits_of(fixed, batch), logits_of(model, batch), rtol=0, atol=1e-12)
    mixed = tuned(gates={"adapter": "none", "lora": 0.3})
    assert {name.split(".")[-2] for name, _ in mixed.named_parameters() if "learned_gates" in name} == {"prefix-self"}


def test_bias_shifts_are_added_to_the_biases() -> None:
    model, batch = tuned(parts=["bitfit"], gates="none"), batch_for("bert")
    by_hand = build("bert")
    with torch.no_grad():
        for ours, theirs in zip(layers_of(model), by_hand.bert.encoder.layer, strict=True):
            shifts = parts_of(ours).shifts
            assert len(shifts) == 8
            for path, shift in shifts.items():
                theirs.get_submodule(path.replace("/", ".")).bias.add_(shift)
        states = [m.bert(**batch)[0] for m in (model.base_model.model, by_hand)]
    torch.testing.assert_close(*states, rtol=0, atol=1e-12)


def test_shifts_and_adapter_share_the_last_norm() -> None:
    model, batch = tuned(parts=["bitfit", "adapter"], gates="none"), batch_for("bert")
    moved = tuned(parts=["adapter"], gates="none", disturb=False)
    moved.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        for ours, theirs in zip(layers_of(model), layers_of(moved), strict=True):
            for path, shift in parts_of(ours).shifts.items():
                theirs.get_submodule(path.replace("/", ".")).bias.add_(shift)
    torch.testing.assert_close(logits_of(model, batch), logits_of(moved, batch), rtol=0, atol=1e-12)


def test_first_step() -> None:
    """lora_B = 0: LoRA changes nothing, and neither A nor the LoRA gates have a gradient; gates start near a half."""
    batch, model = batch_for("bert"), tuned(parts=["lora"], disturb=False)
    with torch.no_grad():
        assert torch.equal(model.base_model.model.bert(**batch)[0], build("bert").bert(**batch)[0])
    model = tuned(disturb=False).train()
    model(**batch, labels=torch.tensor([0, 2])).loss.backward()
    for name, p in model.named_parameters():
        if "unipelt_parts" in name:
            still = (".lora." in name and name.endswith(".a")) or "learned_gates.lora" in name
            assert (p.grad.abs().sum() == 0) == still, name
    for row in gate_report(model, batch):
        assert 0.4 < row["lowest"] <= row["highest"] < 0.6


@pytest.mark.parametrize("pooling", ["all", "mask_aware", "first_token", "per_token"])
def test_poolings(pooling: str) -> None:
    model = tuned(gate_pooling=pooling)
    short, padded = (logits_of(model, batch_for("bert", (5,), width)) for width in (5, 11))
    assert torch.allclose(short, padded, atol=1e-10) == (pooling != "all")


def test_first_token_skips_padding_before_it() -> None:
    visible = torch.tensor([[False, True, True], [True, True, False]])
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])[..., None]
    for kind, picked in (("first_token", [2.0, 4.0]), ("mask_aware", [2.5, 4.5]), ("all", [2.0, 5.0])):
        assert pooling_of(kind, visible, torch.float32)(values).flatten().tolist() == picked
    assert pooling_of("first_token", None, torch.float32)(values).flatten().tolist() == [1.0, 4.0]


def test_shared_and_central_gates() -> None:
    batch = batch_for("bert")
    shared = tuned(shared_lora_gate=True)
    names = {n.split("learned_gates.")[1].split(".")[0] for n, _ in shared.named_parameters() if "learned_gates" in n}
    assert names == {"adapter", "prefix-self", "lora-self"}
    assert not torch.equal(logits_of(shared, batch), logits_of(tuned(), batch))

    central = tuned(parts=["prefix", "lora"], gates="none", add_central_gate=True)
    with torch.no_grad():
        for layer in layers_of(central):
            gate = parts_of(layer).central["self"]
            gate.weight.zero_()
            gate.bias.copy_(torch.tensor([math.log(3.0), 0.0]))
    plain = tuned(parts=["prefix", "lora"], gates={"prefix": 0.25, "lora": 0.75 * 4.0}, disturb=False)
    plain.load_state_dict(central.state_dict(), strict=False)
    torch.testing.assert_close(logits_of(plain, batch), logits_of(central, batch), rtol=0, atol=1e-9)


def gate_names(model: Any) -> list[set[str]]:
    """Names of the learned gates, layer by layer."""
    return [set(parts_of(layer).learned_gates) for layer in layers_of(model)]


def test_a_central_gate_can_stand_in_the_place_of_the_others() -> None:
    batch, model = batch_for("bert"), tuned(**RELEASED_CENTRAL)
    assert gate_names(model) == [{"adapter"}, {"adapter"}]
    with torch.no_grad():
        for layer in layers_of(model):
            gate = parts_of(layer).central["self"]
            gate.weight.zero_()
            gate.bias.copy_(torch.tensor([math.log(3.0), 0.0]))
    by_hand = tuned(gates={"prefix": 0.25, "lora": 0.75}, disturb=False)
    by_hand.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(logits_of(by_hand, batch), logits_of(model, batch), rtol=0, atol=1e-9)
    means = {row["gate"]: row["mean"] for row in gate_report(model, batch) if row["gate"] != "adapter"}
    shares = {"central-self-query": 0.75, "central-self-value": 0.75, "central-self-prefix": 0.25}
    assert means == pytest.approx(shares, abs=1e-6)
    # Without prefix there is no central gate, and LoRA keeps its own.
    lora = {"lora-self-query", "lora-self-value"}
    assert gate_names(tuned(**RELEASED_CENTRAL, drop_first_layers=1)) == [lora, {"adapter"}]


def test_gates_are_recorded_on_request_only() -> None:
    model, batch = tuned(), batch_for("bert", (7, 4, 5))
    with record_gates(model) as record:
        logits_of(model, batch)
        logits_of(model, batch_for("bert", (6,)))
    logits_of(model, batch)
    values = record.values()
    assert set(values) == {
        ("", layer, gate)
        for layer, gate in itertools.product(range(2), ("adapter", "prefix-self", "lora-self-query", "lora-self-value"))
    }
    assert all(v.shape == (4,) for v in values.values())
    layer, states = layers_of(model)[0], model.base_model.model.bert.embeddings(batch["input_ids"])
    gate = parts_of(layer).learned_gates["prefix-self"]
    sigmoid = torch.sigmoid(states @ gate.weight[0] + gate.bias)
    by_hand = torch.stack([s[:n].mean() for s, n in zip(sigmoid, (7, 4, 5), strict=True)]).float()
    torch.testing.assert_close(values["", 0, "prefix-self"][:3], by_hand.detach())
    rows = gate_report(model.train(), batch)
    assert model.training
    assert rows[0].keys() == {"stack", "layer", "gate", "examples", "mean", "deviation", "lowest", "highest"}
    assert len(rows) == 8
    with pytest.raises(ValueError, match="no gates"), record_gates(build("bert")):
        pass


def test_recorded_gates_of_an_encoder_decoder() -> None:
    rows = gate_report(tuned("t5"), batch_for("t5"))
    assert {row["stack"] for row in rows} == {"encoder", "decoder"}
    assert "prefix-cross" in {row["gate"] for row in rows}


@pytest.mark.parametrize("sites", [["encoder"], ["decoder"], ["cross"], ["encoder", "cross"]])
def test_prefix_sites_of_an_encoder_decoder(sites: list[str]) -> None:
    model = tuned("t5", prefix_sites=sites)
    names = [name for name, _ in model.named_parameters() if ".prefix." in name]
    found = {"cross" if ".prefix.cross" in name else "encoder" if ".encoder." in name else "decoder" for name in names}
    assert found == set(sites)


def test_dropped_first_layers_have_neither_adapter_nor_prefix() -> None:
    first, second = layers_of(tuned(drop_first_layers=1))
    assert parts_of(first).adapter is None
    assert not len(parts_of(first).prefix)
    assert len(parts_of(first).lora) == 2
    assert parts_of(second).adapter is not None
    assert not hasattr(layers_of(tuned(parts=["adapter", "prefix"], drop_first_layers=1))[0], "unipelt")


def test_sizes_on_bert_base_are_the_papers() -> None:
    with torch.device("meta"):
        base = BertForSequenceClassification(BertConfig())
        model = get_peft_model(base, UniPELTConfig(task_type="SEQ_CLS", prefix_projection=False))
    sizes = part_sizes(model)
    assert sizes["prefix"] == 184_320
    assert sizes["lora"] == 294_912
    assert sizes["adapter"] == 894_528
    assert sizes["gates"] == 12 * 4 * 769
    assert sizes["bitfit"] == sizes["prefix_network"] == 0
    with torch.device("meta"):
        whole = get_peft_model(BertForSequenceClassification(BertConfig()), UniPELTConfig(task_type="SEQ_CLS"))
    table = 10 * 768
    assert part_sizes(whole)["prefix_network"] == table + 768 * 512 + 512 + (512 + 1) * 2 * 12 * 768
    both = get_peft_model(
        BertForSequenceClassification(BertConfig(num_hidden_layers=12)).to("meta"),
        UniPELTConfig(task_type="SEQ_CLS", parts=["adapter", "prefix"], prefix_projection=False),
    )
    assert sum(part_sizes(both).values()) == 894_528 + 184_320 + 12 * 2 * 769


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parts": ["adaptor"]}, "knows only adapter"),
        ({"parts": []}, "parts is empty"),
        ({"gates": "open"}, "must be learned, none or a number"),
        ({"gates": {"bitfit": "none"}}, "the parts are adapter, prefix, lora"),
        ({"gate_pooling": "max"}, "one of mask_aware"),
        ({"gate_pooling": "all", "gates": "none"}, "gate_pooling would have no effect"),
        ({"shared_lora_gate": True, "gates": 0.5}, "shared_lora_gate would have no effect"),
        ({"add_central_gate": True, "parts": ["lora"]}, "add_central_gate would have no effect"),
        ({"central_gate_replaces": True}, "central_gate_replaces would have no effect"),
        ({"gates": {"prefix": 0.5}, **RELEASED_CENTRAL}, "gates would have no effect"),
        ({"shared_lora_gate": True, **RELEASED_CENTRAL}, "shared_lora_gate would have no effect"),
        ({"prefix_projection_width": 9, "prefix_projection": False}, "prefix_projection_width would have no effect"),
        ({"adapter_bottleneck": 9, "parts": ["lora"]}, "adapter_bottleneck would have no effect"),
        ({"adapter_bottleneck": 9, "adapter_reduction": 2.0}, "give one of them"),
        ({"lora_targets": ["output"]}, "knows only query"),
        ({"prefix_length": 0}, "at least 1"),
        ({"lora_alpha": 0.0}, "above 0"),
        ({"adapter_dropout": 1.5}, "below 1"),
        ({"drop_first_layers": 1, "parts": ["lora"]}, "drop_first_layers would have no effect"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UniPELTConfig(**settings)
    with pytest.raises(ValueError, match=next(iter(settings))):
        UniPELT(**settings)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("llama", {"gate_pooling": "all"}, "a model that writes text needs per_token"),
        ("bert", {"prefix_sites": ["encoder"]}, "encoder-decoder, which this model is not"),
        ("llama", {"parts": ["bitfit"]}, "no bias terms"),
        ("bert", {"drop_first_layers": 9}, "the model has 2 layers"),
    ],
)
def test_models_that_do_not_fit_are_named(kind: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        UniPELT(**settings).apply(build(kind), MethodContext(task_type(kind)))


def test_merging_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="depend on the input"):
        tuned().merge_and_unload()


def test_recipe_method_passes_its_settings_on() -> None:
    method = UniPELT(parts=["prefix", "lora"], gates={"prefix": 0.5}, prefix_length=4, lora_rank=2)
    model = method.apply(build("bert"), MethodContext("SEQ_CLS", seed=3))
    config = model.peft_config["default"]
    assert (config.parts, config.gates, config.prefix_length) == (["prefix", "lora"], {"prefix": 0.5}, 4)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert any("classifier" in name for name in names)
    ensure_adapter_type("UNIPELT", "here")


@pytest.mark.parametrize(
    ("kind", "settings", "prefix_rate"),
    [
        ("bert", {}, 1e-3),
        ("t5", {"prefix_learning_rate": 4e-3}, 4e-3),
        ("bert", {"prefix_projection": False}, 0.01),
        ("bert", {"prefix_projection": False, "prefix_learning_rate": 0.03}, 0.03),
    ],
)
def test_the_prefix_has_its_own_learning_rate(kind: str, settings: dict[str, Any], prefix_rate: float) -> None:
    method = UniPELT(**settings)
    model = method.apply(build(kind), MethodContext(task_type(kind), seed=3))
    grouped = method.parameter_groups(model, 0.01, 0.1)
    rates = {id(p): group["lr"] for group in grouped for p in group["params"]}
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    assert len(rates) == sum(len(group["params"]) for group in grouped) == len(trained)
    for name, p in trained:
        of_prefix = ".prefix." in name or name.endswith((".table", ".hidden.weight", ".hidden.bias"))
        assert rates[id(p)] == (prefix_rate if of_prefix else 0.01), name


def test_a_rate_for_a_prefix_needs_one() -> None:
    with pytest.raises(ValueError, match="prefix_learning_rate would have no effect"):
        UniPELT(parts=["lora"], prefix_learning_rate=1e-3)
