"""Weights, gradients and optimiser states split over two processes, beside runs in which each process holds all."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import luthier
from luthier.cli.arguments import main
from luthier.context.stage import Lengthen
from luthier.distillation.settings import TextSettings
from luthier.errors import ModelError, RecipeError, TrainingError
from luthier.storage.jsonlines import read_log
from luthier.training.job import train
from luthier.training.split import layers_of
from luthier.training.supervised_settings import SupervisedSettings
from tests.context.conftest import SIZES, documents, lengthening, pretraining, write
from tests.language_modeling.models import MASKED, made, word_pieces
from tests.processes import of_each, ranks
from tests.runs.test_ranks import SCRIPT, told_by_two
from tests.training.split_processes import MODELS, batches, loss_of, of_a_process, trained
from tests.training.test_job import make_job, tiny_model

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group(__name__)]
STEPS = 8


def lengthen(folder: Path, name: str, **more: Any) -> dict[str, Any]:
    """Three passes of held-out rows, so that one process has none in the end."""
    return lengthening(folder, name, {"max_steps": STEPS, "evaluate_every": 4, **more})


def pretrain(folder: Path, name: str, **more: Any) -> dict[str, Any]:
    """A masked model with tied embeddings and a bias of the head."""
    architecture = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    architecture |= {"intermediate_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return pretraining(folder, name, architecture, {"length": 16, "pseudo_perplexity_tokens": 3, **more})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder whose input and output embeddings are one matrix of an odd number of rows, and texts."""
    folder = tmp_path_factory.mktemp("split")
    torch.manual_seed(0)
    sizes = SIZES | {"vocab_size": SIZES["vocab_size"] + 1 - SIZES["vocab_size"] % 2}
    LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True)).save_pretrained(folder / "model")
    word_pieces().save_pretrained(folder / "model")
    write(folder / "train.txt", documents(120, 0))
    write(folder / "held.txt", documents(30, 1))
    return folder


@pytest.fixture(scope="module")
def told(place: Path) -> list[list[dict[str, Any]]]:
    """What each process says of the runs, of which the first was killed in another pair of processes."""
    output = {"output": str(place / "runs")}
    split = {"split_weights": True}
    killed = {"recipe": lengthen(place, "killed", **split), **output}
    (place / "plan.json").write_text(json.dumps([{**killed, "harm": "killed"}]))
    environment = os.environ | {"LUTHIER_CACHE": str(place / "cache")}
    done = ranks(2, SCRIPT, "many", place / "plan.json", cwd=place, env=environment)
    assert [one.returncode for one in done] == [0, -signal.SIGKILL], done[0].stderr[-3000:]
    ended = json.loads((place / "told-0.json").read_text())
    assert "another process of the run has ended" in ended[0]["error"]
    plan = [
        {"recipe": lengthen(place, "whole"), **output},
        {"recipe": lengthen(place, "split", **split), **output},
        {**killed, "harm": "full disk"},
        {**killed, "harm": "signal", "at": 2},
        killed,
        {"recipe": pretrain(place, "masked whole"), **output},
        {"recipe": pretrain(place, "masked split", **split), **output},
        {"recipe": lengthen(place, "infinite", **split, learning_rate=1e30, max_grad_norm=0), **output},
    ]
    return told_by_two(plan, place)


def weights(place: Path, name: str) -> dict[str, torch.Tensor]:
    (folder,) = (place / "runs" / name).glob("00-*")
    return load_file(folder / "model" / "model.safetensors")


def scores(place: Path, name: str) -> dict[str, float]:
    (folder,) = (place / "runs" / name).glob("00-*")
    found: dict[str, float] = json.loads((folder / "metrics.json").read_text())["scores"]
    return found


def logged(place: Path, name: str, what: str) -> list[float]:
    (folder,) = (place / "runs" / name).glob("00-*")
    return [line[what] for line in read_log(folder / "log.jsonl") if what in line]


@pytest.mark.parametrize(("whole", "split"), [("whole", "split"), ("masked whole", "masked split")])
def test_a_split_model_trains_as_one_that_each_process_holds(place: Path, told: Any, whole: str, split: str):
    expected, found = weights(place, whole), weights(place, split)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert scores(place, split) == pytest.approx(scores(place, whole), rel=1e-6)
    for what in ("loss", "grad_norm"):
        assert logged(place, split, what) == pytest.approx(logged(place, whole, what), rel=1e-5)
    norms = logged(place, split, "grad_norm")
    assert min(norms) > 0.3  # so that clipping counts


def test_stock_transformers_loads_the_whole_of_it(place: Path, told: Any):
    ids = torch.arange(12)[None] % 13 + 5
    with torch.no_grad():
        logits = [
            AutoModelForCausalLM.from_pretrained(place / "runs" / name / "00-lengthen" / "model")(ids).logits
            for name in ("whole", "split")
        ]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=1e-5)


def test_a_run_that_was_killed_filled_the_disk_and_stopped_ends_bit_for_bit_as_one_that_did_not(place: Path, told: Any):
    expected, found = weights(place, "split"), weights(place, "killed")
    assert all(torch.equal(found[n], value) for n, value in expected.items())
    assert scores(place, "killed") == scores(place, "split")
    log = read_log(place / "runs" / "killed" / "00-lengthen" / "log.jsonl")
    assert [line["step"] for line in log if line["event"] == "resume"] == [2, 4, 6]
    assert not list((place / "runs" / "killed").rglob(".writing*"))


@pytest.mark.parametrize(
    ("at", "code", "said"),
    [
        (2, 6, "process 1: no space left on device"),
        (3, 75, "the newest checkpoint is checkpoint-6"),
        (-1, 5, "is not finite at step"),
    ],
)
def test_what_befalls_one_process_all_learn_of(told: Any, at: int, code: int, said: str):
    main, other = (process[at] for process in told)
    assert main["code"] == other["code"] == code
    assert said in main["error"]


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    of_each(2, of_a_process, str(folder))
    return [torch.load(folder / f"{number}.pt") for number in range(2)]


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_is_split_and_put_together(name: str, of_two: Any):
    model = made(MODELS[name])
    with torch.no_grad():
        scored = float(loss_of(model, batches()[0, 0, 0]))
    norms, losses = trained(model, batches().flatten(1, 2), 1.0)
    (before, own_norms, own, held, found), (_, other_norms, other, other_held, none) = (p[name] for p in of_two)
    assert before == pytest.approx(scored, rel=1e-6)
    assert own_norms == pytest.approx(norms, rel=1e-5)
    assert other_norms == own_norms
    assert [*own[:2], *other[:2], *own[2:], *other[2:]] == pytest.approx(losses, rel=1e-5)
    for key, value in model.named_parameters():
        torch.testing.assert_close(found[key], value.detach(), atol=1e-6, rtol=1e-5, msg=key)
    assert not none
    total = sum(p.numel() for p in model.parameters())
    assert held + other_held == total
    assert held < 0.55 * total


def test_what_can_not_be_split_is_refused(place: Path, capsys: pytest.CaptureFixture[str]):
    content = lengthen(place, "alone", split_weights=True)
    (place / "alone.yaml").write_text(json.dumps(content))
    with pytest.raises(RecipeError, match=r"(?s)this run is of one.*torchrun --nproc_per_node N"):
        luthier.run(content, output=place / "runs")
    assert main(["plan", str(place / "alone.yaml"), "--output", str(place / "runs")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "weights and their state split over processes: 0.00 GB in each of 2, 0.00 GB in each of 4" in said
    with pytest.raises(ValidationError, match="scales gradients"):
        Lengthen.model_validate(content["stages"][0]["lengthen"] | {"precision": "float16"})
    job = make_job(place / "job", tiny_model(), max_steps=1)
    with pytest.raises(TrainingError, match="one model over several processes"):
        train(dataclasses.replace(job, split_weights=True))
    with pytest.raises(ModelError, match="layer by layer"):
        layers_of(made(MASKED["albert"]))
    assert "split_weights" not in {**TextSettings.model_fields, **SupervisedSettings.model_fields}
