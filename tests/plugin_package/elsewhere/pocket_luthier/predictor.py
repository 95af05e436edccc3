"""Answers for the books that the stage makes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from luthier.models.predictor import Answer, Predictor
from luthier.registry import PREDICTORS


@PREDICTORS.register
class PocketbookPredictor(Predictor):
    """Gives a text the label that most of its words have in the book."""

    name = "pocketbook"
    made_by = "a pocket stage"

    def __init__(self, run: str | Path, allow: Collection[Any] = ()) -> None:
        from luthier.models.references import resolve

        super().__init__(run, allow)
        folder = resolve(str(run)).path
        assert folder is not None
        self.book = json.loads((folder / "book.json").read_text(encoding="utf8"))

    def predict_texts(self, texts: Any, pairs: Any = None, *, batch_size: int = 64) -> list[Answer]:
        texts = [texts] if isinstance(texts, str) else texts
        return [{"text": text, "pocket_label": self._label(text)} for text in texts]

    def predict_file(self, file: str | Path, *, batch_size: int = 64) -> list[Answer]:
        return self.predict_texts(Path(file).read_text(encoding="utf8").splitlines())

    def _label(self, text: str) -> str | None:
        counted = Counter(self.book[word] for word in text.split() if word in self.book)
        return counted.most_common(1)[0][0] if counted else None
