"""The typed recipe: its keys, and the class that knows every registered part."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Annotated, Any, Self, Union

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    create_model,
    field_validator,
    model_validator,
)

from luthier.recipe.comparison import CompareSettings
from luthier.recipe.yaml_text import dump_yaml
from luthier.registry import METHODS, OBJECTIVES, STAGES, SUITES, Context
from luthier.report.text import is_hidden, visible
from luthier.settings import Settings
from luthier.stages.artifacts import Reference
from luthier.stages.base import Stage
from luthier.stages.chaining import chain

RESERVED_NAMES = {"con", "prn", "aux", "nul"}
# Of a folder's name, on every usual file system.
MOST_BYTES = 255
# Between letters of Persian, Hindi and others, and within emoji.
_JOINERS = "\u200c\u200d"


class RecipeBase(Settings):
    """A whole recipe: a model, and the stages it goes through."""

    name: str = Field(description="Name of the run, and of its folder below `runs/`.", min_length=1, max_length=80)
    model: Reference = Field(
        None,
        description="Where to start: a hub id, a local directory, or `package:NAME` for weights inside an installed "
        "package; or a mapping with `reference` and more settings. It may be left out where no stage takes a model "
        "from outside.",
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
        if any(is_hidden(one) and one not in _JOINERS for one in name):
            raise ValueError(f"the name becomes a folder: no characters that can't be seen, as in {visible(name)!r}")
        if (size := len(name.encode())) > MOST_BYTES:
            raise ValueError(f"the name becomes a folder: it has {size} bytes, and may have {MOST_BYTES}")
        return name

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        chain(self.stage_list(), self.model)
        return self

    def stage_list(self) -> list[Stage]:
        """The stages in order, without the one-key mappings that the recipe wraps them in."""
        return [getattr(item, type(item).model_fields.__iter__().__next__()) for item in self.stages]

    def filled_in(self) -> Self:
        """The recipe with every value that its settings decide, which a run of it writes down."""
        items = [
            item.model_copy(update={next(iter(type(item).model_fields)): stage.filled_in()})
            for item, stage in zip(self.stages, self.stage_list(), strict=True)
        ]
        return self.model_copy(update={"stages": items})


def recipe_model(stages: Collection[str] = ()) -> type[RecipeBase]:
    """The recipe class, with every registered stage and method in its unions.

    Args:
        stages: the names of those that a recipe has, which the class is then limited to, since making it takes time
            for each of them; an empty one leaves it whole.
    """
    parts = (part for registry in (METHODS, OBJECTIVES, SUITES) for part in registry)
    known = STAGES.names()
    named = [name for name in known if name in stages]
    if len(named) == 1:  # a union has two members or more
        named.append(next(name for name in known if name not in named))
    return _recipe_model(tuple(named or known), tuple(known), (*STAGES, *parts))


# By the classes, since a module that is loaded anew defines others of the same names.
@lru_cache(maxsize=16)
def _recipe_model(names: tuple[str, ...], known: tuple[str, ...], parts: tuple[type[Any], ...]) -> type[RecipeBase]:
    items: Any = tuple(Annotated[_stage_item(name), Tag(name)] for name in names)
    union: Any = Annotated[
        Union[items],  # noqa: UP007
        Discriminator(
            stage_name,
            custom_error_type="unknown_part",
            custom_error_message="a stage is one key with its settings below it",
            custom_error_context=Context(known=list(known), kind="stage"),
        ),
    ]
    field: Any = (list[union], Field(description="What is done with the model, in order.", min_length=1))
    return create_model("Recipe", __base__=RecipeBase, __module__=__name__, stages=field)


def _stage_item(name: str) -> type[BaseModel]:
    stage: Any = STAGES.get(name).resolved()
    kind = Annotated[stage, BeforeValidator(lambda v: {} if v is None else v)]
    fields: dict[str, Any] = {name: (kind, Field(description=stage.summary))}
    return create_model(f"{name}_stage", __config__=ConfigDict(extra="forbid", frozen=True, defer_build=True), **fields)


def stage_name(value: Any) -> str | None:
    if isinstance(value, dict):
        return next(iter(value)) if len(value) == 1 else None
    return next(iter(type(value).model_fields), None) if isinstance(value, BaseModel) else None


def stage_names(data: Mapping[str, Any]) -> set[str]:
    """The names of the stages in a recipe that has not been checked."""
    stages = data.get("stages")
    return {str(name) for name in map(stage_name, stages if isinstance(stages, list) else ()) if name is not None}


def recipe_yaml(recipe: RecipeBase) -> str:
    """The recipe with every default filled in, as YAML that can itself be run."""
    return dump_yaml(recipe.model_dump(mode="json"))


def json_schema() -> dict[str, Any]:
    """JSON schema of recipes, for editors."""
    return recipe_model().model_json_schema()
