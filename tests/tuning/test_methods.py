"""What holds for every tuning method, checked over the table in `cases.py`."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file

from luthier.errors import ModelError, RecipeError
from luthier.methods.base import MethodContext
from luthier.methods.heads import head_modules
from luthier.registry import METHODS, discover
from tests.tuning.cases import ARCHITECTURES, CASES, WIDTH, Case, base_model, batch_of, row_logits

discover()
ROWS = [pytest.param(case, kind, id=f"{case}-{kind}") for case in CASES for kind in case.on]
ADAPTERS = [row for row in ROWS if row.values[0].adapter]
LENGTHS = [6, 3, 5]
# In double precision; Llama computes its rotary angles in single precision whatever the model's own is.
TOLERANCE = {"encoder": 1e-9, "decoder": 1e-6, "decoder_classifier": 1e-6, "encoder_decoder": 1e-9}


def method_of(settings: dict[str, Any]) -> Any:
    return METHODS._entries[settings["name"]](**settings)


def tuned(case: Case, kind: str, *, dtype: torch.dtype = torch.float32, disturb: bool = True) -> Any:
    """The method on the architecture's model; `disturb` moves what it trains away from its first values."""
    context = MethodContext(ARCHITECTURES[kind].task_type, seed=3)
    model = method_of(case.method).apply(base_model(kind).to(dtype), context)
    if dtype == torch.float64:
        model.double()
    if disturb:
        shake([p for p in model.parameters() if p.requires_grad])
    return model.eval()


def shake(parameters: list[torch.nn.Parameter], seed: int = 11) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in parameters:
            p.add_(torch.randn(p.shape, generator=generator).to(p.dtype), alpha=0.05)


@torch.no_grad()
def logits_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**batch).logits


def with_labels(kind: str, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    batch = {name: value for name, value in batch.items() if name != "decoder_input_ids"}
    return {**batch, "labels": ARCHITECTURES[kind].labels(*batch["input_ids"].shape)}


@pytest.mark.parametrize(("case", "kind"), ROWS)
def test_loading_gives_the_saved_logits(case: Case, kind: str, tmp_path: Any) -> None:
    model, batch = tuned(case, kind), batch_of(kind, LENGTHS)
    before = logits_of(model, batch)
    model.save_pretrained(tmp_path)
    base = base_model(kind)
    loaded = PeftModel.from_pretrained(base, tmp_path) if case.adapter else type(base).from_pretrained(tmp_path)
    assert not torch.equal(before[..., -1], logits_of(base_model(kind), batch)[..., -1])
    # A prompt loaded by PEFT itself has no hook that keeps padding away, so rows of one length are compared.
    even = batch_of(kind, [6, 6])
    torch.testing.assert_close(logits_of(loaded.eval(), even), logits_of(model, even), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("case", "kind"), ADAPTERS)
def test_disabled_equals_base(case: Case, kind: str) -> None:
    model, batch = tuned(case, kind), batch_of(kind, LENGTHS)
    before = logits_of(model, batch)
    with model.disable_adapter():
        off = logits_of(model, batch)
    torch.testing.assert_close(off, logits_of(base_model(kind), batch), rtol=0, atol=2e-6)
    assert torch.equal(logits_of(model, batch), before)


@pytest.mark.parametrize(("case", "kind"), ROWS)
def test_only_what_belongs_to_the_method_is_trained(case: Case, kind: str) -> None:
    model = tuned(case, kind, disturb=False)
    head = tuple(head_modules(base_model(kind), ARCHITECTURES[kind].task_type))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    groups = method_of(case.method).parameter_groups(model, 0.05, 0.01)
    covered = [id(p) for group in groups for p in group["params"]]
    assert sorted(covered) == sorted(id(p) for p in model.parameters() if p.requires_grad)

    optimizer = torch.optim.AdamW(groups)
    for _ in range(2):
        loss = model(**with_labels(kind, batch_of(kind, LENGTHS))).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed <= trained
    stray = [n for n in trained if not any(part in n for part in (*case.trains, *(f"{h}." for h in head)))]
    assert stray == []
    idle = {name for name in trained - changed if "bias" not in name and "embeddings" not in name}
    assert idle == set(), "trained parameters that no gradient reached"
    assert all(any(f"{part}." in name for name in changed) for part in head)


@pytest.mark.parametrize(("case", "kind"), ADAPTERS)
def test_two_adapters_and_switching(case: Case, kind: str) -> None:
    model, batch = tuned(case, kind), batch_of(kind, LENGTHS)
    first = logits_of(model, batch)
    model.add_adapter("second", copy.deepcopy(model.peft_config["default"]))
    model.set_adapter("second")
    shake([p for name, p in model.named_parameters() if ".second" in name], seed=12)
    second = logits_of(model, batch)
    assert not torch.allclose(first, second)
    model.set_adapter("default")
    assert torch.equal(logits_of(model, batch), first)
    model.set_adapter("second")
    assert torch.equal(logits_of(model, batch), second)


@pytest.mark.parametrize(("case", "kind"), ROWS)
def test_half_precision(case: Case, kind: str) -> None:
    logits = logits_of(tuned(case, kind, dtype=torch.bfloat16), batch_of(kind, LENGTHS))
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


@pytest.mark.parametrize(("case", "kind"), ROWS)
def test_padding_changes_nothing(case: Case, kind: str) -> None:
    model = tuned(case, kind, dtype=torch.float64)
    short = logits_of(model, batch_of(kind, [6], width=6))
    padded = logits_of(model, batch_of(kind, [6], width=11))
    torch.testing.assert_close(
        row_logits(kind, padded, 0, 6), row_logits(kind, short, 0, 6), rtol=0, atol=TOLERANCE[kind]
    )


@pytest.mark.parametrize(("case", "kind"), ROWS)
def test_other_rows_change_nothing(case: Case, kind: str) -> None:
    model = tuned(case, kind, dtype=torch.float64)
    alone = logits_of(model, batch_of(kind, [4]))
    beside = logits_of(model, batch_of(kind, [4, 9, 2]))
    torch.testing.assert_close(
        row_logits(kind, beside, 0, 4), row_logits(kind, alone, 0, 4), rtol=0, atol=TOLERANCE[kind]
    )


@pytest.mark.parametrize(("case", "kind"), [row for row in ROWS if row.values[0].checkpointing])
def test_gradient_checkpointing_changes_nothing(case: Case, kind: str) -> None:
    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        model = tuned(case, kind, dtype=torch.float64).train()
        if "transformer" in str(case):
            model.prompt_encoder.eval()  # its dropout draws anew at every pass
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            assert any(getattr(m, "gradient_checkpointing", False) and m.training for m in model.modules())
        model(**with_labels(kind, batch_of(kind, LENGTHS))).loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, recomputed = gradients(False), gradients(True)
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(("case", "kind"), ROWS)
def test_sizes_are_known_without_weights(case: Case, kind: str) -> None:
    with torch.device("meta"):
        empty = tuned(case, kind, disturb=False)
    real = tuned(case, kind, disturb=False)
    sizes = [{n: p.shape for n, p in m.named_parameters() if p.requires_grad} for m in (empty, real)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(("case", "kind"), ROWS)
def test_seed_decides_the_first_values(case: Case, kind: str) -> None:
    torch.manual_seed(1)
    once = tuned(case, kind, disturb=False)
    torch.manual_seed(2)
    again = tuned(case, kind, disturb=False)
    for (name, p), q in zip(once.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_every_method_is_in_the_table() -> None:
    registered = {name for name in METHODS.names() if METHODS.get(name).__module__.startswith("luthier.")}
    assert registered == {case.method["name"] for case in CASES}


@pytest.mark.parametrize("name", sorted({case.method["name"] for case in CASES}))
def test_methods_explain_themselves(name: str) -> None:
    method = METHODS.get(name)
    assert method.summary
    assert 0 < method.default_learning_rate <= 1
    assert name == "peft" or method.paper is not None
    assert [field for field, info in method.model_fields.items() if field != "name" and not info.description] == []


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ({"name": "lora"}, 0),
        ({"name": "prompt", "length": 7}, 7),
        ({"name": "prefix", "length": 6}, 6),
        ({"name": "residual_prompt", "length": 5}, 5),
        ({"name": "peft", "peft_type": "PROMPT_TUNING", "settings": {"num_virtual_tokens": 9}}, 9),
        ({"name": "peft", "peft_type": "cpt", "settings": {"cpt_token_ids": [3, 4, 5]}}, 3),
        ({"name": "peft", "peft_type": "CPT"}, 1),
    ],
)
def test_room_for_the_prompt_is_reserved(settings: dict[str, Any], tokens: int) -> None:
    assert method_of(settings).reserved_tokens() == tokens


@pytest.mark.parametrize(
    ("settings", "kind", "error", "message"),
    [
        ({"name": "lora", "target_modules": ["qurey"]}, "encoder", RecipeError, "did you mean 'query'"),
        ({"name": "lora", "target_modules": ["query", "nothing"]}, "encoder", RecipeError, "'nothing'"),
        (
            {"name": "ia3", "target_modules": ["key"], "feedforward_modules": ["value"]},
            "encoder",
            RecipeError,
            "value",
        ),
        ({"name": "ia3", "feedforward_modules": ["key"]}, "encoder", RecipeError, "target_modules, which are left out"),
        ({"name": "peft", "peft_type": "VEAR"}, "encoder", RecipeError, "did you mean VERA"),
        (
            {"name": "peft", "peft_type": "LOHA", "settings": {"rank": 2}},
            "encoder",
            RecipeError,
            "no setting 'rank'",
        ),
        ({"name": "peft", "peft_type": "LORA", "settings": {"r": 0}}, "encoder", ModelError, "r"),
        (
            {"name": "peft", "peft_type": "PROMPT_TUNING", "settings": {"num_virtual_tokens": "few"}},
            "encoder",
            RecipeError,
            "settings.num_virtual_tokens is 'few', and takes a number",
        ),
        (
            {"name": "peft", "peft_type": "LORA", "settings": {"lora_dropout": [0.1]}},
            "encoder",
            RecipeError,
            r"settings.lora_dropout is \[0.1\], and takes a number",
        ),
        ({"name": "peft", "peft_type": "LORA", "settings": {"r": True}}, "encoder", RecipeError, "takes a number"),
        ({"name": "head_only"}, "decoder", ModelError, "no task head"),
        ({"name": "bitfit"}, "decoder", ModelError, "no such bias"),
        ({"name": "prompt", "init": "text", "init_text": "great or bad"}, "encoder", ModelError, "tokenizer"),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], kind: str, error: type[Exception], message: str) -> None:
    context = MethodContext(ARCHITECTURES[kind].task_type)
    with pytest.raises(error, match=message):
        method_of(settings).apply(base_model(kind), context)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "p_tuning", "reparameterization": "lstm", "layers": 1, "dropout": 0.5},
        {"name": "residual_prompt", "reparameterizer": "lstm", "bottleneck": 8},
        {"name": "residual_prompt", "reparameterizer": "none", "residual": False},
        {"name": "residual_prompt", "tied": False},
        {"name": "residual_prompt", "reparameterizer": "lstm", "dropout": 0.1},
        {"name": "residual_prompt", "init": "text"},
        {"name": "residual_prompt", "init_file": "x.safetensors"},
        {"name": "prompt", "init_text": "idle"},
        {"name": "p_tuning", "layers": 2},
        {"name": "prefix", "hidden_size": 8},
        {"name": "residual_prompt", "reparameterizer": "none", "network_learning_rate": 0.1},
        {"name": "residual_prompt", "reparameterizer": "none", "network_weight_decay": 0.1},
        {"name": "unipelt", "lora_alpha": 32},
        {"name": "unipelt", "parts": ["adapter"], "lora_rank": 4},
        {"name": "unipelt", "parts": ["adapter"], "lora_targets": ["key"]},
        {"name": "unipelt", "parts": ["lora"], "adapter_init": "identity"},
        {"name": "unipelt", "parts": ["lora"], "adapter_activation": "gelu"},
        {"name": "unipelt", "parts": ["lora"], "prefix_length": 4},
        {"name": "unipelt", "parts": ["lora"], "prefix_projection": False},
        {"name": "idpg", "multi_layer": False, "sharing": "none"},
        {"name": "idpg", "multi_layer": False, "insertion": "replace"},
        {"name": "idpg", "input": "static", "pooling": "mean"},
        {"name": "idpg", "dropout": 0.0, "dropout_after_activation": True},
        {"name": "idpg", "dropout": 0.0, "vector_dropout": "first_layer"},
        {"name": "idpg", "first_layer": 1, "first_pass_dropout": True},
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"effect|goes with|belong"):
        method_of(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "lora", "target_modules": []}, "at least 1"),
        ({"name": "ia3", "target_modules": []}, "at least 1"),
        ({"name": "unipelt", "gates": float("nan")}, "finite"),
        ({"name": "unipelt", "gates": {"lora": float("inf")}}, "finite"),
    ],
)
def test_values_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method_of(settings)


@pytest.mark.parametrize("name", ["prompt", "residual_prompt"])
def test_a_first_text_without_tokens_is_refused(name: str) -> None:
    def tokenizer(text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [1] * len(text.split())}

    method = method_of({"name": name, "init": "text", "init_text": "  "})
    with pytest.raises(ModelError, match="the text has no tokens"):
        method.apply(base_model("encoder"), MethodContext("SEQ_CLS", tokenizer=tokenizer))


def test_the_file_of_a_first_prompt_is_looked_for_at_home(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    method = method_of({"name": "residual_prompt", "length": 4, "init": "tensor", "init_file": "~/first.safetensors"})
    assert [(field, error.what) for field, error in method.missing()] == [("init_file", "there is no such file")]
    rows = torch.randn(4, WIDTH)
    save_file({"rows": rows}, tmp_path / "first.safetensors")
    assert not list(method.missing())
    assert [path.is_file() for path in method.files()] == [True]
    model: Any = method.apply(base_model("encoder"), MethodContext("SEQ_CLS"))
    assert torch.equal(model.prompt_encoder["default"].embedding.weight, rows)
