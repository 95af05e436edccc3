from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import TrainerCallback

from luthier.errors import DataError, TrainingError
from luthier.objectives.scope import head_parameters
from luthier.registry import OBJECTIVES
from luthier.robustness import baselines as b
from luthier.robustness.temperature import fit_temperature, fold_temperature, negative_log_likelihood
from tests.robustness import tiny

NAMES = [
    "vanilla",
    "roast",
    "adv_embed",
    "selective",
    "wcons",
    "adv_weight",
    "r3f",
    "r_drop",
    "free_lb",
    "smart",
    "child_tuning_d",
    "child_tuning_f",
    "lp_ft",
    "label_smoothing",
    "temperature_scaling",
]


def test_every_objective_is_in_the_list() -> None:
    ours = [c for c in OBJECTIVES if c.__module__.startswith("luthier.robustness")]
    assert sorted(c.model_fields["name"].default for c in ours) == sorted(NAMES)
    assert all(c.summary for c in ours)


@pytest.mark.parametrize("kind", tiny.MODELS)
@pytest.mark.parametrize("name", NAMES)
def test_every_objective_trains_every_kind_of_model(name: str, kind: str, tmp_path: Path) -> None:
    model = tiny.MODELS[kind]()
    before = tiny.weights(model)
    result = tiny.trainer(model, OBJECTIVES.get(name)(), tmp_path).train()
    assert np.isfinite(result.training_loss)
    assert any(not torch.equal(before[n], p) for n, p in model.named_parameters())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", ["free_lb", "adv_weight", "roast", "smart", "r3f"])
def test_a_batch_without_weight_leaves_no_gradient(name: str, tmp_path: Path) -> None:
    """As that of a row which only fills a pass in which a process has none."""
    trainer = tiny.trainer(tiny.bert(), OBJECTIVES.get(name)(), tmp_path, max_steps=1, eval_strategy="no")
    trainer.train()
    trainer.model.zero_grad()
    step = trainer.step_on(trainer.model, next(iter(trainer.get_train_dataloader())), None)
    step.weight = 0.0
    (0 * trainer.objective_parts.loss(step)).backward()
    assert all(p.grad is None or not p.grad.any() for p in trainer.model.parameters())


# Forward passes of a step, and what its backward passes cost: 2, or 1 where they only reach the embeddings.
PASSES = {
    "roast": (3, 5),
    "adv_embed": (3, 5),
    "adv_weight": (2, 4),
    "r3f": (2, 4),
    "r_drop": (2, 4),
    "free_lb": (3, 6),
}
PASSES |= {"smart": (4, 5)}


@pytest.mark.parametrize("name", NAMES)
def test_the_cost_of_a_step_is_that_of_its_passes(name: str, tmp_path: Path) -> None:
    forward, backward = PASSES.get(name, (1, 2))
    model, calls = tiny.bert(), []
    model.register_forward_hook(lambda module, *_: calls.append(None) if module.training else None)
    objective = OBJECTIVES.get(name)(**({"importance_batches": 1} if name in ("roast", "selective") else {}))
    trainer = tiny.trainer(model, objective, tmp_path, max_steps=1, eval_strategy="no")
    trainer.train()
    measured = sum(p.policy.needs_importance for p in trainer.objective_parts if hasattr(p, "policy"))
    batches = {"child_tuning_d": len(trainer.get_train_dataloader())}.get(name, 1)
    assert len(calls) - measured * batches == forward
    assert objective.relative_cost() == pytest.approx((forward + backward) / 3)


def gradients(
    objective: Any, folder: Path, *, dropout: float = 0.0, seed: int = 1
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one training step on the fixed batch, in double precision."""
    model = tiny.bert(dropout).double()
    trainer = tiny.trainer(model, objective, folder)
    for part in trainer.objective_parts:
        part.begin(trainer)
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    torch.manual_seed(seed)
    loss = trainer.training_step(model, tiny.batch())
    return float(loss), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def same(found: dict[str, torch.Tensor], model: Any) -> None:
    for n, p in model.named_parameters():
        torch.testing.assert_close(found[n], p.grad, atol=1e-11, rtol=1e-8)


def test_label_smoothing_is_torchs(tmp_path: Path) -> None:
    loss, found = gradients(b.LabelSmoothingSettings(smoothing=0.2), tmp_path)
    model, batch = tiny.bert().double(), tiny.batch()
    labels = batch.pop("labels")
    wanted = F.cross_entropy(model(**batch).logits, labels, label_smoothing=0.2)
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), abs=1e-12)
    same(found, model)


def test_weight_consistency_pulls_towards_the_start(tmp_path: Path) -> None:
    objective = b.WeightConsistencySettings(strength=0.5)
    model = tiny.bert().double()
    trainer = tiny.trainer(model, objective, tmp_path)
    part = trainer.objective_parts[1]
    part.begin(trainer)
    start = tiny.weights(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01)
    step = trainer.step_on(model, tiny.batch(), None)
    loss = part.loss(step)
    assert not any("classifier" in n for n in part.start)
    held = sum(p.numel() for n, p in model.named_parameters() if "classifier" not in n)
    assert loss.item() == pytest.approx(0.25 * held * 0.01**2)
    loss.backward()
    query = "bert.encoder.layer.0.attention.self.query.weight"
    torch.testing.assert_close(
        model.get_parameter(query).grad, 0.5 * (model.get_parameter(query) - start[query]).detach()
    )


def test_sam_takes_the_gradient_where_the_ascent_leads_and_puts_the_weights_back(tmp_path: Path) -> None:
    _, found = gradients(b.AdvWeightSettings(rho=0.3), tmp_path)
    model, batch = tiny.bert().double(), tiny.batch()
    model(**batch).loss.backward()
    length = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters()))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * p.grad / length)
    model.zero_grad()
    model(**batch).loss.backward()
    same(found, model)

    trained = tiny.bert()
    trainer = tiny.trainer(trained, b.AdvWeightSettings(rho=0.3), tmp_path)
    before = tiny.weights(trained)
    trainer.objective_parts[0].begin(trainer)
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    trainer.training_step(trained, tiny.batch())
    assert all(torch.equal(before[n], p) for n, p in trained.named_parameters())


def test_r_drop_is_two_dropout_passes_and_their_divergence(tmp_path: Path) -> None:
    loss, found = gradients(b.RDropSettings(weight=2.0), tmp_path, dropout=0.2)
    model, batch = tiny.bert(0.2).double().train(), tiny.batch()
    torch.manual_seed(1)
    one, two = model(**batch), model(**batch)
    p, q = one.logits.log_softmax(-1), two.logits.log_softmax(-1)
    kl = F.kl_div(p, q, log_target=True, reduction="batchmean") + F.kl_div(q, p, log_target=True, reduction="batchmean")
    wanted = (one.loss + two.loss) / 2 + 2.0 * kl / 2
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), abs=1e-12)
    same(found, model)


def test_r_drop_tells_once_that_no_dropout_is_active(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def told(model: Any) -> int:
        caplog.clear()
        tiny.trainer(model, b.RDropSettings(), tmp_path, eval_strategy="no").train()
        return caplog.text.count("no dropout is active in this model")

    assert told(tiny.bert()) == told(tiny.llama()) == 1
    assert told(tiny.bert(0.1)) == 0
    one_layer = tiny.bert()
    one_layer.bert.encoder.layer[1].output.dropout.p = 0.1
    assert told(one_layer) == 0


@pytest.mark.parametrize(
    ("distribution", "reduction"), [("uniform", "batchmean"), ("normal", "batchmean"), ("uniform", "sum")]
)
def test_r3f_adds_noise_and_a_divergence(distribution: Any, reduction: Any, tmp_path: Path) -> None:
    assert b.R3fSettings().kl_reduction == "batchmean"
    settings = b.R3fSettings(noise=0.3, distribution=distribution, weight=0.7, kl_reduction=reduction)
    loss, found = gradients(settings, tmp_path)
    model, batch = tiny.bert().double().train(), tiny.batch()
    torch.manual_seed(1)
    clean = model(**batch)
    shape = (*batch["input_ids"].shape, 16)
    if distribution == "normal":
        drawn = torch.randn(shape, dtype=torch.float64) * 0.3
    else:
        drawn = (2 * torch.rand(shape, dtype=torch.float64) - 1) * 0.3
    noisy = with_added(model, batch, drawn)
    p, q = clean.logits.log_softmax(-1), noisy.logits.log_softmax(-1)
    kl = F.kl_div(p, q, log_target=True, reduction=reduction) + F.kl_div(q, p, log_target=True, reduction=reduction)
    wanted = clean.loss + 0.7 * kl
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), abs=1e-11)
    same(found, model)


def with_added(model: Any, batch: dict[str, torch.Tensor], delta: torch.Tensor) -> Any:
    """The model's output with `delta` added behind the embedding block, without a hook."""
    block = model.bert.embeddings
    original = block.forward
    block.forward = lambda **kwargs: original(**kwargs) + delta
    try:
        return model(**batch)
    finally:
        block.forward = original


def test_free_lb_averages_gradients_along_its_path(tmp_path: Path) -> None:
    settings = b.FreeLbSettings(steps=3, step_size=0.4, init_noise=0.2, max_norm=0.5)
    loss, found = gradients(settings, tmp_path)
    model, batch = tiny.bert().double().train(), tiny.batch()
    torch.manual_seed(1)
    mask = batch["attention_mask"].double()
    size = mask.sum(1)[:, None, None] * 16
    delta = (2 * torch.rand(*mask.shape, 16, dtype=torch.float64) - 1) * mask[..., None] * 0.2 / size.sqrt()
    total = 0.0
    for _ in range(3):
        delta.requires_grad_()
        out = with_added(model, batch, delta).loss / 3
        total += out.item()
        out.backward()
        g = delta.grad
        delta = delta.detach() + 0.4 * g / (g.flatten(1).norm(dim=1)[:, None, None] + 1e-8)
        norm = delta.flatten(1).norm(dim=1)[:, None, None]
        delta = torch.where(norm > 0.5, delta * 0.5 / norm, delta)
    assert loss == pytest.approx(total, abs=1e-11)
    same(found, model)


def test_smart_moves_up_the_divergence_and_stays_near_the_average(tmp_path: Path) -> None:
    settings = b.SmartSettings(weight=3.0, eps=0.2, noise=0.1, proximal_weight=0.5, average_decay=0.9)
    model = tiny.bert().double().train()
    trainer = tiny.trainer(model, settings, tmp_path)
    for part in trainer.objective_parts:
        part.begin(trainer)
    old = copy.deepcopy(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    trainer.objective_parts[1].after_update(trainer)
    average = trainer.objective_parts[1].average
    for n, p in model.named_parameters():
        torch.testing.assert_close(average[n], 0.9 * old.get_parameter(n) + 0.1 * p)

    batch = tiny.batch()
    torch.manual_seed(1)
    loss = trainer.compute_loss(model, batch)

    def divergence(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        p, q = one.log_softmax(-1), two.log_softmax(-1)
        return F.kl_div(p, q, log_target=True, reduction="sum") + F.kl_div(q, p, log_target=True, reduction="sum")

    torch.manual_seed(1)
    clean = model(**batch)
    n = (torch.randn(*batch["input_ids"].shape, 16, dtype=torch.float64) * 0.1).requires_grad_()
    (g,) = torch.autograd.grad(divergence(with_added(model, batch, n).logits, clean.logits.detach()), [n])
    moved = (n + 0.2 * g / (g.abs().amax(-1, keepdim=True) + 1e-8)).detach()
    with torch.no_grad():
        for name, p in old.named_parameters():
            p.copy_(average[name])
    wanted = (
        clean.loss
        + 3.0 * divergence(with_added(model, batch, moved).logits, clean.logits) / 4
        + 0.5 * divergence(clean.logits, old(**batch).logits.detach()) / 4
    )
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-11)


def masks_of(objective: Any, folder: Path, steps: int) -> list[torch.Tensor]:
    model = tiny.bert()
    trainer = tiny.trainer(model, objective, folder, rows=8, max_steps=steps)
    found = []

    class Watch(TrainerCallback):
        def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            found.append(trainer.objective_parts[1].selection.mask.clone())

    trainer.add_callback(Watch())
    trainer.train()
    return found


def test_child_tuning_d_keeps_one_mask_and_f_draws_one_a_step(tmp_path: Path) -> None:
    fixed = masks_of(b.ChildTuningDSettings(keep=0.25), tmp_path, 5)
    assert all(torch.equal(m, fixed[0]) for m in fixed)
    assert float(fixed[0].double().mean()) == pytest.approx(0.25, abs=1e-3)
    free = masks_of(b.ChildTuningFSettings(keep=0.25), tmp_path, 5)
    assert not any(torch.equal(one, two) for one, two in pairwise(free))
    assert all(abs(float(m.double().mean()) - 0.25) < 0.03 for m in free)


def test_lp_ft_moves_the_head_first(tmp_path: Path) -> None:
    model = tiny.bert()
    head = set(head_parameters(model))
    trainer = tiny.trainer(model, b.HeadFirstSettings(head_fraction=0.5), tmp_path, max_steps=4, weight_decay=0.1)
    moved: list[set[str]] = []
    before = tiny.weights(model)

    class Watch(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            nonlocal before
            moved.append({n for n, p in model.named_parameters() if not torch.equal(before[n], p)})
            before = tiny.weights(model)

    trainer.add_callback(Watch())
    trainer.train()
    assert head == {"classifier.weight", "classifier.bias"}
    assert moved[0] == moved[1] == head
    assert moved[2] > head


def test_lp_ft_needs_a_head_and_a_body(tmp_path: Path) -> None:
    model = tiny.bert()
    for p in model.bert.parameters():
        p.requires_grad_(False)
    with pytest.raises(TrainingError, match="outside its head"):
        tiny.trainer(model, b.HeadFirstSettings(), tmp_path).train()


def test_temperature_is_the_likelihoods_optimum_and_is_found_again() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4000, 3)) * 2
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([generator.choice(3, p=p) for p in shares])
    temperature = fit_temperature(logits * 2.5, labels)
    assert temperature == pytest.approx(2.5, rel=0.1)
    best = negative_log_likelihood(logits * 2.5, labels, temperature)
    assert all(negative_log_likelihood(logits * 2.5, labels, temperature * f) > best for f in (0.99, 1.01))
    with pytest.raises(ValueError):
        fit_temperature(logits[:, :1], labels)


@pytest.mark.parametrize("kind", tiny.MODELS)
def test_folding_a_temperature_divides_the_logits(kind: str) -> None:
    model = tiny.MODELS[kind]().eval()
    batch = tiny.batch()
    before = model(**batch).logits
    fold_temperature(model, 2.0)
    torch.testing.assert_close(model(**batch).logits, before / 2.0, atol=1e-6, rtol=1e-5)


def test_temperature_scaling_finishes_the_model_on_the_validation_rows(tmp_path: Path) -> None:
    plain, scaled = tiny.bert(), tiny.bert()
    tiny.trainer(plain, b.VanillaSettings(), tmp_path).train()
    result = tiny.trainer(scaled, b.TemperatureScalingSettings(), tmp_path).train()
    torch.testing.assert_close(scaled.classifier.weight * result.metrics["temperature"], plain.classifier.weight)


@pytest.mark.parametrize(("rows", "there"), [(None, "none"), ({"a": [], "b": []}, "several sets")])
def test_a_temperature_without_one_set_of_validation_rows_is_refused_before_the_training(tmp_path, rows, there) -> None:
    trainer = tiny.trainer(tiny.bert(), b.TemperatureScalingSettings(), tmp_path)
    trainer.eval_dataset = rows
    with pytest.raises(DataError, match=f"the trainer has {there}"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_temperature_that_nothing_bounds_is_told(caplog: pytest.LogCaptureFixture) -> None:
    sure = np.array([[4.0, 0.0], [0.0, 4.0]] * 10)
    assert fit_temperature(sure, np.array([0, 1] * 10)) < 0.2
    assert "all 20 validation rows are predicted right" in caplog.text
    caplog.clear()
    fit_temperature(sure, np.array([0, 1] * 9 + [1, 0]))
    assert not caplog.text
