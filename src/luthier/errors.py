"""Errors a user can act on: what was wrong, where, and what to do.

The command line prints these without a traceback and exits with `exit_code`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class LuthierError(Exception):
    """Base of every error that is meant for the user.

    Half of a surrogate pair, which no file and no terminal takes, is written as an escape wherever it was quoted from.

    Args:
        what: what was wrong, as one sentence.
        where: the file, row, column or recipe line it was found at.
        fix: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        what = _writable(what)
        where, fix = where and _writable(where), fix and _writable(fix)
        self.what, self.where, self.fix = what, where, fix
        lines = [f"{where}: {what}" if where else what]
        if fix:
            lines.append(f"  fix: {fix}")
        super().__init__("\n".join(lines))


class RecipeError(LuthierError):
    """The recipe can't be run as written."""

    exit_code = 2


class DataError(LuthierError):
    """A data source can't be read, or holds rows the task can't use."""

    exit_code = 3


class ModelError(LuthierError):
    """A model can't be found, is damaged, or is refused for safety."""

    exit_code = 4


class TrainingError(LuthierError):
    """Training stopped because going on would only waste time: NaN, inf, nothing to train."""

    exit_code = 5


class WorkspaceError(LuthierError):
    """The run directory can't be used: not writable, full, locked, or from another recipe."""

    exit_code = 6


class InterruptedRunError(LuthierError):
    """The run was asked to stop and left one whole checkpoint; the same command continues it."""

    exit_code = 75


class Refusals:
    """Several refusals told as one, so that a user mends all of them at once.

    `with refusals.next():` around each thing that may be refused, and `raise_all` behind the last. Errors that say
    nothing of what was given are raised at once.
    """

    def __init__(self) -> None:
        self._told: dict[str, LuthierError] = {}

    @contextmanager
    def next(self) -> Iterator[None]:
        try:
            yield
        except (RecipeError, DataError, ModelError, TrainingError) as error:
            self._told.setdefault(str(error), error)

    def raise_all(self) -> None:
        """Raises the only refusal, or one of the first's kind that says them all; nothing where there is none."""
        if not self._told:
            return
        first = next(iter(self._told.values()))
        if len(self._told) > 1:
            first.args = ("\n".join(self._told),)
        raise first


def _writable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def a_model(kind: str) -> str:
    """A kind of model with its article: `a bert model`, `an albert model`."""
    return f"{'an' if kind[:1] in 'aeio' else 'a'} {kind} model"


def nearest(word: str, known: list[str] | tuple[str, ...]) -> str | None:
    """The known word that a typo most likely meant, in whatever case, or None."""
    import difflib

    folded: dict[str, str] = {}
    for one in known:
        folded.setdefault(one.casefold(), one)
    found = difflib.get_close_matches(word.casefold(), list(folded), n=1, cutoff=0.5)
    return folded[found[0]] if found else None
