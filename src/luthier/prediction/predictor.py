"""The predictor of models with the head of a task, and of language models."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.models.predictor import Answer, RowPredictor
from luthier.registry import PREDICTORS

if TYPE_CHECKING:
    from luthier.models.settings import Danger


@PREDICTORS.register
class TaskModelPredictor(RowPredictor):
    """Asks a model that was tuned on one task in the columns that it was trained on."""

    name = "task_model"
    made_by = "a tune stage"

    def __init__(self, run: str | Path, allow: Collection[Danger] = ()) -> None:
        from luthier.models.artifacts import saved_artifact

        super().__init__(run, allow)
        self.saved = saved_artifact(run, self.allow)
        self.card = self.saved.card

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        """Model and tokenizer, loaded when the first rows are there: what is wrong with rows is told before."""
        from luthier.models.placing import on_accelerator

        model, tokenizer, _ = self.saved.load()
        return on_accelerator(model), tokenizer

    @property
    def one_by_one(self) -> bool:
        from luthier.tasks.base import task_named
        from luthier.tasks.language import LanguageTask

        return isinstance(task_named(str(self.card.schema), self.card.text_form), LanguageTask)

    def predict_texts(
        self, texts: list[str] | str, pairs: list[str] | str | None = None, *, batch_size: int = 64
    ) -> list[Answer]:
        from luthier.prediction.rows import rows_of_texts

        return self.answers(rows_of_texts(texts, pairs, self.card, str(self.run)), batch_size)

    def rows_of_file(self, file: str | Path) -> list[Answer]:
        from luthier.prediction.rows import rows_of_file

        return rows_of_file(str(file), self.card)

    def answers(self, rows: list[Answer], batch_size: int) -> list[Answer]:
        from luthier.prediction.texts import answers_of

        return answers_of(*self.loaded, self.card, rows, batch_size)
