"""Rows that several processes share, beside one process that has the whole of them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

import luthier
from luthier.cli.arguments import main
from luthier.context.stage import Lengthen
from luthier.context.text import long_text
from luthier.distillation.settings import TextSettings
from luthier.errors import LuthierError, ModelError, RecipeError
from luthier.language_modeling.context_parallel import own_group, own_slices, refuse_to_share_rows
from luthier.language_modeling.preparing import text_job
from luthier.language_modeling.row_slices import RowSlices
from luthier.pretraining.stage import Pretrain
from luthier.storage.jsonlines import read_log
from tests.context.conftest import LENGTH, SIZES, documents, lengthening, pretraining, write
from tests.language_modeling.context_processes import DOCUMENTS, MODELS, batch, learned, model_of, of_a_process
from tests.language_modeling.models import word_pieces
from tests.processes import of_each, ranks
from tests.runs.test_ranks import SCRIPT, told_by_two

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group(__name__)]
STEPS = 6


@pytest.fixture(scope="module")
def of_four(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    of_each(4, of_a_process, str(folder))
    return [torch.load(folder / f"{number}.pt") for number in range(4)]


@pytest.mark.parametrize("rows", DOCUMENTS)
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_gradients_are_those_of_one_process(name: str, rows: str, of_four: Any):
    logits, gradients = learned(model_of(name), name, batch(rows), shifted=True)
    within = 0.05 if name == "autocast" else 1e-12
    for number, process in enumerate(of_four):
        found, summed = process[f"{name} {rows}"]
        row = number // 2
        wanted = RowSlices(2, number % 2).of(logits[row : row + 1].mT).mT
        torch.testing.assert_close(found, wanted, atol=within * wanted.abs().max().item(), rtol=0)
        assert summed.keys() == gradients.keys()
        for key, gradient in gradients.items():
            assert gradient.abs().max() > 0
            torch.testing.assert_close(summed[key], gradient, atol=within * gradient.abs().max().item(), rtol=0)


def test_models_whose_rows_can_not_be_shared_are_refused_in_all_processes(of_four: Any):
    for process in of_four:
        assert "gives other logits for slices of a row" in process["mixing"]
        assert "attends to 8 tokens, and rows of 32" in process["window"]


def lengthen(folder: Path, name: str, **more: Any) -> dict[str, Any]:
    """Documents are kept apart as processes that share rows can."""
    return lengthening(folder, name, {"max_steps": STEPS, "evaluate_every": 3, "document_attention": "varlen", **more})


def pretrain(folder: Path, name: str, **more: Any) -> dict[str, Any]:
    """A new decoder with learned positions."""
    architecture = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2}
    architecture |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return pretraining(folder, name, architecture, {"length": 32, **more})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder with one key-value head for two query heads, and texts."""
    folder = tmp_path_factory.mktemp("shared")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)).save_pretrained(folder / "model")
    word_pieces().save_pretrained(folder / "model")
    write(folder / "train.txt", documents(120, 0))
    write(folder / "held.txt", documents(30, 1))
    return folder


SHARED = {"context_parallel_size": 2}


@pytest.fixture(scope="module")
def told(place: Path) -> list[list[dict[str, Any]]]:
    """What each of two processes says of the runs, of which the first was killed in another pair of processes."""
    output = {"output": str(place / "runs")}
    killed = {"recipe": lengthen(place, "killed", **SHARED), **output}
    (place / "plan.json").write_text(json.dumps([{**killed, "harm": "kill", "at": 4}]))
    environment = os.environ | {"LUTHIER_CACHE": str(place / "cache")}
    done = ranks(2, SCRIPT, "many", place / "plan.json", cwd=place, env=environment)
    assert [one.returncode for one in done] == [0, -signal.SIGKILL], done[0].stderr[-3000:]
    plan = [
        {"recipe": lengthen(place, "shared", **SHARED), **output},
        {"recipe": lengthen(place, "out of order", **SHARED), **output, "harm": "slices"},
        killed,
        {"recipe": lengthen(place, "shared and split", split_weights=True, **SHARED), **output},
        {"recipe": pretrain(place, "new shared", **SHARED), **output},
    ]
    return told_by_two(plan, place)


@pytest.fixture(scope="module")
def alone(place: Path) -> None:
    """The same rows in one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(place / "cache"))
        for recipe in (lengthen(place, "alone"), pretrain(place, "new alone")):
            luthier.run(recipe, output=place / "runs")


def stage_of(place: Path, name: str) -> Path:
    (folder,) = (place / "runs" / name).glob("00-*")
    return folder


def weights(place: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(stage_of(place, name) / "model" / "model.safetensors")


def metrics(place: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((stage_of(place, name) / "metrics.json").read_text())
    return found


def logged(place: Path, name: str, what: str) -> list[float]:
    return [line[what] for line in read_log(stage_of(place, name) / "log.jsonl") if what in line]


@pytest.mark.parametrize(
    ("one", "several"), [("alone", "shared"), ("alone", "shared and split"), ("new alone", "new shared")]
)
@pytest.mark.usefixtures("alone", "told")
def test_processes_that_share_rows_train_as_one(place: Path, one: str, several: str):
    expected, found = weights(place, one), weights(place, several)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert metrics(place, several)["scores"] == pytest.approx(metrics(place, one)["scores"], rel=1e-6)
    for what in ("loss", "grad_norm"):
        assert logged(place, several, what) == pytest.approx(logged(place, one, what), rel=1e-5)
    for what in ("tokens", "flops", "text"):
        assert metrics(place, several)["details"].get(what) == metrics(place, one)["details"].get(what)
    assert "luthier" not in (stage_of(place, several) / "model" / "config.json").read_text()


@pytest.mark.usefixtures("told")
def test_a_run_that_was_killed_ends_bit_for_bit_as_one_that_was_not(place: Path):
    expected, found = weights(place, "shared"), weights(place, "killed")
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    for what in ("scores", "details"):
        told = [metrics(place, name)[what] for name in ("killed", "shared")]
        assert told[0].get("text") == told[1].get("text")
    assert metrics(place, "killed")["scores"] == metrics(place, "shared")["scores"]
    log = read_log(stage_of(place, "killed") / "log.jsonl")
    assert [line["step"] for line in log if line["event"] == "resume"] == [3]


def test_what_one_process_finds_before_training_ends_that_run_alone(told: Any):
    main, other = (process[1] for process in told)
    assert main["code"] == other["code"] == 4
    assert "LlamaForCausalLM gives other logits for slices of a row" in main["error"]


@pytest.mark.parametrize("stage", ["lengthen", "pretrain"])
def test_each_group_reads_rows_of_its_own(place: Path, stage: str, monkeypatch: pytest.MonkeyPatch):
    """Of four processes each two read what one of two processes reads."""
    read: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for processes, size in ((2, 1), (4, 2)):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        for number in range(processes):
            monkeypatch.setenv("RANK", str(number))
            given: Any = {"lengthen": lengthen, "pretrain": pretrain}[stage](place, "run", context_parallel_size=size)
            read[processes, number] = first_rows(stage, given["stages"][0][stage])
            assert (own_group(size), own_slices(size).number) == divmod(number, size)
    assert [row["row"] for row in read[2, 0]] == [0, 1, 4, 5]
    for number in range(4):
        for row, expected in zip(read[4, number], read[2, number // 2], strict=True):
            assert row["row"] == expected["row"]
            assert (row["input_ids"] == expected["input_ids"]).all()


def first_rows(name: str, given: dict[str, Any]) -> list[dict[str, Any]]:
    """Four rows of this process."""
    if name == "lengthen":
        text: Any = long_text(Lengthen.model_validate(given), word_pieces(), LENGTH)
        text = dataclasses.replace(text, steps=STEPS)
    else:
        stage, size = Pretrain.model_validate(given), given["context_parallel_size"]
        config = LlamaConfig(**SIZES)
        text = text_job(stage, word_pieces(), config, masked=False, seed=0, context_parallel_size=size)
    return list(itertools.islice(text.stream(0), 4))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"length": 68}, r"8 equal pieces.*68 tokens"),
        ({"curriculum": [{"length": 4, "share": 0.5}]}, "greater than or equal to 8"),
        ({"length": 48, "curriculum": [{"length": 12, "share": 0.5}]}, "12 tokens can't be cut"),
        ({"document_attention": "mask"}, "set `document_attention: varlen`"),
        ({"context_parallel_size": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, given: dict[str, Any], said: str):
    stage = lengthen(tmp_path, "run", context_parallel_size=4)["stages"][0]["lengthen"]
    with pytest.raises(ValidationError, match=said):
        Lengthen.model_validate({**stage, **given})


def test_processes_that_do_not_fit_are_refused_before_anything_runs(place: Path):
    content = lengthen(place, "too few", **SHARED)
    with pytest.raises(RecipeError, match=r"(?s)among 2 processes.*run is of one.*torchrun --nproc_per_node 2"):
        luthier.run(content, output=place / "runs")
    stage = Lengthen.model_validate(content["stages"][0]["lengthen"])
    stage.check_processes(4)
    with pytest.raises(RecipeError, match="this run is of 3"):
        stage.check_processes(3)
    assert "context_parallel_size" not in TextSettings.model_fields


def test_models_that_can_not_share_rows_are_refused_before_anything_runs(place: Path):
    text = {"corpus": str(place / "train.txt"), "length": 32, **SHARED}
    with pytest.raises(ValidationError, match="causal language models alone"):
        Pretrain.model_validate({**text, "objective": "masked"})
    encoder = pretrain(place, "encoder", **SHARED, architecture={"model_type": "bert"})
    with pytest.raises(LuthierError, match="causal language models alone"):
        luthier.run(encoder, output=place / "runs")
    with pytest.raises(ModelError, match="the attention of BloomForCausalLM is eager"):
        refuse_to_share_rows(BloomForCausalLM(BloomConfig(hidden_size=16, n_layer=1, n_head=2)), 2, 32)
    sizes = SIZES | {"layer_types": ["conv", "full_attention"]}
    with pytest.raises(ModelError, match="layers of conv, which need the whole row"):
        refuse_to_share_rows(Lfm2ForCausalLM(Lfm2Config(**sizes)), 2, 32)
    window = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=16))
    with pytest.raises(ModelError, match="attends to 16 tokens, and rows of 32"):
        refuse_to_share_rows(window, 2, 32)
    refuse_to_share_rows(window, 2, 16)
    refuse_to_share_rows(window, 1, 32)


def test_the_dry_run_tells_what_each_process_has(place: Path, capsys: pytest.CaptureFixture[str]):
    memory = {}
    for size in (1, 2):
        (place / "plan.json").write_text(json.dumps(lengthen(place, "plan", context_parallel_size=size)))
        assert main(["plan", str(place / "plan.json"), "--output", str(place / "runs")]) == 0
        memory[size] = " ".join(capsys.readouterr().out.split())
    assert "each shared by 2 processes, 32 of 64 tokens in each, with keys and values of all" in memory[2]
    assert "6 steps, 768 tokens" in memory[1]
    assert "6 steps, 768 tokens" in memory[2]
    assert "shared by" not in memory[1]
