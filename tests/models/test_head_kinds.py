"""Heads that code outside of `models` brings: loaded, tuned, saved and told of as the built-in ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.errors import ModelError
from luthier.methods.base import MethodContext
from luthier.models.artifacts import load_artifact, load_model, save_artifact
from luthier.models.card import describe, read_card
from luthier.models.head_kinds import HEAD_KINDS, known_head, peft_task_type, register_head
from luthier.models.heads import check_head_fits
from luthier.models.loading import empty_model, load_tokenizer
from luthier.models.source import ModelSource
from luthier.tasks.classes import ClassTask
from luthier.tuning.stock.head_only import HeadOnly
from luthier.tuning.stock.lora import Lora

from .own_head import BertForTwoAnswers


@pytest.mark.parametrize("method", [HeadOnly(), Lora(rank=2)], ids=["head_only", "lora"])
def test_a_head_of_somebody_else_is_loaded_tuned_and_saved(bert: Path, tmp_path: Path, method: Any):
    model: Any = method.apply(
        load_model(str(bert), "two_answers", seed=4), MethodContext(peft_task_type("two_answers"))
    )
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(any(part in name for name in trained) for part in ("first", "second"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    tokenizer = load_tokenizer(str(bert))
    folder = save_artifact(model.eval(), tokenizer, tmp_path / "model", describe(str(bert), "two_answers"))
    batch = tokenizer(["a good film"], return_tensors="pt")
    again, _, card = load_artifact(folder)
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)
        assert again(**batch).logits.shape == (1, 5)
    assert card.head == "two_answers"


def test_its_shapes_are_known_without_weights(bert: Path):
    model = empty_model(str(bert), "two_answers")
    assert isinstance(model, BertForTwoAnswers)
    assert model.second.weight.is_meta


def test_a_task_names_it_and_peft_is_told_its_type():
    class TwoAnswers(ClassTask):
        head = "two_answers"

    task = TwoAnswers.__new__(TwoAnswers)
    assert task.head_on(None) == "two_answers"
    assert task.peft_type(None) == "SEQ_CLS"


def test_an_architecture_without_it_is_refused_and_told_what_it_has():
    from transformers import LlamaConfig

    with pytest.raises(ModelError, match=r"a llama model has no two_answers head\n  fix: it has: .*causal_lm"):
        check_head_fits(LlamaConfig(), "two_answers", ModelSource("directory", "here"))


def test_an_unknown_head_is_told_with_the_nearest(bert: Path, tmp_path: Path):
    with pytest.raises(ModelError, match=r"there is no head 'two_answer'\n  fix: did you mean 'two_answers'\?"):
        load_model(str(bert), "two_answer")
    with pytest.raises(ModelError, match="tuning methods are not put on models with the head encoder"):
        peft_task_type("encoder")
    with pytest.raises(ValueError, match="nothing that is installed has a head called 'three'"):
        known_head("three")
    model, tokenizer = load_model(str(bert), "two_answers"), load_tokenizer(str(bert))
    folder = save_artifact(model, tokenizer, tmp_path / "model", describe(str(bert), "two_answers"))
    card = json.loads((folder / "luthier.json").read_text())
    (folder / "luthier.json").write_text(json.dumps(card | {"head": "three"}))
    with pytest.raises(ModelError, match=r"`head`: .*nothing that is installed has a head called 'three'"):
        read_card(folder)


def test_a_name_is_registered_once():
    register_head("encoder", "AutoModel")
    with pytest.raises(ValueError, match="'encoder' is registered twice"):
        register_head("encoder", "AutoModelForCausalLM")
    assert next(iter(HEAD_KINDS)) == "sequence_classification"
