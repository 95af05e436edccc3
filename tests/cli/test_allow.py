"""What a recipe allows of its model can be allowed of the commands that load it again."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def on_pickle(workplace):
    """A workplace whose model has its weights in a pickle."""
    import torch
    from safetensors.torch import load_file

    weights = workplace.folder / "model" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    workplace.recipe["model"] = {"reference": str(workplace.folder / "model"), "allow": ["pickle"]}
    workplace.tune["epochs"] = 1
    return workplace


def test_an_adapter_on_a_pickle_predicts_when_it_is_allowed(on_pickle, capsys):
    on_pickle.tune["method"] = "lora"
    assert on_pickle.run() == 0
    capsys.readouterr()
    run = str(on_pickle.run_folder)
    assert on_pickle.luthier("predict", run, "--text", "a lovely film") == 4
    assert "--allow pickle" in capsys.readouterr().err
    assert on_pickle.luthier("predict", run, "--text", "a lovely film", "--allow", "pickle") == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("positive", "negative")
    Path("new.tsv").write_text("text\nclever and warm\n")
    assert on_pickle.luthier("predict", run, "--file", "new.tsv", "--allow", "pickle") == 0


def test_a_dry_run_refuses_a_pickle_as_the_run_does(on_pickle, capsys):
    on_pickle.recipe["model"] = str(on_pickle.folder / "model")
    for verb in ("plan", "run"):
        assert on_pickle.luthier(verb, on_pickle.write(), "--output", str(on_pickle.folder / "runs")) == 4
        assert "allow: [pickle]" in capsys.readouterr().err


def test_an_encoder_on_a_pickle_embeds_and_exports_when_it_is_allowed(on_pickle, capsys):
    on_pickle.tune["method"] = {"name": "task_prefix", "prefix_length": 2}
    assert on_pickle.run() == 0
    run = str(on_pickle.run_folder)
    assert on_pickle.luthier("export", run, "--to", "a.safetensors") == 4
    assert "--allow pickle" in capsys.readouterr().err
    assert on_pickle.luthier("export", run, "--to", "a.safetensors", "--allow", "pickle") == 0
    data = {"train": str(on_pickle.folder / "train.tsv"), "validation": str(on_pickle.folder / "validation.tsv")}
    on_pickle.recipe["stages"] = [
        {
            "represent": {
                "tasks": {"film": {"data": data}},
                "heads": {"mood": {"data": data}},
                "epochs": 1,
                "batch_size": 8,
            }
        }
    ]
    on_pickle.recipe["name"] = "encoder"
    assert on_pickle.run() == 0
    capsys.readouterr()
    command = ("embed", str(on_pickle.folder / "runs" / "encoder"), "--text", "a film", "--output", "v.npy")
    assert on_pickle.luthier(*command) == 4
    assert "--allow pickle" in capsys.readouterr().err
    assert on_pickle.luthier(*command, "--allow", "pickle") == 0
