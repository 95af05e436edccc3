"""The gradient of a large matrix of which a step reads few rows: those rows alone, in place of a matrix of zeros.

Shapes: V rows, H width, R rows that a step read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

# Rows that are held one beside another before those of equal number are added up.
_PENDING = 1 << 16
_ATTRIBUTE = "_luthier_row_gradient"


class RowGradient:
    """Collects the gradient of a parameter (V, H) by rows.

    Attributes:
        before_reading: brings rows (any shape; None is all) up to the last step; who updates the parameter sets it.
    """

    def __init__(self) -> None:
        self.before_reading: Callable[[Tensor | None], None] | None = None
        self._ids: list[Tensor] = []
        self._values: list[Tensor] = []

    def reading(self, ids: Tensor | None = None) -> None:
        """Has to be called before rows of the parameter are read, with their numbers; None is all rows."""
        if self.before_reading is not None:
            self.before_reading(ids)

    def add(self, ids: Tensor, values: Tensor) -> None:
        """Add to the gradient of rows.

        Args:
            ids: (N,), with repetitions.
            values: (N, H).
        """
        self._ids.append(ids)
        self._values.append(values)
        if len(self._ids) > 1 and sum(map(len, self._ids)) > _PENDING:
            self._add_up()

    def whole(self) -> tuple[Tensor, Tensor] | None:
        """Rows (R,) in ascending order and their gradient (R, H), which may be changed in place; None without any."""
        if not self._ids:
            return None
        self._add_up()
        return self._ids[0], self._values[0]

    def clear(self) -> None:
        """Forget the gradient."""
        self._ids, self._values = [], []

    def _add_up(self) -> None:
        ids, places = torch.cat(self._ids).unique(return_inverse=True)
        values = torch.cat(self._values)
        self._ids = [ids]
        self._values = [values.new_zeros(len(ids), values.shape[1]).index_add_(0, places, values)]


def collect_by_rows(parameter: nn.Parameter) -> None:
    """From now on the gradient of this parameter is collected by rows, by those who read it with `looked_up` of
    `luthier.language_modeling.in_place`; nobody else may read it while it trains."""
    setattr(parameter, _ATTRIBUTE, RowGradient())


def row_gradient_of(parameter: Tensor) -> RowGradient | None:
    """Where the gradient of a parameter is collected by rows; None where it is a matrix."""
    found: RowGradient | None = getattr(parameter, _ATTRIBUTE, None)
    return found


def collects_by_rows(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether the gradient of one of them is collected by rows."""
    return any(True for _ in _by_rows(parameters))


def bring_up_to_date(parameters: Iterable[nn.Parameter]) -> None:
    """Give all rows of all parameters the values that they have by now; needed before anybody else reads them."""
    for _, rows in _by_rows(parameters):
        rows.reading()


def finish_collecting(parameters: Iterable[nn.Parameter]) -> None:
    """Bring all rows up to date, and leave the parameters as any others are."""
    for parameter, rows in list(_by_rows(parameters)):
        rows.reading()
        delattr(parameter, _ATTRIBUTE)


def holders_of_gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Tensors whose `.grad` are the gradients of the parameters: the parameters themselves, and a stand-in of R rows
    for one whose gradient is collected by rows. What scales their gradients scales those of the parameters."""
    held: list[Tensor] = []
    for parameter in parameters:
        rows = row_gradient_of(parameter)
        found = None if rows is None else rows.whole()
        if found is None:
            held.append(parameter)
            continue
        stand_in = torch.empty_like(found[1])
        stand_in.grad = found[1]
        held.append(stand_in)
    return held


def _by_rows(parameters: Iterable[nn.Parameter]) -> Iterator[tuple[nn.Parameter, RowGradient]]:
    for parameter in parameters:
        if (rows := row_gradient_of(parameter)) is not None:
            yield parameter, rows
