"""Heads, layers and prompts on architectures that name their parts differently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf

from luthier.errors import ModelError, RecipeError
from luthier.methods.base import MethodContext
from luthier.methods.heads import head_modules, train_only
from luthier.methods.targets import check_targets, default_targets, layer_names
from luthier.methods.trial import first_failure
from luthier.registry import METHODS, discover
from tests.tuning.cases import base_model, token_ids

discover()
SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
}
MODERN = {**SIZES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
DISTIL = {"vocab_size": 61, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 40}
BUILDERS: dict[str, Callable[[], Any]] = {
    "bert": lambda: hf.BertForSequenceClassification(hf.BertConfig(**SIZES)),
    "albert": lambda: hf.AlbertForSequenceClassification(hf.AlbertConfig(embedding_size=16, **SIZES)),
    "distilbert": lambda: hf.DistilBertForSequenceClassification(hf.DistilBertConfig(**DISTIL)),
    "modernbert": lambda: hf.ModernBertForSequenceClassification(hf.ModernBertConfig(**MODERN)),
    "deberta": lambda: hf.DebertaV2ForSequenceClassification(hf.DebertaV2Config(**SIZES)),
    "deberta_v1": lambda: hf.DebertaForSequenceClassification(hf.DebertaConfig(**SIZES)),
    "mpnet": lambda: hf.MPNetForSequenceClassification(hf.MPNetConfig(**SIZES)),
    "llama": lambda: hf.LlamaForSequenceClassification(
        hf.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, pad_token_id=0)
    ),
    "gptj": lambda: hf.GPTJForSequenceClassification(
        hf.GPTJConfig(vocab_size=61, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, pad_token_id=0)
    ),
    "gpt2": lambda: hf.GPT2ForSequenceClassification(
        hf.GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, pad_token_id=0)
    ),
}


def applied(name: str, model: Any, task_type: str = "SEQ_CLS", **settings: Any) -> Any:
    return METHODS._entries[name](**settings).apply(model, MethodContext(task_type)).eval()


@pytest.mark.parametrize(
    ("architecture", "head"),
    [
        ("bert", ["classifier"]),
        ("distilbert", ["pre_classifier", "classifier"]),
        ("modernbert", ["head", "classifier"]),
        ("deberta", ["pooler", "classifier"]),
        ("gpt2", ["score"]),
    ],
)
def test_head_is_what_stands_outside_the_body(architecture: str, head: list[str]) -> None:
    assert head_modules(BUILDERS[architecture](), "SEQ_CLS") == head


def test_pooler_belongs_to_the_head_where_it_is_new() -> None:
    model = BUILDERS["bert"]()
    model.luthier_new_parameters = ("bert.pooler.dense.bias", "bert.pooler.dense.weight", "classifier.bias")
    assert head_modules(model, "SEQ_CLS") == ["classifier", "bert.pooler"]
    tuned = applied("lora", model)
    trained = {name for name, p in tuned.named_parameters() if p.requires_grad}
    assert "base_model.model.bert.pooler.modules_to_save.default.dense.weight" in trained


def test_language_models_have_no_head_of_their_own() -> None:
    assert head_modules(base_model("decoder"), "CAUSAL_LM") == []


def test_train_only_freezes_the_rest() -> None:
    model = BUILDERS["bert"]()
    train_only(model, ["classifier"])
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"classifier.weight", "classifier.bias"}


def test_p_tunings_network_is_not_taken_for_a_head() -> None:
    model = applied("p_tuning", BUILDERS["modernbert"]())
    names = [name for name, _ in model.named_parameters()]
    assert "prompt_encoder.default.mlp_head.0.weight" in names
    assert any(name.startswith("base_model.head.modules_to_save.") for name in names)


def test_gradient_checkpointing_under_a_prefix_is_refused() -> None:
    model = BUILDERS["bert"]()
    model.gradient_checkpointing_enable()
    with pytest.raises(ModelError, match="gradient checkpointing"):
        applied("prefix", model)
    with pytest.raises(ValueError, match="checkpointing"):
        applied("prefix", BUILDERS["bert"]()).gradient_checkpointing_enable()
    assert METHODS._entries["prefix"].supports_gradient_checkpointing is False
    peft = METHODS._entries["peft"]
    assert peft(peft_type="lora").supports_gradient_checkpointing
    given = peft(peft_type="prefix_tuning", settings={"num_virtual_tokens": 3})
    assert not given.supports_gradient_checkpointing
    with pytest.raises(ValueError, match="checkpointing"):
        given.apply(BUILDERS["bert"](), MethodContext("SEQ_CLS")).gradient_checkpointing_enable()


@pytest.mark.parametrize("method", ["prompt", "p_tuning", "prefix", "residual_prompt"])
def test_models_that_need_token_ids_are_refused(method: str) -> None:
    choices = hf.BertForMultipleChoice(hf.BertConfig(**SIZES))
    with pytest.raises(ModelError, match="multiple-choice"):
        applied(method, choices)
    t5 = hf.T5Config(vocab_size=61, d_model=32, d_kv=8, d_ff=40, num_layers=1, num_heads=4, pad_token_id=0)
    with pytest.raises(ModelError, match="encoder-decoder that classifies"):
        applied(method, hf.T5ForSequenceClassification(t5))


def untaken() -> dict[str, Any]:
    sizes = {**SIZES, "vocab_size": 61}
    falcon = hf.FalconConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0)
    return {
        "roformer": lambda: hf.RoFormerForSequenceClassification(hf.RoFormerConfig(**sizes)),
        "falcon": lambda: hf.FalconForSequenceClassification(falcon),
        "longformer": lambda: hf.LongformerForSequenceClassification(
            hf.LongformerConfig(**sizes, attention_window=[8] * SIZES["num_hidden_layers"])
        ),
        "canine": lambda: hf.CanineForSequenceClassification(hf.CanineConfig(**SIZES)),
    }


@pytest.mark.parametrize(
    ("architecture", "methods"),
    [
        ("roformer", ["prefix"]),
        ("falcon", ["prefix"]),
        ("longformer", ["prompt", "residual_prompt", "p_tuning", "idpg"]),
        ("canine", ["prompt", "residual_prompt", "p_tuning", "idpg"]),
    ],
)
def test_models_that_stumble_over_a_prompt_are_refused_when_it_is_put_on(architecture: str, methods: list[str]) -> None:
    for method in methods:
        with pytest.raises(ModelError, match=architecture) as caught:
            applied(method, untaken()[architecture]())
        assert "lora" in str(caught.value)
    model = applied("bitfit", untaken()[architecture]())
    ids = token_ids(2, 5)
    assert torch.isfinite(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits).all()


def test_the_first_pass_leaves_modes_and_random_numbers_as_they_are() -> None:
    model = BUILDERS["bert"]().train()
    model.bert.embeddings.eval()
    state = torch.get_rng_state()
    assert first_failure(model, "SEQ_CLS") is None
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not model.bert.embeddings.training
    assert not any(p.grad is not None for p in model.parameters())


def test_what_can_not_run_is_known_before_there_are_weights() -> None:
    with torch.device("meta"):
        assert first_failure(applied("prefix", BUILDERS["bert"]()), "SEQ_CLS") is None
        with pytest.raises(ModelError, match="a falcon model does not run with prefix:"):
            applied("prefix", untaken()["falcon"]())


class WordTokenizer:
    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [3 + len(word) for word in text.split()]}


@pytest.mark.parametrize("method", ["prompt", "residual_prompt"])
def test_prompt_starts_from_text(method: str) -> None:
    base = BUILDERS["bert"]()
    words = base.get_input_embeddings().weight[[4, 5, 6, 4]].clone()
    tuned = METHODS._entries[method](length=4, init="text", init_text="a bb ccc").apply(
        base, MethodContext("SEQ_CLS", tokenizer=WordTokenizer())
    )
    assert torch.equal(tuned.prompt_encoder["default"].embedding.weight, words)


@pytest.mark.parametrize("method", ["prompt", "residual_prompt"])
def test_prompt_starts_from_vocabulary_rows(method: str) -> None:
    base = BUILDERS["bert"]()
    tuned = applied(method, base, init="vocabulary")
    for row in tuned.prompt_encoder["default"].embedding.weight:
        assert (base.get_input_embeddings().weight == row).all(-1).any()


def test_prompt_head_and_network_have_their_own_rates() -> None:
    method = METHODS._entries["residual_prompt"](head_learning_rate=0.3, network_learning_rate=0.2)
    model = method.apply(BUILDERS["bert"](), MethodContext("SEQ_CLS"))
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in method.parameter_groups(model, 0.1, 0.01)
        for p in group["params"]
    }
    assert rates["prompt_encoder.default.embedding.weight"] == (0.1, 0.0)
    assert rates["prompt_encoder.default.network.up.weight"] == (0.2, 1e-5)
    assert rates["prompt_encoder.default.network.up.bias"] == (0.2, 0.0)
    assert rates["prompt_encoder.default.network.norm.gain"] == (0.2, 0.0)
    assert rates["base_model.classifier.modules_to_save.default.weight"] == (0.3, 0.01)
    assert rates["base_model.classifier.modules_to_save.default.bias"] == (0.3, 0.0)


@pytest.mark.parametrize(
    ("name", "more", "free"),
    [
        ("ia3", {}, "ia3_l."),
        ("peft", {"peft_type": "IA3"}, "ia3_l."),
        ("peft", {"peft_type": "PROMPT_TUNING", "settings": {"num_virtual_tokens": 3}}, "prompt_encoder."),
    ],
)
def test_what_is_no_weight_does_not_decay(name: str, more: dict[str, Any], free: str) -> None:
    method = METHODS._entries[name](**more)
    model = method.apply(BUILDERS["bert"](), MethodContext("SEQ_CLS"))
    decays = {id(p): g["weight_decay"] for g in method.parameter_groups(model, 0.1, 0.01) for p in g["params"]}
    trained = {n: decays[id(p)] for n, p in model.named_parameters() if p.requires_grad}
    assert {decay for n, decay in trained.items() if free in n} == {0.0}
    assert {n.rpartition(".")[2]: decay for n, decay in trained.items() if "classifier" in n} == {
        "weight": 0.01,
        "bias": 0.0,
    }


def test_layers_are_found_by_name() -> None:
    model = BUILDERS["distilbert"]()
    assert default_targets(model, {"distilbert": ["q_lin"]}, ("v_lin",)) is None
    assert default_targets(model, {}, ("v_lin", "query", "q_lin")) == ["v_lin", "q_lin"]
    assert {"q_lin", "lin1", "classifier"} <= set(layer_names(model))
    check_targets(model, ["attention.q_lin", "lin1"])
    with pytest.raises(RecipeError, match="did you mean 'q_lin'"):
        check_targets(model, "q_linn")
    with pytest.raises(ModelError, match="no attention projections"):
        default_targets(model, {}, ("query",))


DECODER = {**SIZES, "num_key_value_heads": 2}
OPT = {**{k: v for k, v in SIZES.items() if k != "intermediate_size"}, "ffn_dim": 48, "word_embed_proj_dim": 32}
SCALED = {
    "albert": (BUILDERS["albert"], {"key", "value", "ffn_output"}),
    "qwen2": (lambda: hf.Qwen2ForSequenceClassification(hf.Qwen2Config(**DECODER)), {"k_proj", "v_proj", "down_proj"}),
    "opt": (lambda: hf.OPTForSequenceClassification(hf.OPTConfig(**OPT)), {"k_proj", "v_proj", "fc2"}),
    "starcoder2": (
        lambda: hf.Starcoder2ForSequenceClassification(hf.Starcoder2Config(**DECODER)),
        {"k_proj", "v_proj", "c_proj"},
    ),
}


@pytest.mark.parametrize("architecture", list(SCALED))
def test_ia3_scales_keys_values_and_what_goes_into_the_feed_forward_output(architecture: str) -> None:
    build, expected = SCALED[architecture]
    model = applied("ia3", build())
    vectors = {n.rpartition(".ia3_l.")[0]: p for n, p in model.named_parameters() if ".ia3_l." in n}
    assert {name.rpartition(".")[2] for name in vectors} == expected
    for name, vector in vectors.items():
        # Of a feed-forward layer what goes in is scaled, of keys and values what comes out.
        feedforward = name.rpartition(".")[2] in ("ffn_output", "down_proj", "fc2", "c_proj")
        layer = model.get_submodule(name)
        assert vector.numel() == (layer.in_features if feedforward else layer.out_features)


def test_half_of_bitfit_is_fewer_biases() -> None:
    counts = []
    for targets in ("all", "query_and_feedforward"):
        model = applied("bitfit", BUILDERS["bert"](), targets=targets)
        counts.append(sorted(n for n, p in model.named_parameters() if p.requires_grad and n.startswith("bert.")))
    assert all(name.endswith("bias") for name in counts[0])
    layers = [f"bert.encoder.layer.{i}." for i in range(2)]
    assert counts[1] == sorted(f"{at}{x}.bias" for at in layers for x in ("attention.self.query", "intermediate.dense"))


@pytest.mark.parametrize(
    ("architecture", "half"),
    [
        ("deberta", {"self.query_proj.bias", "intermediate.dense.bias"}),
        ("deberta_v1", {"self.q_bias", "intermediate.dense.bias"}),
        ("mpnet", {"attn.q.bias", "intermediate.dense.bias"}),
        ("albert", {"attention.query.bias", "ffn.bias"}),
        ("distilbert", {"attention.q_lin.bias", "ffn.lin1.bias"}),
        ("llama", {"self_attn.q_proj.bias", "mlp.up_proj.bias", "mlp.gate_proj.bias"}),
        ("gptj", {"mlp.fc_in.bias"}),
    ],
)
def test_half_of_bitfit_has_queries_and_feed_forward_layers(architecture: str, half: set[str]) -> None:
    model = applied("bitfit", BUILDERS[architecture](), targets="query_and_feedforward")
    trained = [n for n, p in model.named_parameters() if p.requires_grad and ("layer" in n or ".h." in n)]
    assert {next((end for end in half if n.endswith(end)), n) for n in trained} == half


def test_half_of_bitfit_is_refused_where_queries_share_a_bias() -> None:
    with pytest.raises(ModelError, match="no such bias terms"):
        applied("bitfit", BUILDERS["gpt2"](), targets="query_and_feedforward")
