"""What a recipe needs on this machine: its files, their columns, its models and extras; looked at without torch.

Relative paths are tried from the working directory first, then from the recipe's own folder.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from luthier.data.looks import Look, look_at
from luthier.data.schemas import TrainedOn
from luthier.data.settings import DataSettings
from luthier.data.sources.base import NO_SUCH_FILE
from luthier.data.text_form import REPLIES
from luthier.errors import LuthierError, RecipeError
from luthier.extras import how_to_install, is_installed
from luthier.models.references import resolve
from luthier.models.settings import ModelSettings
from luthier.models.stated import answers_need_a_writer, cannot_write, kind_without_text
from luthier.recipe.comparison import CompareSettings, SearchSettings, TuningPreset, varied_by
from luthier.recipe.grid import blamed, cell_recipe, cells
from luthier.recipe.overrides import place_of
from luthier.recipe.problem import Problem
from luthier.recipe.recipe import RecipeBase
from luthier.recipe.yaml_text import YamlText
from luthier.registry import STAGES
from luthier.secrets import expand, references
from luthier.settings import Settings
from luthier.stages.artifacts import KINDS, kind_of_folder
from luthier.stages.base import MODEL
from luthier.stages.chaining import ChainError, chain
from luthier.storage.nearby import did_you_mean
from luthier.storage.paths import is_there, user_path

Place = tuple[str | int, ...]
_NO_PATH = re.compile(r"(package|hub|data):|stages\.\d")
_OF_A_STAGE = 4  # stages, its position, its name, and the key of a block


def anchor(recipe: RecipeBase, source: YamlText) -> bool:
    """Put the recipe's folder before the relative paths that lead somewhere from there, and not from here.

    Returns:
        Whether a path was changed, in `source.data`.
    """
    folder = source.folder
    if folder is None:
        return False
    changed = [_replace(source, *found) for found in _found_beside(recipe, folder)]
    if recipe.compare is not None:
        changed += [_replace(source, *found) for found in _factors_beside(recipe, folder)]
    return any(changed)


def input_problems(recipe: RecipeBase, source: YamlText) -> list[Problem]:
    """What is missing on this machine for a recipe whose keys are valid, or for the cells of its comparison."""
    look = _Looks(source)
    if recipe.compare is None:
        return look.at_recipe(recipe)
    own = look.at(settings_in(recipe.compare, ("compare",)))
    tried = [(factors, look.at_recipe(cell)) for factors, cell in _cells(recipe)]
    if not tried or (recipe.compare.preset and not all(problems for _, problems in tried)):
        return own
    everywhere = [one for one in tried[0][1] if all(one in problems for _, problems in tried)]
    sometimes = [(factors, [one for one in problems if one not in everywhere]) for factors, problems in tried]
    return own + everywhere + blamed(sometimes, "search.space" if recipe.compare.search else "over")


def not_looked_at(recipe: RecipeBase) -> list[str]:
    """The models on the Hub that a recipe and the grid of its comparison name, which no check of inputs asks for."""
    over = recipe.compare.over if recipe.compare else {}
    tried = [one for key, values in over.items() if key.split(".")[-1] in ("model", "reference") for one in values]
    given = [settings for _, settings in settings_in(recipe) if isinstance(settings, ModelSettings)]
    given += [ModelSettings.model_validate(one) for one in tried if isinstance(one, str)]
    filled = [_filled_in(settings) for settings in given if not settings.reference.startswith("stages.")]
    sources = [resolve(settings) for settings in filled if not is_there(user_path(settings.reference))]
    return list(dict.fromkeys(source.hub_id or source.reference for source in sources if source.kind == "hub"))


def input_problems_of_blocks(source: YamlText) -> list[Problem]:
    """What is missing for the data and models of a recipe that has invalid keys elsewhere."""
    blocks = _blocks_in(source.data)
    return _Looks(source).at((place, _from_folder(settings, source.folder)) for place, settings in blocks)


def settings_in(value: Any, place: Place = ()) -> Iterator[tuple[Place, Settings]]:
    """All settings in a recipe, with the keys that lead to them, from the outer to the inner."""
    if isinstance(value, Settings):
        yield place, value
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from settings_in(getattr(value, name), (*place, name))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from settings_in(inner, (*place, key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from settings_in(inner, (*place, number))


class _Looks:
    """Looks at settings, and at the same ones only once."""

    def __init__(self, source: YamlText) -> None:
        self.source = source
        self.seen: dict[tuple[str, TrainedOn | None, bool], Look] = {}
        self.taught: dict[Place, Look] = {}

    def at_recipe(self, recipe: RecipeBase) -> list[Problem]:
        """What is missing for its settings, and which of its models can't learn from the rows."""
        self.taught = {}
        return self.at(settings_in(recipe)) + self._unfit_models(recipe)

    def _unfit_models(self, recipe: RecipeBase) -> list[Problem]:
        stages, problems = recipe.stage_list(), []
        try:
            links = chain(stages, recipe.model)
        except ChainError:
            return []  # told as such
        for position, (stage, link) in enumerate(zip(stages, (found.get(MODEL) for found in links), strict=True)):
            look = self.taught.get(("stages", position, stage.name, "data"))
            if look is None or look.read is None or len(stage.takes()) > 1:
                continue
            if link is None or link.stage is not None or link.outside is None:
                continue
            poses = look.read.task != REPLIES
            if poses and not getattr(getattr(stage, "data", None), "as_text", False):
                continue
            place: Place = ("model",)
            if stage.reference(MODEL) is not None:
                place = ("stages", position, stage.name, *stage.place_of(MODEL))
            if poses and (kind := kind_without_text(link.outside)):
                as_text: Place = ("stages", position, stage.name, "data", "as_text")
                problems.append(self._problem(as_text, answers_need_a_writer(kind)))
            elif not poses and (error := cannot_write(link.outside, exchanges=look.exchanges)):
                problems.append(self._problem(place, error))
        return problems

    def at(self, blocks: Iterator[tuple[Place, Settings]]) -> list[Problem]:
        problems: list[Problem] = []
        trained: TrainedOn | None = None
        for place, written in blocks:
            try:
                settings = _filled_in(written)
                problems += self._missing_extras(place, {**settings.extras(), **_extras_of_model(settings)})
            except LuthierError as error:
                problems.append(self._problem((*place, "reference"), error))
                continue
            problems += [self._problem((*place, name), error) for name, error in settings.missing()]
            if isinstance(settings, DataSettings):
                look = self._look(place, settings, trained)
                if _trains(place):
                    self.taught[place] = look
                trained = look.read if _trains(place) and len(place) == _OF_A_STAGE else trained
                problems += [self._problem((*place, key), error) for key, error in look.wrong]
        return problems

    def _look(self, place: Place, settings: DataSettings, trained: TrainedOn | None) -> Look:
        """What judges a model leaves to it how rows are read: of that only the model's own task says more."""
        if _trains(place):
            trained, whole = None, True
        else:
            whole = trained is not None and len(place) == _OF_A_STAGE
        key = (settings.model_dump_json(), trained, whole)
        if key not in self.seen:
            self.seen[key] = look_at(settings, trained, whole=whole)
        return self.seen[key]

    def _missing_extras(self, place: Place, extras: Mapping[str, str]) -> list[Problem]:
        return [
            Problem(
                self.source.resolve((*place, field) if field else place)[0],
                f"needs the extra {extra}, which is not installed",
                f"{how_to_install(extra)}, or do without it",
            )
            for extra, field in extras.items()
            if not is_installed(extra)
        ]

    def _problem(self, place: Place, error: LuthierError) -> Problem:
        what, fix, folder = error.what, error.fix, self.source.folder
        if what == NO_SUCH_FILE and error.where and folder is not None and folder.resolve() != Path.cwd():
            what += f" in {Path.cwd()}, or in {folder.resolve()}"
            fix = did_you_mean(folder / error.where.partition("!")[0]) or fix
        what = f"{error.where}: {what}" if error.where else what
        return Problem(self.source.resolve(place)[0], what, fix, kind=type(error))


def _extras_of_model(settings: Settings) -> dict[str, str]:
    """What the files of a model need; nothing of other settings, and of artefacts that are no models.

    Raises:
        ModelError: the model is no artefact of an earlier stage, and is not there.
    """
    if not isinstance(settings, ModelSettings) or settings.reference.startswith("stages."):
        return {}
    kind = kind_of_folder(user_path(settings.reference))
    if kind is not None and not KINDS[kind].is_model:
        return {}
    found = resolve(settings)
    return {"gguf": "reference"} if found.gguf_file is not None and settings.gguf_file is None else {}


def _filled_in(settings: Settings) -> Any:
    """The settings with what they take from the environment; not the settings inside, which are looked at as well, and
    not the values of a comparison, which its cells have."""
    if isinstance(settings, CompareSettings | SearchSettings | TuningPreset):
        return settings
    own = {name: getattr(settings, name) for name in type(settings).model_fields}
    taken = {name: value for name, value in own.items() if references(value)}
    return settings.model_copy(update=expand(taken)) if taken else settings


def _trains(place: Place) -> bool:
    """Whether a block of data belongs to a stage that gives something, and so is what that is made from."""
    name = place[2] if len(place) > 2 and place[0] == "stages" else None
    return isinstance(name, str) and name in STAGES and bool(STAGES.get(name).products)


def _cells(recipe: RecipeBase) -> Iterator[tuple[dict[str, Any], RecipeBase]]:
    """Factors and recipe of every cell; a preset leaves out what can't be."""
    assert recipe.compare is not None
    for factors in _factors(recipe):
        try:
            cell = cell_recipe(recipe, factors)
        except RecipeError:
            if not recipe.compare.preset:
                raise
        else:
            yield factors, cell


def _factors(recipe: RecipeBase) -> Sequence[dict[str, Any]]:
    """Of every cell of a grid; of a search, choices such that each end of a range and each value is among them."""
    assert recipe.compare is not None
    if recipe.compare.search is None:
        return cells(recipe.compare)
    ends = recipe.compare.search.ends()
    first = {key: choices[0] for key, choices in ends.items()}
    return [first, *({**first, key: choice} for key, choices in ends.items() for choice in choices[1:])]


def _blocks_in(value: Any, place: Place = ()) -> Iterator[tuple[Place, Settings]]:
    kinds: dict[Any, type[Settings]] = {"data": DataSettings, "model": ModelSettings}
    if isinstance(value, dict) and place[:1] != ("compare",):
        for key, inner in value.items():
            if key in kinds and inner is not None:
                try:
                    yield (*place, key), kinds[key].model_validate(inner)
                    continue
                except ValidationError:
                    pass  # told as such
            yield from _blocks_in(inner, (*place, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _blocks_in(inner, (*place, number))


def _beside(value: str, folder: Path) -> str | None:
    """A relative path, or pattern, as it is found from the recipe's folder; None where that is not needed, or does not
    help."""
    text, mark, member = value.partition("!")
    if _NO_PATH.match(value) or not text or user_path(text).is_absolute() or _can_be_found(text):
        return None
    found = str(folder / text)
    return f"{found}{mark}{member}" if _can_be_found(found) else None


def _found_beside(recipe: RecipeBase | None, folder: Path) -> Iterator[tuple[Place, str, str]]:
    """The paths of a recipe that lead somewhere from the folder alone: where they stand, and how they are found."""
    for place, settings in settings_in(recipe):
        for name in settings.path_fields:
            value = getattr(settings, name)
            for number, one in enumerate([value] if isinstance(value, str) else value or ()):
                if one not in settings.no_paths and (found := _beside(one, folder)) is not None:
                    yield (*place, name, number), one, found


def _factors_beside(recipe: RecipeBase, folder: Path) -> Iterator[tuple[Place, str, str]]:
    """The same for the values of a comparison, by the recipe that each of them gives; and for the baseline, if it is
    called as one of them is."""
    assert recipe.compare is not None
    for where, key, value in _values(recipe, recipe.compare):
        if not any(_beside(text, folder) for text in _texts(value)):
            continue
        at = place_of(key)
        for below, one, found in _found_beside(_with_value(recipe, key, value), folder):
            if below[: len(at)] == at:
                yield (*where, *below[len(at) :]), one, found
                if recipe.compare.baseline == one:
                    yield ("compare", "baseline"), one, found


def _values(recipe: RecipeBase, compare: CompareSettings) -> Iterator[tuple[Place, str, Any]]:
    """The values that are listed in a comparison: where each stands, and the key that it is tried for."""
    lists: list[tuple[Place, str, Any]] = [(("over", key), key, values) for key, values in compare.over.items()]
    if compare.search is not None:
        lists += [(("search", "space", key), key, values) for key, values in compare.search.space.items()]
    if compare.preset is not None:
        _, key = varied_by(compare.preset, [stage.name for stage in recipe.stage_list()])
        lists.append((("preset", "methods"), key, compare.preset.methods))
    for where, key, values in lists:
        for number, value in enumerate(values if isinstance(values, list) else ()):
            yield ("compare", *where, number), key, value


def _with_value(recipe: RecipeBase, key: str, value: Any) -> RecipeBase | None:
    """The recipe with one value of its comparison; with the first of every other key where it is not valid alone."""
    assert recipe.compare is not None
    for others in ({}, next(iter(_factors(recipe)))):
        with suppress(RecipeError):
            return cell_recipe(recipe, {**others, key: value})
    return None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(one)


def _can_be_found(path: str) -> bool:
    return is_there(path) or (bool(set(path) & set("*?[")) and bool(glob.glob(path)))


def _from_folder(settings: Settings, folder: Path | None) -> Settings:
    """The settings with the paths that are found from the recipe's folder alone, as `anchor` writes them."""
    if folder is None:
        return settings
    found: dict[str, Any] = {}
    for name in settings.path_fields:
        value = getattr(settings, name)
        if isinstance(value, str):
            found[name] = _beside(value, folder) or value
        elif value:
            found[name] = [_beside(one, folder) or one for one in value]
    return settings.model_copy(update=found)


def _replace(source: YamlText, place: Place, value: str, found: str) -> bool:
    """Write another value in place of one that a recipe has, in whichever of its forms."""
    path, _ = source.resolve(place)
    holder = source.data
    for step in path[:-1]:
        holder = holder[step]
    if holder[path[-1]] != value:
        return False
    holder[path[-1]] = found
    return True
