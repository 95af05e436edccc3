"""Prompts before the text and behind [CLS]: what a classifier pools, saving, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PromptTuningConfig, get_peft_model

from luthier.errors import ModelError
from luthier.methods.base import MethodContext
from luthier.models.adapter_files import attach_adapter
from luthier.tuning.p_tuning import PTuningConfig
from luthier.tuning.p_tuning.settings import PTuning
from luthier.tuning.residual_prompt import ResidualPromptConfig, fold_prompt, load_trainable_prompt
from luthier.tuning.residual_prompt.settings import ResidualPrompt
from luthier.tuning.stock.prompt import Prompt
from tests.tuning.cases import ARCHITECTURES, WIDTH, base_model, batch_of

METHODS = [Prompt, PTuning, ResidualPrompt]
LENGTH = 4


def applied(method: Any, kind: str = "encoder", **settings: Any) -> Any:
    context = MethodContext(ARCHITECTURES[kind].task_type, seed=3)
    return method(length=LENGTH, **settings).apply(base_model(kind), context).eval()


def prompt_of(model: Any) -> torch.Tensor:
    return model.get_prompt(batch_size=1)[0].detach()


def logits_with_prompt_at(column: int, prompt: torch.Tensor, ids: torch.Tensor, head: Any) -> torch.Tensor:
    """The bare model on one unpadded row with the prompt in front of a column, under a trained head."""
    base = base_model("encoder")
    base.classifier.load_state_dict(head.state_dict())
    embeds = base.get_input_embeddings()(ids)
    row = torch.cat([embeds[:column], prompt, embeds[column:]])[None]
    return base(inputs_embeds=row).logits[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("insert", "column"), [("before_text", 0), ("after_cls", 1)])
def test_the_prompt_stands_where_it_is_inserted(method: Any, insert: str, column: int):
    model, lengths = applied(method, insert=insert), [5, 8, 3]
    batch = batch_of("encoder", lengths, width=10)
    batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    logits = model(**batch).logits
    head = model.base_model.classifier.modules_to_save["default"]
    for row, length in enumerate(lengths):
        wanted = logits_with_prompt_at(column, prompt_of(model), batch["input_ids"][row, :length], head)
        torch.testing.assert_close(logits[row], wanted, rtol=1e-4, atol=1e-5)


def test_behind_cls_the_classifier_pools_cls():
    """The body's first position holds [CLS] and not the first prompt vector."""
    pooled: dict[str, torch.Tensor] = {}
    for insert in ("before_text", "after_cls"):
        model = applied(Prompt, insert=insert)
        embeddings = model.base_model.bert.embeddings
        embeddings.register_forward_pre_hook(
            lambda _, args, kwargs, insert=insert: pooled.__setitem__(insert, kwargs["inputs_embeds"][:, 0]),
            with_kwargs=True,
        )
        batch = batch_of("encoder", [5, 8])
        model(**batch)
        tokens = model.base_model.get_input_embeddings()(batch["input_ids"][:, 0])
        wanted = tokens if insert == "after_cls" else prompt_of(model)[:1].expand(2, -1)
        assert torch.equal(pooled[insert], wanted)


def test_padding_on_the_left_and_token_types_move_with_their_tokens():
    from luthier.peft_bridge.prompt_placement import moved_after_first

    embeds = torch.tensor([[10, 11, 0, 0, 1, 2], [10, 11, 1, 2, 3, 4]]).float()[..., None]
    mask = torch.tensor([[1, 1, 0, 0, 1, 1], [1, 1, 1, 1, 1, 1]])
    types = torch.tensor([[0, 0, 7, 7, 0, 1], [0, 0, 0, 1, 1, 1]])
    moved = moved_after_first({"inputs_embeds": embeds, "attention_mask": mask, "token_type_ids": types}, 2)
    assert moved["inputs_embeds"][..., 0].tolist() == [[0, 0, 1, 10, 11, 2], [1, 10, 11, 2, 3, 4]]
    assert moved["attention_mask"].tolist() == [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]
    assert moved["token_type_ids"].tolist() == [[7, 7, 0, 0, 0, 1], [0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize("method", METHODS)
def test_what_is_saved_stands_where_it_stood(method: Any, tmp_path: Path):
    model, batch = applied(method, insert="after_cls"), batch_of("encoder", [5, 8])
    wanted = model(**batch).logits
    model.save_pretrained(tmp_path)
    for loaded in (
        PeftModel.from_pretrained(base_model("encoder"), tmp_path).eval(),
        load_trainable_prompt(base_model("encoder"), tmp_path).eval(),
        attach_adapter(base_model("encoder"), tmp_path),
    ):
        assert torch.equal(loaded(**batch).logits, wanted)
    with model.disable_adapter():
        assert torch.equal(model(**batch).logits, base_model("encoder")(**batch).logits)


def test_an_adapter_of_before_the_setting_stands_before_the_text(tmp_path: Path):
    import json

    model, batch = applied(ResidualPrompt), batch_of("encoder", [5, 8])
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config.pop("insert") == "before_text"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    loaded = PeftModel.from_pretrained(base_model("encoder"), tmp_path).eval()
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_adapters_of_one_model_stand_each_in_its_place():
    model, batch = applied(ResidualPrompt, insert="after_cls"), batch_of("encoder", [5, 8])
    behind = model(**batch).logits
    model.add_adapter("second", ResidualPromptConfig(task_type="SEQ_CLS", num_virtual_tokens=2))
    model.set_adapter("second")
    before = model(**batch).logits[0]
    head = model.base_model.classifier.modules_to_save["second"]
    wanted = logits_with_prompt_at(0, prompt_of(model), batch["input_ids"][0, :5], head)
    torch.testing.assert_close(before, wanted, rtol=1e-4, atol=1e-5)
    model.set_adapter("default")
    assert torch.equal(model(**batch).logits, behind)


FOLDABLE = [
    (ResidualPromptConfig, {"bottleneck": 8}),
    (ResidualPromptConfig, {"reparameterizer": "none"}),
    (PTuningConfig, {"encoder_hidden_size": 8, "encoder_reparameterization_type": "LSTM"}),
]


@pytest.mark.parametrize(("config_cls", "settings"), FOLDABLE)
def test_only_a_prompt_before_the_text_is_folded(config_cls: Any, settings: dict[str, Any], tmp_path: Path):
    def with_prompt(insert: str) -> Any:
        config = config_cls(task_type="SEQ_CLS", num_virtual_tokens=LENGTH, insert=insert, token_dim=WIDTH, **settings)
        return get_peft_model(base_model("encoder"), config).eval()

    model, batch = with_prompt("before_text"), batch_of("encoder", [5, 8])
    model.save_pretrained(tmp_path / "tuned")
    for source in (model, tmp_path / "tuned"):
        fold_prompt(source, tmp_path / "plain")
        plain = PeftModel.from_pretrained(base_model("encoder"), tmp_path / "plain").eval()
        assert type(plain.peft_config["default"]) is PromptTuningConfig
        assert torch.equal(plain(**batch).logits, model(**batch).logits)
    with pytest.raises(ModelError, match=r"behind \[CLS\] can't be folded"):
        fold_prompt(with_prompt("after_cls"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("method", [Prompt, ResidualPrompt])
def test_a_prompt_behind_cls_is_not_exported_as_one_before_the_text(method: Any, tmp_path: Path):
    from luthier.methods.export import Saved, folded_prompt

    applied(method, insert="after_cls").save_pretrained(tmp_path)
    card: Any = None
    with pytest.raises(ModelError, match="an engine, puts it before the text"):
        folded_prompt({}, {}, Saved(card, tmp_path))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("decoder_classifier", "a llama model has no first token"),
        ("decoder", "the task is CAUSAL_LM"),
        ("encoder_decoder", "the task is SEQ_2_SEQ_LM"),
    ],
)
def test_a_model_without_cls_is_refused(method: Any, kind: str, reason: str):
    with pytest.raises(ModelError, match=reason):
        applied(method, kind, insert="after_cls")


@pytest.mark.parametrize("config_cls", [ResidualPromptConfig, PTuningConfig])
def test_a_configuration_without_a_recipe_is_refused_too(config_cls: Any):
    config = config_cls(task_type="SEQ_CLS", insert="after_cls", token_dim=WIDTH, num_virtual_tokens=2)
    with pytest.raises(ModelError, match="a llama model has no first token"):
        get_peft_model(base_model("decoder_classifier"), config)


def test_an_unknown_place_is_refused():
    with pytest.raises(ValueError, match="before_text, after_cls"):
        ResidualPromptConfig(insert="behind_text")


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_p_tuning_behind_cls_has_pefts_network(network: str):
    """Only the place differs: the same weights give the prompt that PEFT's encoder gives."""
    model = applied(PTuning, insert="after_cls", reparameterization=network)
    stock = applied(PTuning, reparameterization=network)
    ours, theirs = model.prompt_encoder["default"], stock.prompt_encoder["default"]
    assert all(p.requires_grad for p in ours.parameters())
    weights = theirs.state_dict().items()
    ours.load_state_dict(
        {name.replace("lstm_head", "recurrent").replace("mlp_head", "network"): x for name, x in weights}
    )
    torch.testing.assert_close(prompt_of(model), prompt_of(stock), rtol=1e-6, atol=1e-7)
    rows = ours.embedding.weight
    if network == "lstm":
        rows = ours.recurrent(rows[None])[0][0]
    for layer in ours.network:
        rows = torch.relu(rows) if isinstance(layer, torch.nn.ReLU) else rows @ layer.weight.T + layer.bias
    torch.testing.assert_close(prompt_of(model), rows, rtol=1e-5, atol=1e-6)


def test_p_tuning_behind_cls_stores_the_network_and_evaluates_as_it_was_trained(tmp_path: Path):
    from safetensors.torch import load_file

    model = applied(PTuning, insert="after_cls", reparameterization="lstm", hidden_size=6)
    with torch.no_grad():
        evaluated = prompt_of(model)
    assert torch.equal(evaluated, prompt_of(model))
    model.save_pretrained(tmp_path)
    stored = {name for name in load_file(tmp_path / "adapter_model.safetensors") if name.startswith("p_tuning.")}
    assert stored == {f"p_tuning.{name}" for name, _ in model.prompt_encoder["default"].named_parameters()}
    assert {name.split(".")[1] for name in stored} == {"embedding", "recurrent", "network"}
