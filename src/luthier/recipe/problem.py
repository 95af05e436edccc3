"""One thing that is wrong with a recipe, and how all of them are told: in the order of the recipe's lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from luthier.errors import LuthierError, RecipeError

if TYPE_CHECKING:
    from luthier.recipe.yaml_text import Path, YamlText


@dataclass(frozen=True)
class Problem:
    """What is wrong at one place of a recipe.

    Attributes:
        path: keys that lead to it.
        what: the problem.
        fix: what to do about it.
        key: what the message calls the place; empty takes the path.
        line: of the recipe; None takes that of the path.
        kind: the error that it is, told alone.
    """

    path: Path
    what: str
    fix: str | None = None
    key: str = ""
    line: int | None = None
    kind: type[LuthierError] = RecipeError

    def told(self, source: YamlText) -> str:
        """Place, key, problem and fix, as a line or two. A key of the command line is its own place."""
        place = source.place(self.path) if self.line is None else f"{source.name}:{self.line}"
        key = self.key or ".".join(map(str, self.path)) or "recipe"
        line = f"{place}: {self.what}" if place == f"--set {key}" else f"{place}: {key}: {self.what}"
        return f"{line}\n  fix: {self.fix}" if self.fix else line


def refusal(problems: Sequence[Problem], source: YamlText) -> LuthierError:
    """The error that tells all problems in the order of their lines; of the kind of the first one."""
    ordered = sorted(problems, key=lambda one: source.order(one.path, one.line))
    told = list(dict.fromkeys(one.told(source) for one in ordered))
    many = "1 error" if len(told) == 1 else f"{len(told)} errors"
    return ordered[0].kind(f"{many} in the recipe\n" + "\n".join(told), where=source.name)
