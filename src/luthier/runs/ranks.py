"""How many processes a run may be of."""

from __future__ import annotations

import os

from luthier.errors import WorkspaceError


def refuse_several_processes() -> None:
    """Refuse to be one of several processes, which would all write into one run directory.

    Raises:
        WorkspaceError: torchrun, or what does the same, started more than one.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size not in ("", "1"):
        raise WorkspaceError(
            f"a run is one process, and WORLD_SIZE says that {size} were started",
            fix="start it with `luthier run`, without torchrun or accelerate launch",
        )
