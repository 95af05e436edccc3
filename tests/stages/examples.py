"""Stages as a plugin brings them: no model in and something else out, several models in and out, nothing out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from luthier.stages import Port, Reference, Stage, StageInputs, StageOutputs, metrics_record, register_kind

register_kind("wordlist", "a list of words", is_model=False)
RAN: list[str] = []


class Words(Stage):
    """Writes a list of words."""

    name: ClassVar[str] = "words"
    summary: ClassVar[str] = "write words"
    ports: ClassVar[Mapping[str, Port]] = {}
    products: ClassVar[Mapping[str, tuple[str, ...]]] = {"list": ("wordlist",)}

    words: list[str] = Field(default_factory=lambda: ["fine"], description="The words.")

    def run(self, inputs: StageInputs, folder: Path) -> StageOutputs:
        RAN.append("words")
        place = folder / "list"
        place.mkdir(exist_ok=True)
        (place / "words.json").write_text(json.dumps(self.words))
        return StageOutputs(metrics_record("words"), {"list": place})


class Twins(Stage):
    """Copies two models."""

    name: ClassVar[str] = "twins"
    summary: ClassVar[str] = "copy two models"
    ports: ClassVar[Mapping[str, Port]] = {
        "elder": Port(("pretrained", "task")),
        "younger": Port(("task",)),
        "list": Port(("wordlist",), optional=True),
    }
    products: ClassVar[Mapping[str, tuple[str, ...]]] = {"elder": ("task",), "younger": ("task",)}

    elder: Reference = Field(None, description="One model.")
    younger: Reference = Field(None, description="Another model.")
    list: Reference = Field(None, description="Words.")

    def run(self, inputs: StageInputs, folder: Path) -> StageOutputs:
        RAN.append("twins")
        made = {}
        for name in ("elder", "younger"):
            made[name] = folder / name
            shutil.rmtree(made[name], ignore_errors=True)
            shutil.copytree(inputs.artifacts[name].folder, made[name])
        words = inputs.artifacts.get("list")
        details: dict[str, Any] = {} if words is None else {"words": (words.folder / "words.json").read_text()}
        return StageOutputs(metrics_record("twins", details=details), made)


class Look(Stage):
    """Takes a task model and gives nothing."""

    name: ClassVar[str] = "look"
    summary: ClassVar[str] = "look at a model"
    ports: ClassVar[Mapping[str, Port]] = {"model": Port(("task",))}

    model: Reference = Field(None, description="The model.")
    how: str = Field("closely", description="How.")

    def run(self, inputs: StageInputs, folder: Path) -> StageOutputs:
        RAN.append("look")
        return StageOutputs(metrics_record("look", details={"model": str(inputs.artifacts["model"].folder)}))


STAGES_HERE: dict[str, type[Stage]] = {stage.name: stage for stage in (Words, Twins, Look)}
