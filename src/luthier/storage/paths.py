"""Paths as users write them: looked for without an error, whatever is written."""

from __future__ import annotations

import os
from pathlib import Path


def user_path(text: str | Path) -> Path:
    """The path with the home folder for `~`; as it is where there is no such user."""
    return Path(os.path.expanduser(text))


def is_folder(path: str | Path) -> bool:
    """Whether there is such a folder; no where there can be none, since a name is too long or not a name."""
    return os.path.isdir(path)


def is_file(path: str | Path) -> bool:
    """Whether there is such a file; see `is_folder`."""
    return os.path.isfile(path)


def is_there(path: str | Path) -> bool:
    """Whether there is anything of that name; see `is_folder`."""
    return os.path.exists(path)
