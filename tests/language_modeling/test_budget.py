"""Operations are counted as torch counts them, and budgets become steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from luthier.errors import DataError, RecipeError
from luthier.language_modeling import paper_flops, token_cost
from luthier.language_modeling.budget import TokenCost, budget_of
from luthier.language_modeling.preparing import text_job
from luthier.language_modeling.settings import LanguageTrainingSettings
from tests.language_modeling.models import CAUSAL, MASKED, SIZES, made, word_pieces


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "llama", "gpt2"])
def test_a_forward_pass_costs_what_torch_counts(kind: str):
    model = made({**MASKED, **CAUSAL}[kind])
    model.set_attn_implementation("eager")
    batch, length = 3, 24
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.randint(5, 60, (batch, length)), attention_mask=torch.ones(batch, length).long())
    counted = counter.get_total_flops()
    assert token_cost(model, length).forward * batch * length == pytest.approx(counted, rel=1e-6)


@pytest.mark.parametrize(("layers", "groups", "inner"), [(1, 1, 1), (6, 1, 1), (6, 2, 1), (4, 2, 2)])
def test_a_layer_that_is_shared_costs_as_often_as_it_runs(layers: int, groups: int, inner: int):
    sizes = {"vocab_size": 61, "embedding_size": 8, "hidden_size": 16, "num_attention_heads": 2}
    shared = {"num_hidden_layers": layers, "num_hidden_groups": groups, "inner_group_num": inner}
    model = AlbertForMaskedLM(AlbertConfig(**sizes, **shared, intermediate_size=24)).eval()
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.randint(5, 60, (3, 24)))
    assert token_cost(model, 24).forward * 72 == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_experts_cost_by_the_share_that_a_token_goes_to():
    def cost(width: int, chosen: int) -> float:
        sizes = {**SIZES, "num_key_value_heads": 2, "intermediate_size": width, "num_experts_per_tok": chosen}
        with torch.device("meta"):
            return token_cost(MixtralForCausalLM(MixtralConfig(**sizes, num_local_experts=4)), 16).body

    one = 2 * 3 * SIZES["hidden_size"] * 24 * SIZES["num_hidden_layers"]
    assert cost(24, 2) - cost(24, 1) == one
    assert cost(48, 1) - cost(24, 1) == one


def test_of_a_masked_model_the_head_runs_on_a_share():
    model = made(MASKED["bert"])
    whole, share = token_cost(model, 16), token_cost(model, 16, predicted=0.15)
    assert (share.body, share.attention) == (whole.body, whole.attention)
    assert share.head == pytest.approx(0.15 * whole.head)
    assert share.training == pytest.approx(3 * share.forward)


def test_without_the_vocabulary_it_is_the_count_of_the_paper():
    """Four times the width of a two-layer feed-forward block: Llama's has three matrices, so 8/3 of it."""
    hidden, layers, length = 24, 3, 40
    sizes = {**SIZES, "hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": hidden * 8 // 3}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2))
    cost = token_cost(model, length, predicted=0)
    assert cost.training == pytest.approx(paper_flops(1, layers, hidden, length))


def test_the_published_counts_of_the_length_curriculum_come_out():
    """Xiong et al., NAACL 2024, table of training FLOPs: 100,000 steps of 2^22 tokens, 32 layers of 4,096."""
    tokens = 100_000 * 2**22
    for share, published in ((0.0, 3.783e22), (0.2, 3.405e22), (0.4, 3.026e22), (0.8, 2.270e22)):
        found = paper_flops(share * tokens, 32, 4096, 4096) + paper_flops((1 - share) * tokens, 32, 4096, 32_768)
        assert found == pytest.approx(published, rel=5e-4)


def settings(**more) -> LanguageTrainingSettings:
    return LanguageTrainingSettings(corpus="text.txt", length=16, batch_size=4, accumulation=2, **more)


COST = TokenCost(10, 5, 5)


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({"max_steps": 7}, 7),
        ({"max_tokens": 1300}, 10),
        ({"max_flops": 60 * 128 * 3.5}, 3),
        ({"max_tokens": 1300, "max_steps": 4}, 4),
        ({"max_tokens": 300, "max_steps": 4}, 2),
        ({"max_minutes": 1}, None),
        ({"epochs": 2}, 13),
    ],
)
def test_budgets_become_steps(given, steps):
    found = budget_of(settings(**given), COST, blocks=50)
    assert found.steps == steps
    assert found.tokens_per_step == 128
    if steps is not None:
        assert found.tokens == steps * 128
        assert found.flops == steps * 128 * 60


def test_processes_share_the_tokens():
    found = budget_of(settings(max_tokens=1300), COST, processes=2)
    assert (found.steps, found.tokens_per_step) == (5, 256)


def test_a_budget_below_one_step_is_refused():
    with pytest.raises(RecipeError, match=r"allows 0\.78 of a step"):
        budget_of(settings(max_tokens=100), COST)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"epochs": 2, "max_steps": 3}, "both end the training"),
        ({"objective": "causal", "masking": {"rate": 0.2}}, "no effect"),
        ({"group_by_length": False}, "no effect"),
        ({"masking": {"masked": 0.8, "random": 0.3}}, "at most 1"),
    ],
)
def test_settings_without_an_effect_are_refused(given, told):
    with pytest.raises(ValidationError, match=told):
        settings(**given)


# -- the tokens of a text ------------------------------------------------------------------------------------


def counted(tmp_path: Path, documents: int, **corpus: Any) -> int:
    words = ["the cat runs", "a dog", "play the dog ."]
    (tmp_path / "a.txt").write_text("".join(f"{words[n % 3]} {n * 'a '}\n" for n in range(documents)))
    (tmp_path / "held.txt").write_text("the cat runs a dog play the dog .\n" * 9)
    given = LanguageTrainingSettings(corpus={"train": str(tmp_path / "a.txt"), **corpus}, length=8)
    return text_job(given, word_pieces(), LlamaConfig(**SIZES), masked=False, seed=0).tokens()


def test_what_is_held_out_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also where another run has counted the same text with another share of it held out."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    some = counted(tmp_path, 300)
    whole = counted(tmp_path, 300, validation=str(tmp_path / "held.txt"))
    assert 0.9 * whole < some < whole
    assert counted(tmp_path, 300, held_out=0.01) == some


def test_a_text_without_a_document_to_train_on_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match="no documents to train on"):
        counted(tmp_path, 9, held_out=0.9999999)


def test_a_text_that_fills_no_block_is_trained_on_all_the_same():
    assert budget_of(settings(epochs=0.5), COST, blocks=0).steps == 1
