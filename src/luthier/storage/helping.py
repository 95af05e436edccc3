"""Work of the main process in which the other processes of a run help: the passes of one model over many batches.

The main process decides what is to be done (`helped`); the others wait for shares of it (`each`). So only the passes
are shared, what is made of them is the main process's, and it does not matter what the others would have decided.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from luthier.storage.ranks import (
    OtherProcessError,
    all_know,
    collected,
    dealt,
    described,
    is_main,
    is_out_of_step,
    world_size,
)

T = TypeVar("T")
R = TypeVar("R")
# Batches that a process gets at a time.
_SHARE = 4


@dataclass
class _Helped:
    """The model that the others have as well, while they wait for work.

    Attributes:
        model: None where nobody waits.
        versions: of its weights: how often each was written to.
        in_step: whether all processes have to make each pass together.
    """

    model: Any = None
    versions: tuple[int, ...] = ()
    in_step: bool = False


_helped = _Helped()


def helped(work: Callable[[], T], model: Any, *, in_step: bool = False) -> T:
    """What `work` gives in the main process, in every process. Where it calls `each` for `model`, the others take their
    shares, each with its own copy of that model in evaluation mode.

    All processes of a run have to come here together. An error in any of them is an error of all.

    Args:
        work: what the main process does.
        model: this process's copy; all have the same weights.
        in_step: whether a pass takes all processes, each of which has a part of the model: then all make as many.

    Raises:
        OtherProcessError: the work failed in a process that is not this one.
    """
    if world_size() == 1:
        return work()
    if not is_main():
        given: T = _help(model)
        return given
    _helped.model, _helped.versions, _helped.in_step = model, _versions(model), in_step
    try:
        value = work()
    except Exception as error:
        if not is_out_of_step():
            dealt([("end", None, described(error))] * world_size())
            all_know(error)
        raise
    finally:
        _helped.model = None
    dealt([("end", value, None)] * world_size())
    return value


def each(function: Callable[[Any, T], R], model: Any, items: Iterable[T]) -> Iterator[R]:
    """`function(model, item)` for every item, in their order; shared out among the processes of a run where they wait
    for work with this model, as long as nobody writes to its weights.

    Args:
        function: one that pickle can send, with all that it holds; it leaves the model as it is.
        model: what it runs.
        items: what pickle can send; read as they are needed.

    Raises:
        OtherProcessError: another process failed in its share.
    """
    if _helped.model is not model or _helped.versions != _versions(model):
        for item in items:
            yield function(model, item)
        return
    left = iter(items)
    while some := list(itertools.islice(left, _SHARE * world_size())):
        fillers = some[-1:] * (-len(some) % world_size()) if _helped.in_step else []
        shares = [[*some, *fillers][number :: world_size()] for number in range(world_size())]
        own = dealt([("do", function, share) for share in shares])[2]
        answers = _answers(*_done(function, model, own))
        yield from (answers[i % world_size()][i // world_size()] for i in range(len(some)))


def _help(model: Any) -> Any:
    was_training = model.training
    model.eval()
    try:
        while True:
            order, what, rest = dealt(None)
            if order == "do":
                results, error = _done(what, model, rest)
                collected((results, None if error is None else described(error)))
                continue
            if rest is not None:
                raise all_know(OtherProcessError(*rest))
            return what
    finally:
        model.train(was_training)


def _done(function: Callable[[Any, T], R], model: Any, share: Sequence[T]) -> tuple[list[R], Exception | None]:
    try:
        return [function(model, item) for item in share], None
    except Exception as error:
        return [], error


def _answers(results: list[Any], error: Exception | None) -> list[list[Any]]:
    """What all processes made of their shares, in the main one.

    Raises:
        OtherProcessError: one of the others failed; or the error of the main one.
    """
    answers = collected((results, None))
    if error is not None:
        raise error
    for number, (_, failure) in enumerate(answers or []):
        if failure is not None:
            raise OtherProcessError(f"process {number}: {failure[0]}", failure[1])
    return [found for found, _ in answers or []]


def _versions(model: Any) -> tuple[int, ...]:
    return tuple(p._version for p in model.parameters())
