"""Where output may go: to no place that can't be written, and to none of what a run or a command was made from."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from luthier.errors import WorkspaceError
from luthier.storage.done import is_of_a_run
from luthier.storage.files import fix_of, refuse_compressed, scratch_of
from luthier.storage.paths import is_folder, is_there, user_path

_LONGEST_NAME = 255
# Files that a model or a tokenizer is loaded from.
_OF_A_MODEL = re.compile(
    r"(config|generation_config|adapter_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|(pytorch_|adapter_|tf_)?model\b.*\.(safetensors|bin|h5|json)|vocab\.txt|merges\.txt|.*\.model"
)


def check_place_of(path: Path, *read: str | Path | None) -> None:
    """Refuse a file that can't be written, before there is anything to write; nothing is made.

    Args:
        path: of the file.
        read: files that it must not take the place of.

    Raises:
        WorkspaceError: it is a folder, a device or a pipe, one of these files, one of a run's or a model's, in a folder
            that can't be written to, or called as a compressed file is.
    """
    refuse_compressed(path)
    number = 0
    above = next(folder for folder in path.absolute().parents if is_there(folder))
    if is_folder(path):
        number = errno.EISDIR
    elif is_there(path) and not path.is_file():
        raise WorkspaceError(
            "this is no ordinary file, and would be replaced by one", where=str(path), fix="name a file to write"
        )
    elif len(os.fsencode(scratch_of(path).name)) > _LONGEST_NAME:
        number = errno.ENAMETOOLONG
    elif not is_folder(above):
        number = errno.ENOTDIR
    elif not os.access(above, os.W_OK | os.X_OK):
        number = errno.EACCES
    if number:
        raise WorkspaceError(
            f"can't write here: {os.strerror(number)}", where=str(path), fix=fix_of(OSError(number, ""), "file")
        )
    refuse_what_is_read(path, *read)
    if is_there(path) and _is_of_a_model(path):
        raise WorkspaceError(
            "this is a file of a model, which would be lost", where=str(path), fix="name another file to write"
        )


def refuse_what_is_read(path: Path, *read: str | Path | None) -> None:
    """Refuse a file or folder to write that is one of these, or of a run.

    Raises:
        WorkspaceError: it is.
    """
    known = [user_path(one) for one in read if one is not None] if is_there(path) else []
    if any(is_there(one) and path.samefile(one) for one in known):
        raise WorkspaceError(
            "this is the file that is read, which would be lost", where=str(path), fix="name another file to write"
        )
    if is_of_a_run(path):
        raise WorkspaceError(
            "this is of a finished run, which would be damaged", where=str(path), fix="name another place to write"
        )


def _is_of_a_model(path: Path) -> bool:
    """Whether a file is called as those that a model is loaded from, and lies beside others of the kind."""
    if not _OF_A_MODEL.fullmatch(path.name):
        return False
    return any(one.name != path.name and _OF_A_MODEL.fullmatch(one.name) for one in path.absolute().parent.iterdir())
