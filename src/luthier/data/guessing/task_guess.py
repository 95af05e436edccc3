"""A guess at what a sample of rows is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class TaskGuess:
    """A task, and the keys of the data block that name its columns.

    Attributes:
        task: as in recipes.
        keys: of the data block.
        said: what was found.
        doubts: what else it could be, and how to say so.
        shown: what a row's length is judged by: the columns that a model reads together.
        exchanges: whether rows hold conversations of several messages.
        labels: those that were seen, where the metrics go by them.
    """

    task: str
    keys: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    shown: tuple[str, ...] = ()
    exchanges: bool = False
    labels: list[str] = field(default_factory=list)


def renamed(names: Mapping[str, str | list[str] | None]) -> dict[str, Any]:
    """The names that are not the canonical ones already."""
    return {name: column for name, column in names.items() if column is not None and column != name}
