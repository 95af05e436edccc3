"""A head that is saved without its base: what is written, who loads it, and when all is written after all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from luthier.errors import ModelError
from luthier.methods.base import MethodContext
from luthier.models.artifacts import load_artifact, load_model, save_artifact
from luthier.models.card import ModelCard, describe
from luthier.models.inspect import bytes_on_disk
from luthier.models.loading import load_tokenizer
from luthier.models.saved_head import NO_LAYER
from luthier.tuning.stock.head_only import HeadOnly

from .builders import bert_config, save_tiny

CLASSIFY = "sequence_classification"


def scores(model: Any, tokenizer: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**tokenizer(["a good film", "so bad"], padding=True, return_tensors="pt")).logits


def tuned(base: Path, **settings: Any) -> tuple[Any, Any, ModelCard]:
    """A model with a head far from its first values, its tokenizer and card."""
    method = HeadOnly(**settings)
    model: Any = method.apply(load_model(str(base), CLASSIFY, labels=["bad", "good"]), MethodContext("SEQ_CLS"))
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    card = describe(str(base), CLASSIFY, labels=["bad", "good"], method=method.model_dump(mode="json"))
    return model, load_tokenizer(str(base)), card


def test_only_the_head_is_written_and_it_comes_back_on_its_base(bert: Path, tmp_path: Path):
    model, tokenizer, card = tuned(bert)
    folder = save_artifact(model, tokenizer, tmp_path / "model", card)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    stored = load_file(folder / "adapter_model.safetensors")
    assert {name.removeprefix("base_model.model.") for name in stored} == trained
    assert not (folder / "model.safetensors").exists()
    again, _, back = load_artifact(folder)
    assert type(again) is type(model)
    assert torch.equal(scores(again, tokenizer), scores(model, tokenizer))
    assert not any(p.requires_grad for p in again.parameters())
    assert back == card


def test_stock_peft_loads_it(bert: Path, tmp_path: Path):
    model, tokenizer, card = tuned(bert)
    folder = save_artifact(model, tokenizer, tmp_path / "model", card)
    base = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=2)
    stock = peft.PeftModel.from_pretrained(base, folder)
    assert torch.equal(scores(stock, tokenizer), scores(model, tokenizer))
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(bert)


def test_it_is_trained_on_and_saved_as_a_head_again(bert: Path, tmp_path: Path):
    model, tokenizer, card = tuned(bert)
    folder = save_artifact(model, tokenizer, tmp_path / "model", card)
    again, _, _ = load_artifact(folder, trainable=True)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name, p in again.named_parameters() if p.requires_grad} == trained
    once_more = save_artifact(again, tokenizer, tmp_path / "again", card)
    assert (once_more / "adapter_model.safetensors").read_bytes() == (folder / "adapter_model.safetensors").read_bytes()


def test_a_next_stage_starts_from_base_and_head_as_one_model(bert: Path, tmp_path: Path):
    model, tokenizer, card = tuned(bert)
    folder = save_artifact(model, tokenizer, tmp_path / "model", card)
    whole = load_model(str(folder), CLASSIFY)
    assert all(p.requires_grad for p in whole.parameters())
    assert torch.equal(scores(whole, tokenizer), scores(model, tokenizer))
    other = load_model(str(folder), CLASSIFY, labels=["a", "b", "c"])
    assert other.classifier.out_features == 3
    saved = save_artifact(whole, tokenizer, tmp_path / "next", describe(str(folder), CLASSIFY))
    shutil.rmtree(folder)
    assert torch.equal(scores(load_artifact(saved)[0], tokenizer), scores(model, tokenizer))


def test_by_setting_the_base_is_saved_with_the_head(bert: Path, tmp_path: Path):
    model, tokenizer, card = tuned(bert, save_base_model=True)
    folder = save_artifact(model, tokenizer, tmp_path / "model", card)
    shutil.rmtree(bert)
    assert torch.equal(scores(load_artifact(folder)[0], tokenizer), scores(model, tokenizer))
    stock = AutoModelForSequenceClassification.from_pretrained(folder)
    assert torch.equal(scores(stock, tokenizer), scores(model, tokenizer))


def test_a_model_of_which_more_was_trained_is_saved_whole(bert: Path, tmp_path: Path):
    model, tokenizer, card = tuned(bert)
    model.bert.encoder.layer[0].output.dense.weight.requires_grad_(True)
    folder = save_artifact(model, tokenizer, tmp_path / "model", card)
    assert (folder / "model.safetensors").is_file()
    assert torch.equal(scores(load_artifact(folder)[0], tokenizer), scores(model, tokenizer))


def test_a_base_that_is_missing_changed_or_moved(bert: Path, tmp_path: Path):
    model, tokenizer, card = tuned(bert)
    folder, copy = save_artifact(model, tokenizer, tmp_path / "model", card), tmp_path / "copy"
    shutil.copytree(bert, copy)
    other, wanted = tmp_path / "other", scores(model, tokenizer)  # the model is mapped from the file that is changed
    save_tiny(
        "BertModel", bert_config(hidden_act="relu"), other, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    with pytest.raises(ModelError, match="for another base"):
        load_artifact(folder, base=str(other))
    weights = bert / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match=r"for another base.*\n  fix: use the base it was trained on"):
        load_artifact(folder)
    shutil.rmtree(bert)
    with pytest.raises(ModelError, match=r"base .* is no longer there\n  fix: put it back there") as caught:
        load_artifact(folder)
    assert str(bert) in caught.value.what
    moved, _, _ = load_artifact(folder, base=str(copy))
    assert torch.equal(scores(moved, tokenizer), wanted)


def test_a_head_of_another_shape_is_refused(bert: Path, tmp_path: Path):
    from luthier.models.manifest import write_manifest

    model, tokenizer, card = tuned(bert)
    folder = save_artifact(model, tokenizer, tmp_path / "model", card)
    written = json.loads((folder / "luthier.json").read_text())
    (folder / "luthier.json").write_text(json.dumps(written | {"labels": ["a", "b", "c"]}))
    write_manifest(folder)
    with pytest.raises(ModelError, match="the head can't be put on its base"):
        load_artifact(folder)


def test_it_is_a_small_part_of_the_model(bert: Path, tmp_path: Path):
    saved = {
        whole: bytes_on_disk(save_artifact(*tuned(bert, save_base_model=whole)[:2], tmp_path / str(whole), card))
        for whole in (False, True)
        for card in [tuned(bert)[2]]
    }
    head = sum(p.numel() for p in tuned(bert)[0].parameters() if p.requires_grad)
    tokenizer = sum(path.stat().st_size for path in (tmp_path / "False").glob("tokenizer*"))
    assert saved[False] < 4 * head + tokenizer + 8000 < saved[True]


def test_no_layer_is_called_as_peft_calls_it():
    assert NO_LAYER == peft.utils.constants.DUMMY_TARGET_MODULES
