"""How what a finished run left is asked: the command for its user to try next."""

from __future__ import annotations

import shlex
from pathlib import Path

from luthier.errors import LuthierError
from luthier.prediction.loading import TASK_MODEL, plugins_of, predictor_of

_EXTRACTS = "joint_extraction"


def next_command(run: str | Path) -> str | None:
    """The command that asks what a run left, fit for what it reads; None where nothing in it answers.

    Args:
        run: a run, cell, stage or artefact directory.
    """
    try:
        command = _command(run, shlex.quote(str(run)))
    except LuthierError:
        return None
    return f"{command} --allow remote_code" if command is not None and plugins_of(run)[1] else command


def _command(run: str | Path, place: str) -> str | None:
    kind = predictor_of(run)
    if kind.embeds:
        return f'luthier embed {place} --text "…" --output vectors.npy'
    if kind.name == TASK_MODEL:
        return _asking(run, place)
    return f'luthier predict {place} --text "{kind.example}"' if kind.example else None


def _asking(run: str | Path, place: str) -> str | None:
    from luthier.models.card import read_card
    from luthier.models.references import resolve
    from luthier.prediction.rows import columns_to_predict
    from luthier.tasks.base import task_named

    source = resolve(str(run))
    if source.kind != "artifact" or source.path is None:
        return None
    card = read_card(source.path)
    if card.schema == _EXTRACTS:
        return f'luthier extract {place} --text "…"'
    read = list(columns_to_predict(card, str(run)))
    if sorted(read) == ["text", "text_pair"]:
        return f'luthier predict {place} --text "…" --pair "…"'
    task = task_named(str(card.schema))
    if len(read) == 1 and task.row_of_text(read[0], "words", 1) is not None:
        return f'luthier predict {place} --text "…"'
    return f"luthier predict {place} --file FILE"
