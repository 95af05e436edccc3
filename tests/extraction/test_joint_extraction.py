"""The task from a file of annotated sentences to answers, under methods and objectives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.api import run
from luthier.prediction import predict_file, predict_texts
from tests.extraction.sentences import DOCUMENTS, LABELS, tiny_encoder, write


def recipe(folder: Path, **tune: Any) -> dict[str, Any]:
    train, test = write(folder / "train.json", DOCUMENTS), write(folder / "test.json", DOCUMENTS[:12])
    validation = write(folder / "validation.json", DOCUMENTS[::3])
    data = {"train": train, "validation": validation, "test": test, "task": "joint_extraction", "labels": LABELS}
    settings = {"data": data, "epochs": 1, "batch_size": 6} | tune
    stages = [{"tune": settings}, {"evaluate": {}}]
    return {"name": "own", "model": tiny_encoder(folder / "model"), "stages": stages}


def test_it_learns_thirty_sentences_and_tells_them(tmp_path: Path):
    tune = {"method": "full", "epochs": 40, "learning_rate": 3e-3, "head": {"max_span_size": 4}}
    run(recipe(tmp_path, **tune), output=tmp_path / "runs")
    folder = tmp_path / "runs" / "own"
    metrics = json.loads(next(folder.glob("**/*evaluate*/metrics.json")).read_text())
    scores = metrics["scores"]
    assert scores["test/entity_f1"] > 0.95
    assert scores["test/relation_strict_f1"] > 0.8
    tuned = json.loads(next(folder.glob("**/*tune*/metrics.json")).read_text())
    assert set(tuned["details"]["thresholds"]) == {"born", "employs", "seat", "married"}
    asked = write(tmp_path / "asked.json", [{"tokens": one["tokens"]} for one in DOCUMENTS[:12]])
    answers = predict_file(folder, asked)
    right = told = 0
    for answer, one in zip(answers, DOCUMENTS, strict=False):
        guessed = {(e["start"], e["end"], e["type"]) for e in answer["entities"]}
        known = {(e["start"], e["end"], e["type"]) for e in one["entities"]}
        right, told = right + len(guessed & known), told + len(guessed) + len(known)
    assert 2 * right / told == pytest.approx(scores["test/entity_f1"])
    answer = predict_texts(folder, "Anna Berg works for Nordic Paper .")[0]
    assert [(one["type"], one["start"], one["end"]) for one in answer["entities"]] == [("Person", 0, 2), ("Firm", 4, 6)]
    assert [(one["type"], one["head"], one["tail"]) for one in answer["relations"]] == [("employs", 1, 0)]
    assert all(0 < one["score"] <= 1 for one in answer["relations"])
