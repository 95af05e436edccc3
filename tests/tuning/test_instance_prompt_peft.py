"""Instance prompts as an adapter: architectures, saving, switching, padding, generation, gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForTokenClassification,
    BertModel,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    T5Config,
    T5EncoderModel,
)

from luthier.tuning.instance_prompt import InstancePromptConfig
from tests.tuning.cases import ARCHITECTURES, VOCABULARY, WIDTH, base_model, batch_of, row_logits
from tests.tuning.instance_prompt_models import encoder, pairs, tuned

KINDS = list(ARCHITECTURES)
WAYS: list[dict[str, Any]] = [
    {},
    {"insertion": "replace"},
    {"insertion": "key_value"},
    {"first_layer": 1},
    {"multi_layer": False, "vector_source": "static"},
]
SMALL = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4}
BERT = BertConfig(**SMALL, intermediate_size=40, max_position_embeddings=48)


def with_prompt(architecture: str, **options: Any) -> Any:
    """The table's tiny model with a generator large enough to tell inputs apart."""
    config = InstancePromptConfig(task_type=ARCHITECTURES[architecture].task_type, **{"dropout": 0.0, **options})
    torch.manual_seed(5)
    model = get_peft_model(base_model(architecture).requires_grad_(False), config).eval()
    with torch.no_grad():
        for parameter in model.base_model.prompt_layer.parameters():
            parameter.mul_(3)
    return model


def saved(model: Any, folder: Any) -> Any:
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_the_rest_of_the_batch_change_nothing(kind: str, way: dict[str, Any]):
    model, lengths = with_prompt(kind, **way), [5, 8, 3]
    batch = batch_of(kind, lengths, width=10)
    together = model(**batch).logits
    for row, length in enumerate(lengths):
        place = slice(-length, None) if kind == "decoder" else slice(0, length)
        alone = {k: v[row : row + 1] if k == "decoder_input_ids" else v[row : row + 1, place] for k, v in batch.items()}
        got = model(**alone).logits[0]
        torch.testing.assert_close(got, row_logits(kind, together, row, length), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_loaded_and_can_be_trained_on(kind: str, way: dict[str, Any], tmp_path: Any):
    model, batch = with_prompt(kind, **way), batch_of(kind, [5, 8])
    wanted = model(**batch).logits
    loaded = PeftModel.from_pretrained(base_model(kind), saved(model, tmp_path), is_trainable=True).eval()
    assert torch.equal(loaded(**batch).logits, wanted)
    trained = {n for n, p in loaded.named_parameters() if p.requires_grad}
    assert trained == {n for n, p in model.named_parameters() if p.requires_grad}
    frozen = PeftModel.from_pretrained(base_model(kind), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(frozen(**batch).logits, wanted)
    assert not any(p.requires_grad for p in frozen.parameters())


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_copy_has_prompts_of_its_own(way: dict[str, Any]):
    model, batch = with_prompt("encoder", **way), batch_of("encoder", [5, 8])
    wanted, twin = model(**batch).logits, copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.base_model.prompt_layer.parameters():
            parameter.zero_()
    assert torch.equal(twin(**batch).logits, wanted)
    assert not torch.equal(model(**batch).logits, wanted)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_disabled_and_unloaded_it_is_the_base_model(kind: str, way: dict[str, Any]):
    model, batch = with_prompt(kind, **way), batch_of(kind, [5, 8])
    wanted = base_model(kind).requires_grad_(False)(**batch).logits
    assert not torch.allclose(model(**batch).logits, wanted, atol=1e-6)
    with model.disable_adapter():
        assert torch.equal(model(**batch).logits, wanted)
    before = base_model(kind).config._attn_implementation
    base = model.unload()
    assert torch.equal(base(**batch).logits, wanted)
    assert base.config._attn_implementation == before
    assert not any("instance_prompt" in name for name, _ in base.named_modules())


def test_it_can_not_be_merged():
    with pytest.raises(ValueError, match="can't be merged"):
        with_prompt("encoder").merge_and_unload()


def test_an_adapter_is_not_called_as_a_part_of_the_model_is():
    with pytest.raises(ValueError, match="can't be called 'bert'"):
        get_peft_model(base_model("encoder"), InstancePromptConfig(), adapter_name="bert")


def test_several_adapters_with_settings_of_their_own(tmp_path: Any):
    model, batch = with_prompt("encoder"), batch_of("encoder", [5, 8])
    first = model(**batch).logits
    other = InstancePromptConfig(
        task_type="SEQ_CLS", prompt_length=2, insertion="key_value", generator="dnn", dropout=0.0
    )
    model.add_adapter("second", other)
    assert torch.equal(model(**batch).logits, first)
    model.set_adapter("second")
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all("second" in name for name in trained)
    second = model(**batch).logits
    assert not torch.allclose(second, first)
    model.set_adapter("default")
    assert torch.equal(model(**batch).logits, first)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base_model("encoder"), tmp_path).eval()
    loaded.load_adapter(tmp_path / "second", "again")
    assert torch.equal(loaded(**batch).logits, first)
    loaded.set_adapter("again")
    assert torch.equal(loaded(**batch).logits, second)
    model.delete_adapter("second")
    assert torch.equal(model(**batch).logits, first)
    with pytest.raises(ValueError, match="one instance prompt"):
        model.base_model.set_adapter(["default", "again"])


@pytest.mark.parametrize("kind", KINDS)
def test_only_generator_and_head_get_gradients(kind: str):
    model = with_prompt(kind).train()
    batch = batch_of(kind, [5, 8])
    labels = ARCHITECTURES[kind].labels(2, 8)
    model(**batch, labels=labels).loss.backward()
    for name, parameter in model.named_parameters():
        ours = "instance_prompt_generators" in name or "modules_to_save" in name
        assert parameter.requires_grad == ours, name
        assert (parameter.grad is not None) == ours, name


@pytest.mark.parametrize("way", WAYS[:4], ids=str)
@pytest.mark.parametrize("kind", ["encoder", "decoder_classifier", "encoder_decoder"])
def test_checkpointing_changes_no_gradient(kind: str, way: dict[str, Any]):
    grads = []
    for checkpointing in (False, True):
        model = with_prompt(kind, **way).train()
        if checkpointing:
            model.base_model.model.gradient_checkpointing_enable()
        batch = batch_of(kind, [5, 8])
        model(**batch, labels=ARCHITECTURES[kind].labels(2, 8)).loss.backward()
        grads.append([p.grad for p in model.base_model.prompt_layer.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_the_frozen_model_below_the_first_layer_is_the_bare_one():
    model, batch = tuned(encoder(), first_layer=2), pairs([(4, 2), (2, 6)])
    states = model(**batch, output_hidden_states=True).hidden_states
    with model.disable_adapter():
        bare = model(**batch, output_hidden_states=True).hidden_states
    for level in range(3):
        real = batch["attention_mask"].bool()
        torch.testing.assert_close(states[level][real], bare[level][real])
    assert not torch.allclose(states[3], bare[3], atol=1e-3)


def test_inputs_get_prompts_of_their_own_that_are_the_same_in_every_batch():
    model = tuned(encoder())
    seen: list[torch.Tensor] = []
    generator = model.base_model.prompt_layer.instance_prompt_generators["default"]
    generator.register_forward_hook(lambda _m, args, out: seen.append(out) if args[1] == 0 else None)
    batch = pairs([(4, 2), (2, 6), (5, 5)])
    model(**batch)
    model(**{k: v[:1, :10] for k, v in batch.items()})
    assert not torch.allclose(seen[0][0], seen[0][1], atol=1e-2)
    torch.testing.assert_close(seen[0][:1], seen[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "build",
    [
        lambda: BertForTokenClassification(BERT),
        lambda: BertForQuestionAnswering(BERT),
        lambda: BertModel(BERT),
        lambda: T5EncoderModel(
            T5Config(vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=40, num_layers=2, num_heads=4)
        ),
        lambda: ModernBertForSequenceClassification(
            ModernBertConfig(**SMALL, intermediate_size=40, pad_token_id=0, cls_token_id=1, sep_token_id=2)
        ),
    ],
    ids=["tokens", "answers", "body", "t5", "modernbert"],
)
def test_outputs_have_one_position_a_token_of_the_caller(build: Any):
    torch.manual_seed(0)
    model = get_peft_model(build(), InstancePromptConfig(dropout=0.0)).eval()
    out = model(**batch_of("encoder", [5, 8]), output_hidden_states=True)
    for name in ("last_hidden_state", "start_logits"):
        if name in out:
            assert out[name].shape[1] == 8
    if "logits" in out and out.logits.ndim == 3:
        assert out.logits.shape[1] == 8
    assert {state.shape[1] for state in out.hidden_states} == {8}


def test_answers_and_token_labels_have_the_loss_of_their_own_positions():
    torch.manual_seed(0)
    model = get_peft_model(BertForTokenClassification(BERT), InstancePromptConfig(task_type="TOKEN_CLS")).eval()
    batch = batch_of("encoder", [5, 8])
    labels = torch.where(batch["attention_mask"].bool(), batch["input_ids"] % 2, -100)
    out = model(**batch, labels=labels)
    wanted = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(out.loss, wanted)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_generation_is_the_same_with_a_cache_and_without(kind: str, way: dict[str, Any]):
    model, batch = with_prompt(kind, **way), batch_of(kind, [5, 8, 3])
    batch.pop("decoder_input_ids", None)
    settings = {
        "max_new_tokens": 5,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    cached = model.generate(**batch, **settings)
    plain = model.generate(**batch, use_cache=False, **settings)
    place = slice(-3, None) if kind == "decoder" else slice(0, 3)
    alone = model.generate(**{k: v[2:, place] for k, v in batch.items()}, **settings)
    assert torch.equal(cached.sequences, plain.sequences)
    for a, b, c in zip(cached.logits, plain.logits, alone.logits, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a[2:], c, rtol=1e-4, atol=1e-5)
    beams = model.generate(**batch, max_new_tokens=4, num_beams=2, do_sample=False, pad_token_id=0)
    assert len(beams) == 3


@pytest.mark.parametrize("way", WAYS[:4], ids=str)
def test_a_language_model_never_sees_what_it_learns_to_predict(way: dict[str, Any]):
    model, batch = with_prompt("decoder", **way), batch_of("decoder", [8, 8])
    labels = torch.where(torch.arange(8) < 4, -100, batch["input_ids"])
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][:, 4:] = 3
    logits, other = (model(**b, labels=labels).logits for b in (batch, changed))
    torch.testing.assert_close(logits[:, :4], other[:, :4])
    context = model.base_model.context_arguments(labels, batch["attention_mask"])
    torch.testing.assert_close(model(**batch, **context).logits, logits)
    short = {k: v[:, :4] for k, v in batch.items()}
    torch.testing.assert_close(model(**short).logits, logits[:, :4], rtol=1e-4, atol=1e-5)


def test_a_language_model_is_not_trained_without_knowing_its_context():
    model = with_prompt("decoder").train()
    with pytest.raises(ValueError, match="context_end"):
        model(**batch_of("decoder", [5, 5]))


def test_given_vectors_stand_in_for_the_first_pass():
    model, batch = with_prompt("encoder"), batch_of("encoder", [5, 8])
    with model.disable_adapter():
        vectors = model.get_base_model().bert(**batch).last_hidden_state[:, 0]
    passes: list[int] = []
    model.base_model.prompt_layer.trunk.layers[0].register_forward_hook(lambda *_: passes.append(1))
    wanted = model(**batch).logits
    assert len(passes) == 2
    torch.testing.assert_close(model(**batch, sentence_vectors=vectors).logits, wanted)
    assert len(passes) == 3
    with pytest.raises(ValueError, match="3 sentence vectors for 2 rows"):
        model(**batch, sentence_vectors=torch.zeros(3, WIDTH))
    with pytest.raises(ValueError, match="the generator takes 32"):
        model(**batch, sentence_vectors=torch.zeros(2, 8))


def test_a_prompt_of_given_vectors_needs_them():
    model, batch = with_prompt("encoder", vector_source="given", vector_width=16), batch_of("encoder", [5, 8])
    assert model(**batch, sentence_vectors=torch.ones(2, 16)).logits.shape == (2, 3)
    with pytest.raises(ValueError, match="pass sentence_vectors"):
        model(**batch)


def test_the_first_pass_has_dropout_only_where_it_is_wanted():
    torch.manual_seed(0)
    base = encoder(hidden_dropout_prob=0.5)
    batch = pairs([(4, 2)])
    for wanted in (False, True):
        model = tuned(encoder(hidden_dropout_prob=0.5), first_pass_dropout=wanted).train()
        seen: list[torch.Tensor] = []
        generator = model.base_model.prompt_layer.instance_prompt_generators["default"]
        generator.register_forward_pre_hook(lambda _m, args, s=seen: s.append(args[0]) if args[1] == 0 else None)
        model(**batch)
        bare = base.roberta(**batch).last_hidden_state[:, 0]
        assert torch.allclose(seen[0], bare, atol=1e-5) != wanted
        assert model.get_base_model().roberta.encoder.layer[0].training


def test_text_that_leaves_no_room_for_the_prompt_is_refused():
    ids = torch.ones(1, 46, dtype=torch.long)
    with pytest.raises(ValueError, match="cut the text to 43 tokens"):
        with_prompt("encoder")(input_ids=ids, attention_mask=torch.ones_like(ids))


def test_a_separator_that_is_not_known_is_asked_for():
    with pytest.raises(ValueError, match="set separator_token_id"):
        get_peft_model(base_model("decoder"), InstancePromptConfig(position=1))


def test_a_causal_model_takes_no_prompt_behind_its_text():
    with pytest.raises(ValueError, match="a causal model does not see it"):
        get_peft_model(base_model("decoder"), InstancePromptConfig(position=4, separator_token_id=2))


def test_half_precision_gives_half_precision():
    model = get_peft_model(
        base_model("decoder").to(torch.bfloat16), InstancePromptConfig(task_type="CAUSAL_LM", dropout=0.0)
    ).eval()
    generator = model.base_model.prompt_layer.instance_prompt_generators["default"]
    assert generator.bias.dtype == torch.float32
    assert model(**batch_of("decoder", [5, 8])).logits.dtype == torch.bfloat16
