"""Texts with marked spans and arcs between them as one SVG element: no script, colours are those of the page.

Units are those of the view box; one is a pixel where the element is as wide as it was laid out for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.report.annotated_layout import SIZE, SMALL, Arc, Bar, Layout, Piece, lay_out, shown_name, text_width
from luthier.report.svg import COLOURS, plain
from luthier.report.text import number_text

# How wide a figure of the page is at most.
PAGE_WIDTH = 420.0
_TEXT, _BAR, _ARC, _AIR = 20.0, 14.0, 16.0, 10.0


def draw_annotated(documents: Sequence[Mapping[str, Any]], types: Sequence[str], *, title: str, width: float) -> str:
    """Documents below one another as an SVG element.

    Args:
        documents: of `tokens`, `entities` ({type, start, end, score?}, words, end exclusive), `relations` ({type, head,
            tail, score?}, indices into entities), and `text` and `offsets` where the words' distances are known.
        types: entity types in the order of their colours.
        title: what a screen reader says first.
        width: to lay out for, in pixels.

    Raises:
        ValueError: there is no document, or a span lies outside of one.
    """
    if not documents:
        raise ValueError("there is no text to draw")
    parts, top = [], 0.0
    for document in documents:
        layout = lay_out(document, width)
        svg, height = _Painter(document, layout, types).paint(top)
        parts.append(svg)
        top += height + 1.5 * _AIR
    height = max(1.0, top - 1.5 * _AIR)
    told = "; ".join(_told(document) for document in documents)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:.1f}" role="img" '
        f'style="font-family: system-ui, sans-serif"><title>{plain(title)}</title><desc>{plain(told)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def words_of(document: Mapping[str, Any], entity: Mapping[str, Any]) -> str:
    """The words of a span, parted by blanks."""
    return " ".join(document["tokens"][entity["start"] : entity["end"]])


def sure(one: Mapping[str, Any]) -> str:
    """` 0.8730`, or nothing where there is no score."""
    return f" {number_text(one['score'])}" if one.get("score") is not None else ""


def relation_text(document: Mapping[str, Any], relation: Mapping[str, Any]) -> str:
    """`Anna → Live_In → Paris 0.8730`."""
    head, tail = (words_of(document, document["entities"][relation[end]]) for end in ("head", "tail"))
    return f"{head} → {relation['type']} → {tail}{sure(relation)}"


def _told(document: Mapping[str, Any]) -> str:
    entities = [f"{words_of(document, one)} ({one['type']})" for one in document["entities"]]
    return ", ".join([*entities, *(relation_text(document, one) for one in document["relations"])]) or "nothing marked"


class _Painter:
    """Writes a layout as SVG."""

    def __init__(self, document: Mapping[str, Any], layout: Layout, types: Sequence[str]) -> None:
        self.document, self.layout = document, layout
        self._colours = {name: i % len(COLOURS) for i, name in enumerate(types)}
        # The line that each span begins on.
        self._begins: dict[int, int] = {}
        for bar in layout.bars:
            self._begins[bar.span] = min(bar.line, self._begins.get(bar.span, bar.line))

    def paint(self, top: float) -> tuple[str, float]:
        """The drawing from a height on, and how high it is."""
        layout, parts, y = self.layout, [], top
        lines = (_by_line(parts, layout.lines) for parts in (layout.pieces, layout.bars, layout.arcs))
        for pieces, bars, arcs in zip(*lines, strict=True):
            y += _ARC * (max((arc.level for arc in arcs), default=-1) + 1)
            parts += [self._bar(bar, y) for bar in sorted(bars, key=lambda bar: -bar.level)]
            parts += [_word(piece, y) for piece in pieces]
            parts += [self._arc(arc, y) for arc in arcs]
            y += _TEXT + _BAR * (max((bar.level for bar in bars), default=-1) + 1) + _AIR
        return "".join(parts), y - top - _AIR

    def _bar(self, bar: Bar, y: float) -> str:
        one = self.document["entities"][bar.span]
        place = self._colours.get(one["type"], len(COLOURS) - 1)
        colour, wide = f"var(--series-{place}, {COLOURS[place]})", bar.right - bar.left
        top = y + _TEXT + _BAR * bar.level
        tint = f'<rect x="{bar.left:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{_TEXT + _BAR * bar.level:.1f}" '
        label = f'<rect x="{bar.left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{_BAR - 1.5:.1f}" rx="2" '
        name = shown_name(one) if bar.line == self._begins[bar.span] else "…"
        said = f"{words_of(self.document, one)}: {one['type']}{sure(one)}"
        return (
            f"<g><title>{plain(said)}</title>"
            f'{tint}style="fill: {colour}; fill-opacity: .14"/>{label}style="fill: {colour}; fill-opacity: .38"/>'
            f"{_small(name, (bar.left + bar.right) / 2, top + _BAR - 4.5, wide - 2)}</g>"
        )

    def _arc(self, arc: Arc, y: float) -> str:
        one, width = self.document["relations"][arc.relation], self.layout.width
        top = y - _ARC * (arc.level + 1) + 9
        # Where an end is on another line, the arc goes on to the edge of this one.
        edge = width if arc.right >= width - 1 else 0.0
        start, end = (edge if x is None else x for x in (arc.starts, arc.arrives))
        turn = min(4.0, abs(end - start) / 2) * (1 if end >= start else -1)
        rises = f"M{start:.1f} {top:.1f}"
        if arc.starts is not None:
            rises = f"M{start:.1f} {y:.1f}V{top + 4:.1f}q0 -4 {turn:.1f} -4"
        falls, arrow = f"H{end:.1f}", ""
        if arc.arrives is not None:
            falls = f"H{end - turn:.1f}q{turn:.1f} 0 {turn:.1f} 4V{y:.1f}"
            arrow = f'<path d="M{end:.1f} {y:.1f}l-3.2 -6h6.4z" style="fill: currentColor"/>'
        name, half = shown_name(one), text_width(shown_name(one), SMALL) / 2 + 2
        middle = min(max((start + end) / 2, half), width - half)
        return (
            f"<g><title>{plain(relation_text(self.document, one))}</title>"
            f'<path d="{rises}{falls}" style="fill: none; stroke: currentColor; stroke-opacity: .6"/>{arrow}'
            f"{_small(name, middle, top + 3.5, None, halo=True)}</g>"
        )


def _by_line(parts: Sequence[Any], lines: int) -> list[list[Any]]:
    """The parts of every line, in their order."""
    found: list[list[Any]] = [[] for _ in range(lines)]
    for part in parts:
        found[part.line].append(part)
    return found


def _word(piece: Piece, y: float) -> str:
    middle = piece.x + piece.width / 2
    fitted = f' textLength="{piece.width:.1f}" lengthAdjust="spacingAndGlyphs"' if piece.width else ""
    return (
        f'<text x="{middle:.1f}" y="{y + SIZE:.1f}"{fitted} '
        f'style="font-size: {SIZE:g}px; text-anchor: middle; fill: currentColor">{plain(piece.text)}</text>'
    )


def _small(text: str, x: float, y: float, room: float | None, *, halo: bool = False) -> str:
    wide = text_width(text, SMALL)
    wide = min(wide, room) if room else wide
    around = (
        "paint-order: stroke; stroke: var(--back, #fff); stroke-width: 4px; stroke-linejoin: round; " if halo else ""
    )
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" textLength="{wide:.1f}" lengthAdjust="spacingAndGlyphs" '
        f'style="font-size: {SMALL:g}px; text-anchor: middle; {around}fill: currentColor">{plain(text)}</text>'
    )
