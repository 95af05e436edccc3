"""Where the words, spans and arcs of an annotated text stand: words flow to a width, the spans' types stand below them,
nested ones stacked, and arcs above. Units are those of the drawing.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from luthier.report.text import one_line, visible

# Height of the letters of words, and of names of types.
SIZE, SMALL = 14.0, 10.0
EDGE = 6.0
_LONGEST_NAME = 28
_NARROW, _WIDE = frozenset("ijl.,;:'|!()[]{}ftrI`\"- "), frozenset("mwMW@%—")


@dataclass
class Piece:
    """A word, or a part of one that is too long for a line, where it stands."""

    word: int
    text: str
    width: float
    gap: float
    line: int = 0
    x: float = 0.0


@dataclass
class Bar:
    """One line's part of a span, on a level below the text."""

    span: int
    line: int
    left: float
    right: float
    level: int = 0


@dataclass
class Arc:
    """One line's part of an arc; an end of None goes on beyond the line."""

    relation: int
    line: int
    left: float
    right: float
    starts: float | None
    arrives: float | None
    level: int = 0


@dataclass
class Layout:
    """Where everything of one text stands."""

    width: float
    pieces: list[Piece]
    bars: list[Bar] = field(default_factory=list)
    arcs: list[Arc] = field(default_factory=list)

    @property
    def lines(self) -> int:
        return max((piece.line for piece in self.pieces), default=0) + 1


def text_width(text: str, size: float = SIZE) -> float:
    """About how wide a sans-serif text is; it is drawn that wide."""
    return size * sum(map(_character_width, text))


def _character_width(character: str) -> float:
    if unicodedata.combining(character) or unicodedata.category(character) == "Mn":
        return 0.0
    if unicodedata.east_asian_width(character) in "WF":
        return 1.0
    if character in _NARROW:
        return 0.33
    if character in _WIDE:
        return 0.88
    return 0.68 if character.isupper() else 0.56


def lay_out(document: Mapping[str, Any], width: float) -> Layout:
    """Where the words, spans and arcs of a document stand; from right to left for scripts that are read so.

    Raises:
        ValueError: a span lies outside of the document.
    """
    words, entities = document["tokens"], document["entities"]
    if any(not 0 <= one["start"] < one["end"] <= len(words) for one in entities):
        raise ValueError("a span lies outside of its text")
    layout = Layout(width, _pieces(document, width - 2 * EDGE))
    _flow(layout, entities)
    layout.bars = _bars(layout, entities)
    layout.arcs = _arcs(layout, document["relations"])
    if _reads_leftward(" ".join(words)):
        _mirror(layout)
    return layout


def _pieces(document: Mapping[str, Any], most: float) -> list[Piece]:
    offsets: Sequence[Any] = document.get("offsets") or ()
    made: list[Piece] = []
    for number, word in enumerate(document["tokens"]):
        touches = bool(offsets) and number > 0 and offsets[number - 1][1] == offsets[number][0]
        gap, text = 0.0 if touches or not number else 0.3 * SIZE, visible(word)
        for part, width in _parts(text, most):
            made.append(Piece(number, part, width, gap))
            gap = 0.0
    return made


def _parts(text: str, most: float) -> Iterator[tuple[str, float]]:
    """A word in parts of at most this width, or of one character, each with its width."""
    ends = [SIZE * width for width in accumulate(map(_character_width, text), initial=0.0)]
    start = 0
    while start < len(text):
        end = max(start + 1, bisect_right(ends, ends[start] + most, lo=start) - 1)
        yield text[start:end], ends[end] - ends[start]
        start = end


def _flow(layout: Layout, entities: Sequence[Mapping[str, Any]]) -> None:
    """Give every piece its line and place. Words of spans stay on one line where they fit, and are as far apart as the
    names of their types need."""
    together = {word for one in entities for word in range(one["start"] + 1, one["end"])}
    needed: dict[int, list[tuple[int, float]]] = {}
    for one in entities:
        needed.setdefault(one["end"] - 1, []).append((one["start"], text_width(shown_name(one), SMALL) + 8))
    most, line, x, start = layout.width - 2 * EDGE, 0, 0.0, 0
    first: dict[int, float] = {}
    while start < len(layout.pieces):
        end = start + 1
        while end < len(layout.pieces) and layout.pieces[end].word in together:
            end += 1
        block = layout.pieces[start:end]
        wide = sum(p.gap + p.width for p in block)
        names = max((w for p in block for _, w in needed.get(p.word, [])), default=0.0)
        if x and x + max(wide, names + block[0].gap) > most:
            line, x = line + 1, 0.0
        for place, piece in enumerate(block):
            if x and x + piece.gap + piece.width > most:
                line, x = line + 1, 0.0
            x += piece.gap if x else 0.0
            piece.line, piece.x = line, x
            x += piece.width
            first.setdefault(piece.word, piece.x)
            if place + 1 == len(block) or block[place + 1].word != piece.word:
                x = max([x, *(first[s] + w for s, w in needed.get(piece.word, []) if first[s] <= piece.x)])
                x = min(x, most)
        start = end
    for piece in layout.pieces:
        piece.x += EDGE


def _bars(layout: Layout, entities: Sequence[Mapping[str, Any]]) -> list[Bar]:
    bars: list[Bar] = []
    on_line: dict[int, list[Bar]] = {}
    words = [piece.word for piece in layout.pieces]
    for number, one in sorted(enumerate(entities), key=lambda item: (item[1]["end"] - item[1]["start"], item[0])):
        lines: dict[int, list[Piece]] = {}
        for piece in layout.pieces[bisect_left(words, one["start"]) : bisect_left(words, one["end"])]:
            lines.setdefault(piece.line, []).append(piece)
        for place, (line, pieces) in enumerate(sorted(lines.items())):
            left, right = pieces[0].x - 2, pieces[-1].x + pieces[-1].width + 2
            if place == 0:
                right = max(right, left + text_width(shown_name(one), SMALL) + 6)
            others = on_line.setdefault(line, [])
            right = min(layout.width, max([right, *(bar.right for bar in others if _holds(one, entities[bar.span]))]))
            bars.append(Bar(number, line, left, right))
            others.append(bars[-1])
    _stack(bars)
    return bars


def _holds(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> bool:
    return bool(outer["start"] <= inner["start"] and inner["end"] <= outer["end"])


def _arcs(layout: Layout, relations: Sequence[Mapping[str, Any]]) -> list[Arc]:
    first: dict[int, Bar] = {}
    for bar in layout.bars:
        if bar.span not in first or bar.line < first[bar.span].line:
            first[bar.span] = bar
    ends = _attached(first, relations)
    arcs = []
    for number, one in enumerate(relations):
        head, tail = first[one["head"]], first[one["tail"]]
        start, end = ends[number, "head"], ends[number, "tail"]
        if head.line == tail.line:
            arcs.append(Arc(number, head.line, min(start, end), max(start, end), start, end))
            continue
        forward = head.line < tail.line
        for line, x, leaves in ((head.line, start, forward), (tail.line, end, not forward)):
            left, right = (x, layout.width) if leaves else (0.0, x)
            is_head = line == head.line
            arcs.append(Arc(number, line, left, right, x if is_head else None, None if is_head else x))
    for arc in arcs:
        room = text_width(shown_name(relations[arc.relation]), SMALL) + 10 - (arc.right - arc.left)
        if room > 0:
            arc.left, arc.right = arc.left - room / 2, arc.right + room / 2
    arcs.sort(key=lambda arc: (arc.right - arc.left, arc.relation))
    _stack(arcs)
    return arcs


def _attached(first: Mapping[int, Bar], relations: Sequence[Mapping[str, Any]]) -> dict[tuple[int, str], float]:
    """Where on its span each end of every arc stands, side by side in the order of the other ends."""
    touching: dict[int, list[tuple[tuple[int, float], int, str]]] = {}
    for number, one in enumerate(relations):
        for end, other in (("head", "tail"), ("tail", "head")):
            bar = first[one[other]]
            touching.setdefault(one[end], []).append(((bar.line, bar.left), number, end))
    places = {}
    for span, ends in touching.items():
        bar = first[span]
        for place, (_, number, end) in enumerate(sorted(ends), 1):
            places[number, end] = bar.left + (bar.right - bar.left) * place / (len(ends) + 1)
    return places


def _stack(parts: Sequence[Any]) -> None:
    """Give each part the lowest level of its line on which it touches none of those before it."""
    taken: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for part in parts:
        while any(part.left < right and left < part.right for left, right in taken.get((part.line, part.level), [])):
            part.level += 1
        taken.setdefault((part.line, part.level), []).append((part.left - 3, part.right + 3))


def _reads_leftward(text: str) -> bool:
    kinds = [unicodedata.bidirectional(character) for character in text]
    return sum(kind in ("R", "AL") for kind in kinds) > kinds.count("L")


def _mirror(layout: Layout) -> None:
    width = layout.width
    for piece in layout.pieces:
        piece.x = width - piece.x - piece.width
    parts: list[Any] = [*layout.bars, *layout.arcs]
    for part in parts:
        part.left, part.right = width - part.right, width - part.left
    for arc in layout.arcs:
        arc.starts = None if arc.starts is None else width - arc.starts
        arc.arrives = None if arc.arrives is None else width - arc.arrives


def shown_name(one: Mapping[str, Any]) -> str:
    """The type of an entity or a relation as it stands in a drawing."""
    return one_line(one["type"], _LONGEST_NAME)
