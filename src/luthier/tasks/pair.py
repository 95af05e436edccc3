"""Two texts a row, of one class."""

from __future__ import annotations

from typing import ClassVar

from luthier.registry import TASKS
from luthier.tasks.classes import ClassTask


@TASKS.register
class Pair(ClassTask):
    """Classifies pairs of texts."""

    name: ClassVar[str] = "pair"
    summary: ClassVar[str] = "pairs of texts with a class each"
    columns: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    prompt_columns: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    guess_rank: ClassVar[int | None] = 50
