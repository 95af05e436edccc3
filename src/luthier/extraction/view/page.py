"""Extractions as one self-contained HTML page: no script, nothing loaded from outside, all text escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.extraction.documents import Document
from luthier.extraction.types import Types
from luthier.report.annotated import draw_annotated, relation_text, sure, words_of
from luthier.report.svg import COLOURS, DARK_COLOURS
from luthier.report.text import visible

BROAD, SLIM = 800, 360
MOST_DOCUMENTS = 500


def write_view(path: Path, documents: Sequence[Document], types: Types | None = None, *, title: str = "") -> Path:
    """Write a page with the documents, in one step.

    Args:
        path: the file.
        documents: sound ones, annotated or predicted; the first `MOST_DOCUMENTS` are shown.
        types: give the order of colours; those that occur otherwise.
        title: of the page.

    Raises:
        ValueError: an entity lies outside of its document.
        WorkspaceError: the file can't be written.
    """
    from luthier.storage.files import write_text

    write_text(Path(path), render_view(documents, types, title=title or Path(path).stem))
    return Path(path)


def render_view(documents: Sequence[Document], types: Types | None = None, *, title: str) -> str:
    """The page as text. See `write_view`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("luthier.extraction.view", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.finalize = _visible
    types = types or Types.of(documents)
    entities = Counter(one["type"] for document in documents for one in document["entities"])
    relations = Counter(one["type"] for document in documents for one in document["relations"])
    counts = (len(documents), entities.total(), relations.total())
    return environment.get_template("page.html.j2").render(
        title=title,
        counted=f"{counts[0]} documents, {counts[1]} entities, {counts[2]} relations.",
        legend=[(name, entities[name], i % len(COLOURS)) for i, name in enumerate(types.entities) if entities[name]],
        relations=[(name, number) for name, number in relations.most_common()],
        documents=[_shown(one, number, types) for number, one in enumerate(documents[:MOST_DOCUMENTS], 1)],
        left_out=max(0, len(documents) - MOST_DOCUMENTS),
        colours=list(zip(COLOURS, DARK_COLOURS, strict=True)),
        broad=BROAD,
        slim=SLIM,
    )


def _visible(value: Any) -> Any:
    return visible(value, keep="\n\t") if isinstance(value, str) and not hasattr(value, "__html__") else value


def _shown(document: Document, number: int, types: Types) -> dict[str, Any]:
    name = f"{number}" if document.get("id") is None else f"{number}: {document['id']}"
    told = [f"{words_of(document, one)}: {one['type']}{sure(one)}" for one in document["entities"]]
    return {
        "name": name,
        "broad": _drawn(document, types, name, BROAD, "broad"),
        "slim": _drawn(document, types, name, SLIM, "slim"),
        "entities": len(document["entities"]),
        "relations": len(document["relations"]),
        "told": told + [relation_text(document, one) for one in document["relations"]],
    }


def _drawn(document: Document, types: Types, name: str, width: int, kind: str) -> str:
    svg = draw_annotated([document], types.entities, title=f"document {name}", width=width)
    return svg.replace("<svg ", f'<svg class="{kind}" ', 1)
