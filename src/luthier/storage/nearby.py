"""Which folder a wrong path most likely meant."""

from __future__ import annotations

import difflib
from pathlib import Path

from luthier.errors import LuthierError, nearest
from luthier.storage.paths import is_folder, is_there, user_path

RUNS = "runs"


def check_there(folder: str | Path, error: type[LuthierError], fix: str) -> None:
    """Refuse a file, and a folder that is not there, and name the nearest one that is: beside it, or, for a bare name,
    in `runs`.

    Args:
        error: the kind of error to raise.
        fix: what else to do about it.

    Raises:
        LuthierError: of that kind.
    """
    place = user_path(folder)
    if is_folder(place):
        return
    if is_there(place):
        raise error("this is a file and not a folder", where=str(folder), fix=fix)
    homes = [place.parent, *([Path(RUNS)] if len(place.parts) == 1 else [])]
    folders = [inner for home in homes if is_folder(home) for inner in sorted(home.iterdir()) if inner.is_dir()]
    guess = nearest(place.name, [inner.name for inner in folders])
    meant = next((str(inner) for inner in reversed(folders) if inner.name == guess), None)
    raise error(
        "there is no such folder", where=str(folder), fix=f"did you mean {meant}? otherwise {fix}" if meant else fix
    )


def did_you_mean(path: str | Path, suffixes: tuple[str, ...] = ("",)) -> str | None:
    """The question that names the nearest path that is there; None where none is near.

    Args:
        suffixes: one of which its name has to end in.
    """
    meant = nearest_path(path, suffixes)
    return None if meant is None else f"did you mean {meant}?"


def nearest_path(path: str | Path, suffixes: tuple[str, ...] = ("",)) -> Path | None:
    """A path that is there, and differs from one that isn't in letters only, in one of its parts or in several."""
    place = user_path(path)
    found = Path(place.anchor)
    parts = place.parts[1 if place.anchor else 0 :]
    for number, part in enumerate(parts, start=1):
        if not is_there(found / part):
            try:
                there = sorted(inner.name for inner in found.iterdir())
            except OSError:
                return None
            able = [name for name in there if name.endswith(suffixes)] if number == len(parts) else there
            meant = _alike(part, able)
            if meant is None:
                return None
            part = meant
        found = found / part
    return found if is_there(found) and found != place else None


def _alike(name: str, there: list[str]) -> str | None:
    """The nearest name, where more than the suffix is alike."""
    found = difflib.get_close_matches(name, there, n=3, cutoff=0.5)
    stems = ((one, difflib.SequenceMatcher(None, Path(name).stem, Path(one).stem).ratio()) for one in found)
    return next((one for one, likeness in stems if likeness >= 0.5), None)
