"""The frozen part of a tuned model: where it ends, that it is run once, and that a head can be frozen with it."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification
from transformers.models.bert.modeling_bert import BertLayer

import luthier
from luthier.methods.base import MethodContext
from luthier.models.artifacts import load_artifact
from luthier.registry import METHODS
from luthier.training.trainer import LuthierTrainer
from luthier.training.trunk.once import frozen_up_to
from tests.cli.conftest import Workplace, tiny_model  # noqa: F401 - a fixture


@pytest.fixture
def place(tmp_path, tiny_model, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    workplace = Workplace(tmp_path, tiny_model)
    workplace.recipe["stages"] = workplace.recipe["stages"][:1]
    workplace.tune.update(method="head_only", learning_rate=1e-2)
    return workplace


@pytest.fixture
def layer_passes(monkeypatch):
    """Counts the passes through a transformer layer."""
    forward, passes = BertLayer.forward, []

    def counted(self, *args, **kwargs):
        passes.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(BertLayer, "forward", counted)
    return passes


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({"name": "head_only"}, "bert"),
        ({"name": "bottleneck", "drop_first_layers": 2}, "base_model.model.bert.encoder.layer.1"),
        ({"name": "bottleneck"}, None),
        ({"name": "lora"}, None),
        ({"name": "prompt"}, None),
        ({"name": "prefix"}, None),
        ({"name": "unipelt", "drop_first_layers": 2}, None),
        ({"name": "bitfit"}, None),
        ({"name": "full"}, None),
    ],
)
def test_where_the_frozen_part_ends(method, expected):
    size = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForSequenceClassification(BertConfig(vocab_size=40, **size))
    tuned = METHODS.get(method["name"]).model_validate(method).apply(model, MethodContext("SEQ_CLS"))
    assert frozen_up_to(tuned) == expected


@pytest.mark.parametrize("method", ["head_only", {"name": "bottleneck", "drop_first_layers": 1}])
def test_the_cache_changes_no_result(place, method):
    place.tune["method"] = method
    found = {}
    for cached in (True, False):
        place.tune["cache_trunk"] = cached
        record = luthier.run(place.recipe, output=place.folder / str(cached))
        found[cached] = (
            record.stages[0].metrics["scores"],
            load_file(next((record.folder / "00-tune" / "model").glob("*.safetensors"))),
        )
    assert found[True][0] == pytest.approx(found[False][0], abs=1e-5)
    for name, tensor in found[True][1].items():
        torch.testing.assert_close(tensor, found[False][1][name], atol=1e-5, rtol=1e-4)


def test_a_head_is_trained_on_what_a_model_in_bfloat16_stored(place):
    place.recipe["model"] = {"reference": str(place.recipe["model"]), "dtype": "bfloat16"}
    losses = []
    for cached in (True, False):
        place.tune["cache_trunk"] = cached
        record = luthier.run(place.recipe, output=place.folder / str(cached))
        losses.append(record.stages[0].metrics["scores"]["validation/loss"])
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


def test_a_row_passes_the_frozen_layers_once(place, layer_passes):
    batches = 128 // 64 + 1
    luthier.run(place.recipe, output=place.folder / "first")
    first = len(layer_passes)
    # Two layers; a few single passes find out what has to be stored.
    assert 2 * batches <= first <= 2 * (batches + 6)
    luthier.run(place.recipe, ["seed=99"], output=place.folder / "second")
    # One pass finds what runs first, and one for each split what is read of it.
    assert len(layer_passes) - first <= 2 * 3
    before = len(layer_passes)
    luthier.run(place.recipe, ["stages.0.tune.cache_trunk=false"], output=place.folder / "third")
    assert len(layer_passes) - before > 4 * 2 * (128 // 8)


def test_a_cache_that_is_too_small_is_no_error_and_a_larger_one_trains_nothing_again(place, caplog):
    place.tune["cache_gigabytes"] = 1e-9
    record = luthier.run(place.recipe, output=place.folder / "runs")
    assert record.stages[0].metrics["scores"]["validation/accuracy"] > 0
    assert "is run in every epoch" in caplog.text
    assert "raise `cache_gigabytes`" in caplog.text
    place.tune["cache_gigabytes"] = 1.0
    assert luthier.run(place.recipe, output=place.folder / "runs").stages[0].cached


def test_a_stopped_run_goes_on_exactly(place, monkeypatch):
    straight = luthier.run(place.recipe, output=place.folder / "straight").stages[0].metrics["scores"]
    step, calls = LuthierTrainer.training_step, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(LuthierTrainer, "training_step", interrupted)
    command = ["run", place.write(), "--quiet", "--no-report", "--output", str(place.folder / "stopped")]
    assert place.luthier(*command) == 75
    assert place.luthier(*command) == 0
    metrics = json.loads((place.folder / "stopped" / "small" / "00-tune" / "metrics.json").read_text())
    assert metrics["scores"] == straight


@pytest.mark.parametrize("method", ["lora", "bitfit", "unipelt", "full"])
def test_a_frozen_head_stays_and_is_saved(place, method):
    place.tune.update(method=method, train_head=False, learning_rate=1e-2)
    runs = {seed: luthier.run(place.recipe, [f"seed={seed}"], output=place.folder / str(seed)) for seed in (1, 2)}
    heads = {}
    for seed, record in runs.items():
        weights = load_file(next((record.folder / "00-tune" / "model").glob("*.safetensors")))
        heads[seed] = next(tensor for name, tensor in weights.items() if name.endswith("classifier.weight"))
        fresh = first_head(place, seed)
        assert heads[seed].equal(fresh)
        model, _, _ = load_artifact(record.folder / "00-tune" / "model")
        names = ("classifier.weight", "modules_to_save.default.weight")
        own = next(p for n, p in model.named_parameters() if n.endswith(names))
        assert own.detach().equal(fresh)
    assert not heads[1].equal(heads[2])


def first_head(place, seed):
    from luthier.models.artifacts import load_model
    from luthier.models.settings import ModelSettings

    settings = ModelSettings(reference=place.recipe["model"])
    labels = ["negative", "positive"]
    return load_model(settings, "sequence_classification", seed=seed, labels=labels).classifier.weight.detach()


def test_nothing_to_train_is_said(place, capsys):
    place.tune["train_head"] = False
    assert place.run() == 2
    assert "without the task head nothing is trained" in capsys.readouterr().err
