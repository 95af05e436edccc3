"""What can be wrong with the stages of this room, found before anything runs and without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.errors import DataError
from luthier.vocabulary.settings import LanguageText, VocabularySettings
from luthier.vocabulary.text import corpus_of, language_sources, tell_of_others

if TYPE_CHECKING:
    from luthier.vocabulary.stage import Transplant


def check_vocabulary(settings: VocabularySettings) -> None:
    """Look at the first document of each language, and whether names in the settings are languages.

    Raises:
        DataError: a text or the file of capacities can't be read, a name is unknown, a language has no pin where all
            need one, or there are fewer languages than clusters.
    """
    languages = check_text(settings.text)
    named = {
        "cluster.must_link": {one for group in settings.cluster.must_link for one in group},
        "cluster.pins": set(settings.cluster.pins),
        "capacity.tail": set(settings.capacity.tail),
        "text.unspaced": set(settings.text.unspaced or ()),
    }
    for place, names in named.items():
        if unknown := sorted(names - set(languages)):
            raise DataError(
                f"there is no language {unknown[0]!r}",
                where=f"vocabulary.{place}",
                fix=f"known: {', '.join(languages)}",
            )
    if settings.cluster.method == "pins" and (left := [one for one in languages if one not in settings.cluster.pins]):
        raise DataError(
            f"no pin says where {left[0]!r} belongs",
            where="vocabulary.cluster.pins",
            fix="pin every language, or use k-means",
        )
    if settings.capacity.file is not None:
        from luthier.vocabulary.capacities import numbers_of_file

        numbers_of_file(settings.capacity.file, languages)
    if (count := settings.cluster.count) is not None and count > len(languages):
        raise DataError(
            f"{count} clusters of {len(languages)} languages can't be made",
            where="vocabulary.cluster.count",
            fix=f"set it to {len(languages)} or less",
        )


def check_transplant(stage: Transplant) -> None:
    """Look at the first document of each language.

    Raises:
        DataError: a text can't be read.
    """
    for part in (stage.prune, stage.extend, stage):
        if part is not None and part.text is not None:
            check_text(part.text)


def check_text(text: LanguageText) -> list[str]:
    """The languages of a text, each of which has a first document.

    Raises:
        DataError: one has none, or can't be read.
    """
    found = language_sources(text)
    tell_of_others(text)
    for name, sources in found.items():
        if next(corpus_of(text, sources).documents(), None) is None:
            raise DataError("there is no text in it", where=", ".join(sources), fix=f"is it the right file for {name}?")
    return list(found)
