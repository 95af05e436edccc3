"""What tasks share whose rows are lists of words."""

from __future__ import annotations

from typing import ClassVar

from luthier.errors import DataError
from luthier.tasks.base import Row, Task


class TaskOnWords(Task):
    """A task whose rows hold `tokens`, a list of words."""

    columns: ClassVar[tuple[str, ...]] = ("tokens",)
    one_output: ClassVar[bool] = False

    def words_of(self, text: str) -> Row:
        """A text that the user gave as a row: `tokens`, none where it has no words, and what else belongs to it."""
        return {"tokens": text.split()}

    def row_of_text(self, column: str, text: str, number: int) -> Row | None:
        if column != "tokens":
            return super().row_of_text(column, text, number)
        row = self.words_of(text)
        if not row["tokens"]:
            raise DataError(f"text {number} holds no words", fix="give words that are parted by blanks")
        return {"text": text, **row}
