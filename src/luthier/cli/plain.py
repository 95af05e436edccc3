"""Text and tables for the terminal without rich: to import and run it takes a fourth of the time of `luthier list`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from itertools import zip_longest
from textwrap import wrap

from luthier.secrets import redact

_WIDTH_IN_A_PIPE = 110
_GAP = "  "
_NARROWEST = 8


def show(lines: Sequence[str]) -> None:
    """Write lines to standard output, secrets in them blotted out."""
    sys.stdout.write(redact("\n".join(lines)) + "\n")


def paragraphs(*texts: str) -> list[str]:
    """Lines of the texts, no wider than the terminal."""
    return [part for text in texts for line in text.splitlines() for part in _wrapped(line, width())]


def bold(text: str) -> str:
    """The text in bold letters where a terminal shows it."""
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" else text


def width() -> int:
    """Columns of the terminal; enough for a table in a pipe."""
    columns = shutil.get_terminal_size().columns
    return columns if sys.stdout.isatty() else max(columns, _WIDTH_IN_A_PIPE)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table as wide as the terminal at most: cells are wrapped, but for those of the first column."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    room = width() - len(_GAP) * (len(widths) - 1)
    while sum(widths) > room and max(widths[1:]) > _NARROWEST:
        widest = max(range(1, len(widths)), key=widths.__getitem__)
        widths[widest] -= 1
    head, *body = ([_wrapped(cell, w) for cell, w in zip(row, widths, strict=True)] for row in (header, *rows))
    shown = [bold(line) for line in _side_by_side(head, widths)]
    return shown + [line for row in body for line in _side_by_side(row, widths)]


def _wrapped(text: str, columns: int) -> list[str]:
    return wrap(text, columns, break_on_hyphens=False) if len(text) > columns else [text]


def _side_by_side(cells: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    lines = zip_longest(*cells, fillvalue="")
    return [_GAP.join(part.ljust(w) for part, w in zip(line, widths, strict=True)).rstrip() for line in lines]
