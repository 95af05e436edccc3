"""Training on text: accumulation changes nothing, a killed run ends as one never killed, budgets end it, and held-out
scores are those of few-line references."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import TrainerCallback

from luthier.errors import DataError, RecipeError, WorkspaceError
from luthier.language_modeling import HeldOut, Masking, held_out_rows, text_job, training_job
from luthier.language_modeling.corpus_settings import CorpusSettings
from luthier.language_modeling.documents import Corpus
from luthier.language_modeling.packing import Frame
from luthier.language_modeling.settings import LanguageTrainingSettings
from luthier.language_modeling.stream import encoded_row
from luthier.storage.jsonlines import read_log
from luthier.storage.one_version import one_version
from luthier.training.job import TrainingJob, train
from luthier.training.weights import trainable_state
from tests.language_modeling.models import CAUSAL, MASKED, made, word_pieces
from tests.language_modeling.test_packing import texts


def write_text(folder: Path) -> tuple[Path, Path]:
    places = folder / "train.txt", folder / "held.txt"
    for place, seed in zip(places, (0, 1), strict=True):
        place.write_text("".join(f"{line}\n" for line in texts(200, seed)))
    return places


def job_of(
    folder: Path,
    *,
    kind: str = "bert",
    dropout: bool = False,
    seed: int = 3,
    samples: int | None = None,
    row_updates: bool | None = None,
    **more: Any,
) -> TrainingJob:
    folder.mkdir(parents=True, exist_ok=True)
    train_text, held = write_text(folder)
    given: dict[str, Any] = {
        "corpus": {"train": str(train_text), "validation": str(held), "shuffle": 40},
        "length": 16,
        "max_steps": 10,
        "batch_size": 4,
        "evaluate_every": 4,
        "checkpoint_every": 3,
        "log_every": 1,
        "learning_rate": 1e-2,
        "pseudo_perplexity_tokens": 5,
        **more,
    }
    model = made({**MASKED, **CAUSAL}[kind])
    if not dropout:
        model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    settings = LanguageTrainingSettings(**given)
    text = text_job(settings, word_pieces(), model.config, masked=kind in MASKED, seed=seed)
    places: dict[str, Any] = {"folder": folder / "checkpoints", "log": folder / "log.jsonl"}
    return training_job(text, model, seed=seed, samples=samples, row_updates=row_updates, **places)


def curve(folder: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read_log(folder / "log.jsonl") if line["event"] == "log"}


def close(one: Any, other: Any, tolerance: float = 1e-5) -> None:
    for name, value in trainable_state(one).items():
        torch.testing.assert_close(value, trainable_state(other)[name], atol=tolerance, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_eight_at_once_two_times_four_and_eight_times_one_are_the_same(tmp_path: Path, kind: str):
    jobs = []
    for batch, accumulation in ((8, 1), (4, 2), (1, 8)):
        jobs.append(
            job_of(tmp_path / str(batch), kind=kind, batch_size=batch, accumulation=accumulation, adam_epsilon=1e-3)
        )
        train(jobs[-1])
    close(jobs[0].model, jobs[1].model)
    close(jobs[0].model, jobs[2].model)
    first = curve(tmp_path / "8")
    assert len(first) == 10
    assert curve(tmp_path / "4") == pytest.approx(first, abs=1e-4)
    assert curve(tmp_path / "1") == pytest.approx(first, abs=1e-4)


def test_the_loss_of_a_step_is_the_mean_over_all_its_masked_tokens(tmp_path: Path):
    job = job_of(tmp_path, max_steps=1, accumulation=2, learning_rate=1e-9)
    rows = [row for row, _ in zip(job.data.rows, range(8), strict=False)]
    job = job_of(tmp_path / "again", max_steps=1, accumulation=2, learning_rate=1e-9)
    ids, labels = (torch.tensor(np.stack([row[name] for row in rows])) for name in ("input_ids", "labels"))
    logits = job.model(input_ids=ids).logits
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten()).item()
    train(job)
    assert curve(tmp_path / "again")[1] == pytest.approx(expected, abs=1e-4)


class KilledError(Exception):
    pass


class KillAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KilledError


@pytest.mark.parametrize("step", [2, 4, 8])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_killed_run_ends_as_one_never_killed(tmp_path: Path, kind: str, step: int):
    settings: dict[str, Any] = {"kind": kind, "dropout": True}
    straight = job_of(tmp_path / "a", **settings)
    expected = train(straight)
    with pytest.raises(KilledError):
        train(job_of(tmp_path / "b", **settings), [KillAt(step)])
    other = job_of(tmp_path / "b", **settings)
    found = train(other)
    assert (found.steps, found.best_step, found.scores) == (10, expected.best_step, expected.scores)
    for name, value in trainable_state(straight.model).items():
        assert torch.equal(value, trainable_state(other.model)[name]), name
    assert curve(tmp_path / "a") == curve(tmp_path / "b")


def test_it_learns(tmp_path: Path):
    job = job_of(tmp_path, max_steps=60, evaluate_every=20)
    before = job.validation.evaluate(job.model).scores
    result = train(job)
    assert result.scores["validation/loss"] < 0.8 * before["validation/loss"]
    assert result.scores["validation/pseudo_perplexity"] < before["validation/pseudo_perplexity"]


def test_drawn_tokens_train_it_and_leave_the_held_out_loss_exact(tmp_path: Path):
    whole, plain = (job_of(tmp_path / str(samples), samples=samples, max_steps=6) for samples in (20, None))
    before = whole.validation.evaluate(whole.model).scores["validation/loss"]
    train(plain)
    result = train(whole)
    assert curve(tmp_path / "20") != curve(tmp_path / "None")
    assert result.scores["validation/loss"] < before
    with pytest.raises(KilledError):
        train(job_of(tmp_path / "killed", samples=20, max_steps=6), [KillAt(5)])
    again = job_of(tmp_path / "killed", samples=20, max_steps=6)
    assert train(again).scores == result.scores
    close(again.model, whole.model, 0.0)
    held = held_out(tmp_path)
    labels, ids = (tensors(held.rows, name) for name in ("labels", "input_ids"))
    exact = F.cross_entropy(whole.model.eval()(input_ids=ids).logits.flatten(0, 1), labels.flatten())
    assert held.scores(whole.model)["loss"] == pytest.approx(exact.item(), abs=1e-5)


def test_tokens_end_it_and_are_counted(tmp_path: Path):
    job = job_of(tmp_path, max_steps=None, max_tokens=16 * 4 * 5 + 20)
    assert train(job).steps == 5


def test_a_pass_over_the_text_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    job = job_of(tmp_path, max_steps=None, epochs=0.5)
    tokenizer = word_pieces()
    tokens = sum(len(tokenizer(line, add_special_tokens=False)["input_ids"]) + 1 for line in texts(200, 0))
    assert job.settings.max_steps == math.ceil(0.5 * (tokens // 14) / 4)
    (note,) = (tmp_path / "cache" / "corpora").iterdir()
    assert json.loads(note.read_text())["tokens"] == tokens


def test_blocks_longer_than_the_model_takes_are_refused(tmp_path: Path):
    with pytest.raises(RecipeError, match="takes 64 tokens"):
        job_of(tmp_path, length=65)


# -- held-out text -----------------------------------------------------------------------------------------


def held_out(folder: Path, *, masked: bool = True, **more: Any) -> HeldOut:
    _, held = write_text(folder)
    tokenizer = word_pieces()
    masking = Masking.of(tokenizer, seed=int(more.pop("seed", 0))) if masked else None
    frame = Frame.of(tokenizer, 16, masked=masked)
    corpus = Corpus([str(held)], CorpusSettings(train=str(held)))
    rows = held_out_rows(corpus, tokenizer, frame, masking, share=None, most=20)
    mask = tokenizer.mask_token_id if masked else None
    return HeldOut(rows, shifted=not masked, mask_token=mask, batch_size=7, **more)


def tensors(rows: Any, name: str) -> torch.Tensor:
    return torch.tensor(np.stack([row[name] for row in rows]))


def test_held_out_rows_and_masks_are_the_same_for_every_seed(tmp_path: Path):
    one, other = held_out(tmp_path, seed=1), held_out(tmp_path, seed=2)
    assert len(one.rows) == 20
    for name in ("input_ids", "labels"):
        assert torch.equal(tensors(one.rows, name), tensors(other.rows, name))


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_held_out_loss_is_the_mean_over_all_predicted_tokens(tmp_path: Path, kind: str):
    model, held = made({**MASKED, **CAUSAL}[kind]).train(), held_out(tmp_path, masked=kind == "bert")
    model.eval()
    logits, labels = model(input_ids=tensors(held.rows, "input_ids")).logits, tensors(held.rows, "labels")
    if kind == "llama":
        logits, labels = logits[:, :-1], labels[:, 1:]
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten()).item()
    model.train()
    scores = held.scores(model)
    assert model.training
    assert scores["loss"] == pytest.approx(expected, abs=1e-5)
    assert scores.get("perplexity", math.exp(expected)) == pytest.approx(math.exp(expected), rel=1e-4)


def test_the_pseudo_perplexity_masks_one_token_at_a_time(tmp_path: Path):
    model, held = made(MASKED["bert"]), held_out(tmp_path, singles=10_000)
    total, count = 0.0, 0
    for row in held.rows:
        whole = np.where(row["labels"] == -100, row["input_ids"], row["labels"])
        for place in np.flatnonzero(row["labels"] != -100):
            seen = torch.tensor(whole)[None].clone()
            seen[0, place] = word_pieces().mask_token_id
            with torch.no_grad():
                chances = model(input_ids=seen).logits[0, place].log_softmax(-1)
            total, count = total - chances[whole[place]].item(), count + 1
    assert held.scores(model)["pseudo_perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)


@pytest.mark.parametrize(("share", "told"), [(1.0, "knows nothing of this text"), (0.5, "")])
def test_text_that_the_tokenizer_does_not_know_is_told(tmp_path: Path, share: float, told: str, caplog: Any):
    """Nothing of it would be guessed, at a loss of 0."""
    path = tmp_path / "other.txt"
    lines = ["the cat sat"] * 100 if share < 1 else []
    path.write_text("\n".join([*lines, *["ሰላም ለሁሉም ሰው"] * 100]))
    tokenizer = word_pieces()
    frame, corpus = Frame.of(tokenizer, 16, masked=True), Corpus([str(path)], CorpusSettings(train=str(path)))

    def rows() -> Any:
        return held_out_rows(corpus, tokenizer, frame, Masking.of(tokenizer), share=None, most=40)

    if told:
        with pytest.raises(DataError, match=told):
            rows()
    else:
        assert len(rows()) == 40
        assert "of the held-out tokens are unknown to the tokenizer" in caplog.text


def test_a_file_that_is_read_in_another_way_is_another_text(tmp_path: Path):
    prints = []
    for name in ("a.txt", "a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"text": "the cat"}\n')
        prints.append(Corpus([str(tmp_path / name)], CorpusSettings(train=str(tmp_path / name))).fingerprint())
    assert prints[0] != prints[1] == prints[2]


def test_held_out_text_that_changes_while_it_is_read_is_told(tmp_path: Path):
    path = tmp_path / "held.txt"
    path.write_text("the cat sat on the mat\n" * 40)
    tokenizer = word_pieces()
    frame, corpus = Frame.of(tokenizer, 16, masked=True), Corpus([str(path)], CorpusSettings(train=str(path)))

    def change(block: Any, number: int) -> Any:
        path.write_text("another text\n")
        return encoded_row(block, number, Masking.of(tokenizer))

    with one_version():
        corpus.fingerprint()
        with pytest.raises(WorkspaceError, match="changed while it was in use"):
            held_out_rows(corpus, tokenizer, frame, Masking.of(tokenizer), share=None, most=2, encode=change)


@pytest.mark.parametrize("end", ["", "\r"])
def test_lines_that_end_as_those_of_old_macs_are_told(tmp_path: Path, end: str):
    (tmp_path / "a.txt").write_bytes(b"one line\rtwo lines\rthree lines" + end.encode())
    corpus = Corpus([str(tmp_path / "a.txt")], CorpusSettings(train=str(tmp_path / "a.txt")))
    with pytest.raises(DataError, match="end with carriage returns alone"):
        list(corpus.documents())


def test_too_little_held_out_text_is_told(tmp_path: Path):
    path = tmp_path / "short.txt"
    path.write_text("the cat\n")
    tokenizer = word_pieces()
    frame, corpus = Frame.of(tokenizer, 16, masked=True), Corpus([str(path)], CorpusSettings(train=str(path)))
    with pytest.raises(DataError, match="fills no block"):
        held_out_rows(corpus, tokenizer, frame, Masking.of(tokenizer), share=None, most=4)
