"""Comparisons by name: which parts of which stage a preset runs against each other."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.errors import RecipeError, nearest
from luthier.registry import discover


@dataclass(frozen=True)
class Preset:
    """A named comparison of the parts that one field of a stage can hold.

    Attributes:
        name: as recipes and the command line call it.
        stage: the stage whose field is varied.
        field: that field.
        parts: what it holds in turn where the recipe names none.
    """

    name: str
    stage: str
    field: str
    parts: tuple[str, ...]


_PRESETS: dict[str, Preset] = {}


def register_preset(preset: Preset) -> Preset:
    """Make a preset known; the module of its stage calls this.

    Raises:
        ValueError: the name is that of another preset.
    """
    if _PRESETS.setdefault(preset.name, preset) != preset:
        raise ValueError(f"the preset {preset.name!r} is registered twice, as {_PRESETS[preset.name]} and {preset}")
    return preset


def preset_named(name: str) -> Preset:
    """The preset of that name.

    Raises:
        RecipeError: there is none; names the nearest one.
    """
    discover()
    if name not in _PRESETS:
        guess = nearest(name, list(_PRESETS))
        raise RecipeError(
            f"there is no preset called {name!r}",
            fix=(f"did you mean {guess!r}? " if guess else "") + f"known: {', '.join(sorted(_PRESETS))}",
        )
    return _PRESETS[name]
