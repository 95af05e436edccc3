"""What can be wrong with the stages of this room, found before anything runs and without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.errors import DataError
from luthier.vocabulary.clustering import groups_of
from luthier.vocabulary.settings import LanguageText, VocabularySettings
from luthier.vocabulary.text import corpus_of, language_sources, tell_of_others

if TYPE_CHECKING:
    from luthier.vocabulary.stage import Transplant


def check_vocabulary(settings: VocabularySettings) -> None:
    """Look at the first document of each language, and whether names in the settings are languages.

    Raises:
        DataError: a text or the file of capacities can't be read, a name is unknown, a language has no pin where all
            need one, there are fewer languages, or groups of them, than clusters, the tail takes all pieces, or there
            is no English where `parity` needs it.
    """
    languages = check_text(settings.text)
    named = {
        "cluster.must_link": {one for group in settings.cluster.must_link for one in group},
        "cluster.pins": set(settings.cluster.pins),
        "capacity.tail": set(settings.capacity.tail),
    }
    for place, names in named.items():
        if unknown := sorted(names - set(languages)):
            raise DataError(
                f"there is no language {unknown[0]!r}",
                where=f"vocabulary.{place}",
                fix=f"known: {', '.join(languages)}",
            )
    chosen = settings.cluster
    groups_of(languages, chosen.count, method=chosen.method, must_link=chosen.must_link, pins=chosen.pins)
    capacity = settings.capacity
    if (given := capacity.tail_pieces * len(set(capacity.tail))) >= settings.size:
        raise DataError(
            f"languages without a curve get {given:,} pieces, and the vocabulary has {settings.size:,}",
            where="vocabulary.capacity.tail_pieces",
            fix="lower it, or raise `size`",
        )
    if capacity.parity and not {"en", "eng"} & (set(languages) - set(capacity.tail)):
        raise DataError(
            "the reference code pads with English, and no language with a curve is called `en`",
            where="vocabulary.capacity.parity",
            fix="leave it out",
        )
    if settings.capacity.file is not None:
        from luthier.vocabulary.capacities import numbers_of_file

        numbers_of_file(settings.capacity.file, languages)


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
        DataError: one has none, or can't be read, or `unspaced` names another one.
    """
    found = language_sources(text)
    if unknown := sorted(set(text.unspaced or ()) - set(found)):
        raise DataError(f"there is no language {unknown[0]!r}", where="text.unspaced", fix=f"known: {', '.join(found)}")
    tell_of_others(text)
    for name, sources in found.items():
        if next(corpus_of(text, sources).documents(), None) is None:
            raise DataError("there is no text in it", where=", ".join(sources), fix=f"is it the right file for {name}?")
    return list(found)
