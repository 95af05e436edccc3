"""Drawings of annotated texts: everything is there, inside the drawing, nothing on top of another, all text escaped."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.report import annotated_layout
from luthier.report.annotated import draw_annotated
from luthier.report.annotated_layout import lay_out

from .fixtures import HOSTILE

SVG = "{http://www.w3.org/2000/svg}"


@st.composite
def documents(draw: Any) -> dict[str, Any]:
    words = draw(st.lists(st.text("ab漢mل<&", min_size=1, max_size=30), min_size=1, max_size=25))
    spans = draw(st.lists(st.tuples(st.integers(0, len(words) - 1), st.integers(1, 9)), max_size=6))
    kinds = st.sampled_from(["Loc", "OtherScientificTerm", "x<y>"])
    entities = [{"type": draw(kinds), "start": a, "end": min(len(words), a + b)} for a, b in spans]
    ends = st.integers(0, len(entities) - 1)
    pairs = draw(st.lists(st.tuples(ends, ends), max_size=5)) if entities else []
    return {
        "tokens": words,
        "entities": entities,
        "relations": [{"type": draw(kinds), "head": a, "tail": b, "score": 0.5} for a, b in pairs],
    }


@settings(max_examples=80)
@given(documents(), st.sampled_from([300.0, 800.0]))
def test_nothing_is_lost_and_nothing_lies_on_top_of_another(document: dict[str, Any], width: float):
    layout = lay_out(document, width)
    assert {bar.span for bar in layout.bars} == set(range(len(document["entities"])))
    assert {arc.relation for arc in layout.arcs} == set(range(len(document["relations"])))
    for piece in layout.pieces:
        assert piece.x >= -0.01
        assert piece.x + piece.width <= width + 0.01
    for parts in (layout.bars, layout.arcs):
        for number, one in enumerate(parts):
            for other in parts[number + 1 :]:
                together = (one.line, one.level) == (other.line, other.level)
                assert not together or one.right <= other.left or other.right <= one.left
    for line in range(layout.lines):
        there = sorted((p.x, p.x + p.width) for p in layout.pieces if p.line == line)
        assert all(b <= c + 0.01 for (_, b), (c, _) in itertools.pairwise(there))
    drawn = ET.fromstring(draw_annotated([document], ["Loc"], title="t", width=width))
    shown = "".join(text.text or "" for text in drawn.iter(f"{SVG}text"))
    assert all(word in shown for word in document["tokens"] if len(word) < 10)


def test_a_long_word_is_cut_into_lines_by_looking_once_at_every_letter(monkeypatch: pytest.MonkeyPatch):
    seen = []
    width_of = annotated_layout._character_width
    monkeypatch.setattr(annotated_layout, "_character_width", lambda letter: seen.append(letter) or width_of(letter))
    word = "Wi漢" * 100
    pieces = lay_out({"tokens": [word], "entities": [], "relations": []}, 300).pieces
    assert "".join(seen) == word == "".join(piece.text for piece in pieces)
    room = 300 - 2 * annotated_layout.EDGE
    for piece, after in itertools.pairwise(pieces):
        assert piece.width == pytest.approx(annotated_layout.text_width(piece.text))
        assert piece.width <= room < piece.width + annotated_layout.text_width(after.text[0])


def test_text_is_data_and_never_markup():
    one = {
        "tokens": [HOSTILE, "x"],
        "entities": [{"type": HOSTILE, "start": 0, "end": 1}, {"type": "Loc", "start": 1, "end": 2}],
        "relations": [{"type": HOSTILE, "head": 0, "tail": 1}],
    }
    svg = draw_annotated([one], [HOSTILE], title=HOSTILE, width=400)
    assert "<script" not in svg
    assert "\u202e" not in svg
    tags = {element.tag.removeprefix(SVG) for element in ET.fromstring(svg).iter()}
    assert tags == {"svg", "title", "desc", "g", "rect", "text", "path"}


def test_what_a_screen_reader_says():
    one = {
        "tokens": ["Anna", "in", "Paris"],
        "entities": [{"type": "Peop", "start": 0, "end": 1}, {"type": "Loc", "start": 2, "end": 3, "score": 0.75}],
        "relations": [{"type": "Live_In", "head": 0, "tail": 1, "score": 0.5}],
    }
    drawn = ET.fromstring(draw_annotated([one], ["Loc"], title="a title", width=400))
    assert drawn.findtext(f"{SVG}title") == "a title"
    assert drawn.findtext(f"{SVG}desc") == "Anna (Peop), Paris (Loc), Anna → Live_In → Paris 0.5000"
    assert "Paris: Loc 0.7500" in [title.text for title in drawn.iter(f"{SVG}title")]


def test_a_script_from_right_to_left_is_laid_out_so():
    layout = lay_out({"tokens": ["ولد", "أحمد"], "entities": [], "relations": []}, 400)
    assert layout.pieces[0].x > layout.pieces[1].x


def test_a_line_is_broken_before_an_entity_and_not_in_it():
    words = ["word"] * 9 + ["New", "York"]
    one = {"tokens": words, "entities": [{"type": "Loc", "start": 9, "end": 11}], "relations": []}
    for width in range(330, 420, 10):
        layout = lay_out(one, width)
        assert len({piece.line for piece in layout.pieces[-2:]}) == 1


def test_a_long_text_takes_as_much_work_as_its_parts(monkeypatch):
    reads = Counter()

    def counting(kind: type[Any]) -> type[Any]:
        class Counted(kind):
            def __getattribute__(self, name: str) -> Any:
                reads[words] += 1
                return super().__getattribute__(name)

        return Counted

    for name in ("Piece", "Bar", "Arc"):
        monkeypatch.setattr(annotated_layout, name, counting(getattr(annotated_layout, name)))
    for words in (200, 800):
        entities = [{"type": "Loc", "start": start, "end": start + 2} for start in range(0, words, 4)]
        relations = [{"type": "Near", "head": head, "tail": head - 1} for head in range(1, len(entities))]
        one = {"tokens": ["word"] * words, "entities": entities, "relations": relations}
        draw_annotated([one], ["Loc"], title="", width=400)
    assert reads[800] < 5 * reads[200]


def test_a_span_outside_and_nothing_to_draw_are_refused():
    with pytest.raises(ValueError, match="a span lies outside of its text"):
        lay_out({"tokens": ["a"], "entities": [{"type": "x", "start": 0, "end": 2}], "relations": []}, 400)
    with pytest.raises(ValueError, match="there is no text to draw"):
        draw_annotated([], [], title="", width=400)
