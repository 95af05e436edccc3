"""What answers for a saved artefact: texts or the rows of a file in, answers out, and vectors where it makes them.

Nothing here imports torch; a predictor imports it when it is made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from luthier.errors import ModelError
from luthier.models.settings import Danger
from luthier.progress import part_of, track

if TYPE_CHECKING:
    import numpy as np

Answer = dict[str, Any]
Answers = TypeVar("Answers")
_FIRST_BATCHES, _PART_SECONDS = 4, 120


class Predictor:
    """A loaded artefact that can be asked. Subclasses are registered with `@PREDICTORS.register`, in the module
    `predictor` of a package or in that of a plugin, which imports no torch.

    A predictor answers for the artefacts whose card has its `name` as `method.name`. All others are task models.

    Args:
        run: a run, cell, stage or artefact directory.
        allow: `pickle` or `remote_code`, where the base of an adapter is refused without; as in a recipe's model.

    Raises:
        ModelError: it holds no whole artefact of this kind.
    """

    name: ClassVar[str]
    # What makes such artefacts, in words: "a represent stage".
    made_by: ClassVar[str] = ""
    embeds: ClassVar[bool] = False
    # What a text that it answers may look like, for the command that a finished run tells.
    example: ClassVar[str] = ""
    # Why no one prompt or prefix stands for the artefact, and what to do instead; for `luthier export`.
    why_not_exported: ClassVar[str] = ""
    instead_of_export: ClassVar[str] = ""

    def __init__(self, run: str | Path, allow: Collection[Danger] = ()) -> None:
        dangers: Any = [allow] if isinstance(allow, str) else allow
        self.run, self.allow = run, tuple(dangers)

    def predict_texts(
        self, texts: list[str] | str, pairs: list[str] | str | None = None, *, batch_size: int = 64
    ) -> list[Answer]:
        """One answer a text. See `luthier.prediction.predict_texts`."""
        raise self._cannot("predicts nothing")

    def predict_file(self, file: str | Path, *, batch_size: int = 64) -> list[Answer]:
        """One answer a row of a file. See `luthier.prediction.predict_file`."""
        raise self._cannot("predicts nothing")

    def answers_in_parts(self, file: str | Path, *, batch_size: int = 64, after: int = 0) -> Iterator[list[Answer]]:
        """The answers to a file's rows in their order, some at a time, without those to the first `after` rows. A kind
        of artefact that answers all rows together gives them all at once."""
        yield self.predict_file(file, batch_size=batch_size)[after:]

    def embed(self, texts: Any, *, batch_size: int = 64, dtype: str = "float32") -> np.ndarray:
        """Vectors (N, D) of N texts, or of N (text, second text)."""
        raise self._cannot("makes no vectors")

    def _cannot(self, what: str) -> ModelError:
        return ModelError(f"what {self.made_by or 'its maker'} saved here {what}", where=str(self.run))


class RowPredictor(Predictor):
    """One that answers some rows of a file without the others."""

    def predict_file(self, file: str | Path, *, batch_size: int = 64) -> list[Answer]:
        return self._answers(self._rows_of(file), batch_size)

    def answers_in_parts(self, file: str | Path, *, batch_size: int = 64, after: int = 0) -> Iterator[list[Answer]]:
        return in_parts(self._rows_of(file), lambda rows: self._answers(rows, batch_size), batch_size, after)

    def _rows_of(self, file: str | Path) -> Any:
        """What is asked about each row of a file."""
        raise self._cannot("predicts nothing")

    def _answers(self, rows: Any, batch_size: int) -> list[Answer]:
        """An answer to each of these rows."""
        raise self._cannot("predicts nothing")


def in_parts(
    rows: Sequence[Any], answer: Callable[[Any], Answers], batch_size: int, after: int, told: str = "predicting"
) -> Iterator[Answers]:
    """Answer rows in parts that grow until one takes minutes, so that little is lost where that is stopped.

    Args:
        rows: all of a file.
        answer: some rows -> an answer for each.
        batch_size: rows in one forward pass.
        after: the rows at the start that are left out.
        told: what the bar says of it; a bar of this name that `answer` shows is shown in it.
    """
    size, start = _FIRST_BATCHES * batch_size, after
    with track(told, len(rows)) as bar:
        while start < len(rows):
            began = time.monotonic()
            with part_of(bar, start):
                answers = answer(rows[start : start + size])
            start = min(start + size, len(rows))
            bar.update(start)
            if time.monotonic() - began < _PART_SECONDS / 2:
                size *= 2
            yield answers
