"""Which artefact each stage of a recipe gets, and what is wrong where one can't get what it takes.

All of it is told from settings and from folders that are there already, and where a run or a dry run is near, from
configurations; no model is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

from luthier.data.settings import DataSettings
from luthier.errors import ModelError, RecipeError
from luthier.models.card import read_card
from luthier.models.inspect import language_head
from luthier.models.references import resolve
from luthier.models.settings import ModelSettings
from luthier.models.trained_columns import training_data
from luthier.secrets import expand
from luthier.stages.artifacts import KINDS, Port, kind_of_folder
from luthier.stages.base import MODEL, Stage
from luthier.storage.paths import is_folder, user_path

_REFERENCE = re.compile(r"stages\.(\d+)(?:\.([^./\\]+))?")
_SPEAKING = ("masked_lm", "causal_lm", "seq2seq_lm")
_OF_MODELS = ("reference", "revision", "gguf_file")


@dataclass(frozen=True)
class Link:
    """Where a port gets its artefact from.

    Attributes:
        kind: of the artefact.
        stage: position of the stage that gives it; None for one from outside.
        name: of the artefact among those that the stage gives.
        outside: the artefact from outside; for one of a stage, the model that it is made from in the end, where there
            is one.
        changes: how a model is loaded, where the recipe says so beside the reference.
        language_head: finds the head that it has as a language model, or would get by its type; empty where that can't
            be told.
    """

    kind: str
    stage: int | None
    name: str
    outside: ModelSettings | None
    changes: dict[str, Any] = field(default_factory=dict)
    language_head: Callable[[], str] = field(default=lambda: "", compare=False, repr=False)


@dataclass(frozen=True)
class ChainProblem:
    """What is wrong at one place of a recipe.

    Attributes:
        path: keys that lead to it.
        what: the problem.
        fix: what to do about it.
    """

    path: tuple[str | int, ...]
    what: str
    fix: str = ""


class ChainError(ValueError):
    """The stages of a recipe can't follow one another."""

    def __init__(self, problems: Sequence[ChainProblem]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(problem.what for problem in problems))


class _BadReferenceError(ValueError):
    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


class _Chain:
    """Walks the stages and notes what each gets."""

    def __init__(self, stages: Sequence[Stage], model: ModelSettings | None, *, read: bool) -> None:
        self.stages, self.read = stages, read
        self.flowing = None if model is None else self._outside(model)
        self.given: list[dict[str, Link]] = []
        self.links: list[dict[str, Link]] = []
        self.problems: list[ChainProblem] = []
        data: Any = None
        for position, stage in enumerate(stages):
            before = len(self.problems)
            found = self._links_of(position, stage)
            if len(self.problems) == before:
                self._check_misfit(position, stage, found, data)
            data = getattr(stage, "data", None) or data
            self.links.append(found)
            self._advance(position, stage, found)

    def _links_of(self, position: int, stage: Stage) -> dict[str, Link]:
        found: dict[str, Link] = {}
        takes = stage.takes()
        if MODEL not in takes and stage.reference(MODEL) is not None:
            what = f"stage {position} ({stage.name}): `{MODEL}` has no effect: nothing here starts from it"
            self.problems.append(ChainProblem(("stages", position, stage.name, MODEL), what, "leave it out"))
        for name, port in takes.items():
            reference = stage.reference(name)
            path: tuple[str | int, ...] = ("stages", position, stage.name)
            path = path if reference is None else (*path, *stage.place_of(name))
            try:
                link = self._link(position, name, reference)
            except _BadReferenceError as error:
                self.problems.append(ChainProblem(path, str(error), error.fix))
                continue
            if link is None:
                if not port.optional:
                    self.problems.append(self._nothing(position, name, port, path))
            elif link.kind not in port.kinds:
                self.problems.append(self._other_kind(position, name, port, link, path, named=reference is not None))
            else:
                found[name] = link
        return found

    def _link(self, position: int, port: str, reference: ModelSettings | None) -> Link | None:
        if reference is None:
            return self.flowing if port == MODEL else None
        matched = _REFERENCE.fullmatch(reference.reference)
        if matched is None:
            if re.fullmatch(r"stages\.[^/]*", reference.reference):
                raise _BadReferenceError(
                    f"{reference.reference!r} names no stage", "write `stages.0`, or `stages.0.NAME` for one artefact"
                )
            return self._outside(reference)
        link = self._earlier(position, int(matched[1]), matched[2])
        changed = reference.model_fields_set - set(_OF_MODELS)
        return replace(link, changes={k: getattr(reference, k) for k in changed})

    def _outside(self, model: ModelSettings) -> Link:
        return Link(kind_of(model), None, "", model, language_head=cache(partial(_head_of, model, read=self.read)))

    def _earlier(self, position: int, wanted: int, name: str | None) -> Link:
        if wanted >= position:
            which = "this stage itself" if wanted == position else "a later stage"
            which = which if wanted < len(self.stages) else "no stage of this recipe, which counts them from 0"
            raise _BadReferenceError(f"stages.{wanted} is {which}", self._what_is_there())
        given, stage = self.given[wanted], self.stages[wanted]
        if not given:
            raise _BadReferenceError(f"stages.{wanted} ({stage.name}) gives no artefact", self._what_is_there())
        if name is None:
            name = _newest(given) or next(iter(given))
        if name not in given:
            raise _BadReferenceError(
                f"stages.{wanted} ({stage.name}) gives no {name!r}, but {' and '.join(given)}", self._what_is_there()
            )
        return given[name]

    def _advance(self, position: int, stage: Stage, found: dict[str, Link]) -> None:
        given = {}
        for name, kind in stage.gives().items():
            source = found.get(name) or found.get(MODEL) or next(iter(found.values()), None)
            outside = source.outside if source and KINDS[kind].is_model else None
            head = cache(partial(self._head_given, stage, name, source))
            given[name] = Link(kind, position, name, outside, language_head=head)
        self.given.append(given)
        newest = _newest(given)
        self.flowing = given[newest] if newest else self.flowing

    def _head_given(self, stage: Stage, name: str, source: Link | None) -> str:
        return stage.language_head(name, "" if source is None else source.language_head(), read=self.read)

    def _check_misfit(self, position: int, stage: Stage, found: dict[str, Link], data: Any) -> None:
        try:
            data = data or saved_data(stage, found)
        except ModelError as error:
            path = ("stages", position, stage.name)
            self.problems.append(ChainProblem(path, f"stage {position} ({stage.name}): {error.what}", error.fix or ""))
            return
        before = found[MODEL].stage if MODEL in found else None
        if before is not None:
            try:
                stage.follow(self.stages[before])
            except RecipeError as error:
                what = f"stage {position} ({stage.name}) goes on from stages.{before}: {error.what}"
                self.problems.append(ChainProblem(("stages", position, stage.name), what, error.fix or ""))
        kinds = {name: link.kind for name, link in found.items()}
        reason = stage.misfit(kinds, data, lambda port: found[port].language_head())
        if reason:
            self.problems.append(
                ChainProblem(("stages", position, stage.name), f"stage {position} ({stage.name}): {reason}")
            )

    # -- words -------------------------------------------------------------------------------------------------

    def _nothing(self, position: int, name: str, port: Port, path: tuple[str | int, ...]) -> ChainProblem:
        stage, kinds = self.stages[position], " or ".join(port.kinds)
        if name == MODEL:
            what = f"stage {position} ({stage.name}) takes a model, {kinds}, and there is none"
            return ChainProblem(path, what, "give the recipe's `model`, or put a stage that gives one before it")
        what = f"stage {position} ({stage.name}) takes {kinds} as `{name}`, and the recipe names none"
        return ChainProblem(path, what, f"name it with `{name}:`; {self._what_is_there()}")

    def _other_kind(
        self, position: int, name: str, port: Port, link: Link, path: tuple[str | int, ...], *, named: bool
    ) -> ChainProblem:
        stage, kinds, origin = self.stages[position], " or ".join(port.kinds), _described(link, self.stages)
        what = f"stage {position} ({stage.name}) "
        if named:
            what += f"takes {kinds} as `{name}`, and {origin} is {link.kind}"
        else:
            what += f"can't follow what comes before it: it takes {kinds}, and gets {link.kind} from {origin}"
        reason = f"{link.kind} is {KINDS[link.kind].about}"
        fitting = [
            f"stages.{earlier.stage}.{earlier.name}"
            for given in self.given
            for earlier in given.values()
            if earlier.kind in port.kinds
        ]
        fix = f"name another one with `{name}:`, such as {fitting[-1]}" if fitting else self._what_is_there()
        return ChainProblem(path, f"{what} ({reason})", fix)

    def _what_is_there(self) -> str:
        given = [link for links in self.given for link in links.values()]
        if not given:
            return "no stage before it gives an artefact"
        return "before it there is " + ", ".join(f"stages.{link.stage}.{link.name} ({link.kind})" for link in given)


def chain(stages: Sequence[Stage], model: ModelSettings | None, *, read: bool = False) -> list[dict[str, Link]]:
    """What every stage gets, by port.

    Args:
        stages: of a recipe, in order.
        model: of the recipe, or None.
        read: whether configurations of models may be read where settings don't tell whether a chain fits; it takes
            seconds.

    Raises:
        ChainError: a stage can't get what it takes; names all problems.
    """
    walked = _Chain(stages, model, read=read)
    if walked.problems:
        raise ChainError(walked.problems)
    return walked.links


def kind_of(settings: ModelSettings) -> str:
    """The kind of a model from outside: told by its folder where Luthier saved it, else pretrained.

    What can't be found is taken for pretrained; loading it says what is wrong.
    """
    try:
        known = ModelSettings.model_validate(expand(settings.model_dump()))
        folder = user_path(known.reference)
        if not is_folder(folder):
            return "pretrained"
        kind = kind_of_folder(folder.resolve())
        source = resolve(known) if kind is None else None
    except (ModelError, RecipeError):
        return "pretrained"
    if source is not None and source.kind == "artifact" and source.path is not None:
        kind = kind_of_folder(source.path)
    return kind or "pretrained"


def _head_of(settings: ModelSettings, *, read: bool) -> str:
    """The head that a model from outside has as a language model, or would get by its type; empty where that can't be
    told."""
    from luthier.models.loading import load_config

    try:
        known = ModelSettings.model_validate(expand(settings.model_dump()))
        source = resolve(known)
        if source.kind == "artifact" and source.path is not None and (head := read_card(source.path).head) in _SPEAKING:
            return str(head)
        if read:
            return language_head(load_config(known))
    except (ModelError, RecipeError):
        return ""  # loading it says what is wrong
    return ""


def saved_data(stage: Stage, links: Mapping[str, Link]) -> DataSettings | None:
    """The data that the saved model from outside was trained on, for a stage that takes data and is given none.

    Args:
        stage: takes what comes out where its own `data` is null and no stage before it has any.
        links: what its ports get.

    Raises:
        ModelError: the data that the model's card names can't be used again.
    """
    link = links.get(MODEL)
    takes_data = "data" in type(stage).model_fields and getattr(stage, "data", None) is None
    if not takes_data or link is None or link.stage is not None or link.outside is None:
        return None
    try:
        source = resolve(ModelSettings.model_validate(expand(link.outside.model_dump())))
        card = read_card(source.path) if source.kind == "artifact" and source.path is not None else None
    except (ModelError, RecipeError):
        return None  # loading the model says what is wrong
    return None if card is None else training_data(card, str(source.path))


def _newest(given: dict[str, Link]) -> str | None:
    """The model that the next stage goes on from: the one called `model`, else the last."""
    models = [name for name, link in given.items() if KINDS[link.kind].is_model]
    return MODEL if MODEL in models else models[-1] if models else None


def _described(link: Link, stages: Sequence[Stage]) -> str:
    if link.stage is None:
        return f"`{link.outside.reference if link.outside else 'outside'}`"
    return f"stages.{link.stage} ({stages[link.stage].name})"
