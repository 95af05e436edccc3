"""Mistakes, statistics and their sections: hand-made cases, and sums that must add up."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from luthier.extraction.mistakes import ENTITY_KINDS, RELATION_KINDS, find_mistakes
from luthier.extraction.scoring import score_extractions
from luthier.extraction.sections import corpus_sections, mistake_sections, score_sections, view_section
from luthier.extraction.statistics import corpus_statistics
from luthier.extraction.types import Types
from luthier.report.sections import Section

from .corpora import TYPES, perturbed, sentences


def document(entities: Any = (), relations: Any = (), **more: Any) -> dict[str, Any]:
    return {
        "tokens": [f"w{i}" for i in range(20)],
        "entities": [
            {"start": a, "end": b, "type": kind, "score": s[0]} if s else {"start": a, "end": b, "type": kind}
            for a, b, kind, *s in entities
        ],
        "relations": [{"head": h, "tail": t, "type": kind} for h, t, kind in relations],
        **more,
    }


GOLD = [(0, 2, "Peop"), (4, 6, "Org"), (8, 10, "Loc"), (12, 14, "Loc")]


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("type", (4, 6, "Loc")),
        ("boundary", (4, 7, "Org")),
        ("boundary_and_type", (5, 7, "Loc")),
        ("missed", None),
    ],
)
def test_kinds_of_mistakes_in_entities(kind: str, found: Any):
    guess = [GOLD[0], *([found] if found else []), *GOLD[2:]]
    mistakes = find_mistakes([document(GOLD)], [document(guess)])
    (one,) = mistakes.entities
    assert (one.kind, one.gold, one.row) == (kind, "w4 w5 (Org)", 0)
    assert (one.predicted is None) == (found is None)
    assert mistakes.right["entities"] == 3
    assert dict(mistakes.confused) == ({("Org", "Loc"): 1} if kind == "type" else {})


def test_a_spurious_entity():
    (one,) = find_mistakes([document(GOLD)], [document([*GOLD, (16, 17, "Loc")])]).entities
    assert (one.kind, one.gold, one.predicted) == ("spurious", None, "w16 (Loc)")


@pytest.mark.parametrize(
    ("kind", "entities", "relations"),
    [
        ("entity_type", [(0, 2, "Org"), *GOLD[1:]], [(0, 1, "Kill")]),
        ("type", GOLD, [(0, 1, "Live_In")]),
        ("direction", GOLD, [(1, 0, "Kill")]),
        ("boundary", [(1, 3, "Peop"), *GOLD[1:]], [(0, 1, "Kill")]),
        ("missed", GOLD, []),
        ("missed_entity", GOLD[:1], []),
    ],
)
def test_kinds_of_mistakes_in_relations(kind: str, entities: Any, relations: Any):
    gold = document(GOLD, [(0, 1, "Kill")])
    (one,) = find_mistakes([gold], [document(entities, relations)], TYPES).relations
    assert (one.kind, one.gold) == (kind, "w0 w1 (Peop) → Kill → w4 w5 (Org)")
    assert set(RELATION_KINDS) >= {kind}


def test_a_symmetric_relation_turned_round_is_no_mistake():
    gold, guess = document(GOLD, [(0, 1, "Spouse")]), document(GOLD, [(1, 0, "Spouse")])
    assert not find_mistakes([gold], [guess], TYPES).relations
    assert [one.kind for one in find_mistakes([gold], [guess], Types()).relations] == ["direction"]


@pytest.mark.parametrize("seed", range(6))
def test_every_item_is_right_or_one_mistake(seed: int):
    gold = sentences(50, seed)
    guess = perturbed(gold, seed + 1)
    mistakes = find_mistakes(gold, guess, TYPES)
    levels = score_extractions(gold, guess, TYPES).levels
    for found, level, kinds in (
        (mistakes.entities, "entity", ENTITY_KINDS),
        (mistakes.relations, "relation_strict", RELATION_KINDS),
    ):
        counts = levels[level]
        right = int(counts.correct.sum())
        assert mistakes.right["entities" if level == "entity" else "relations"] == right
        assert sum(one.gold is not None for one in found) == counts.gold.sum() - right
        assert sum(one.predicted is not None for one in found) == counts.predicted.sum() - right
        assert {one.kind for one in found} <= set(kinds)
        assert len({one.kind for one in found}) >= 4
    assert sum(mistakes.confused.values()) == Counter(one.kind for one in mistakes.entities)["type"]


def test_what_gold_does_not_know_is_no_mistake():
    gold = document(GOLD[:1], ignore=[[10, 20]])
    assert not find_mistakes([gold], [document([GOLD[0], (12, 14, "Loc")])]).entities


def test_the_surest_mistakes_come_first_with_their_words():
    guess = document([(0, 2, "Peop", 0.99), (4, 6, "Loc", 0.6), (9, 10, "Loc", 0.9), (16, 17, "Org", 0.7)])
    mistakes = find_mistakes([document(GOLD)], [guess])
    assert [one.score for one in mistakes.surest()] == [0.9, 0.7, 0.6]
    assert len(mistakes.surest(2)) == 2
    *_, last = mistake_sections(mistakes, [document(GOLD)])
    assert last.samples is not None
    assert dict(last.samples[0]) == {
        "predicted (boundary, score 0.9000)": "w9 (Loc)",
        "gold": "w8 w9 (Loc)",
        "text": "w0 w1 w2 w3 w4 w5 w6 w7 w8 [[ w9 ]] w10 w11 w12 w13 w14 w15 w16 w17 w18 w19",
    }


def test_statistics_counted_by_hand():
    one = document(
        [(0, 4, "Org"), (1, 2, "Loc"), (1, 2, "Peop"), (6, 18, "Loc")],
        [(0, 1, "Kill"), (1, 3, "Live_In"), (2, 2, "Kill"), (1, 2, "Live_In")],
        ignore=[[4, 6], [5, 7]],
    )
    found = corpus_statistics([one, document(GOLD)], max_span_size=8)
    assert (found.sentences, found.words, found.entities["Loc"], found.relations["Kill"]) == (2, 40, 4, 2)
    assert (found.overlapping, found.nested, found.same_span, found.overlapping_sentences) == (3, 2, 2, 1)
    assert found.widths == {4: 1, 1: 2, 12: 1, 2: 4}
    assert found.between == {0: 3, 4: 1}
    assert (found.too_wide, found.entity_ceiling) == (1, 1 - 1 / 8)
    assert (found.unreachable, found.relation_ceiling) == (3, 1 - 3 / 4)
    assert found.ignored_words == 3
    assert corpus_statistics([]).entity_ceiling == 1.0


def test_a_long_document_takes_no_time_by_the_square_of_its_entities():
    def long(kind: str, number: int) -> dict[str, Any]:
        entities = [{"type": kind, "start": 2 * i, "end": 2 * i + 1} for i in range(number)]
        relations = [{"type": "near", "head": i, "tail": i + 1} for i in range(number - 1)]
        return {"tokens": ["w"] * 2 * number, "entities": entities, "relations": relations}

    began = time.process_time()  # each is done within a second or two, and takes a minute where every pair is looked at
    mistakes = find_mistakes([long("Peop", 5000)], [long("Loc", 5000)])
    assert Counter(one.kind for one in mistakes.entities) == {"type": 5000}
    assert Counter(one.kind for one in mistakes.relations) == {"entity_type": 4999}
    assert corpus_statistics([long("Loc", 20_000)]).overlapping == 0
    assert time.process_time() - began < 20


def test_nested_and_equal_spans_are_those_of_every_pair():
    spans = [(0, 4), (0, 4), (0, 2), (1, 4), (3, 6), (3, 6), (3, 6), (5, 6), (8, 9)]
    found = corpus_statistics([document([(*span, "Loc") for span in spans])])
    assert (found.same_span, found.nested) == (5, 3)


def test_sections_are_data_that_can_be_read_and_drawn():
    gold = sentences(40, 1)
    guess = perturbed(gold, 2)
    made = [
        *score_sections(score_extractions(gold, guess, TYPES)),
        *mistake_sections(find_mistakes(gold, guess, TYPES), gold),
        *corpus_sections(corpus_statistics(gold)),
        view_section(guess, TYPES),
    ]
    assert len(made) == 9
    for section in made:
        again = Section.from_json(section.to_json())
        assert again.to_json() == section.to_json()
        if again.plot is not None:
            assert again.plot.draw(again.title).startswith("<svg")
    assert made[-1].text == "The first 10 of 40."
    with pytest.raises(ValueError, match="there is no document"):
        view_section([])
