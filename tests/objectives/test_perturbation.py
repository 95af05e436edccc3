from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BartConfig,
    BartForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from luthier.errors import TrainingError
from luthier.methods.base import MethodContext
from luthier.objectives.divergence import comparable_rows, symmetric_divergence
from luthier.objectives.perturbation import direction, embedding_sites, intervene
from luthier.registry import METHODS
from luthier.robustness.settings import AdvEmbedSettings
from tests.robustness import tiny

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "vocab_size": 40,
}
BLOCKS = [
    (RobertaForSequenceClassification, RobertaConfig(**SMALL), "roberta.embeddings", 16),
    (ElectraForSequenceClassification, ElectraConfig(**SMALL, embedding_size=8), "electra.embeddings_project", 16),
    (AlbertForSequenceClassification, AlbertConfig(**SMALL, embedding_size=8), "albert.embeddings", 8),
    (DebertaV2ForSequenceClassification, DebertaV2Config(**SMALL), "deberta.embeddings", 16),
    (
        DistilBertForSequenceClassification,
        DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=8, vocab_size=40),
        "distilbert.embeddings",
        16,
    ),
    (
        ModernBertForSequenceClassification,
        ModernBertConfig(**SMALL, pad_token_id=0, cls_token_id=5, sep_token_id=6, bos_token_id=5, eos_token_id=6),
        "model.embeddings",
        16,
    ),
]
WORDS = [
    (
        GPT2ForSequenceClassification,
        GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=40, pad_token_id=0, bos_token_id=1, eos_token_id=1),
        "transformer.wte",
    ),
    (
        XLNetForSequenceClassification,
        XLNetConfig(d_model=16, n_layer=1, n_head=2, d_inner=8, vocab_size=40),
        "transformer.word_embedding",
    ),
    (
        BartForSequenceClassification,
        BartConfig(
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=8,
            decoder_ffn_dim=8,
            vocab_size=40,
            max_position_embeddings=32,
            eos_token_id=1,
            pad_token_id=0,
            bos_token_id=2,
        ),
        "model.encoder.embed_tokens",
    ),
]


@pytest.mark.parametrize(("cls", "config", "name", "width"), BLOCKS, ids=lambda v: getattr(v, "__name__", None))
def test_embedding_block_is_found_and_changes_the_output(cls: Any, config: Any, name: str, width: int) -> None:
    model = cls(config).eval()
    sites = embedding_sites(model)
    assert [n for n, m in model.named_modules() if m is sites[0]] == [name]
    _changing_it_matters(model, sites, width)


@pytest.mark.parametrize(("cls", "config", "name"), WORDS, ids=lambda v: getattr(v, "__name__", None))
def test_word_vectors_are_found_where_there_is_no_block(cls: Any, config: Any, name: str) -> None:
    model = cls(config).eval()
    sites = embedding_sites(model)
    assert name in [n for n, m in model.named_modules() if any(m is s for s in sites)]
    _changing_it_matters(model, sites, 16)
    with pytest.raises(TrainingError, match="no embedding block"):
        embedding_sites(model, "embedding_block")


def _changing_it_matters(model: nn.Module, sites: list[nn.Module], width: int) -> None:
    ids = torch.tensor([[5, 6, 7, 1], [8, 9, 3, 1]])
    seen: list[torch.Size] = []

    def change(e: torch.Tensor) -> torch.Tensor:
        seen.append(e.shape)
        return e + 10 * torch.randn_like(e)

    plain = model(input_ids=ids).logits
    with intervene(sites, change):
        moved = model(input_ids=ids).logits
    assert len(seen) == 1
    assert seen[0][-1] == width
    assert not torch.allclose(plain, moved)
    assert torch.equal(model(input_ids=ids).logits, plain)


def test_word_embedding_can_be_asked_for() -> None:
    model = tiny.bert()
    assert embedding_sites(model, "word_embedding") == [model.bert.embeddings.word_embeddings]


@pytest.mark.parametrize(("kind", "width"), [("bert", 2), ("llama", 0)])
def test_prompt_tuning_is_reached_in_the_block_or_at_the_words(kind: str, width: int) -> None:
    from peft import PromptTuningConfig, get_peft_model

    model = get_peft_model(tiny.MODELS[kind](), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2))
    batch, seen = tiny.batch(), []
    with intervene(embedding_sites(model), lambda e: seen.append(e.shape) or e):
        model(**batch)
    assert seen == [(4, batch["input_ids"].shape[1] + width, 16)]


def test_the_pass_that_makes_instance_prompts_is_not_the_one_that_is_perturbed() -> None:
    idpg = METHODS.get("idpg")(length=2, cache_vectors=False)
    model = idpg.apply(tiny.bert(), MethodContext("SEQ_CLS")).eval()
    _changing_it_matters(model, embedding_sites(model), 16)


def test_a_site_that_is_not_reached_is_an_error() -> None:
    model = tiny.bert()
    with pytest.raises(TrainingError, match="took no part"), intervene([nn.Linear(1, 1)], lambda e: e):
        model(**tiny.batch())


def test_directions_match_their_definitions() -> None:
    g = torch.randn(2, 3, 5, dtype=torch.float64)
    g[0, 1] = 0
    for b in range(2):
        for t in range(3):
            row = g[b, t]
            assert torch.equal(direction(g, "linf_token")[b, t], row / (max(abs(x) for x in row.tolist()) + 1e-8))
            assert torch.allclose(
                direction(g, "l2_token")[b, t], row / (float((row**2).sum()) ** 0.5 + 1e-8), atol=1e-15
            )
    assert torch.equal(direction(g, "sign"), g.sign())
    assert torch.allclose(direction(g, "l2_example").flatten(1).norm(dim=1), torch.ones(2, dtype=torch.float64))


def test_tokens_with_infinite_gradients_stay_where_they_are() -> None:
    g = torch.ones(1, 2, 3)
    g[0, 0, 1] = float("nan")
    assert direction(g, "linf_token")[0, 0].tolist() == [0, 0, 0]
    assert direction(g, "linf_token")[0, 1].tolist() == pytest.approx([1, 1, 1])


def reference_loss(
    model: Any, batch: dict[str, torch.Tensor], noise: torch.Tensor, s: AdvEmbedSettings
) -> torch.Tensor:
    """Section 2, written down once more, with the embedding block replaced instead of hooked."""
    block, labels = model.bert.embeddings, batch["labels"]

    def logits(embeddings: torch.Tensor) -> torch.Tensor:
        original, block.forward = block.forward, lambda **_: embeddings
        try:
            return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        finally:
            block.forward = original

    clean_embeddings = block(input_ids=batch["input_ids"])
    n = noise.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(logits(clean_embeddings.detach() + n), labels), [n])
    d = g / (g.abs().max(dim=-1, keepdim=True).values + 1e-8)
    zc, za = logits(clean_embeddings), logits((clean_embeddings + n + s.eps * d).detach())
    pc, pa = zc.softmax(-1), za.softmax(-1)
    kl = (pa * (pa.log() - pc.log()) + pc * (pc.log() - pa.log())).sum()
    return (
        s.clean_ce_weight * F.cross_entropy(zc, labels)
        + s.adv_ce_weight * F.cross_entropy(za, labels)
        + s.lambda_kl / 2 * kl
    )


@pytest.mark.parametrize("mode", ["paper", "released"])
def test_loss_and_gradients_equal_the_equations_in_double_precision(mode: Any, tmp_path: Any) -> None:
    model, batch = tiny.bert().double(), tiny.batch()
    settings = AdvEmbedSettings(mode=mode, lambda_kl=0.3, pad_mask=True)
    assert settings.adv_ce_weight == (0.5 if mode == "paper" else 0.0)
    trainer = tiny.trainer(model, settings, tmp_path)
    for part in trainer.objective_parts:
        part.begin(trainer)
    model.train()
    torch.manual_seed(11)
    loss = trainer.compute_loss(model, batch)
    assert all(p.grad is None for p in model.parameters()), "the probing pass gave a gradient to a parameter"
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    torch.manual_seed(11)
    noise = torch.rand(*batch["input_ids"].shape, 16, dtype=torch.float64) * 1e-5
    wanted = reference_loss(model, batch, noise, settings)
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-12)
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"norm": "l2_token"}, False),
        ({"norm": "sign"}, False),
        ({"eps": 0.2}, False),
        ({"n_steps": 3}, False),
        ({"init_noise": 0.1}, False),
        ({"init_noise": 0.1, "init_noise_sign": "symmetric"}, False),
        ({"perturb_after": "word_embedding"}, False),
        ({"kl_reduction": "batchmean"}, False),
        ({"clean_ce_weight": 1.0}, False),
    ],
)
def test_every_knob_changes_the_loss(changes: dict[str, Any], same: bool, tmp_path: Any) -> None:
    def loss(settings: AdvEmbedSettings) -> float:
        model = tiny.bert().double()
        trainer = tiny.trainer(model, settings, tmp_path)
        trainer.objective_parts[0].begin(trainer)
        model.train()
        torch.manual_seed(1)
        return float(trainer.compute_loss(model, tiny.batch()))

    base = loss(AdvEmbedSettings(lambda_kl=1.0))
    assert (loss(AdvEmbedSettings(lambda_kl=1.0, **changes)) == base) is same


@pytest.mark.parametrize(("knob", "value"), [("kl_stop_grad", True), ("perturbed_gradient", True)])
def test_knobs_on_gradients_leave_the_loss_and_change_the_gradient(knob: str, value: Any, tmp_path: Any) -> None:
    def run(settings: AdvEmbedSettings) -> tuple[float, torch.Tensor]:
        model = tiny.bert()
        trainer = tiny.trainer(model, settings, tmp_path)
        trainer.objective_parts[0].begin(trainer)
        model.train()
        torch.manual_seed(1)
        loss = trainer.compute_loss(model, tiny.batch())
        loss.backward()
        return float(loss.detach()), model.bert.embeddings.word_embeddings.weight.grad

    plain, gradient = run(AdvEmbedSettings(lambda_kl=1.0))
    other, changed = run(AdvEmbedSettings(lambda_kl=1.0, **{knob: value}))
    assert other == pytest.approx(plain, abs=1e-6)
    assert not torch.allclose(gradient, changed)


def test_shared_dropout_leaves_nothing_to_the_divergence_but_the_perturbation(tmp_path: Any) -> None:
    def divergence(shared: bool) -> float:
        model = tiny.bert(dropout=0.3)
        settings = AdvEmbedSettings(
            eps=1e-9, init_noise=0, lambda_kl=2.0, clean_ce_weight=1e-9, adv_ce_weight=0, shared_dropout=shared
        )
        trainer = tiny.trainer(model, settings, tmp_path)
        trainer.objective_parts[0].begin(trainer)
        model.train()
        return float(trainer.compute_loss(model, tiny.batch()))

    assert divergence(True) < 1e-7 < divergence(False)


def test_probing_on_the_clean_pass_gives_the_same_step_without_noise(tmp_path: Any) -> None:
    def gradient(probe: Any) -> torch.Tensor:
        model = tiny.bert().double()
        trainer = tiny.trainer(model, AdvEmbedSettings(init_noise=0, lambda_kl=1.0, probe=probe), tmp_path)
        trainer.objective_parts[0].begin(trainer)
        model.train()
        trainer.compute_loss(model, tiny.batch()).backward()
        return model.bert.embeddings.word_embeddings.weight.grad

    torch.testing.assert_close(gradient("own_pass"), gradient("clean_pass"), atol=1e-12, rtol=1e-9)


def test_released_mode_attends_to_padding(tmp_path: Any) -> None:
    batch = tiny.batch()
    losses = {}
    for pad_mask in (True, False):
        model = tiny.bert()
        trainer = tiny.trainer(model, AdvEmbedSettings(mode="released", pad_mask=pad_mask), tmp_path)
        model.eval()
        losses[pad_mask] = float(trainer.compute_loss(model, dict(batch)).detach())
    assert losses[True] != losses[False]
    assert AdvEmbedSettings(mode="released").pad_mask is False
    assert AdvEmbedSettings().pad_mask is True


def test_divergence_is_the_symmetric_kl_sum_and_squares_for_regression() -> None:
    a, c = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    kl = F.kl_div(c.log_softmax(-1), a.softmax(-1), reduction="sum") + F.kl_div(
        a.log_softmax(-1), c.softmax(-1), reduction="sum"
    )
    assert symmetric_divergence(a, c).item() == pytest.approx(kl.item(), abs=1e-12)
    assert symmetric_divergence(a[:, :1], c[:, :1]).item() == pytest.approx(((a - c)[:, 0] ** 2).sum().item())


def test_rows_that_count() -> None:
    logits = torch.arange(24.0).reshape(2, 4, 3)
    labels = torch.tensor([[1, -100, 2], [0, -100, -100]])
    assert comparable_rows(logits, labels).tolist() == [[3, 4, 5], [9, 10, 11], [15, 16, 17]]
    assert comparable_rows(torch.zeros(5), None).shape == (5, 1)
    assert comparable_rows((torch.zeros(2, 7), torch.zeros(2, 7)), None).shape == (4, 7)
