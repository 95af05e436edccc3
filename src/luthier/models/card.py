"""The card `luthier.json` of a saved model: what it is, what it was made from, and how to use it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from luthier.data.text_form import TextForm
from luthier.errors import ModelError
from luthier.models.head_kinds import Head, known_head
from luthier.models.references import commit, fingerprint, resolve
from luthier.models.settings import Dtype, ModelSettings
from luthier.models.tensors import read_json
from luthier.secrets import as_reference
from luthier.storage.files import json_text

CARD = "luthier.json"
FORMAT_VERSION = 5


def _distinct(labels: list[str] | None) -> list[str] | None:
    if labels is not None and len(set(labels)) < len(labels):
        raise ValueError("a label is named twice")
    return labels


@dataclass(frozen=True)
class ModelCard:
    """What Luthier knows about a model it saved.

    Attributes:
        base: reference of the pretrained model it was made from, valid from any working directory.
        base_fingerprint: `fingerprint` or `content_fingerprint` (`luthier.models.references`) of that model.
        base_gguf_file: the GGUF file of that model, where its weights are one.
        dtype: the number format in which its base was loaded; None in cards before format 5.
        head: which head it has.
        schema: name of the task schema of its training data.
        labels: names of its outputs, in order.
        regression: whether its one output is a number.
        head_settings: of the head, where they are not its defaults.
        max_length: longest text, in tokens, that it was trained on.
        reserved_tokens: positions that the tuning method fills itself.
        method: the tuning method's settings.
        data: where the training data came from, as the recipe says.
        splits: by split of those data, how many rows were read, from where, a set on the Hub with the revision, and how
            the split was made; None in cards before format 4.
        text_form: how the task is posed as text, where it is.
        columns: canonical columns that it reads -> what its training file calls them; None in cards of format 1.
        rows_left_out: by split, the rows of its data that could not be used and were left out: how many, and why.
        prior: what the labels of its training rows tell of any row (`luthier.tasks.running.priors`), which its scores
            are held against; None in cards before format 3, and where they tell nothing.
        metrics: scores at the time of saving.
        format_version: of this file.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    base: str
    base_fingerprint: str
    head: Annotated[Head, AfterValidator(known_head)]
    base_gguf_file: str | None = None
    dtype: Dtype | None = None
    schema: str | None = None
    labels: Annotated[list[str] | None, AfterValidator(_distinct)] = None
    regression: bool = False
    head_settings: dict[str, Any] | None = None
    max_length: int | None = None
    reserved_tokens: int = 0
    method: dict[str, Any] | None = None
    data: dict[str, Any] | None = None
    splits: dict[str, dict[str, Any]] | None = None
    text_form: TextForm | None = None
    columns: dict[str, str | list[str]] | None = None
    rows_left_out: dict[str, Any] | None = None
    prior: dict[str, Any] | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def describe(settings: ModelSettings | str, head: Head, **details: Any) -> ModelCard:
    """A card for a model made from the one that `settings` name.

    Args:
        details: the card's further fields.

    Raises:
        ModelError: the base can't be found.
    """
    settings = ModelSettings.model_validate(settings)
    source = resolve(settings)
    if source.kind == "hub":
        source = dataclasses.replace(source, revision=commit(source))
    return ModelCard(
        base=source.portable,
        base_fingerprint=fingerprint(source),
        base_gguf_file=source.gguf_file,
        dtype=settings.dtype,
        head=head,
        **details,
    )


def write_card(directory: Path, card: ModelCard) -> None:
    """Write `luthier.json`. A secret in the base's reference stays the `${env:NAME}` that it came from, and labels keep
    their order, by which the first of equally frequent ones is the constant answer."""
    content = dataclasses.asdict(card) | {"base": as_reference(card.base)}
    (directory / CARD).write_text(json_text(content), encoding="utf-8", errors="backslashreplace")


def read_card(directory: Path) -> ModelCard:
    """Read `luthier.json`.

    Raises:
        ModelError: it is missing, damaged, or of a newer format.
    """
    path = directory / CARD
    if not path.is_file():
        raise ModelError(
            "luthier.json is missing: Luthier did not save this folder",
            where=str(directory),
            fix="load it as a plain model directory",
        )
    content = read_json(path)
    version = content.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ModelError(
            f"the model was saved by a newer Luthier (format {version})",
            where=str(path),
            fix="pip install -U luthier",
        )
    try:
        return TypeAdapter(ModelCard).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"`{key}`: {first['msg']}", where=str(path), fix="restore the file from a copy") from error
