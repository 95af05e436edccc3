"""The review page: one static file to read, filter, search, label and veto what a stage asked and was answered.

Every text lies in it as JSON with `<`, `>` and `&` as escapes, and reaches the page through `textContent` alone, so
that no text can become a tag, an attribute or a script. The page loads nothing, and says so to the browser.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from luthier.redteaming.labels import HumanLabels, answer_key, prompt_key
from luthier.redteaming.marks import marks_in
from luthier.redteaming.reading import Exchange, exchanges, stage_folders
from luthier.report.text import visible
from luthier.storage.files import write_text

_TEMPLATE = Path(__file__).with_name("review.html")
_SHOWN = ("round", "prompt", "answer", "category")


def write_review(run: str | Path, place: str | Path | None = None, labels: HumanLabels | None = None) -> Path:
    """Write the page of a run with a `redteam` stage.

    Args:
        run: its folder, or that of the stage.
        place: of the page; None is `review.html` beside the stage's folder.
        labels: what people said already.

    Raises:
        DataError: there is no such stage.
        WorkspaceError: the page can't be written.
    """
    folder = stage_folders(run)[-1]
    found = Path(place) if place is not None else folder.parent / "review.html"
    page = render_review(exchanges(folder), title=folder.parent.name, labels=labels, marks=marks_in(folder))
    write_text(found, page)
    return found


def render_review(
    rows: Sequence[Exchange],
    *,
    title: str = "",
    labels: HumanLabels | None = None,
    save: str = "",
    marks: Sequence[str] = (),
) -> str:
    """The page.

    Args:
        rows: what it shows.
        title: of the page.
        labels: what people said already.
        save: path that a server takes labels at; empty for a page without one, which offers them as a file.
        marks: what must not be missed, which stands above all rows.
    """
    labels, shown = labels or HumanLabels(), [_row(one) for one in rows]
    here = {row[key] for row in shown for key in ("answer_key", "prompt_key")}
    data = {
        "title": title,
        "rows": shown,
        "labels": {key: label for key, label in labels.labels.items() if key in here},
        "vetoes": sorted(labels.vetoes & here),
        "others": [one for key, one in labels.records.items() if key not in here],
        "save": save,
        "marks": [visible(one) for one in marks],
    }
    page = _TEMPLATE.read_text(encoding="utf8")
    nonce = secrets.token_urlsafe(18)
    return page.replace("{{NONCE}}", nonce).replace("{{DATA}}", embedded(data))


def embedded(data: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or begins another."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _row(one: Exchange) -> dict[str, Any]:
    """What is shown of an answer, with characters that reorder or hide text as marks, beside the texts as they are,
    and what labels know both texts by."""
    found = asdict(one)
    shown = {f"{name}_shown": visible(str(found[name]), keep="\n\t") for name in _SHOWN}
    return found | shown | {"answer_key": answer_key(one.prompt, one.answer), "prompt_key": prompt_key(one.prompt)}
