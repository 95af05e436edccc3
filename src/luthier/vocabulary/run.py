"""Runs a `vocabulary` stage: the steps, the tokenizer's folder, and what is told of it."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.models.inspect import bytes_on_disk
from luthier.stages.base import StageOutputs, metrics_record
from luthier.storage.steps import Workspace
from luthier.vocabulary.building import build_vocabulary
from luthier.vocabulary.reporting import sections
from luthier.vocabulary.settings import VocabularySettings

if TYPE_CHECKING:
    from luthier.stages.base import StageInputs
    from luthier.vocabulary.stage import Vocabulary


def run_vocabulary(stage: Vocabulary, inputs: StageInputs, folder: Path) -> StageOutputs:
    """Build the tokenizer. What a stopped call finished of it is found again."""
    root = inputs.workspace or Workspace(folder, inputs.key)
    settings = VocabularySettings(**{name: getattr(stage, name) for name in VocabularySettings.model_fields})
    scratch = folder / ".writing-tokenizer"
    shutil.rmtree(scratch, ignore_errors=True)
    built = build_vocabulary(settings, scratch, seed=inputs.seed, workspace=Workspace(root.folder / "steps", root.key))
    place = folder / "tokenizer"
    shutil.rmtree(place, ignore_errors=True)
    scratch.rename(place)
    merged = built.about["merged"]
    languages = merged["languages"]
    scores = {
        "sample/tokens_a_letter": statistics.fmean(one["tokens_a_letter"] for one in languages.values()),
        "sample/unknown": statistics.fmean(one["unknown"] for one in languages.values()),
    }
    details = {
        "tokens": built.tokens,
        "pieces": merged["pieces"],
        "duplicates": merged["duplicates"],
        "clusters": list(built.clusters),
        "capacities": list(built.capacities),
        "sections": sections(built),
    }
    record = metrics_record(
        "vocabulary",
        scores=scores,
        primary="sample/tokens_a_letter",
        about={"sample/tokens_a_letter": "mean over languages, on lines that it was learned from"},
        cost={"bytes_on_disk": bytes_on_disk(place), **built.about["cost"]},
        details=details,
    )
    return StageOutputs(record, {"tokenizer": place})
