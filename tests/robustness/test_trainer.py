from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import Trainer, TrainerCallback

from luthier.errors import TrainingError
from luthier.objectives.mixin import ObjectiveMixin
from luthier.objectives.scope import backbone_parameters, block_parameters, head_parameters
from luthier.registry import OBJECTIVES
from luthier.robustness import RoastTrainer
from luthier.robustness.baselines import VanillaSettings
from luthier.robustness.parts.selective import SelectiveTraining, measure_importance
from luthier.robustness.selection import MaskPolicy, Selection
from luthier.robustness.settings import AdvEmbedSettings, RoastSettings, SelectiveSettings
from tests.robustness import tiny


def selective(trainer: Any) -> SelectiveTraining:
    return next(p for p in trainer.objective_parts if isinstance(p, SelectiveTraining))


class MaskLog(TrainerCallback):
    """The mask that each optimiser step uses."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.masks = trainer, []

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.masks.append(selective(self.trainer).selection.mask.clone())


def test_roast_trainer_stands_alone(tmp_path: Path) -> None:
    model = tiny.bert()
    before = tiny.weights(model)
    trainer = RoastTrainer(
        model=model, args=tiny.arguments(tmp_path), train_dataset=tiny.Rows(), data_collator=tiny.collate
    )
    assert isinstance(trainer.objective, RoastSettings)
    trainer.train()
    assert any(not torch.equal(before[n], p) for n, p in model.named_parameters())


@pytest.mark.parametrize("kind", tiny.MODELS)
def test_maskable_parameters_are_those_of_the_blocks(kind: str) -> None:
    names = set(block_parameters(tiny.MODELS[kind]()))
    outside = {n for n, _ in tiny.MODELS[kind]().named_parameters()} - names
    inner = {"bert": "encoder.layer", "llama": "model.layers", "t5": ".block."}[kind]
    assert names
    assert all(inner in n for n in names)
    assert not any(inner in n for n in outside)


def test_of_an_adapter_only_its_parameters_in_the_blocks_are_masked() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny.bert(), LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    assert all("lora_" in n and "layer" in n for n in block_parameters(model))
    assert len(block_parameters(model)) == 4
    assert all("classifier" in n for n in head_parameters(model))
    assert set(backbone_parameters(model)) == set(block_parameters(model))


def test_prompts_leave_nothing_in_the_blocks(tmp_path: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model

    def made() -> Any:
        return get_peft_model(tiny.llama(), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2))

    with pytest.raises(TrainingError, match="nothing to mask"):
        tiny.trainer(made(), SelectiveSettings(), tmp_path).train()
    tiny.trainer(made(), RoastSettings(importance_scope="trainable"), tmp_path).train()


def test_three_steps_with_a_fixed_mask_equal_adam_written_out(tmp_path: Path) -> None:
    settings = SelectiveSettings(alpha=0.6, beta=1.0)
    model = tiny.bert().double()
    trainer = tiny.trainer(
        model, settings, tmp_path, rows=12, max_steps=3, weight_decay=0.1, adam_beta2=0.98, optim="adamw_torch"
    )
    masks = MaskLog(trainer)
    trainer.add_callback(masks)
    batches: list[dict[str, torch.Tensor]] = []
    inner = trainer.data_collator
    trainer.data_collator = lambda rows: batches.append(inner(rows)) or batches[-1]
    trainer.train()
    assert len(batches) == 6
    assert all(torch.equal(m, masks.masks[0]) for m in masks.masks)

    other = tiny.bert().double()
    names = list(block_parameters(other))
    importance = 0
    for batch in batches[:3]:
        grads = torch.autograd.grad(other(**batch).loss, [other.get_parameter(n) for n in names])
        importance = importance + torch.cat([g.reshape(-1) ** 2 for g in grads]) / 3
    s = importance.argsort(stable=True).argsort(stable=True).double() / (len(importance) - 1)
    factor = masks.masks[0] / (1 / (1 + torch.exp(-2 * (s - 0.6))) + 1e-12)
    factors = dict(zip(names, factor.split([other.get_parameter(n).numel() for n in names]), strict=True))
    decayed = trainer.get_decay_parameter_names(other)
    first = {n: torch.zeros_like(p) for n, p in other.named_parameters()}
    second = {n: torch.zeros_like(p) for n, p in other.named_parameters()}
    for step, batch in enumerate(batches[3:], start=1):
        other.zero_grad()
        other(**batch).loss.backward()
        with torch.no_grad():
            for n, p in other.named_parameters():
                g = p.grad * factors[n].view_as(p) if n in factors else p.grad
                first[n] = 0.9 * first[n] + 0.1 * g
                second[n] = 0.98 * second[n] + 0.02 * g * g
                if n in decayed:
                    p.mul_(1 - 1e-3 * 0.1)
                p -= 1e-3 * (first[n] / (1 - 0.9**step)) / ((second[n] / (1 - 0.98**step)).sqrt() + 1e-8)
    for n, p in model.named_parameters():
        torch.testing.assert_close(p, other.get_parameter(n), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("decay_masked", [True, False])
@pytest.mark.parametrize("stage", ["gradient", "update"])
def test_only_masking_the_update_freezes_entries(stage: Any, decay_masked: bool, tmp_path: Path) -> None:
    settings = SelectiveSettings(
        mask_stage=stage, decay_masked=decay_masked, unbiased_scale=False, resample="step", alpha=0.6, beta=1.0
    )
    model = tiny.bert()
    trainer = tiny.trainer(model, settings, tmp_path, max_steps=4, weight_decay=0.1)
    frozen = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            self.before = tiny.weights(model)

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            part = selective(trainer)
            names = [n for n in block_parameters(model) if n in trainer.get_decay_parameter_names(model)]
            masks = dict(zip(block_parameters(model), part.selection.masks(), strict=True))
            frozen.append(all(torch.equal(self.before[n][~masks[n]], model.get_parameter(n)[~masks[n]]) for n in names))

    trainer.add_callback(Watch())
    trainer.train()
    # Behind a masked gradient nothing moves an entry at the first step but decay, and momentum does later on.
    first = not decay_masked
    assert frozen == [first] + [first and stage == "update"] * 3


def test_without_decay_of_masked_entries_a_masked_weight_keeps_its_value_on_the_first_step(tmp_path: Path) -> None:
    for decay_masked, still in ((True, False), (False, True)):
        model = tiny.bert()
        trainer = tiny.trainer(
            model, SelectiveSettings(decay_masked=decay_masked), tmp_path, max_steps=1, weight_decay=0.5
        )
        before = tiny.weights(model)
        trainer.train()
        name = "bert.encoder.layer.0.output.dense.weight"
        mask = dict(zip(block_parameters(model), selective(trainer).selection.masks(), strict=True))[name]
        assert (~mask).any()
        now = model.get_parameter(name)
        assert torch.allclose(before[name][~mask], now[~mask], rtol=0, atol=1e-9) is still


def test_masks_are_drawn_once_an_epoch_every_step_or_at_an_interval(tmp_path: Path) -> None:
    changes = {}
    for name, settings in {
        "epoch": SelectiveSettings(),
        "step": SelectiveSettings(resample="step"),
        "interval": SelectiveSettings(resample="interval", resample_every=2),
    }.items():
        trainer = tiny.trainer(tiny.bert(), settings, tmp_path, rows=16, max_steps=8)
        log = MaskLog(trainer)
        trainer.add_callback(log)
        trainer.train()
        pairs = zip(log.masks, log.masks[1:], strict=False)
        changes[name] = [not torch.equal(a, b) for a, b in pairs]
    assert changes["epoch"] == [False] * 3 + [True] + [False] * 3
    assert changes["step"] == [True] * 7
    assert changes["interval"] == [False, True] * 3 + [False]


def test_importance_per_example_squares_single_examples(tmp_path: Path) -> None:
    model = tiny.bert().double()
    trainer = tiny.trainer(model, SelectiveSettings(), tmp_path)
    maskable = list(block_parameters(model).values())
    selection = Selection(maskable, MaskPolicy())
    measure_importance(trainer, selection, per_example=True)
    rows = tiny.Rows()
    total = 0
    for i in range(8):
        grads = torch.autograd.grad(model(**tiny.collate([rows[i]])).loss, maskable)
        total = total + torch.cat([g.reshape(-1) ** 2 for g in grads]) / 8
    torch.testing.assert_close(selection.importance, total, atol=1e-12, rtol=1e-8)
    trained = tiny.trainer(tiny.bert(), SelectiveSettings(importance="per_example"), tmp_path, max_steps=3)
    log = MaskLog(trained)
    trained.add_callback(log)
    trained.train()
    assert [torch.equal(a, log.masks[0]) for a in log.masks] == [True, True, False]


def test_measuring_importance_leaves_training_undisturbed(tmp_path: Path) -> None:
    model = tiny.bert(dropout=0.2)
    trainer = tiny.trainer(model, SelectiveSettings(), tmp_path)
    state = torch.get_rng_state()
    trainer.objective_parts[1].begin(trainer)
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    "objective",
    [
        SelectiveSettings(mask_rule="random"),
        VanillaSettings(),
        RoastSettings(mask_rule="random", init_noise=0, lambda_kl=1.0),
        RoastSettings(mask_rule="random", init_noise=0, lambda_kl=1.0, kl_reduction="batchmean"),
    ],
    ids=["selective", "vanilla", "sum", "batchmean"],
)
def test_accumulation_changes_nothing(objective: Any, tmp_path: Path) -> None:
    trained = {}
    for size, steps in ((4, 1), (2, 2), (1, 4)):
        model = tiny.bert().double()
        trainer = tiny.trainer(
            model,
            objective,
            tmp_path,
            max_steps=3,
            rows=12,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            optim="sgd",
        )
        trainer.train()
        trained[size] = tiny.weights(model)
    for n, p in trained[4].items():
        torch.testing.assert_close(trained[2][n], p, atol=1e-9, rtol=1e-7)
        torch.testing.assert_close(trained[1][n], p, atol=1e-9, rtol=1e-7)


def test_accumulated_importance_is_that_of_the_whole_step(tmp_path: Path) -> None:
    seen = {}
    for size, steps in ((4, 1), (1, 4)):
        trainer = tiny.trainer(
            tiny.bert().double(),
            SelectiveSettings(unbiased_scale=False, alpha=0.0, beta=100.0),
            tmp_path,
            max_steps=2,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            optim="sgd",
            learning_rate=1e-9,
        )
        trainer.train()
        seen[size] = selective(trainer).selection.importance
    torch.testing.assert_close(seen[4], seen[1], atol=1e-12, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "stop_after"),
    [
        (RoastSettings(), 2),
        (RoastSettings(), 3),
        (RoastSettings(resample="step", mask_stage="update", scale_cap=3.0), 4),
    ],
    ids=["inside an epoch", "between epochs", "a mask a step"],
)
def test_a_continued_run_equals_one_never_stopped(settings: Any, stop_after: int, tmp_path: Path) -> None:
    def run(folder: Path, resume: str | None = None, stop: int | None = None) -> tuple[Any, list[torch.Tensor]]:
        model = tiny.bert(dropout=0.1)
        trainer = tiny.trainer(
            model, settings, folder, rows=12, max_steps=6, save_strategy="steps", save_steps=1, save_total_limit=9
        )
        log = MaskLog(trainer)
        trainer.add_callback(log)
        if stop is not None:
            trainer.add_callback(_StopAt(stop))
        trainer.train(resume_from_checkpoint=resume)
        return model, log.masks

    whole, masks = run(tmp_path / "whole")
    run(tmp_path / "parts", stop=stop_after)
    continued, rest = run(tmp_path / "parts", resume=str(tmp_path / "parts" / f"checkpoint-{stop_after}"))
    assert all(torch.equal(a, b) for a, b in zip(masks[stop_after:], rest, strict=True))
    for n, p in whole.named_parameters():
        assert torch.equal(p, continued.get_parameter(n)), n
    shutil.rmtree(tmp_path)


class _StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def test_evaluation_is_the_trainers_own(tmp_path: Path) -> None:
    model = tiny.bert(dropout=0.5)
    trainer = tiny.trainer(model, RoastSettings(), tmp_path)
    rows = tiny.Rows()
    model.eval()
    with torch.no_grad():
        wanted = F.cross_entropy(
            torch.cat([model(**tiny.collate([rows[i]])).logits for i in range(8)]),
            torch.tensor([rows[i]["labels"] for i in range(8)]),
        )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(wanted.item(), abs=1e-6)


def test_bfloat16_autocast_trains(tmp_path: Path) -> None:
    model = tiny.bert()
    before = tiny.weights(model)
    trainer = tiny.trainer(model, RoastSettings(), tmp_path, bf16=True)
    assert torch.isfinite(torch.tensor(trainer.train().training_loss))
    assert any(not torch.equal(before[n], p) for n, p in model.named_parameters())


def test_a_loss_scaler_does_not_change_importance_and_infinite_gradients_are_left_out(tmp_path: Path) -> None:
    trainer = tiny.trainer(tiny.bert(), SelectiveSettings(), tmp_path)
    part = selective(trainer)
    part.begin(trainer)

    class Scaler:
        def get_scale(self) -> float:
            return 1024.0

    trainer.accelerator.scaler = Scaler()
    for p in part.selection.parameters:
        p.grad = torch.full_like(p, 2.0 * 1024)
    part.after_backward(trainer)
    assert float(part.selection.importance.max()) == pytest.approx(4.0)
    part.selection.parameters[0].grad[0] = float("inf")
    part.after_backward(trainer)
    assert part.selection.observed == 1


def test_an_objective_is_needed(tmp_path: Path) -> None:
    cls = type("Bare", (ObjectiveMixin, Trainer), {})
    with pytest.raises(ValueError, match="objective"):
        cls(model=tiny.bert(), args=tiny.arguments(tmp_path))


def test_modes_and_settings_that_contradict_each_other() -> None:
    assert RoastSettings(mode="released").skip_first_batch is True
    assert RoastSettings(mode="released", adv_ce_weight=0.5).adv_ce_weight == 0.5
    assert (RoastSettings().alpha, RoastSettings().beta, RoastSettings().eps, RoastSettings().lambda_kl) == (
        0.9,
        10,
        0.1,
        0.01,
    )
    for wrong in (
        {"resample": "interval"},
        {"resample_every": 3},
        {"mask_stage": "update"},
        {"scale_cap": 2.0, "unbiased_scale": False},
        {"importance": "per_example", "skip_first_batch": True},
        {"clean_ce_weight": 0, "adv_ce_weight": 0},
        {"lambda_kl": 0, "adv_ce_weight": 0},
        {"skip_first_batch": True, "importance_batches": 1},
        {"probe": "clean_pass", "n_steps": 2},
        {"epsilon": 1},
    ):
        with pytest.raises(ValueError):
            RoastSettings(**wrong)
    assert SelectiveSettings(mode="released", mask_rule="random").skip_first_batch is False
    assert SelectiveSettings(mask_rule="topk", mask_stage="update").parts()


@pytest.mark.parametrize(
    ("objective", "beside", "without_effect"),
    [
        ("roast", {"mask_rule": "random"}, {"importance": "per_example"}),
        ("selective", {"mask_rule": "random"}, {"importance_batches": 3}),
        ("selective", {"mask_rule": "random"}, {"skip_first_batch": True}),
        ("roast", {"mask_rule": "topk"}, {"scale_cap": 2.0}),
        ("selective", {"mask_rule": "topk"}, {"resample": "step"}),
        ("roast", {"lambda_kl": 0}, {"kl_reduction": "batchmean"}),
        ("adv_embed", {"lambda_kl": 0}, {"kl_stop_grad": True}),
        ("adv_embed", {"init_noise": 0}, {"init_noise_sign": "symmetric"}),
        ("smart", {"proximal_weight": 0}, {"average_decay": 0.9}),
    ],
)
def test_settings_without_effect_are_refused(
    objective: str, beside: dict[str, Any], without_effect: dict[str, Any]
) -> None:
    cls = OBJECTIVES.get(objective)
    cls(**beside), cls(**without_effect)
    (name,) = without_effect
    with pytest.raises(ValueError, match=f"{name} has no effect with `{next(iter(beside))}: "):
        cls(**beside, **without_effect)


def test_lambda_converts_between_reductions(tmp_path: Path) -> None:
    from luthier.robustness.settings import convert_lambda

    assert convert_lambda(0.01, 16, to="batchmean") == pytest.approx(0.16)
    losses = []
    for reduction, weight in (("sum", 0.5), ("batchmean", convert_lambda(0.5, 4, to="batchmean"))):
        model = tiny.bert()
        trainer = tiny.trainer(model, AdvEmbedSettings(kl_reduction=reduction, lambda_kl=weight), tmp_path)
        trainer.objective_parts[0].begin(trainer)
        torch.manual_seed(0)
        losses.append(float(trainer.compute_loss(model.train(), tiny.batch())))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_a_random_mask_is_drawn_anew_at_every_epoch(tmp_path: Path) -> None:
    made = tiny.trainer(tiny.bert(), SelectiveSettings(mask_rule="random"), tmp_path, max_steps=6)
    masks = []

    class Keep(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            masks.append(made.objective_parts[-1].selection.mask.clone())

    made.add_callback(Keep())
    made.train()
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[1], masks[2])
    assert not torch.equal(masks[3], masks[4])


def test_the_released_mode_takes_importance_of_every_example() -> None:
    assert not RoastSettings(mode="released", importance="per_example").skip_first_batch
    assert RoastSettings(mode="released").skip_first_batch
