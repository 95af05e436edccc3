"""The cells of a comparison: every combination of the values a recipe lists."""

from __future__ import annotations

import copy
import hashlib
import itertools
import re
from collections.abc import Sequence
from typing import Any

from luthier.errors import RecipeError, nearest
from luthier.recipe.checking import checked, examined
from luthier.recipe.comparison import CompareSettings, SearchSettings
from luthier.recipe.overrides import set_key
from luthier.recipe.problem import Problem
from luthier.recipe.recipe import RecipeBase
from luthier.recipe.yaml_text import YamlText
from luthier.report.statistics import label_of, names_of, value_text

NOTHING_TO_CHOOSE_BY = "the comparison chooses by validation score, and the run has none"
GIVE_VALIDATION = "give data.validation or data.validation_fraction, and leave evaluate_every at `epoch` or a number"
# Of choices for the other keys of a search, tried before one is called wrong.
MOST_COMBINATIONS = 32
MOST_TOLD = 5
# Trials that a baseline is looked for among.
MOST_NAMED = 10_000


def cells(compare: CompareSettings) -> list[dict[str, Any]]:
    """Factors of every cell of a grid, `{key: value}`, the first key changing slowest."""
    keys = list(compare.over)
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*compare.over.values())]


def run_count(compare: CompareSettings | None) -> int:
    """How many runs a comparison has at most; 1 without one."""
    if compare is None:
        return 1
    return compare.search.trials if compare.search else len(cells(compare))


def cell_recipe(recipe: RecipeBase, factors: dict[str, Any]) -> RecipeBase:
    """The recipe of one cell: the grid's, with the factors set and without the grid.

    Raises:
        RecipeError: a factor's key leads nowhere, or the recipe is not valid with it.
    """
    return checked(cell_source(recipe, factors))


def cell_source(recipe: RecipeBase, factors: dict[str, Any]) -> YamlText:
    """The data of one cell's recipe.

    Raises:
        RecipeError: a factor's key leads nowhere.
    """
    data = recipe.model_dump(mode="json", exclude_unset=True)
    data.pop("compare", None)
    # A key that lies inside another one is set after it.
    for key, value in sorted(factors.items(), key=lambda item: item[0].count(".")):
        set_key(data, key, copy.deepcopy(value), "compare.over")
    return YamlText(f"compare ({cell_name(factors)})", data)


def cell_name(factors: dict[str, Any]) -> str:
    """A folder name for a cell: `method=lora,seed=13`."""
    parts = [f"{key.rpartition('.')[2]}={_short(value)}" for key, value in factors.items()]
    name = re.sub(r"[^A-Za-z0-9=,._+-]+", "-", ",".join(parts))
    exact = len({p.partition("=")[0] for p in parts}) == len(parts) and all(_plain(v) for v in factors.values())
    if exact and len(name) <= 100:
        return name
    digest = hashlib.sha256(repr(sorted(factors.items(), key=str)).encode()).hexdigest()[:8]
    return f"{name[:90]}-{digest}"


def _plain(value: Any) -> bool:
    return isinstance(value, int | float | str) and re.fullmatch(r"[A-Za-z0-9._+-]*", str(value)) is not None


def _short(value: Any) -> str:
    if isinstance(value, dict):
        named = value.get("name")
        rest = ",".join(f"{k}={v}" for k, v in value.items() if k != "name")
        return f"{named}({rest})" if named else rest
    return str(value)


def grid_problems(recipe: RecipeBase) -> list[Problem]:
    """What is wrong with the cells; of a preset, which leaves out what can't run, only where no cell can run."""
    if recipe.compare is None:
        return []
    own = [*_baseline_problems(recipe.compare), *_choice_problems(recipe, recipe.compare)]
    if recipe.compare.search is not None:
        return own + _search_problems(recipe, recipe.compare.search)
    tried = [(factors, cell_problems(recipe, factors)) for factors in cells(recipe.compare)]
    if recipe.compare.preset and not all(problems for _, problems in tried):
        return own
    return own + blamed(tried, "over")[:MOST_TOLD]


def _choice_problems(recipe: RecipeBase, compare: CompareSettings) -> list[Problem]:
    """That a comparison has nothing to choose by, where the settings that it leaves as they are tell."""
    varied = {
        part for key in (*compare.over, *(compare.search.space if compare.search else ())) for part in key.split(".")
    }
    if not compare.chooses or not varied.isdisjoint({"data", "split", "evaluate_every"}):
        return []
    data = None
    for stage in recipe.stage_list():
        if stage.may_validate(data):
            return []
        data = getattr(stage, "data", None) or data
    return [Problem(("compare", "search" if compare.search else "preset"), NOTHING_TO_CHOOSE_BY, GIVE_VALIDATION)]


def _baseline_problems(compare: CompareSettings) -> list[Problem]:
    """The baseline, where no line of the comparison can be called so; what a range draws can't be known."""
    wanted = compare.baseline
    if wanted is None:
        return []
    if compare.search is None:
        tried = [{key: value for key, value in factors.items() if key != "seed"} for factors in cells(compare)]
    else:
        if not all(isinstance(among, list) for among in compare.search.space.values()):
            return []
        ends = {key: among for key, among in compare.search.ends().items() if key != "seed"}
        chosen = itertools.islice(itertools.product(*ends.values()), MOST_NAMED)
        tried = [dict(zip(ends, values, strict=True)) for values in chosen]
    named = [names_of(label_of(factors), factors) for factors in tried]
    if any(wanted in names for names in named):
        return []
    shown = list(dict.fromkeys(value_text(value, exact=True) for factors in tried for value in factors.values()))
    guess = nearest(wanted, shown)
    fix = f"did you mean {guess!r}? " if guess else ""
    fix += f"name one of {', '.join(shown[:MOST_TOLD])}" if shown else "leave it out"
    return [Problem(("compare", "baseline"), f"no line of the comparison is called {wanted!r}", fix)]


def cell_problems(recipe: RecipeBase, factors: dict[str, Any]) -> list[Problem]:
    """What is wrong with the keys of one cell."""
    try:
        return examined(cell_source(recipe, factors))[1]
    except RecipeError as error:
        return [Problem((), error.what, error.fix)]


def blamed(tried: Sequence[tuple[dict[str, Any], Sequence[Problem]]], key: str) -> list[Problem]:
    """The problems of cells, each told once, with the factors that all cells which have it share.

    Args:
        tried: factors and problems of every cell.
        key: of `compare` that the factors stand under.
    """
    having: dict[tuple[Any, ...], tuple[Problem, list[dict[str, Any]]]] = {}
    for factors, problems in tried:
        for one in problems:
            having.setdefault((one.path, one.what, one.key), (one, []))[1].append(factors)
    return [_told_of(one, _shared(where), key, len(where)) for one, where in having.values()]


def _shared(having: list[dict[str, Any]]) -> dict[str, Any]:
    """The factors that several cells have in common."""
    return {k: v for k, v in having[0].items() if all(k in one and one[k] == v for one in having)}


def _told_of(problem: Problem, factors: dict[str, Any], key: str, count: int = 1) -> Problem:
    shown = ", ".join(f"{k}={_short(v)}" for k, v in factors.items())
    where = problem.key or ".".join(map(str, problem.path))
    what = f"{where}: {problem.what}" if where else problem.what
    what = f"with {shown}: {what}" if factors else f"in {count} cells: {what}"
    return Problem(("compare", *key.split(".")), what, problem.fix, kind=problem.kind)


def _search_problems(recipe: RecipeBase, search: SearchSettings) -> list[Problem]:
    """Choices, and ends of ranges, that are wrong with whatever is chosen for the other keys."""
    ends, problems = search.tried(), []
    for key, choices in ends.items():
        others = {k: v for k, v in ends.items() if k != key}
        for choice in choices:
            combinations = itertools.islice(itertools.product(*others.values()), MOST_COMBINATIONS)
            found = (
                cell_problems(recipe, {key: choice, **dict(zip(others, values, strict=True))})
                for values in combinations
            )
            first = next(found)
            if first and all(found):
                problems += [_told_of(one, {key: choice}, "search.space") for one in first]
    return problems[:MOST_TOLD]
