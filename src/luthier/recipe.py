"""The typed recipe: what a user writes, checked in one go, with every error named by line.

Loading a recipe imports neither torch nor transformers.
"""

from __future__ import annotations

import difflib
import itertools
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Self, Union, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from luthier.comparison import CompareSettings, SearchSettings, with_preset
from luthier.errors import RecipeError
from luthier.models.settings import ModelSettings
from luthier.registry import STAGES, Context
from luthier.settings import Settings
from luthier.stages import Stage
from luthier.yaml_text import YamlText, dump_yaml, parse_value, parse_yaml

RESERVED_NAMES = {"con", "prn", "aux", "nul"}
# Of choices for the other keys of a search, tried before one is called wrong.
MOST_COMBINATIONS = 32


def _as_it_is(value: Any) -> Any:
    """`ModelSettings` reads a plain string itself; this only carries what the JSON schema says of it."""
    return value


class RecipeBase(Settings):
    """A whole recipe: one model, and the stages it goes through."""

    name: str = Field(description="Name of the run, and of its folder below `runs/`.", min_length=1, max_length=80)
    model: Annotated[ModelSettings, BeforeValidator(_as_it_is, json_schema_input_type=str | ModelSettings)] = Field(
        description="Where to start: a hub id, a local directory, or `package:NAME` for weights inside an installed "
        "package; or a mapping with `reference` and more settings."
    )
    seed: int = Field(13, ge=0, lt=2**32, description="Seed of new parameters, dropout and the order of the data.")
    stages: list[Any]
    compare: CompareSettings | None = Field(None, description="Run a grid instead of one run, and compare.")
    plugins: list[str] = Field(
        default_factory=list,
        description="Python modules to import first, so that methods and stages defined there can be used.",
    )

    @field_validator("name")
    @classmethod
    def _name_is_one_folder(cls, name: str) -> str:
        odd = set(name) & set('/\\:*?"<>|\0')
        if odd or name.startswith(".") or name.lower() in RESERVED_NAMES or name != name.strip():
            raise ValueError("the name becomes a folder: no slashes, colons, wildcards, leading dot or outer blanks")
        return name

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        kind = "pretrained"
        for position, stage in enumerate(self.stage_list()):
            if kind not in stage.takes:
                raise ValueError(
                    f"stage {position} ({stage.name}) can't follow what comes before it: it takes "
                    f"{' or '.join(stage.takes)}, and gets {kind}"
                )
            kind = stage.gives or kind
        return self

    def stage_list(self) -> list[Stage]:
        """The stages in order, without the one-key mappings that the recipe wraps them in."""
        return [getattr(item, type(item).model_fields.__iter__().__next__()) for item in self.stages]


def recipe_model() -> type[RecipeBase]:
    """The recipe class with every registered stage and method in its unions."""
    return _recipe_model(tuple(STAGES.names()), _parts())


def _parts() -> tuple[str, ...]:
    from luthier.registry import METHODS, OBJECTIVES, SUITES

    return tuple(f"{r.kind}:{n}" for r in (METHODS, OBJECTIVES, SUITES) for n in r.names())


@lru_cache(maxsize=4)
def _recipe_model(names: tuple[str, ...], parts: tuple[str, ...]) -> type[RecipeBase]:
    items: Any = tuple(Annotated[_stage_item(name), Tag(name)] for name in names)
    union: Any = Annotated[
        Union[items],  # noqa: UP007
        Discriminator(
            _stage_name,
            custom_error_type="unknown_part",
            custom_error_message="a stage is one key with its settings below it",
            custom_error_context=Context(known=list(names), kind="stage"),
        ),
    ]
    field: Any = (list[union], Field(description="What is done with the model, in order.", min_length=1))
    return create_model("Recipe", __base__=RecipeBase, __module__=__name__, stages=field)


def _stage_item(name: str) -> type[BaseModel]:
    stage: Any = STAGES.get(name).resolved()
    kind = Annotated[stage, BeforeValidator(lambda v: {} if v is None else v)]
    fields: dict[str, Any] = {name: (kind, Field(description=stage.summary))}
    return create_model(f"{name}_stage", __config__=ConfigDict(extra="forbid", frozen=True), **fields)


def _stage_name(value: Any) -> str | None:
    if isinstance(value, dict):
        return next(iter(value)) if len(value) == 1 else None
    return next(iter(type(value).model_fields), None) if isinstance(value, BaseModel) else None


def load_recipe(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> RecipeBase:
    """Read and check a recipe file.

    Args:
        path: a YAML file.
        overrides: `a.b=value` texts, applied before checking; values are read as YAML.

    Raises:
        RecipeError: the file can't be read, or holds errors; all of them are listed, each with its line.
    """
    place = Path(path)
    try:
        text = place.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RecipeError("there is no such recipe", where=str(place), fix="`luthier init` writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"the recipe can't be read: {error}", where=str(place), fix="recipes are UTF-8 text"
        ) from error
    return check_recipe(parse_yaml(text, str(place)), overrides)


def check_recipe(source: YamlText, overrides: tuple[str, ...] | list[str] = ()) -> RecipeBase:
    """Check parsed YAML. See `load_recipe`."""
    import importlib

    if not isinstance(source.data, dict):
        raise RecipeError("a recipe is a mapping of keys to values", where=source.name, fix="`luthier init` writes one")
    problems = list(source.problems)
    for text in overrides:
        apply_override(source, text)
    for plugin in source.data.get("plugins") or []:
        try:
            importlib.import_module(str(plugin))
        except ImportError as error:
            problems.append(f"{source.place(('plugins',))}: plugins: {plugin} can't be imported: {error}")
    model = recipe_model()
    try:
        recipe = _expanded(model.model_validate(source.data), model)
        problems += _grid_problems(recipe, source)
    except ValidationError as error:
        problems += [_explain(detail, source, model) for detail in error.errors()]
    except RecipeError as error:
        problems.append(f"{source.place(('compare', 'preset'))}: compare.preset: {error}")
    if problems:
        many = "1 error" if len(problems) == 1 else f"{len(problems)} errors"
        raise RecipeError(f"{many} in the recipe\n" + "\n".join(problems), where=source.name)
    return recipe


def apply_override(source: YamlText, text: str) -> None:
    """Set one dotted key of parsed YAML, `a.b=value`; the value is read as YAML.

    Raises:
        RecipeError: no `=`, or a step of the key that is neither a mapping key nor a list index.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {text}: write key=value", fix="for example --set stages.0.tune.epochs=1")
    set_key(source.data, key.strip(), parse_value(value), f"--set {text}")
    source.override(tuple(_step(part) for part in key.strip().split(".")), f"--set {key.strip()}")


def set_key(data: Any, key: str, value: Any, where: str) -> None:
    """Set a dotted key inside nested mappings and lists. A method given by name alone makes room for its settings."""
    parts = key.split(".")
    for position, part in enumerate(parts[:-1]):
        data = _descend(data, part, ".".join(parts[: position + 1]), where)
    last = parts[-1]
    if isinstance(data, list):
        if not last.isdecimal() or int(last) >= len(data):
            raise RecipeError(f"{key}: the list has no item {last}", where=where, fix=f"items 0 to {len(data) - 1}")
        data[int(last)] = value
    elif isinstance(data, dict):
        data[last] = value
    else:
        raise RecipeError(f"{key} can't be set: {'.'.join(parts[:-1])} holds a plain value", where=where)


def _descend(data: Any, part: str, path: str, where: str) -> Any:
    if isinstance(data, list):
        if part.isdecimal() and int(part) < len(data):
            holder, key = data, int(part)
        else:
            raise RecipeError(f"{path}: the list has no item {part}", where=where, fix=f"items 0 to {len(data) - 1}")
    elif isinstance(data, dict):
        holder, key = data, part  # type: ignore[assignment]
        data.setdefault(part, {})
    else:
        raise RecipeError(f"{path} can't be set: what is above it holds a plain value", where=where)
    if holder[key] is None:
        holder[key] = {}
    if isinstance(holder[key], str) and part in ("method", "objective", "model"):
        holder[key] = {("reference" if part == "model" else "name"): holder[key]}
    return holder[key]


def _step(part: str) -> str | int:
    return int(part) if part.isdecimal() else part


def _expanded(recipe: RecipeBase, model: type[RecipeBase]) -> RecipeBase:
    """The recipe with the grid of its preset written out."""
    if recipe.compare is None or recipe.compare.preset is None:
        return recipe
    data = recipe.model_dump(mode="json", exclude_unset=True)
    return model.model_validate(with_preset(data, recipe.compare.preset, recipe.seed))


def _grid_problems(recipe: RecipeBase, source: YamlText) -> list[str]:
    """What is wrong with the cells; of a preset, which leaves out what can't run, only where no cell can run."""
    if recipe.compare is None:
        return []
    from luthier.grid import cells

    if recipe.compare.search is not None:
        return _search_problems(recipe, recipe.compare.search, source)
    tried = [(factors, _cell_problem(recipe, factors)) for factors in cells(recipe.compare)]
    wrong = [_told_of(factors, problem, "over", source) for factors, problem in tried if problem]
    return [] if recipe.compare.preset and len(wrong) < len(tried) else wrong[:5]


def _search_problems(recipe: RecipeBase, search: SearchSettings, source: YamlText) -> list[str]:
    """Choices, and ends of ranges, that are wrong with whatever is chosen for the other keys."""
    ends, problems = search.ends(), []
    for key, choices in ends.items():
        others = {k: v for k, v in ends.items() if k != key}
        for choice in choices:
            combinations = itertools.islice(itertools.product(*others.values()), MOST_COMBINATIONS)
            found = (
                _cell_problem(recipe, {key: choice, **dict(zip(others, values, strict=True))})
                for values in combinations
            )
            first = next(found)
            if first and all(found):
                problems.append(_told_of({key: choice}, first, "search.space", source))
    return problems[:5]


def _cell_problem(recipe: RecipeBase, factors: dict[str, Any]) -> str | None:
    from luthier.grid import cell_recipe

    try:
        cell_recipe(recipe, factors)
    except RecipeError as error:
        return error.what
    return None


def _told_of(factors: dict[str, Any], problem: str, key: str, source: YamlText) -> str:
    shown = ", ".join(f"{k}={v}" for k, v in factors.items())
    return f"{source.place(('compare', *key.split('.')))}: compare.{key}: with {shown}: {problem}"


def _explain(detail: ErrorDetails, source: YamlText, model: type[RecipeBase]) -> str:
    path, leaf = source.resolve(detail["loc"])
    key = ".".join(map(str, path)) or "recipe"
    message, fix = detail["msg"].removeprefix("Value error, "), None
    if detail["type"] == "extra_forbidden":
        known = known_keys(model, detail["loc"][:-1])
        guess = difflib.get_close_matches(str(leaf), known, n=1, cutoff=0.5)
        message = f"unknown key {leaf!r}"
        fix = f"did you mean {guess[0]!r}?" if guess else f"known keys: {', '.join(known)}"
    elif detail["type"] == "unknown_part":
        context = detail["ctx"]
        given = _stage_name(detail["input"]) if context["kind"] == "stage" else None
        given = given or (detail["input"].get("name") if isinstance(detail["input"], dict) else detail["input"])
        guess = difflib.get_close_matches(str(given), context["known"], n=1, cutoff=0.5)
        unnamed = isinstance(detail["input"], dict) and given is None
        message = "`name` is missing" if unnamed else f"there is no {context['kind']} called {given!r}"
        fix = (f"did you mean {guess[0]!r}? " if guess else "") + f"known: {', '.join(context['known'])}"
    elif detail["type"] == "missing":
        message, fix = f"{leaf!r} is missing", "add it"
        key = ".".join(map(str, [*path, leaf])) if not path or path[-1] != leaf else key
    elif detail["type"] not in ("value_error", "assertion_error"):
        message = f"{message}; the recipe gives {detail['input']!r}"
    line = f"{source.place(path)}: {key}: {message}"
    return f"{line}\n  fix: {fix}" if fix else line


def known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that are valid at a place of the recipe, found by walking the types along pydantic's location."""
    candidates: list[type[BaseModel]] = [model]
    for step in location:
        if isinstance(step, int):
            continue
        below = [c.model_fields[step].annotation for c in candidates if step in c.model_fields]
        if below:
            candidates = [m for annotation in below for m in _models_in(annotation)]
        else:
            candidates = [c for c in candidates if step == _tag(c)] or candidates
    return sorted({name for c in candidates for name in c.model_fields})


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("name")
    return field.default if field else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]


def recipe_yaml(recipe: RecipeBase) -> str:
    """The recipe with every default filled in, as YAML that can itself be run."""
    return dump_yaml(recipe.model_dump(mode="json"))


def json_schema() -> dict[str, Any]:
    """JSON schema of recipes, for editors."""
    return recipe_model().model_json_schema()
