"""Bottleneck adapters: equations, and what every PEFT tuner has to keep."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch.nn import functional as F

from luthier.errors import ModelError
from luthier.methods.base import MethodContext
from luthier.tuning.bottleneck import BottleneckConfig
from luthier.tuning.bottleneck.settings import BottleneckAdapter
from tests.tuning.tiny_models import (
    ALL,
    DECODERS,
    ENCODER_DECODERS,
    TOLERANCE,
    batch_for,
    build,
    logits_of,
    row_logits,
    shake,
    task_type,
)

PLACEMENTS = ("pfeiffer", "houlsby")
ROWS = [pytest.param(kind, placement, id=f"{kind}-{placement}") for kind in ALL for placement in PLACEMENTS]


def tuned(kind: str, placement: str = "pfeiffer", disturb: bool = True, **settings: Any) -> Any:
    config = BottleneckConfig(task_type=task_type(kind), placement=placement, **{"bottleneck": 12, **settings})
    model = get_peft_model(build(kind), config).eval()
    if disturb:
        shake(model)
    return model


def parameters_of(layer: Any) -> dict[str, Any]:
    return dict(layer.bottleneck.bottleneck_parts["default"].named_children())


def adapted(adapter: Any, x: torch.Tensor) -> torch.Tensor:
    return F.relu(x @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T + adapter.up.bias


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_bert_layer_equals_the_equations(placement: str) -> None:
    layer = tuned("bert", placement).base_model.model.bert.encoder.layer[0]
    x = torch.randn(2, 5, 32, dtype=torch.float64)
    parts = parameters_of(layer)
    attention, out = layer.attention, layer.output

    def norm(norm_: Any, y: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(y, (32,), norm_.weight, norm_.bias, norm_.eps)

    o = attention.self(x)[0] @ attention.output.dense.weight.T + attention.output.dense.bias
    if placement == "houlsby":
        o = o + adapted(parts["attention"], o)
    a = norm(attention.output.LayerNorm, o + x)
    f = F.gelu(a @ layer.intermediate.dense.weight.T + layer.intermediate.dense.bias) @ out.dense.weight.T
    f = f + out.dense.bias
    if placement == "houlsby":
        f = f + adapted(parts["feed_forward"], f)
        expected = norm(out.LayerNorm, f + a)
    else:
        u = norm(out.LayerNorm, f + a)
        expected = norm(out.LayerNorm, f + a + adapted(parts["output"], u))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_llama_layer_equals_the_equations() -> None:
    batch = batch_for("llama", (6,))
    model = tuned("llama", drop_first_layers=1)
    layer = model.base_model.model.model.layers[1]
    before_norm: list[torch.Tensor] = []
    handle = model.base_model.model.model.norm.register_forward_pre_hook(lambda _, args: before_norm.append(args[0]))
    logits_of(model, batch)
    with model.disable_adapter():
        logits_of(model, batch)
    handle.remove()
    tuned_output, u = before_norm
    torch.testing.assert_close(tuned_output, u + adapted(parameters_of(layer)["output"], u), rtol=0, atol=1e-12)
    assert not hasattr(model.base_model.model.model.layers[0], "bottleneck")


@pytest.mark.parametrize(("kind", "placement"), ROWS)
def test_saving_disabling_and_leaving(kind: str, placement: str, tmp_path: Any) -> None:
    model, batch = tuned(kind, placement), batch_for(kind)
    tuned_logits, base_logits = logits_of(model, batch), logits_of(build(kind), batch)
    assert not torch.allclose(tuned_logits, base_logits, atol=1e-3)
    if task_type(kind) != "SEQ_CLS":
        with model.disable_adapter():
            assert torch.equal(logits_of(model, batch), base_logits)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build(kind), tmp_path, is_trainable=True).eval()
    assert torch.equal(logits_of(loaded, batch), tuned_logits)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert names == {name for name, p in loaded.named_parameters() if p.requires_grad}
    assert all("bottleneck_parts" in name or "modules_to_save" in name for name in names)
    assert torch.equal(logits_of(copy.deepcopy(model), batch), tuned_logits)

    bare = model.unload()
    fresh = build(kind)
    body = fresh.base_model_prefix + "."
    for name, tensor in fresh.state_dict().items():
        if name.startswith(body):
            assert torch.equal(bare.state_dict()[name], tensor)
    assert not [name for name, _ in bare.named_modules() if "bottleneck" in name]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in bare.modules() if "Layer" in type(m).__name__)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_several_adapters(placement: str) -> None:
    model, batch = tuned("llama", placement), batch_for("llama")
    first = logits_of(model, batch)
    model.add_adapter("second", BottleneckConfig(task_type="CAUSAL_LM", placement="pfeiffer", bottleneck=3))
    model.set_adapter("second")
    shake(model, seed=12)
    second = logits_of(model, batch)
    model.base_model.set_adapter(["default", "second"])
    both = logits_of(model, batch)
    model.set_adapter("default")
    assert torch.equal(logits_of(model, batch), first)
    assert len({round(float(logits.sum()), 9) for logits in (first, second, both)}) == 3
    model.delete_adapter("second")
    assert torch.equal(logits_of(model, batch), first)
    assert not [name for name, _ in model.named_parameters() if "second" in name]


@pytest.mark.parametrize(("kind", "placement"), ROWS)
def test_gradients_and_checkpointing(kind: str, placement: str) -> None:
    def gradients(checkpointing: bool) -> dict[str, torch.Tensor | None]:
        model = tuned(kind, placement).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model(**batch_for(kind)).logits.pow(2).sum().backward()
        return {name: p.grad for name, p in model.named_parameters()}

    plain, recomputed = gradients(False), gradients(True)
    for name, gradient in plain.items():
        if "bottleneck_parts" in name:
            assert gradient is not None, name
            assert gradient.abs().sum() > 0, name
            torch.testing.assert_close(recomputed[name], gradient, rtol=1e-9, atol=1e-12)
        else:
            assert gradient is None or "modules_to_save" in name


@pytest.mark.parametrize("kind", [*DECODERS, *ENCODER_DECODERS])
def test_generating_with_cache_equals_without(kind: str) -> None:
    model = tuned(kind)
    batch = {name: value for name, value in batch_for(kind).items() if not name.startswith("decoder")}
    cached, full = (model.generate(**batch, max_new_tokens=6, do_sample=False, use_cache=c) for c in (True, False))
    assert torch.equal(cached, full)


@pytest.mark.parametrize("kind", ALL)
def test_padding_changes_nothing(kind: str) -> None:
    model = tuned(kind)
    alone, beside = (batch_for(kind, lengths, width) for lengths, width in (((5,), 5), ((5, 8), 9)))
    if kind == "gpt2":
        for batch in (alone, beside):
            batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    torch.testing.assert_close(
        row_logits(kind, logits_of(model, beside), 0, 5),
        row_logits(kind, logits_of(model, alone), 0, 5),
        rtol=0,
        atol=TOLERANCE.get(kind, 1e-10),
    )


def test_first_weights_and_sizes() -> None:
    base, batch = build("bert"), batch_for("bert")
    identity = tuned("bert", "houlsby", disturb=False, init="identity")
    torch.testing.assert_close(identity.base_model.model.bert(**batch)[0], base.bert(**batch)[0], rtol=0, atol=1e-12)
    near = tuned("bert", disturb=False, init="near_identity", bottleneck=32)
    weights = [p for n, p in near.named_parameters() if "bottleneck_parts" in n and n.endswith("weight")]
    assert all(0 < p.abs().max() <= 0.02 for p in weights)
    sizes = [tuned("bert", disturb=False, bottleneck=None, reduction=r) for r in (None, 8)]
    parts = [m.base_model.model.bert.encoder.layer[0].bottleneck.parts["default"] for m in sizes]
    assert [part["output"].down.out_features for part in parts] == [2, 4]


def test_dropout_is_off_in_evaluation_only() -> None:
    model, batch = tuned("bert", dropout=0.5), batch_for("bert")
    assert torch.equal(logits_of(model, batch), logits_of(model, batch))
    model.train()
    assert not torch.equal(logits_of(model, batch), logits_of(model, batch))


def test_merging_is_refused_with_the_reason() -> None:
    model = tuned("bert")
    for call in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(ValueError, match=r"can't be merged .* depend on the input"):
            call()


def test_an_adapter_called_like_a_part_is_refused() -> None:
    with pytest.raises(ValueError, match="can't be called 'output'"):
        get_peft_model(build("bert"), BottleneckConfig(task_type="SEQ_CLS"), adapter_name="output")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"placement": "after"}, "one of pfeiffer, houlsby"),
        ({"activation": "elu"}, "one of relu"),
        ({"init": "zeros"}, "one of normal"),
        ({"bottleneck": 0}, "at least 1"),
        ({"reduction": 0}, "above 0"),
        ({"bottleneck": 8, "reduction": 4}, "give one of them"),
        ({"dropout": 1.0}, "below 1"),
        ({"drop_first_layers": -1}, "at least 0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BottleneckConfig(**settings)
    with pytest.raises(ValueError, match=next(iter(settings))):
        BottleneckAdapter(**settings)


def test_models_that_do_not_fit_are_named() -> None:
    with pytest.raises(ModelError, match="drop_first_layers is 2, but the model has 2 layers"):
        BottleneckAdapter(drop_first_layers=2).apply(build("bert"), MethodContext("SEQ_CLS"))
    from transformers import AutoConfig, AutoModel

    falcon = AutoModel.from_config(
        AutoConfig.for_model("falcon", vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    with pytest.raises(ModelError, match="falcon model are not of a known make"):
        BottleneckAdapter().apply(falcon, MethodContext("CAUSAL_LM"))


def test_recipe_method_trains_adapters_and_head() -> None:
    model = BottleneckAdapter(bottleneck=4).apply(build("bert"), MethodContext("SEQ_CLS", seed=3))
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert any("classifier" in name for name in names)
    assert all("classifier" in name or "bottleneck_parts" in name for name in names)
