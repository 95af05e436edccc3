"""A stage: a tuned model gives a book that holds its answer to every word of a list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from luthier.registry import STAGES
from luthier.stages import Port, Reference, Stage, register_kind

register_kind("pocketbook", "a list of words with a label each", is_model=False)


@STAGES.register
class Pocket(Stage):
    """Asks a tuned model about words, and keeps its answers."""

    name: ClassVar[str] = "pocket"
    summary: ClassVar[str] = "keep a tuned model's answers to words"
    ports: ClassVar[Mapping[str, Port]] = {"model": Port(("task",), about="what is asked")}
    products: ClassVar[Mapping[str, tuple[str, ...]]] = {"model": ("pocketbook",)}
    runs: ClassVar[str] = "pocket_luthier.making:make_book"
    plans: ClassVar[str] = "pocket_luthier.making:plan_book"

    model: Reference = Field(None, description="The model to ask.")
    words: list[str] = Field(description="The words that it is asked about.", min_length=1)
