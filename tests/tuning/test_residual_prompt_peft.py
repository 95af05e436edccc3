"""Residual Prompt Tuning as a PEFT tuner: storing, going on, folding, generating, and the shim itself."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
    peft_model,
)
from safetensors.torch import load_file, save_file

from luthier.errors import ModelError
from luthier.tuning.residual_prompt import ResidualPromptConfig, fold_prompt, load_trainable_prompt
from tests.processes import python
from tests.tuning.cases import ARCHITECTURES, base_model, batch_of, token_ids

KINDS = list(ARCHITECTURES)
NETWORKS = [
    {"bottleneck": 8},
    {"bottleneck": 8, "shared": False, "dropout": 0.1},
    {"bottleneck": 8, "residual": False, "layer_norm": False, "activation": "tanh"},
    {"reparameterizer": "mlp2", "bottleneck": 8, "tied": False},
    {"reparameterizer": "lstm", "layers": 2},
    {"reparameterizer": "transformer", "bottleneck": 8, "layers": 1},
    {"reparameterizer": "none"},
]


def prompted(kind: str = "encoder", **settings: Any) -> Any:
    torch.manual_seed(1)
    settings = settings or {"bottleneck": 8}
    config = ResidualPromptConfig(task_type=ARCHITECTURES[kind].task_type, num_virtual_tokens=4, **settings)
    model = get_peft_model(base_model(kind), config)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p), alpha=0.1)
    return model.eval()


def labelled(kind: str, rows: int = 4) -> dict[str, torch.Tensor]:
    batch = batch_of(kind, [6] * rows)
    batch.pop("decoder_input_ids", None)
    return {**batch, "labels": ARCHITECTURES[kind].labels(rows, 6)}


@torch.no_grad()
def logits_of(model: Any, kind: str) -> torch.Tensor:
    return model(**batch_of(kind, [6, 6])).logits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_folded_logits_are_equal(kind: str, network: dict[str, Any], tmp_path: Path) -> None:
    model = prompted(kind, **network)
    fold_prompt(model, tmp_path / "of_model")
    model.save_pretrained(tmp_path / "stored")
    fold_prompt(tmp_path / "stored", tmp_path / "of_directory")
    before = model(**batch_of(kind, [6, 6])).logits.detach()
    assert torch.equal(before, logits_of(model, kind))
    for place in ("of_model", "of_directory"):
        folded = PeftModel.from_pretrained(base_model(kind), tmp_path / place)
        assert type(folded.peft_config["default"]) is PromptTuningConfig
        assert torch.equal(logits_of(folded, kind), before)


def test_folding_leaves_the_model_as_it_was() -> None:
    model = prompted(dropout=0.5, bottleneck=8).train()
    folded = fold_prompt(model)
    assert model.training
    assert model.prompt_encoder["default"].training
    assert set(folded.state) == {
        "prompt_embeddings",
        "base_model.classifier.weight",
        "base_model.classifier.bias",
    }


LOADER = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoModelForCausalLM, AutoModelForSeq2SeqLM
kind, base, adapter, batch, out = sys.argv[1:]
auto = {"decoder": AutoModelForCausalLM, "encoder_decoder": AutoModelForSeq2SeqLM}
model = auto.get(kind, AutoModelForSequenceClassification).from_pretrained(base)
model = PeftModel.from_pretrained(model, adapter).eval()
with torch.no_grad():
    torch.save(model(**torch.load(batch)).logits, out)
assert not any(name.startswith("luthier") for name in sys.modules)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_stock_peft_loads_the_folded_prompt(kind: str, tmp_path: Path) -> None:
    base_model(kind).save_pretrained(tmp_path / "base")
    model = prompted(kind)
    fold_prompt(model, tmp_path / "folded")
    torch.save(batch_of(kind, [6, 6]), tmp_path / "batch.pt")
    paths = [str(tmp_path / name) for name in ("base", "folded", "batch.pt", "logits.pt")]
    python("-c", LOADER, kind, *paths, check=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits_of(model, kind))


def test_folding_something_else_is_refused(tmp_path: Path) -> None:
    lora = get_peft_model(base_model("encoder"), LoraConfig(task_type="SEQ_CLS"))
    lora.save_pretrained(tmp_path)
    for thing in (lora, tmp_path):
        with pytest.raises(ModelError, match="has no prompt that a network makes"):
            fold_prompt(thing)
    with pytest.raises(ModelError, match="not a whole"):
        fold_prompt(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="has no prompt that a network makes"):
        fold_prompt(prompted(), adapter_name="other")


def test_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    prompted().save_pretrained(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    state = load_file(weights)
    save_file({name: value for name, value in state.items() if "up" not in name}, weights)
    with pytest.raises(ModelError, match="disagree"):
        fold_prompt(tmp_path)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="not a whole"):
        fold_prompt(tmp_path)


def train(model: Any, kind: str, steps: int, optimizer: Any = None) -> Any:
    optimizer = optimizer or torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model.train()
    for _ in range(steps):
        model(**labelled(kind)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return optimizer


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_and_loaded_equals_never_stopped(kind: str, tmp_path: Path) -> None:
    whole, stopped = prompted(kind), prompted(kind)
    train(whole, kind, 4)
    moments = train(stopped, kind, 2).state_dict()
    stopped.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base_model(kind), tmp_path, is_trainable=True)
    optimizer = torch.optim.AdamW([p for p in again.parameters() if p.requires_grad], lr=0.01)
    optimizer.load_state_dict(moments)
    train(again, kind, 2, optimizer)
    assert torch.equal(logits_of(again, kind), logits_of(whole, kind))
    assert not torch.equal(logits_of(again, kind), logits_of(stopped, kind))


def test_loaded_for_inference_has_nothing_to_train(tmp_path: Path) -> None:
    prompted().save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base_model("encoder"), tmp_path)
    assert [name for name, p in loaded.named_parameters() if p.requires_grad] == []


def test_saved_prompt_needs_neither_its_text_nor_its_file(tmp_path: Path) -> None:
    source = tmp_path / "prompt.safetensors"
    save_file({"prompt": torch.randn(4, 32)}, source)
    model = prompted(prompt_init="tensor", prompt_init_file=str(source), bottleneck=8)
    model.save_pretrained(tmp_path / "stored")
    source.unlink()
    for trainable in (False, True):
        loaded = PeftModel.from_pretrained(base_model("encoder"), tmp_path / "stored", is_trainable=trainable).eval()
        assert torch.equal(logits_of(loaded, "encoder"), logits_of(model, "encoder"))


def test_several_adapters_are_kept_apart(tmp_path: Path) -> None:
    model = prompted()
    first = logits_of(model, "encoder")
    other = prompted(reparameterizer="lstm")
    other.save_pretrained(tmp_path / "lstm")
    model.load_adapter(tmp_path / "lstm", "second")
    assert torch.equal(logits_of(model, "encoder"), first)
    model.set_adapter("second")
    assert torch.equal(logits_of(model, "encoder"), logits_of(other, "encoder"))
    model.save_pretrained(tmp_path / "both")
    fold_prompt(tmp_path / "both", tmp_path / "folded", adapter_name="second")
    folded = PeftModel.from_pretrained(base_model("encoder"), tmp_path / "folded")
    assert torch.equal(logits_of(folded, "encoder"), logits_of(other, "encoder"))
    model.delete_adapter("second")
    assert torch.equal(logits_of(model, "encoder"), first)


STOCK = {
    "prompt": PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4),
    "p_tuning": PromptEncoderConfig(task_type="SEQ_CLS", num_virtual_tokens=4, encoder_hidden_size=16),
    "prefix": PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4),
    "projected": PrefixTuningConfig(
        task_type="SEQ_CLS", num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=16
    ),
}


@pytest.mark.parametrize("name", list(STOCK))
def test_prompts_of_stock_peft_go_on(name: str, tmp_path: Path) -> None:
    model = get_peft_model(base_model("encoder"), STOCK[name])
    train(model, "encoder", 2)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="trainable"):
        PeftModel.from_pretrained(base_model("encoder"), tmp_path, is_trainable=True)
    again = load_trainable_prompt(base_model("encoder"), tmp_path)
    before = logits_of(again.eval(), "encoder")
    torch.testing.assert_close(before, logits_of(model, "encoder"), rtol=0, atol=1e-6)
    train(again, "encoder", 2)
    assert not torch.equal(logits_of(again, "encoder"), before)
    assert model(**labelled("encoder")).loss > again(**labelled("encoder")).loss


def test_a_trainable_prompt_joins_the_others(tmp_path: Path) -> None:
    other = prompted(reparameterizer="lstm")
    other.save_pretrained(tmp_path)
    model = prompted()
    first = logits_of(model, "encoder")
    assert load_trainable_prompt(model, tmp_path, "second") is model
    assert torch.equal(logits_of(model, "encoder"), logits_of(other, "encoder"))
    train(model, "encoder", 1)
    assert not torch.equal(logits_of(model, "encoder"), logits_of(other, "encoder"))
    model.set_adapter("default")
    assert torch.equal(logits_of(model, "encoder"), first)


def test_only_prompts_are_loaded_by_it(tmp_path: Path) -> None:
    get_peft_model(base_model("encoder"), LoraConfig(task_type="SEQ_CLS")).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="LORA can't be loaded"):
        load_trainable_prompt(base_model("encoder"), tmp_path)


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_generation_with_and_without_cache(kind: str) -> None:
    model = prompted(kind)
    batch = {name: value for name, value in batch_of(kind, [6, 3]).items() if name != "decoder_input_ids"}
    cached, plain = (model.generate(**batch, max_new_tokens=6, do_sample=False, use_cache=c) for c in (True, False))
    assert torch.equal(cached, plain)
    with model.disable_adapter():
        off = model.generate(**batch, max_new_tokens=6, do_sample=False)
    assert torch.equal(off, base_model(kind).generate(**batch, max_new_tokens=6, do_sample=False))


def test_generated_text_does_not_depend_on_padding() -> None:
    model = prompted("decoder")
    alone = model.generate(**batch_of("decoder", [3]), max_new_tokens=8, do_sample=False)
    beside = model.generate(**batch_of("decoder", [3, 9]), max_new_tokens=8, do_sample=False)
    assert torch.equal(alone[0, -8:], beside[0, -8:])


def test_generation_is_the_forward_passes() -> None:
    model = prompted("decoder")
    ids = token_ids(1, 4)
    made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)
    for _ in range(5):
        step = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1].argmax(-1)
        ids = torch.cat((ids, step[:, None]), dim=1)
        if step.item() == model.config.eos_token_id:
            break
    assert torch.equal(made, ids)


@pytest.mark.parametrize("task", ["TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"])
def test_other_heads(task: str, tmp_path: Path) -> None:
    from transformers import BertForQuestionAnswering, BertForTokenClassification, BertModel

    classes = {"TOKEN_CLS": BertForTokenClassification, "QUESTION_ANS": BertForQuestionAnswering}
    build = classes.get(task, BertModel)

    def base() -> Any:
        torch.manual_seed(0)
        config = base_model("encoder").config
        config.num_labels = 2
        return build(config).eval()

    model = get_peft_model(base(), ResidualPromptConfig(task_type=task, num_virtual_tokens=4, bottleneck=8)).eval()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base(), tmp_path).eval()
    with torch.no_grad():
        ours, again = (m(**batch_of("encoder", [6, 6]))[0] for m in (model, loaded))
    assert torch.equal(ours, again)
    assert ours.shape[1] == 4 + 6


def test_register_is_enough_to_load(tmp_path: Path) -> None:
    model = prompted()
    model.save_pretrained(tmp_path / "adapter")
    base_model("encoder").save_pretrained(tmp_path / "base")
    code = (
        "import sys; from luthier.peft_bridge.registration import register; register()\n"
        "from peft import PeftModel; from transformers import AutoModelForSequenceClassification as A\n"
        "m = PeftModel.from_pretrained(A.from_pretrained(sys.argv[1]), sys.argv[2])\n"
        "assert m.peft_config['default'].peft_type.value == 'RESIDUAL_PROMPT'"
    )
    paths = [str(tmp_path / "base"), str(tmp_path / "adapter")]
    python("-c", code, *paths, check=True)


def test_peft_is_as_the_shim_expects() -> None:
    """Fails when PEFT changes what the shim builds on; look at `peft_bridge/prompt_learning.py` again then."""
    setup = inspect.unwrap(PeftModel._setup_prompt_encoder)
    assert list(inspect.signature(setup).parameters) == ["self", "adapter_name"]
    source = inspect.getsource(setup)
    for line in (
        "config = self.peft_config[adapter_name]",
        "model_cls = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]",
        'raise ValueError("Not supported")',
        "self.word_embeddings = word_embeddings",
    ):
        assert line in source
    assert "if peft_config.inference_mode:" in inspect.getsource(PeftModel.get_prompt)
    whole = inspect.getsource(peft_model)
    for cls in (
        "SequenceClassification",
        "CausalLM",
        "Seq2SeqLM",
        "TokenClassification",
        "QuestionAnswering",
    ):
        assert "peft_config = self.active_peft_config" in inspect.getsource(getattr(peft, f"PeftModelFor{cls}").forward)
    assert whole.count("Cannot set a prompt learning adapter to trainable") == 2
    parameters = list(inspect.signature(inspect.unwrap(PeftModel.from_pretrained.__func__)).parameters)
    assert parameters[:6] == ["cls", "model", "model_id", "adapter_name", "is_trainable", "config"]


def test_shim_leaves_other_adapters_alone() -> None:
    config = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)
    plain = get_peft_model(base_model("encoder"), config)
    assert plain.active_peft_config is config
    assert type(plain.prompt_encoder["default"]) is peft.PromptEmbedding
    lora = get_peft_model(base_model("encoder"), LoraConfig(task_type="SEQ_CLS"))
    with lora.disable_adapter():
        off = logits_of(lora, "encoder")
    assert torch.equal(off, logits_of(base_model("encoder"), "encoder"))
