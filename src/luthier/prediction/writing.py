"""Writes what a model says of the rows of a file; what there is of it is kept, and the same command takes it over."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from luthier.data.sources.base import check_there_and_filled
from luthier.models.quiet import noise_logged
from luthier.models.settings import Danger
from luthier.prediction.loading import check_batch_size, check_run, load_predictor
from luthier.secrets import redact_values
from luthier.storage.paths import is_file, user_path

if TYPE_CHECKING:
    from luthier.storage.part_file import KeptParts

Answers = TypeVar("Answers")


def write_predictions(
    run: str | Path, file: str | Path, output: str | Path, *, batch_size: int = 64, allow: Collection[Danger] = ()
) -> tuple[int, int]:
    """Label the rows of a file, as `predict_file` does, and write the answers as JSON lines.

    Until all are there they are kept beside the output, some rows at a time, and the same call takes over the parts of
    the file that an earlier one answered, where they are still the same rows of the same model.

    Returns:
        The rows, and how many of them an earlier call had answered.

    Raises:
        DataError: the file can't be read, or lacks a column.
        WorkspaceError: the output can't be written, is the file that is read, or another process writes it.
    """
    from luthier.models.predictor import RowPredictor
    from luthier.storage.files import write_bytes
    from luthier.storage.part_file import kept_parts

    check_batch_size(batch_size)
    check_run(run)
    check_there_and_filled(str(file))
    place = place_of_output(output, file, run=run)
    with noise_logged():
        predictor = load_predictor(run, allow)
        if not isinstance(predictor, RowPredictor):
            answers = predictor.predict_file(file, batch_size=batch_size)
            write_bytes(place, as_lines(answers))
            return len(answers), 0
        rows = predictor.rows_of_file(file)
        with kept_parts(place, key_of(run)) as kept:
            keys, before = answered(
                kept,
                rows,
                lambda some: predictor.answers(some, batch_size),
                as_lines,
                batch_size,
                one_by_one=predictor.one_by_one,
            )
            write_bytes(place, map(kept.read, keys))
        return len(rows), before


def answered(
    kept: KeptParts,
    rows: Sequence[Any],
    answer: Callable[[Any], Answers],
    packed: Callable[[Answers], bytes],
    batch_size: int,
    **how: Any,
) -> tuple[list[str], int]:
    """Answer rows in parts, and keep each.

    Args:
        kept: parts of an earlier call among them.
        rows: of JSON's types.
        answer: some rows -> what is kept of them.
        packed: that -> bytes.
        batch_size, how: as `luthier.models.predictor.in_parts` takes them.

    Returns:
        The keys of the parts in their order, and how many rows an earlier call had answered.
    """
    from luthier.models.predictor import in_parts
    from luthier.storage.keys import digest_of

    before, made = 0, set()

    def part(some: Any) -> str:
        nonlocal before
        key = digest_of(list(some))
        if key not in kept:
            kept.add(key, packed(answer(some)))
            made.add(key)
        elif key not in made:
            before += len(some)
        return key

    return list(in_parts(rows, part, batch_size, **how)), before


def as_lines(rows: Iterable[Any]) -> bytes:
    """Answers as JSON lines, with every secret blotted out."""
    lines = (json.dumps(redact_values(row), ensure_ascii=False) + "\n" for row in rows)
    return "".join(lines).encode(errors="backslashreplace")


def key_of(run: str | Path, *asked: Any) -> str:
    """What tells that answers are those of this model, in this version.

    Args:
        run: a run, cell, stage or artefact directory.
        asked: what else they depend on, beside the rows.
    """
    from luthier._version import __version__
    from luthier.models.manifest import MANIFEST
    from luthier.models.references import resolve
    from luthier.storage.files import sha256_of
    from luthier.storage.keys import digest_of

    folder = resolve(str(run)).path
    manifest = None if folder is None else folder / MANIFEST
    return digest_of([__version__, sha256_of(manifest) if manifest and manifest.is_file() else str(run), *asked])


def place_of_output(output: str | Path, *read: str | Path | None, run: str | Path | None = None) -> Path:
    """The file that is written, where a link leads to it.

    Args:
        output: as the user names it.
        read: sources that must not be lost.
        run: what answers; nor must the files be lost that its recipe names.

    Raises:
        WorkspaceError: it can't be written, or is a source that is read, or the archive that holds one, or of a run.
    """
    from luthier.storage.output_places import check_place_of

    files = [path for one in read if one is not None for path in _files_of(one)]
    files += [] if run is None else _named_by(Path(run))
    place = Path(os.path.realpath(output))
    for path in (Path(output), place):
        check_place_of(path, *files)
    return place


def _named_by(run: Path) -> list[Path]:
    """The files that the recipe of a run names: what its model was trained on."""
    from luthier.errors import RecipeError
    from luthier.recipe.yaml_text import parse_yaml
    from luthier.storage.done import OF_A_RUN

    place = next((one / OF_A_RUN[0] for one in (run, *run.parents) if (one / OF_A_RUN[0]).is_file()), None)
    try:
        texts = [] if place is None else _texts(parse_yaml(place.read_text(encoding="utf8"), str(place)).data)
    except (RecipeError, UnicodeDecodeError):
        return []
    paths = (user_path(text.partition("!")[0]) for text in texts)
    return [path for path in paths if is_file(path)]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def _files_of(source: str | Path) -> list[Path]:
    """The files on this machine that a source string names, those of a folder with annotations, that of an archive for
    one of its members."""
    from luthier.data.sources.base import FileSource, annotated_folder, resolve
    from luthier.errors import DataError

    folder = annotated_folder(str(source))
    if folder is not None:
        return [one.path for one in folder.files]
    try:
        found = resolve(str(source))
    except DataError:  # told of by whoever reads it
        return [Path(source)]
    return [found.path] if isinstance(found, FileSource) else []
