"""What data settings say of their task before any row is read."""

from __future__ import annotations

from luthier.data.catalogue.lookup import set_of_source
from luthier.data.schemas import SCHEMAS
from luthier.data.settings import DataSettings


def learns_text(task: str | None) -> bool:
    """Whether the rows of a task are text alone, which a language model learns without a head of its own."""
    return task is not None and task in SCHEMAS and SCHEMAS[task].label_kind is None


def stated_task(settings: DataSettings) -> str | None:
    """Name of the schema that the settings, the known set or the file's format name; None where only rows can tell."""
    if settings.task is not None:
        return settings.task
    source = settings.source or settings.train or settings.validation or settings.test or ""
    known = set_of_source(source)
    if known is not None:
        return known.task
    plain = settings.format == "txt" or (
        settings.format is None and source.removesuffix(".gz").removesuffix(".zst").endswith(".txt")
    )
    return "plain_text" if plain else None


def is_language(settings: DataSettings) -> bool:
    """Whether the settings say that what is learned is text, without labels."""
    return not settings.as_text and learns_text(stated_task(settings))
