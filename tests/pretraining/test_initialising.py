"""`pretrain` with `initialise_from`: a model of other depth or width starts from the weights of a trained one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, ModernBertConfig, Qwen2Config

from luthier.cli.arguments import main
from luthier.models.card import read_card
from luthier.models.remapping import remap_parameters
from luthier.models.settings import ModelSettings
from luthier.pretraining.stage import Pretrain
from luthier.pretraining.start import resized_configuration, start_of
from luthier.stages.artifacts import Artifact
from luthier.stages.base import StageInputs
from tests.cli.conftest import tiny_model
from tests.language_modeling.models import SIZES, made, word_pieces
from tests.pretraining.test_pretraining import TINY, recipe, run

__all__ = ["tiny_model"]
IDS = torch.arange(5, 17)[None]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A masked model of two layers, with an activation and a dropout that are not those of its architecture."""
    folder = tmp_path / "trained"
    config = BertConfig(**SIZES, hidden_act="relu", hidden_dropout_prob=0.25)
    made(lambda: BertForMaskedLM(config)).save_pretrained(folder)
    word_pieces().save_pretrained(folder)
    return folder


def new(folder: Path, fields: dict[str, Any], seed: int = 0, **more: Any) -> Any:
    """The model that a stage would train, before its first step."""
    stage = Pretrain(
        corpus="text.txt", initialise_from=str(folder), architecture={"model_type": "bert", **fields}, **more
    )
    artifact = Artifact("pretrained", ModelSettings(reference=str(folder)))
    return start_of(stage, StageInputs({"initialise_from": artifact}, seed)).model()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


def test_equal_sizes_give_identical_logits(trained: Path):
    stock = AutoModelForMaskedLM.from_pretrained(trained)
    model = new(trained, {})
    assert model.config.hidden_act == "relu"
    assert model.config.hidden_dropout_prob == 0.25
    assert torch.equal(logits(model), logits(stock))


def test_two_layers_become_four_by_repeating_the_last(trained: Path):
    stock = AutoModelForMaskedLM.from_pretrained(trained)
    model = new(trained, {"num_hidden_layers": 4})
    layers, old = model.bert.encoder.layer, stock.bert.encoder.layer
    for place, source in enumerate([0, 1, 1, 1]):
        for name, value in old[source].state_dict().items():
            assert torch.equal(layers[place].state_dict()[name], value), (place, name)
    assert layers[2].output.dense.weight.data_ptr() != layers[3].output.dense.weight.data_ptr()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_rules_are_those_of_the_recipe(trained: Path):
    """Depth by a list, and a wider model that computes the same: every unit is there twice."""
    stock = AutoModelForMaskedLM.from_pretrained(trained)
    model = new(trained, {"num_hidden_layers": 1}, remap={"depth": [1]})
    assert torch.equal(model.bert.encoder.layer[0].output.dense.weight, stock.bert.encoder.layer[1].output.dense.weight)
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    wide = new(trained, sizes, remap={"width": "function_preserving"})
    torch.testing.assert_close(logits(wide), logits(stock), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(new(trained, sizes)), logits(stock), atol=1e-3)


def test_a_chain_goes_on_from_the_model_of_the_stage_before(tmp_path: Path, tiny_model: Path, capsys):
    content = recipe(tmp_path, tiny_model, architecture=TINY)
    grown = {**content["stages"][0]["pretrain"], "initialise_from": "stages.0", "max_steps": 1, "learning_rate": 1e-12}
    grown["architecture"] = {"model_type": "bert", "num_hidden_layers": 3}
    content["stages"].append({"pretrain": grown})
    place = tmp_path / "run.yaml"
    place.write_text(json.dumps(content))
    assert main(["validate", str(place)]) == 0
    assert main(["plan", str(place), "--output", str(tmp_path / "runs")]) == 0
    folder = run(tmp_path, content)
    small = AutoModelForMaskedLM.from_pretrained(folder / "model")
    large = AutoModelForMaskedLM.from_pretrained(folder.parent / "01-pretrain" / "model")
    expected = BertForMaskedLM(large.config)
    remap_parameters(expected, small)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(large.state_dict()[name], value, atol=1e-6, rtol=0, msg=name)
    card = read_card(folder.parent / "01-pretrain" / "model")
    assert card.base == str((folder / "model").resolve())


def test_the_dry_run_tells_what_is_taken_over(tmp_path: Path, trained: Path, capsys):
    content = recipe(tmp_path, None, initialise_from=str(trained), architecture={"model_type": "bert"})
    content["stages"][0]["pretrain"]["architecture"]["num_hidden_layers"] = 4
    place = tmp_path / "run.yaml"
    place.write_text(json.dumps(content))
    capsys.readouterr()
    assert main(["plan", str(place), "--output", str(tmp_path / "runs")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "layers 0 1 1 1 of the trained model; 100% copied, 0% fitted, 0% random" in told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"initialise_from": "other"}, "say with `architecture`"),
        ({"initialise_from": "other", "architecture": TINY, "tokenizer": {}}, "a new `tokenizer`"),
        ({"initialise_from": "other", "architecture": TINY, "model": "some/model"}, "no effect beside"),
        ({"architecture": TINY, "remap": {}}, "no effect without `initialise_from`"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given: dict[str, Any], told: str):
    with pytest.raises(ValidationError, match=told):
        Pretrain(**{"corpus": "text.txt", **given})


@pytest.mark.parametrize(
    ("architecture", "more", "told"),
    [
        ({"model_type": "roberta"}, {}, "the model that it starts from is bert"),
        ({"model_type": "bert", "num_hidden_layers": 3}, {"remap": {"depth": [0, 1]}}, "each of 3 layers"),
        ({"model_type": "bert", "num_hidden_layers": 3}, {"remap": {"depth": "last"}}, "takes some of"),
        ({"model_type": "bert", "vocab_size": 99}, {}, "vocabulary"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_weights_that_do_not_fit_are_told_before_anything_is_trained(
    tmp_path: Path, trained: Path, architecture: dict[str, Any], more: dict[str, Any], told: str, verb: str, capsys
):
    content = recipe(tmp_path, None, initialise_from=str(trained), architecture=architecture, **more)
    place = tmp_path / "run.yaml"
    place.write_text(json.dumps(content))
    capsys.readouterr()
    assert main([verb, str(place), "--output", str(tmp_path / "runs")]) in (2, 4)
    assert told in capsys.readouterr().err
    assert not list((tmp_path / "runs").rglob("log.jsonl"))


@pytest.mark.parametrize("kind", [Qwen2Config, ModernBertConfig])
@pytest.mark.parametrize("depth", [1, 6])
def test_a_new_depth_gets_as_many_kinds_of_layers(kind: Any, depth: int):
    """Configurations with a kind for every layer refuse another number of them."""
    config = kind(num_hidden_layers=3, **{name: value for name, value in SIZES.items() if name != "num_hidden_layers"})
    architecture = {"model_type": config.model_type, "num_hidden_layers": depth}
    stage = Pretrain(corpus="text.txt", initialise_from="other", architecture=architecture, remap={"depth": "uniform"})
    found = resized_configuration(stage, config)
    assert found.layer_types[:3] == config.layer_types[:depth]
    assert (len(found.layer_types), found.num_hidden_layers, found.hidden_size) == (depth, depth, SIZES["hidden_size"])
