"""The sets that are known by name: their columns, labels, splits and metrics."""

from __future__ import annotations

from functools import cache

from luthier.data.catalogue.known_set import KnownSet
from luthier.errors import DataError, nearest

_PARENTS_WITH_DEFAULT = {
    "data/cad_sentiment": "data/cad_sentiment/orig",
    "data/cad_nli": "data/cad_nli/original",
    "data/imdb_contrast": "data/imdb_contrast/contrast",
    "data/boolq_contrast": "data/boolq_contrast/perturbed",
}


@cache
def known_sets() -> dict[str, KnownSet]:
    """Every known set by name: `glue/...`, `superglue/...`, `data/...`."""
    from luthier.data.catalogue.benchmarks_on_hub import HUB_SETS
    from luthier.data.catalogue.public_sets import PUBLIC_SETS

    sets = {one.name: one for one in (*HUB_SETS, *PUBLIC_SETS)}
    return sets | {parent: sets[child] for parent, child in _PARENTS_WITH_DEFAULT.items()}


def is_known(name: str) -> bool:
    """Whether a set, or the family of sets that the name heads, is known."""
    return name in known_sets() or bool(_members(name))


def known_set(name: str, where: str) -> KnownSet:
    """The set called `name`.

    Raises:
        DataError: it is a family of sets, one of which has to be named.
    """
    sets = known_sets()
    if name in sets:
        return sets[name]
    members = [member.removeprefix(name + "/") for member in _members(name)]
    guess = nearest(name.rpartition("/")[2], list(sets))
    raise DataError(
        "is a family of sets" if members else "is not a known set",
        where=where,
        fix=f"name one of them, as in {where}/{members[0]}: {', '.join(members)}"
        if members
        else f"did you mean {guess!r}?",
    )


def known_hub_set(identifier: str, config: str | None) -> KnownSet | None:
    """The known set that lives at an id on the Hub, or None."""
    same = {"glue": "nyu-mll/glue", "super_glue": "aps/super_glue"}
    wanted = (same.get(identifier, identifier), config)
    return next((one for one in known_sets().values() if one.hub == wanted), None)


def set_of_source(source: str) -> KnownSet | None:
    """The known set that a source string names, or None; its files need not be on this machine."""
    text = source.partition("#")[0]
    if text.startswith("data:"):
        return known_sets().get("data/" + text.removeprefix("data:").strip("/"))
    short = text.lower().replace("super_glue", "superglue").replace(":", "/")
    if short in known_sets() and not short.startswith("data/"):
        return known_sets()[short]
    name, _, config = text.removeprefix("hub:").partition("@")[0].partition(":")
    return known_hub_set(name, config or None)


def is_evaluation_only(folder: str) -> bool:
    """Whether nothing in a folder under `LUTHIER_DATA` may be trained on."""
    sets = [one for one in known_sets().values() if one.folder == folder]
    return bool(sets) and all(one.evaluation_only for one in sets)


def _members(name: str) -> list[str]:
    return sorted(known for known in known_sets() if known.startswith(name + "/"))
