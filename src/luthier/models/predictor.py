"""What answers for a saved artefact: texts or the rows of a file in, answers out, and vectors where it makes them.

Nothing here imports torch; a predictor imports it when it is made.
"""

from __future__ import annotations

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
# Rows that are answered before they are kept. In the larger parts, rows of one length find each other.
_SMALL_PART, _FIRST_PART, _LARGEST_PART = 64, 256, 2048


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

    def embed(self, texts: Any, *, batch_size: int = 64, dtype: str = "float32") -> np.ndarray:
        """Vectors (N, D) of N texts, or of N (text, second text)."""
        raise self._cannot("makes no vectors")

    def _cannot(self, what: str) -> ModelError:
        return ModelError(f"what {self.made_by or 'its maker'} saved here {what}", where=str(self.run))


class RowPredictor(Predictor):
    """One that answers some rows of a file without the others, so that `predict --file --output` keeps what it has."""

    @property
    def one_by_one(self) -> bool:
        """Whether an answer takes long and gains nothing from other rows: then parts are small."""
        return False

    def predict_file(self, file: str | Path, *, batch_size: int = 64) -> list[Answer]:
        rows = self.rows_of_file(file)
        parts = in_parts(rows, lambda some: self.answers(some, batch_size), batch_size, one_by_one=self.one_by_one)
        return [answer for part in parts for answer in part]

    def rows_of_file(self, file: str | Path) -> Sequence[Any]:
        """What is asked about each row of a file, of JSON's types; unusable rows are told of here, where that is seen.

        Raises:
            DataError: the file can't be read, or has rows that can't be answered.
        """
        raise self._cannot("predicts nothing")

    def answers(self, rows: Any, batch_size: int) -> list[Answer]:
        """An answer to each of these rows."""
        raise self._cannot("predicts nothing")


def in_parts(
    rows: Sequence[Any],
    answer: Callable[[Any], Answers],
    batch_size: int,
    *,
    one_by_one: bool = False,
    told: str = "predicting",
) -> Iterator[Answers]:
    """Answer rows in parts, which depend on nothing but their number: the same rows have the same neighbours each time.

    Messages number rows from the first one of all, and what is told of rows that were cut is told of all at the end.

    Args:
        rows: all of a file.
        answer: some rows -> an answer for each.
        batch_size: rows in one forward pass; no part has fewer.
        one_by_one: parts stay small, in place of growing so that rows of one length find each other.
        told: what the bar says of it; a bar of this name that `answer` shows is shown in it.
    """
    from luthier.data.batches.notes import Parts

    start, size = 0, _SMALL_PART if one_by_one else _FIRST_PART
    parts = Parts(len(rows))
    with track(told, len(rows)) as bar:
        while start < len(rows):
            stop = min(start + max(size, batch_size), len(rows))
            with part_of(bar, start), parts.from_row(start):
                answers = answer(rows[start:stop])
            bar.update(stop)
            yield answers
            start, size = stop, size if one_by_one else min(2 * size, _LARGEST_PART)
    parts.tell()
