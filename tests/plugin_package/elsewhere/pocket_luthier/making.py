"""What the stage does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.models.artifacts import whole_artifact
from luthier.models.card import describe, write_card
from luthier.models.manifest import write_manifest
from luthier.prediction import predict_texts
from luthier.report import Section, SectionTable
from luthier.stages import StageInputs, StageOutputs, StagePlan, metrics_record

if TYPE_CHECKING:
    from pocket_luthier.stage import Pocket

TITLE = "Words in the pocket"


def make_book(stage: Pocket, inputs: StageInputs, folder: Path) -> StageOutputs:
    answers = predict_texts(inputs.artifacts["model"].folder, list(stage.words))
    book = {answer["text"]: answer["label"] for answer in answers}
    place = folder / "model"
    with whole_artifact(place) as scratch:
        (scratch / "book.json").write_text(json.dumps(book), encoding="utf8")
        write_card(scratch, describe(inputs.model, "encoder", method={"name": "pocketbook"}))
        write_manifest(scratch)
    section = Section(TITLE, table=SectionTable(("word", "label"), list(book.items())))
    details = {"sections": [section]}
    return StageOutputs(metrics_record("pocket", scores={"pocket/words": len(book)}, details=details), {"model": place})


def plan_book(stage: Pocket, inputs: StageInputs) -> StagePlan:
    return StagePlan({"words": str(len(stage.words))})
