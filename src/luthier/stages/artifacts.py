"""What stages hand on: kinds of artefacts, artefacts, and the ports that take them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, SerializationInfo

from luthier.models.card import CARD
from luthier.models.settings import ModelSettings
from luthier.storage.paths import is_folder, user_path
from luthier.storage.steps import KEY


@dataclass(frozen=True)
class ArtifactKind:
    """A kind of artefact.

    Attributes:
        name: as ports and errors call it.
        about: what it is, to follow "an artefact of this kind is".
        is_model: whether it is a model, which the next stage goes on from without naming it.
        mark: a file that only the folders of this kind have; empty where there is none.
    """

    name: str
    about: str
    is_model: bool = True
    mark: str = ""


KINDS: dict[str, ArtifactKind] = {}


def register_kind(name: str, about: str, *, is_model: bool = True, mark: str = "") -> ArtifactKind:
    """Make a kind known; whoever makes artefacts of a new kind calls this where its stage is defined. See
    `ArtifactKind`.

    Raises:
        ValueError: the name is that of another kind.
    """
    kind = ArtifactKind(name, about, is_model, mark)
    if KINDS.setdefault(name, kind) != kind:
        raise ValueError(f"the kind of artefact {name!r} is registered twice, as {KINDS[name]} and {kind}")
    return kind


register_kind("pretrained", "a model without the head of a task: one from elsewhere, or a language model")
register_kind("task", "a model with the head of a task")


@dataclass(frozen=True)
class Artifact:
    """One artefact that a stage starts from.

    Attributes:
        kind: name of its kind.
        settings: which model, and how it is loaded; for what is no model, its folder.
        key: identity of an artefact that a stage of this run gives; empty for one from outside.
        stands_in: of a dry run: the artefact is not there yet, and `settings` name the model that it will be made from.
    """

    kind: str
    settings: ModelSettings | Path
    key: str = ""
    stands_in: bool = False

    @property
    def model(self) -> ModelSettings:
        """The settings of a model."""
        if isinstance(self.settings, Path):
            raise TypeError(f"a {self.kind} is no model; its folder is {self.settings}")
        return self.settings

    @property
    def folder(self) -> Path:
        """Where the artefact lies on this machine."""
        return self.settings if isinstance(self.settings, Path) else user_path(self.settings.reference)


@dataclass(frozen=True)
class Port:
    """One artefact that a stage takes.

    Attributes:
        kinds: names of the kinds that it may be of.
        optional: whether the stage also works without it.
        about: what the stage does with it.
    """

    kinds: tuple[str, ...]
    optional: bool = False
    about: str = ""


def _written(settings: ModelSettings | None, info: SerializationInfo) -> Any:
    """What is left out beside the reference to a stage is left out when it is written, so that it means the same."""
    if settings is None:
        return None
    short = info.exclude_unset or settings.reference.startswith("stages.")
    return settings.model_dump(mode=info.mode, exclude_unset=short)


# The field of a stage's settings that names the artefact of the port that it is called after.
Reference = Annotated[
    ModelSettings | None,
    BeforeValidator(lambda value: value, json_schema_input_type=str | ModelSettings | None),
    PlainSerializer(_written),
]
MODEL_FIELD = (
    "The model to start from: `stages.0`, or `stages.0.NAME`, for what an earlier stage gives, or whatever the "
    "recipe's `model` takes, such as the folder of another run; null takes the newest model of the stages before."
)


def kind_of_folder(folder: Path) -> str | None:
    """The kind of an artefact that Luthier saved, told by what lies in its folder; None for any other folder.

    A folder of an earlier version counts as well: the model's card tells its kind.
    """
    from luthier.data.stated import learns_text
    from luthier.registry import discover

    if not is_folder(folder):
        return None
    discover()
    given = _read(folder.parent / KEY).get("gives")
    noted = given.get(folder.name) if isinstance(given, dict) else None
    if noted in KINDS:
        return str(noted)
    for kind in KINDS.values():
        if kind.mark and (folder / kind.mark).is_file():
            return kind.name
    card = _read(folder / CARD)
    if not card:
        return None
    head, schema = card.get("head"), card.get("schema")
    speaks = (
        head in ("causal_lm", "seq2seq_lm") and (schema is None or learns_text(schema)) and not card.get("text_form")
    )
    return "pretrained" if speaks or head in ("encoder", "masked_lm") else "task"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
