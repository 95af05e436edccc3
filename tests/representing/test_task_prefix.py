"""Task-specific prefixes as a PEFT tuner."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import BertConfig, BertModel

from luthier.models.layers.attention_prefix import observe
from luthier.models.layers.blocks import find_blocks
from luthier.representing import TaskPrefixConfig, activate_prefixes, fold_task_prefix
from tests.tuning.tiny_models import ALL, ENCODER_DECODERS, TOLERANCE, batch_for, build, logits_of, shake, task_type

HEADS, WIDTH = 4, 32


def tuned(kind: str = "bert", names: tuple[str, ...] = ("default",), **settings: Any) -> Any:
    """A model with an adapter of each name, all with values of their own; the first is active."""
    model = None
    for number, name in enumerate(names):
        config = TaskPrefixConfig(task_type=task_type(kind), **{"prefix_length": 3 + number, **settings})
        if model is None:
            model = get_peft_model(build(kind), config, adapter_name=name)
        else:
            model.add_adapter(name, config)
        model.set_adapter(name)
        shake(model, seed=20 + number, scale=0.7)
    model.set_adapter(names[0])
    return model.eval()


def bare_bert() -> Any:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=40,
        max_position_embeddings=64,
    )
    return BertModel(config).double().eval()


def attention_calls(model: Any, batch: dict[str, torch.Tensor]) -> list[tuple[Any, torch.Tensor, torch.Tensor]]:
    """(module, input, output) of every self-attention during one forward."""
    calls: list[tuple[Any, torch.Tensor, torch.Tensor]] = []
    layers = model.get_base_model().encoder.layer
    handles = [
        layer.attention.self.register_forward_hook(lambda m, args, out: calls.append((m, args[0], out[0])))
        for layer in layers
    ]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return calls


def scores_and_values(
    module: Any, states: torch.Tensor, mask: torch.Tensor, tables: list[tuple[torch.Tensor, torch.Tensor]]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Scores (B, H, T, columns) and values (B, H, columns, d) of every prefix and, last, of the text."""

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (HEADS, -1)).transpose(-3, -2)

    query = heads(module.query(states)) / math.sqrt(WIDTH // HEADS)
    hidden = torch.zeros_like(mask, dtype=states.dtype).masked_fill(~mask.bool(), -math.inf)
    found = [(query @ heads(k)[None].mT, heads(v)[None].expand(len(states), -1, -1, -1)) for k, v in tables]
    return [*found, (query @ heads(module.key(states)).mT + hidden[:, None, None], heads(module.value(states)))]


def tables_of(model: Any, layer: int, names: tuple[str, ...]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    parts = model.get_base_model().encoder.layer[layer].task_prefix.task_prefix_parts
    return [(parts[name]["self"].key, parts[name]["self"].value) for name in names]


def prefixed_bert(*names: str) -> Any:
    model = get_peft_model(bare_bert(), TaskPrefixConfig(prefix_length=3), adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, TaskPrefixConfig(prefix_length=2))
    for name in names:
        model.set_adapter(name)
        shake(model, seed=len(name), scale=0.7)
    return model.eval()


BATCH = batch_for("bert", (7, 4))


@pytest.mark.parametrize("names", [("one",), ("one", "three"), ("one", "three", "eleven")])
def test_attention_equals_the_formula(names: tuple[str, ...]) -> None:
    model = prefixed_bert(*names)
    activate_prefixes(model, names)
    with torch.no_grad():
        for layer, (module, states, output) in enumerate(attention_calls(model, BATCH)):
            parts = scores_and_values(module, states, BATCH["attention_mask"], tables_of(model, layer, names))
            scores, values = (torch.cat(x, dim) for x, dim in zip(zip(*parts, strict=True), (-1, -2), strict=True))
            expected = (scores.softmax(-1) @ values).transpose(1, 2).flatten(2)
            torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)


def test_side_by_side_is_a_mixture_by_the_mass_of_scores() -> None:
    names = ("one", "three")
    model = prefixed_bert(*names)
    activate_prefixes(model, names)
    with torch.no_grad():
        for layer, (module, states, output) in enumerate(attention_calls(model, BATCH)):
            parts = scores_and_values(module, states, BATCH["attention_mask"], tables_of(model, layer, names))
            share = torch.stack([scores.logsumexp(-1) for scores, _ in parts]).softmax(0)
            alone = torch.stack([scores.softmax(-1) @ values for scores, values in parts])
            expected = (share[..., None] * alone).sum(0).transpose(1, 2).flatten(2)
            torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
            assert (share[:-1] > 1e-3).any()


@pytest.mark.parametrize("kind", ["bert", "modernbert", "deberta-v2", "llama", "gpt2", "t5"])
def test_an_observer_sees_the_probabilities(kind: str) -> None:
    model, batch = tuned(kind), batch_for(kind)
    blocks = [block for block in find_blocks(model.get_base_model()) if block.stack != "decoder"]
    seen: dict[int, torch.Tensor] = {}
    for block in blocks:
        observe(block.self_attention.module, lambda prefixes, shares, i=block.index: seen.update({i: shares}))
    before = logits_of(model, batch)
    for block in blocks:
        observe(block.self_attention.module, None)
    first = dict(seen)
    assert torch.equal(logits_of(model, batch), before)
    assert all(seen[i] is first[i] for i in first)
    if not kind.startswith("deberta"):
        model.get_base_model().set_attn_implementation("eager")
    with torch.no_grad():
        output = model(**batch, output_attentions=True)
    wanted = output.encoder_attentions if kind in ENCODER_DECODERS else output.attentions
    real = batch["attention_mask"].bool()
    for i, probabilities in enumerate(wanted):
        assert probabilities.shape[-1] == 3 + batch["input_ids"].shape[1]
        torch.testing.assert_close(
            first[i].transpose(1, 2)[real], probabilities.transpose(1, 2)[real], rtol=0, atol=TOLERANCE.get(kind, 1e-10)
        )


@pytest.mark.parametrize("kind", ALL)
def test_several_at_once_in_any_order(kind: str) -> None:
    model, batch = tuned(kind, ("one", "two", "three")), batch_for(kind)
    close = {"rtol": 0, "atol": TOLERANCE.get(kind, 1e-10)}
    single = logits_of(model, batch)
    activate_prefixes(model, ["one"])
    assert torch.equal(logits_of(model, batch), single)
    activate_prefixes(model, ["one", "two", "three"])
    together = logits_of(model, batch)
    activate_prefixes(model, ["three", "one", "two"])
    torch.testing.assert_close(logits_of(model, batch), together, **close)
    assert not torch.allclose(together, single, atol=1e-4)
    model.peft_config["two"].weight = model.peft_config["three"].weight = 0.0
    assert torch.equal(logits_of(model, batch), single)
    activate_prefixes(model, [])
    bare = logits_of(model, batch)
    assert not torch.allclose(bare, single, atol=1e-4)
    activate_prefixes(model, ["three", "two"])
    assert torch.equal(logits_of(model, batch), bare)
    if task_type(kind) != "SEQ_CLS":  # where there is a head of the adapter's own, it stays
        torch.testing.assert_close(bare, logits_of(build(kind), batch), **close)
    # The current head and what is trained are still those of the first adapter.
    assert model.active_adapter == "one"
    assert all(".one." in name for name, p in model.named_parameters() if p.requires_grad)


def test_peft_itself_sets_several_adapters() -> None:
    model = prefixed_bert("one", "three")
    activate_prefixes(model, ["one", "three"])
    with torch.no_grad():
        expected = model(**BATCH).last_hidden_state
    model.set_adapter("one")
    model.base_model.set_adapter(["one", "three"])
    with torch.no_grad():
        assert torch.equal(model(**BATCH).last_hidden_state, expected)
    assert {name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad} == {"one", "three"}


def test_a_weight_counts_columns() -> None:
    model, batch = tuned("bert", ("one", "twin")), batch_for("bert")
    model.add_adapter("copy", TaskPrefixConfig(task_type="SEQ_CLS", prefix_length=3))
    state = dict(model.named_parameters())
    with torch.no_grad():
        for name, p in state.items():
            if ".copy." in name and "task_prefix" in name:
                p.copy_(state[name.replace(".copy.", ".one.")])
    activate_prefixes(model, ["one", "copy"])
    twice = logits_of(model, batch)
    activate_prefixes(model, ["one"])
    model.peft_config["one"].weight = 2.0
    torch.testing.assert_close(logits_of(model, batch), twice, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["bert", "llama", *ENCODER_DECODERS])
def test_a_network_folds_into_its_table(kind: str, tmp_path: Any) -> None:
    model, batch = tuned(kind, projection=True, projection_width=16), batch_for(kind)
    before = logits_of(model, batch)
    network = sum(p.numel() for p in model.parameters() if p.requires_grad)
    fold_task_prefix(model)
    assert torch.equal(logits_of(model, batch), before)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) < network
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build(kind), tmp_path).eval()
    assert not loaded.peft_config["default"].projection
    torch.testing.assert_close(logits_of(loaded, batch), before, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="no TASK_PREFIX adapter with a prefix network"):
        fold_task_prefix(model)


def test_parameters_are_counted_as_in_the_paper() -> None:
    model = get_peft_model(bare_bert(), TaskPrefixConfig(prefix_length=5))
    assert model.get_nb_trainable_parameters()[0] == 2 * 2 * 5 * WIDTH


def test_layers_and_sites_choose() -> None:
    model = tuned("t5", layers=[1], sites=["encoder", "cross"])
    kept = {name.split(".task_prefix.")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert {".".join(name.split(".")[-3:]) for name in kept} == {"encoder.block.1", "decoder.block.1"}
    parts = model.get_base_model().decoder.block[1].task_prefix.task_prefix_parts["default"]
    assert list(parts) == ["cross"]


def test_training_leaves_the_base_as_it_was() -> None:
    model, plain = tuned("bert"), build("bert").state_dict()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        model(**BATCH, labels=torch.tensor([0, 2])).loss.backward()
        gradients = {name for name, p in model.named_parameters() if p.grad is not None}
        assert gradients == {name for name, p in model.named_parameters() if p.requires_grad}
        optimiser.step()
        optimiser.zero_grad()
    bare = model.unload().state_dict()
    assert bare.keys() == plain.keys()
    changed = {name for name, tensor in plain.items() if not torch.equal(bare[name], tensor)}
    assert changed == {name for name in plain if name.startswith("classifier.")}


def test_switching_the_attention_later_keeps_the_prefix() -> None:
    model, batch = tuned("bert"), batch_for("bert")
    before = logits_of(model, batch)
    model.get_base_model().set_attn_implementation("eager")
    torch.testing.assert_close(logits_of(model, batch), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prefix_length": 0}, "prefix_length is 0"),
        ({"init_std": 0.0}, "init_std"),
        ({"weight": -1.0}, "weight is -1"),
        ({"weight": math.inf}, "weight is inf"),
        ({"layers": []}, "layers is empty"),
        ({"layers": [-1]}, "counted from 0"),
        ({"sites": ["everywhere"]}, "everywhere"),
        ({"projection_width": 64}, "no effect without projection"),
    ],
)
def test_settings_that_can_not_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskPrefixConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"layers": [0, 7]}, "layers has 7, but the layers of this model are 0 to 1"), ({"sites": ["encoder"]}, "not")],
)
def test_a_model_that_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tuned("bert", **settings)


def test_an_unknown_adapter_is_named() -> None:
    with pytest.raises(ValueError, match="'tow' is no task prefix of this model; it has one, two"):
        activate_prefixes(tuned("bert", ("one", "two")), ["one", "tow"])
