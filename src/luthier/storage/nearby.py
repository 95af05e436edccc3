"""Which folder a wrong path most likely meant."""

from __future__ import annotations

from pathlib import Path

from luthier.errors import LuthierError, nearest

RUNS = "runs"


def check_there(folder: str | Path, error: type[LuthierError], fix: str) -> None:
    """Refuse a folder that is not there, and name the nearest one that is: beside it, or, for a bare name, in `runs`.

    Args:
        error: the kind of error to raise.
        fix: what else to do about it.

    Raises:
        LuthierError: of that kind.
    """
    place = Path(folder).expanduser()
    if place.exists():
        return
    homes = [place.parent, *([Path(RUNS)] if len(place.parts) == 1 else [])]
    folders = [inner for home in homes if home.is_dir() for inner in sorted(home.iterdir()) if inner.is_dir()]
    guess = nearest(place.name, [inner.name for inner in folders])
    meant = next((str(inner) for inner in reversed(folders) if inner.name == guess), None)
    raise error(
        "there is no such folder", where=str(folder), fix=f"did you mean {meant}? otherwise {fix}" if meant else fix
    )
