"""The `instruct` stage: from documents to a trained model, stopped anywhere, and what it tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

import luthier
from luthier.context.stage import Instruct
from luthier.errors import DataError, LuthierError
from luthier.generation.asking import Asking
from luthier.generation.records import Appending, read_records
from luthier.models.artifacts import load_artifact
from luthier.storage.jsonlines import read_log
from luthier.training.callbacks import LogCallback
from tests.context.instruction.conftest import CHAIN, chained, stage, tokenizer


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


def run(folder: Path, model: Path, settings: dict[str, Any], name: str = "run") -> Path:
    place = folder / f"{name}.yaml"
    place.write_text(json.dumps({"name": name, "model": str(model), "stages": [{"instruct": settings}]}))
    return Path(luthier.run(place, output=folder / "runs").folder) / "00-instruct"


def metrics(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, asker: Path, texts: Path) -> Path:
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("instructed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(folder / "cache"))
        return run(folder, asker, stage(texts))


def test_documents_become_samples_with_their_places(finished: Path):
    documents = {one["id"]: one for one in read_records(finished / "chunks/documents.jsonl")}
    samples = read_records(finished / "samples.jsonl")
    assert len(documents) == 12
    assert samples
    for one in samples:
        document = documents[one["document"]]
        assert (one["question"], one["answer"]) == ("w1 w2", "w7")
        assert document["text"].startswith(one["prompt"].split("\n\n")[0])
        assert one["held_out"] == document["held_out"]
        assert one["tokens"] <= 256
    assert {one["kind"] for one in samples} == {"normal", "short"}
    assert {one["held_out"] for one in samples} == {True, False}
    assert max(one["tokens"] for one in samples) == 256
    questions = read_records(finished / "questions/questions.jsonl")
    assert {"id", "kind", "question", "answer", "generator", "sampling", "text"} <= set(questions[0])


def test_what_it_tells(finished: Path):
    told = metrics(finished)
    details = told["details"]
    counts = details["synthesis"]
    assert list(counts) == ["documents", "parts", "with question and answer", "found right", "samples"]
    assert counts["parts"] == counts["with question and answer"] == counts["found right"] >= counts["samples"] > 12
    assert set(told["scores"]) == {"validation/answer_loss", "validation/input_loss"}
    titles = [one["title"] for one in details["sections"]]
    assert titles == ["From documents to samples", "What is learned", "Where the answers stand", "Samples"]
    (shown, *_) = details["sections"][3]["samples"]
    assert details["sections"][3]["text"].endswith("and found right.")
    assert shown["question"] == "w1 w2"
    assert shown["the part that was asked about"] in " ".join(
        one["text"] for one in read_records(finished / "chunks/chunks.jsonl")
    )
    losses = [line["loss"] for line in read_log(finished / "log.jsonl") if line["event"] == "log"]
    assert losses[-1] < losses[0]
    assert load_artifact(finished / "model")[2].max_length == 256


class StoppedError(Exception):
    pass


def same(folder: Path, other: Path) -> None:
    expected, found = (load_file(one / "model/model.safetensors") for one in (other, folder))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    for name in ("samples.jsonl", "questions/questions.jsonl", "verdicts/verdicts.jsonl"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()
    assert metrics(folder)["scores"] == metrics(other)["scores"]


def test_a_run_stopped_while_it_writes_and_while_it_trains_ends_as_one_never_stopped(
    tmp_path: Path, asker: Path, texts: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = stage(texts)
    settings["writing"]["backend"] = {"kind": "local", "batch_size": 32}
    add, calls = Appending.add, []

    def stopping(self: Appending, records: list[Any]) -> None:
        add(self, records[:3])
        calls.append(len(records))
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(Appending, "add", stopping)
        with pytest.raises(StoppedError):
            run(tmp_path, asker, settings)
    place = tmp_path / "runs/run/00-instruct"
    assert len(read_records(place / "questions/written.jsonl")) == 3

    def at_step_two(self: LogCallback, _args: Any, state: Any, _control: Any, **_more: Any) -> None:
        if state.global_step == 2:
            raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(LogCallback, "on_step_end", at_step_two, raising=False)
        with pytest.raises(StoppedError):
            run(tmp_path, asker, settings)

    def asked_again(*_: Any, **__: Any) -> Any:
        raise AssertionError("what was written is asked for again")

    monkeypatch.setattr(Asking, "writer_of", asked_again)
    same(run(tmp_path, asker, settings), finished)


def test_what_was_written_is_not_asked_for_again_where_only_the_training_changes(
    tmp_path: Path, asker: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
):
    run(tmp_path, asker, stage(texts, max_steps=1))
    asked: list[str] = []

    class AskedError(Exception):
        pass

    def ask(_self: Asking, _backend: Any, _model: Any, about: str) -> Any:
        asked.append(about)
        raise AskedError

    monkeypatch.setattr(Asking, "writer_of", ask)
    again = run(tmp_path, asker, stage(texts, max_steps=2))
    assert metrics(again)["details"]["steps"] == 2
    assert read_records(again / "questions/questions.jsonl")
    assert read_records(again / "verdicts/verdicts.jsonl")
    writing = {**stage(texts)["writing"], "temperature": 0.5}
    with pytest.raises(AskedError):
        run(tmp_path, asker, stage(texts, writing=writing, max_steps=1))
    assert asked == ["questions"]


def test_what_the_model_calls_wrong_is_dropped_unless_it_is_not_asked(tmp_path: Path, texts: Path):
    folder = tmp_path / "doubting"
    chained({**CHAIN, "Right:": "no", "no": "</s>"}).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    with pytest.raises(DataError, match="0 found right"):
        run(tmp_path, folder, stage(texts))
    writing = {**stage(texts)["writing"], "verify": False}
    told = metrics(run(tmp_path, folder, stage(texts, writing=writing, max_steps=1), "trusting"))
    assert "found right" not in told["details"]["synthesis"]
    assert told["details"]["sections"][3]["text"] == "Questions and answers that a model wrote."


def test_what_is_out_of_form_and_long_short_answers_are_dropped_with_the_reason(tmp_path: Path, texts: Path):
    folder = tmp_path / "wordy"
    chained({**CHAIN, "w7": "w8", "w8": "w9", "w9": "</answer>"}).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    writing = {**stage(texts)["writing"], "short_words": 2}
    done = run(tmp_path, folder, stage(texts, writing=writing, max_steps=1))
    questions = read_records(done / "questions/questions.jsonl")
    assert {one["dropped"] for one in questions if one["kind"] == "short"} == {"the short answer is long"}
    assert {one["dropped"] for one in questions if one["kind"] == "normal"} == {""}
    assert {one["kind"] for one in read_records(done / "samples.jsonl")} == {"normal"}
    chained({**CHAIN, "</question>": "</s>"}).save_pretrained(folder)
    with pytest.raises(DataError, match="0 with question and answer"):
        run(tmp_path, folder, stage(texts), "formless")


def test_lora_learns_them_too_and_accumulation_changes_nothing(tmp_path: Path, asker: Path, texts: Path):
    one = run(tmp_path, asker, stage(texts, method="lora", max_steps=2, batch_size=4, accumulation=1), "one")
    two = run(tmp_path, asker, stage(texts, method="lora", max_steps=2, batch_size=1, accumulation=4), "two")
    expected, found = (load_file(place / "model/adapter_model.safetensors") for place in (one, two))
    assert expected
    assert all(torch.allclose(value, found[name], atol=1e-6) for name, value in expected.items())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"length": 512}, "the model takes 256 tokens"),
        (
            {"length": 64, "writing": {"chunk_tokens": 40, "max_new_tokens": 30}},
            "for the document, and its parts have 40",
        ),
    ],
)
def test_what_does_not_fit_is_told(tmp_path: Path, asker: Path, texts: Path, more: dict[str, Any], said: str):
    with pytest.raises(LuthierError, match=said):
        run(tmp_path, asker, stage(texts, **more))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"short": None, "short_rows": 3}, "short_rows"),
        ({"length": 64, "writing": {"chunk_tokens": 64}}, "shorter than a sample"),
        ({"method": {"name": "prompt", "length": 4}}, "before the text"),
        ({"writing": {"chat": False, "backend": {"kind": "vllm"}}}, "in this process"),
        ({"documents": {"train": "a.txt", "shuffle": 5}}, "shuffle"),
        ({"documents": {"train": "a.txt", "held_out": 0}, "patience": 2}, "no document is held out"),
    ],
)
def test_settings_that_do_not_fit(texts: Path, more: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=said):
        Instruct.resolved().model_validate(stage(texts, **more))
