"""Writes what a model says of the rows of a file as it comes, so that the same command goes on after a stop."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from luthier.data.sources.base import check_there_and_filled
from luthier.models.quiet import noise_logged
from luthier.models.settings import Danger
from luthier.prediction.loading import check_run, load_predictor
from luthier.secrets import redact_values


def write_predictions(
    run: str | Path, file: str | Path, output: str | Path, *, batch_size: int = 64, allow: Collection[Danger] = ()
) -> tuple[int, int]:
    """Label the rows of a file, as `predict_file` does, and write the answers as JSON lines.

    Until all are there they are in `OUTPUT.KEY.part`, of which the key stands for model, file and version: the same
    call goes on behind those that an earlier one left.

    Returns:
        The rows, and how many of them an earlier call had answered.

    Raises:
        DataError: the file can't be read, or lacks a column.
        WorkspaceError: the output can't be written, or another process writes it.
    """
    from luthier.storage.part_file import Lines, part_file

    check_run(run)
    check_there_and_filled(str(file))
    with noise_logged():
        predictor = load_predictor(run, allow)
        with part_file(Path(output), key_of(run, _content(file)), Lines, becomes=True) as part:
            before = part.count
            for answers in predictor.answers_in_parts(file, batch_size=batch_size, after=before):
                part.append(as_lines(answers))
            return part.count, before


def as_lines(rows: Iterable[Any]) -> str:
    """Answers as JSON lines, with every secret blotted out."""
    return "".join(json.dumps(redact_values(row), ensure_ascii=False) + "\n" for row in rows)


def key_of(run: str | Path, asked: Any) -> str:
    """What tells that the answers so far are those of this model, in this version, to what it is asked.

    Args:
        run: a run, cell, stage or artefact directory.
        asked: plain data.
    """
    from luthier._version import __version__
    from luthier.models.manifest import MANIFEST
    from luthier.models.references import resolve
    from luthier.storage.files import sha256_of
    from luthier.storage.keys import digest_of

    folder = resolve(str(run)).path
    manifest = None if folder is None else folder / MANIFEST
    return digest_of([__version__, sha256_of(manifest) if manifest and manifest.is_file() else str(run), asked])


def _content(file: str | Path) -> str:
    from luthier.storage.files import sha256_of
    from luthier.storage.paths import user_path

    place = user_path(file)
    return sha256_of(place) if place.is_file() else str(file)
