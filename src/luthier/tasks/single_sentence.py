"""One text a row, of one class."""

from __future__ import annotations

from typing import ClassVar

from luthier.registry import TASKS
from luthier.tasks.classes import ClassTask


@TASKS.register
class SingleSentence(ClassTask):
    """Classifies texts."""

    name: ClassVar[str] = "single_sentence"
    summary: ClassVar[str] = "texts with a class each"
    columns: ClassVar[tuple[str, ...]] = ("text",)
    prompt_columns: ClassVar[tuple[str, ...]] = ("text",)
    guess_rank: ClassVar[int | None] = 60
