"""The predictor of models with the head of a task, and of language models."""

from __future__ import annotations

from pathlib import Path

from luthier.models.predictor import Answer, Predictor
from luthier.registry import PREDICTORS


@PREDICTORS.register
class TaskModelPredictor(Predictor):
    """Asks a model that was tuned on one task in the columns that it was trained on."""

    name = "task_model"
    made_by = "a tune stage"

    def __init__(self, run: str | Path) -> None:
        from luthier.models.artifacts import load_artifact

        super().__init__(run)
        self.model, self.tokenizer, self.card = load_artifact(run)

    def predict_texts(
        self, texts: list[str] | str, pairs: list[str] | str | None = None, *, batch_size: int = 64
    ) -> list[Answer]:
        from luthier.prediction.rows import rows_of_texts

        return self._answers(rows_of_texts(texts, pairs, self.card, str(self.run)), batch_size)

    def predict_file(self, file: str | Path, *, batch_size: int = 64) -> list[Answer]:
        from luthier.prediction.rows import rows_of_file

        return self._answers(rows_of_file(str(file), self.card), batch_size)

    def _answers(self, rows: list[Answer], batch_size: int) -> list[Answer]:
        from luthier.prediction.texts import answers_of

        return answers_of(self.model, self.tokenizer, self.card, rows, batch_size)
