"""Named parts that a recipe can ask for, and how they are found.

A part registers itself when its module is imported. `discover()` imports, once, the modules `stage`, `task` and
`predictor` of every package in `luthier`, the module `settings` of every folder in such a package, every module of
`luthier.tasks`, and every module that an installed distribution names in the entry-point group `luthier.plugins`. So a
new method is one new folder and a new task one new file, here or in somebody else's package.
"""

from __future__ import annotations

import gc
import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from luthier.errors import RecipeError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes by the name that recipes use for them.

    Args:
        kind: what the entries are called in error messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, type[T]] = {}

    def register(self, entry: type[T]) -> type[T]:
        """Class decorator: file the class under the default of its `name` field.

        Raises:
            ValueError: another class already has that name.
        """
        name = _name_of(entry)
        known = self._entries.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (
            entry.__module__,
            entry.__qualname__,
        ):
            raise ValueError(f"{self.kind} {name!r} is registered twice: {known} and {entry}")
        self._entries[name] = entry
        return entry

    def get(self, name: str) -> type[T]:
        """The class filed under `name`.

        Raises:
            RecipeError: there is none; names the nearest one.
        """
        discover()
        if name not in self._entries:
            guess = nearest(name, self.names())
            raise RecipeError(
                f"there is no {self.kind} called {name!r}",
                fix=(f"did you mean {guess!r}? " if guess else "") + f"known: {', '.join(self.names())}",
            )
        return self._entries[name]

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        discover()
        return sorted(self._entries)

    def __iter__(self) -> Iterator[type[T]]:
        return iter(self._entries[name] for name in self.names())

    def __contains__(self, name: object) -> bool:
        discover()
        return name in self._entries


def _name_of(entry: type[Any]) -> str:
    fields = getattr(entry, "model_fields", None)
    name = fields["name"].default if fields and "name" in fields else getattr(entry, "name", None)
    if not isinstance(name, str) or not name:
        raise ValueError(f"{entry} needs a `name` before it can be registered")
    return name


STAGES: Registry[Any] = Registry("stage")
METHODS: Registry[Any] = Registry("tuning method")
OBJECTIVES: Registry[Any] = Registry("training objective")
SUITES: Registry[Any] = Registry("evaluation suite")
PREDICTORS: Registry[Any] = Registry("predictor")
TASKS: Registry[Any] = Registry("task")
_MODULES = ("stage", "task", "predictor")
_MANY_OBJECTS = 5000


@contextmanager
def classes_stay() -> Iterator[None]:
    """Look for no garbage inside the block, and not among what is there at its end until the next full collection:
    hundreds of classes are made there, and none of them goes away."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # What is frozen is counted one by one, so it is asked for only where there is much to gain.
        if gc.get_count()[0] > _MANY_OBJECTS and not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()  # now all objects belong to the oldest generation
        if enabled:
            gc.enable()


@cache
@classes_stay()
def discover() -> None:
    """Import everything that registers parts. No module imported here may import torch."""
    root = Path(__file__).parent
    for package in pkgutil.iter_modules([str(root)]):
        for module in pkgutil.iter_modules([str(root / package.name)]) if package.ispkg else ():
            name = f"luthier.{package.name}.{module.name}"
            if module.name in _MODULES:
                importlib.import_module(name)
            elif module.ispkg and (root / package.name / module.name / "settings.py").is_file():
                importlib.import_module(f"{name}.settings")
    import_folder("luthier.tasks")
    from importlib.metadata import entry_points

    for plugin in entry_points(group="luthier.plugins"):
        try:
            _import_plugin(plugin.module)
        except Exception as error:  # a plugin is any code
            of = f" of {plugin.dist.name}" if plugin.dist is not None else ""
            raise RecipeError(
                f"the plugin {plugin.name}{of} can't be imported: {type(error).__name__}: {error}",
                fix="mend or uninstall what brings it",
            ) from error


def import_plugins(names: Iterable[str]) -> dict[str, str]:
    """Import the modules that a recipe names as its plugins; gives those that can't be, with what they raised.

    All else is registered before, so that of two parts of one name the plugin's is the one too many.
    """
    failed, names = {}, list(names)
    if names:
        discover()
    for name in names:
        try:
            _import_plugin(name)
        except Exception as error:  # a plugin is any code
            failed[name] = f"{type(error).__name__}: {error}"
    return failed


def _import_plugin(name: str) -> None:
    try:
        importlib.import_module(name)
    except SystemExit as error:
        raise ImportError(f"it ends the program with sys.exit({error.code!r})") from error


def import_folder(package: str) -> None:
    """Import every module of a package, so that the parts in it register themselves."""
    module = importlib.import_module(package)
    for found in pkgutil.iter_modules(module.__path__):
        importlib.import_module(f"{package}.{found.name}")


class Context(dict[str, Any]):
    """A mapping that can be part of a type: `typing` hashes the members of a union."""

    __hash__ = object.__hash__  # type: ignore[assignment]


class NameIn:
    """Annotates a recipe field that holds the name of one part of a registry."""

    def __init__(self, registry: Registry[Any]) -> None:
        self.registry = registry

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "string", "enum": self.registry.names()}

    def _known(self, name: str) -> str:
        from pydantic_core import PydanticCustomError

        if name in self.registry:
            return name
        kind, known = self.registry.kind, Context(known=self.registry.names(), kind=self.registry.kind)
        raise PydanticCustomError("unknown_part", "there is no " + kind + " called that", known)


def one_of(registry: Registry[Any]) -> Any:
    """The type of a recipe field that holds one part of a registry.

    A recipe writes the part's name alone, or a mapping with its `name` and settings.
    """
    from typing import Annotated, Literal, Union

    from pydantic import BeforeValidator, Discriminator, Tag

    members: Any = tuple(Annotated[entry, Tag(_name_of(entry))] for entry in registry)
    union: Any = Union[members]  # noqa: UP007
    name: Any = Literal[tuple(registry.names())]
    written: Any = Union[name, Union[tuple(registry)]]  # noqa: UP007
    return Annotated[
        union,
        Discriminator(
            lambda value: value.get("name") if isinstance(value, dict) else getattr(value, "name", None),
            custom_error_type="unknown_part",
            custom_error_message="there is no " + registry.kind + " called that",
            custom_error_context=Context(known=registry.names(), kind=registry.kind),
        ),
        BeforeValidator(
            lambda value: {"name": value} if isinstance(value, str) else value, json_schema_input_type=written
        ),
    ]
