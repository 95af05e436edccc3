"""Objectives on models that write text, and what objectives refuse before anything is trained."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    BertForQuestionAnswering,
    Gemma3Config,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    XLNetConfig,
    XLNetLMHeadModel,
)

from luthier.errors import DataError, RecipeError
from luthier.objectives.divergence import comparable_rows, counted_labels, symmetric_divergence
from luthier.objectives.step import predicts_next_token
from luthier.registry import OBJECTIVES
from luthier.robustness.baselines import LabelSmoothingSettings, RDropSettings, SmartSettings
from luthier.robustness.settings import RoastSettings, SelectiveSettings
from tests.robustness import tiny
from tests.robustness.tiny import PAD, WORDS, trainer

GOOD = {"schema": "single_sentence", "classes": 2, "validation": True, "streamed": False}


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, pad_token_id=PAD))


def t5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    sizes = {"vocab_size": WORDS, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(**sizes, dropout_rate=0.0, pad_token_id=PAD, decoder_start_token_id=PAD))


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(2, WORDS, (3, 7), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, :2], labels[0, 5:] = -100, -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def loss_of(model: Any, objective: Any, folder: Any) -> torch.Tensor:
    made = trainer(model, objective, folder)
    for part in made.objective_parts:
        part.begin(made)
    model.train()
    return made.compute_loss(model, batch())


def test_smoothing_takes_the_position_that_is_scored(tmp_path: Any) -> None:
    model = llama()
    found = loss_of(model, LabelSmoothingSettings(smoothing=0.2), tmp_path)
    logits, labels = model(batch()["input_ids"]).logits[:, :-1], batch()["labels"][:, 1:]
    expected = F.cross_entropy(logits.reshape(-1, WORDS), labels.reshape(-1), label_smoothing=0.2)
    torch.testing.assert_close(found, expected)


def test_smoothing_of_an_encoder_decoder_is_not_shifted(tmp_path: Any) -> None:
    model = t5()
    found = loss_of(model, LabelSmoothingSettings(smoothing=0.2), tmp_path)
    logits = model(**batch()).logits.reshape(-1, WORDS)
    torch.testing.assert_close(found, F.cross_entropy(logits, batch()["labels"].reshape(-1), label_smoothing=0.2))


def gemma3() -> Any:
    """What AutoModelForCausalLM makes of a Gemma 3: a class that is not named after causal language models."""
    torch.manual_seed(0)
    text = {"vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": PAD}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision |= {"image_size": 8, "patch_size": 4}
    tokens = {"image_token_index": WORDS - 1, "boi_token_index": WORDS - 2, "eoi_token_index": WORDS - 3}
    return AutoModelForCausalLM.from_config(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, **tokens)
    )


def test_a_causal_model_by_any_class_name_is_smoothed_where_its_loss_scores(tmp_path: Any) -> None:
    model = gemma3()
    assert type(model).__name__ == "Gemma3ForConditionalGeneration"
    inputs = batch() | {"token_type_ids": torch.zeros(3, 7, dtype=torch.long)}
    made = trainer(model, LabelSmoothingSettings(smoothing=0.2), tmp_path)
    for part in made.objective_parts:
        part.begin(made)
    model.train()
    found = made.compute_loss(model, inputs)
    logits = model(**{k: v for k, v in inputs.items() if k != "labels"}).logits[:, :-1]
    expected = F.cross_entropy(logits.reshape(-1, WORDS), inputs["labels"][:, 1:].reshape(-1), label_smoothing=0.2)
    torch.testing.assert_close(found, expected)


class DerivedLlama(LlamaForCausalLM):
    """A class of a user's own."""


@pytest.mark.parametrize(
    ("model", "shifted"),
    [
        (llama, True),
        (lambda: DerivedLlama(llama().config), True),
        (gemma3, True),
        (lambda: get_peft_model(gemma3(), LoraConfig(target_modules=["q_proj"])), True),
        (t5, False),
        (lambda: XLNetLMHeadModel(XLNetConfig(vocab_size=WORDS, d_model=8, n_layer=1, n_head=1, d_inner=8)), False),
    ],
)
def test_the_model_tells_whether_its_loss_is_shifted_where_the_trainer_does_not(model: Any, shifted: bool) -> None:
    assert predicts_next_token(SimpleNamespace(main_model=model())) is shifted
    assert predicts_next_token(SimpleNamespace(main_model=model(), shifted=not shifted)) is not shifted


@pytest.mark.parametrize("prompt", [0, 4])
@pytest.mark.parametrize("shifted", [False, True])
def test_rows_and_labels_belong_together(prompt: int, shifted: bool) -> None:
    """Position p of the prompt and the text holds p in its logits; its label is the position that it is scored on."""
    length = 5
    logits = torch.arange(prompt + length, dtype=torch.float64)[None, :, None].expand(2, -1, 3)
    labels = torch.arange(prompt, prompt + length).repeat(2, 1)
    rows = comparable_rows(logits, labels, shifted=shifted)
    told = counted_labels(labels, prompt + length, shifted=shifted)
    assert torch.equal(rows[:, 0].long(), told - int(shifted))
    assert len(rows) == 2 * (length - int(shifted and prompt == 0))


@pytest.mark.parametrize("make", [llama, t5])
def test_smart_holds_to_weights_that_have_not_moved_yet(make: Any, tmp_path: Any) -> None:
    model = make()
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    made = trainer(model, SmartSettings(), tmp_path)
    proximal = made.objective_parts[-1]
    for part in made.objective_parts:
        part.begin(made)
    model.train()
    step = made.step_on(model, batch(), None)
    assert float(proximal.loss(step)) == pytest.approx(0.0, abs=1e-9)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(0.3)
    loss = proximal.loss(made.step_on(model, batch(), None))
    loss.backward()
    assert float(loss) > 1e-6
    with torch.no_grad():
        model.get_input_embeddings().weight.sub_(0.3)
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), start[n], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("objective", "changed", "error", "told"),
    [
        (OBJECTIVES.get("temperature_scaling")(), {"validation": False}, DataError, "validation split"),
        (OBJECTIVES.get("temperature_scaling")(), {"classes": 0}, RecipeError, "classifier"),
        (OBJECTIVES.get("temperature_scaling")(), {"schema": "token_labels"}, RecipeError, "classifier"),
        (OBJECTIVES.get("label_smoothing")(), {"schema": "regression"}, RecipeError, "targets of classes"),
        (OBJECTIVES.get("label_smoothing")(), {"schema": "extractive_qa"}, RecipeError, "targets of classes"),
        (RoastSettings(), {"streamed": True}, RecipeError, "does not end"),
        (SelectiveSettings(importance="per_example"), {"streamed": True}, RecipeError, "no epochs"),
        (OBJECTIVES.get("child_tuning_d")(), {"streamed": True}, RecipeError, "does not end"),
    ],
    ids=[
        "no validation",
        "regression",
        "tokens",
        "scores",
        "answers",
        "roast stream",
        "examples of a stream",
        "child stream",
    ],
)
def test_data_that_cannot_work_are_refused(objective: Any, changed: dict[str, Any], error: Any, told: str) -> None:
    objective.check(**GOOD)
    with pytest.raises(error, match=told):
        objective.check(**GOOD | changed)


def test_a_stream_works_with_a_number_of_batches_or_without_importance() -> None:
    RoastSettings(importance_batches=3).check(**GOOD | {"streamed": True})
    SelectiveSettings(mask_rule="random").check(**GOOD | {"streamed": True})


@pytest.mark.parametrize("shares", [False, True], ids=["means of batches", "shares of a step"])
def test_answers_diverge_at_their_tokens_start_and_end_half_each(shares: bool, tmp_path: Any) -> None:
    torch.manual_seed(0)
    config = tiny.bert().config
    config.num_labels = 2
    models = [BertForQuestionAnswering(config).eval() for _ in range(2)]
    inputs = {k: v for k, v in tiny.batch().items() if k != "labels"}
    count, lengths = len(inputs["input_ids"]), inputs["attention_mask"].sum(dim=1).tolist()
    assert min(lengths) < max(lengths)
    inputs |= {name: torch.zeros(count, dtype=torch.long) for name in ("start_positions", "end_positions")}
    made = trainer(models[0], RDropSettings(), tmp_path)
    made.loss_is_scaled_for_ga = shares
    steps = [made.step_on(model, inputs, count if shares else None) for model in models]
    rows = [step.clean.rows for step in steps]
    found = steps[0].over_examples(symmetric_divergence(*rows), len(rows[0]), "mean")
    wanted = []
    for kind in ("start_logits", "end_logits"):
        for row, length in enumerate(lengths):
            p, q = (step.clean.outputs[kind][row, :length].softmax(-1) for step in steps)
            wanted.append(((p - q) * (p / q).log()).sum())
    torch.testing.assert_close(found, torch.stack(wanted).mean())
    found.backward()
    assert all(p.grad.isfinite().all() for p in models[0].parameters() if p.grad is not None)
