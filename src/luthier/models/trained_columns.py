"""What a saved model was trained on: the data, which of its columns the model reads, and what the file calls them."""

from __future__ import annotations

from pydantic import ValidationError

from luthier.data.catalogue.known_set import KnownSet
from luthier.data.catalogue.lookup import set_of_source
from luthier.data.schemas import SCHEMAS, TrainedOn
from luthier.data.settings import DataSettings
from luthier.errors import ModelError
from luthier.models.card import ModelCard
from luthier.secrets import HIDDEN


def columns_read(card: ModelCard) -> dict[str, str | list[str]]:
    """Canonical column -> column of the training file; empty where the card names no task.

    A card of format 1 does not tell. Such a model read the columns of its task, and an optional one where the recipe
    or the known set named it.
    """
    if card.columns is not None:
        return dict(card.columns)
    if card.schema is None or card.schema not in SCHEMAS:
        return {}
    known = known_set_of(card)
    mapping = named_columns(card) if known is None else dict(known.columns)
    read = [*SCHEMAS[card.schema].read(mapping, ())]
    if card.text_form is not None:
        read += [name for name in card.text_form.columns if name not in read]
        read += ["candidate"] if card.text_form.ranks_candidates else []
    return {name: mapping.get(name, name) for name in read}


def named_columns(card: ModelCard) -> dict[str, str | list[str]]:
    """Canonical column -> column of the file, as the recipe names them."""
    names = dict.fromkeys(name for schema in SCHEMAS.values() for name in (*schema.columns, *schema.optional))
    data = card.data or {}
    return {name: data[name] for name in names if data.get(name) is not None}


def trained_on(card: ModelCard) -> TrainedOn | None:
    """The task and the columns of a model with a head of its own; None where the card names no task, and for a task
    that is posed as text, whose form says what is read."""
    if card.schema is None or card.schema not in SCHEMAS or card.text_form is not None:
        return None
    return TrainedOn(card.schema, tuple(columns_read(card)))


def known_set_of(card: ModelCard) -> KnownSet | None:
    """The set known by name that a model was trained on."""
    data = card.data or {}
    source = data.get("train") or data.get("source")
    return None if source is None else set_of_source(str(source))


def training_data(card: ModelCard, where: str) -> DataSettings | None:
    """The settings of the data that a model was trained on; None where its card names none.

    Raises:
        ModelError: they can't be used again: a secret in them was not saved, or this version does not take them.
    """
    if card.data is None:
        return None
    if HIDDEN in str(card.data):
        reason = "a secret in them is not saved"
    else:
        try:
            return DataSettings.model_validate(card.data)
        except ValidationError as error:
            first = error.errors()[0]
            reason = f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}"
    raise ModelError(
        f"the data that the model was trained on can't be taken from its card: {reason}",
        where=where,
        fix="give the stage's `data`",
    )
