"""A new regression head starts at the mean of the training labels."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from luthier.training.starting import start_at_mean

SMALL = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
PRIOR = {"rows": 10, "mean": 2.6, "deviation": 1.5}


def model_of(outputs: int = 1) -> BertForSequenceClassification:
    model = BertForSequenceClassification(BertConfig(**SMALL, num_labels=outputs))
    model.luthier_new_parameters = ("classifier.weight", "classifier.bias")
    return model


def test_the_bias_is_the_mean_and_nothing_else_changes() -> None:
    model = model_of()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start_at_mean(model, PRIOR)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"classifier.bias"}
    assert model.classifier.bias.tolist() == pytest.approx([2.6])


@pytest.mark.parametrize("prior", [{}, {"rows": 3, "shares": {"a": 1.0}}])
def test_other_tasks_start_where_they_did(prior: dict) -> None:
    model = model_of()
    before = model.classifier.bias.clone()
    start_at_mean(model, prior)
    assert torch.equal(model.classifier.bias, before)


def test_heads_of_several_outputs_and_those_that_were_there_are_left_alone() -> None:
    several, trained = model_of(2), model_of()
    trained.luthier_new_parameters = ()
    for model in (several, trained):
        before = model.classifier.bias.clone()
        start_at_mean(model, PRIOR)
        assert torch.equal(model.classifier.bias, before)


def test_a_head_without_a_bias_is_left_alone() -> None:
    model = LlamaForSequenceClassification(LlamaConfig(**SMALL, num_labels=1))
    model.luthier_new_parameters = ("score.weight",)
    before = model.score.weight.clone()
    start_at_mean(model, PRIOR)
    assert torch.equal(model.score.weight, before)
