"""Scores equal those of few-line counters in the manner of SpERT and PFN, and of cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from luthier.extraction.scoring import LEVELS, bootstrap, score_extractions
from luthier.extraction.types import Types

from .corpora import TYPES, perturbed, sentences


def spert_flat(document, level: str):
    """Tuples with the type last, symmetric ones turned round by their start, as SpERT's evaluator lists them."""
    entities = document["entities"]
    if level == "entity":
        return [(e["start"], e["end"], e["type"]) for e in entities]
    found = []
    for relation in document["relations"]:
        ends = [entities[relation["head"]], entities[relation["tail"]]]
        if TYPES.relations[relation["type"]]:
            ends.sort(key=lambda e: (e["start"], e["end"], e["type"]))
        kept = [(e["start"], e["end"], e["type"] if level == "relation_strict" else "") for e in ends]
        found.append((*kept, relation["type"]))
    return found


def spert_scores(gold, predicted, level: str, average: str):
    """Over the union of both sets, sklearn's scores of the types with "none" for what one side lacks."""
    true, guess = [], []
    for one, other in zip(gold, predicted, strict=True):
        a, b = set(spert_flat(one, level)), set(spert_flat(other, level))
        for item in a | b:
            true.append(item[-1] if item in a else "none")
            guess.append(item[-1] if item in b else "none")
    labels = sorted(set(true + guess) - {"none"})
    return precision_recall_fscore_support(true, guess, labels=labels, average=average, zero_division=0)[:3]


def pfn_counts(gold, predicted):
    """Sums over sentences of gold, predicted and right triples of first words, as PFN's metric counts them."""
    sums = np.zeros(3, int)
    for one, other in zip(gold, predicted, strict=True):
        triples, right = [], None
        for document in (one, other):
            ends = [(e["start"], e["end"], e["type"]) for e in document["entities"]]
            right = set(ends) if right is None else right & set(ends)
            found = set()
            for r in document["relations"]:
                pair = ends[r["head"]], ends[r["tail"]]
                pair = sorted(pair) if TYPES.relations[r["type"]] else pair
                found.add((pair[0][0], r["type"], pair[1][0]))
            triples.append(found)
        starts = {start for start, _, _ in right}
        both = [t for t in triples[0] & triples[1] if t[0] in starts and t[2] in starts]
        sums += len(triples[0]), len(triples[1]), len(both)
    return list(sums)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("level", ["entity", "relation", "relation_strict"])
@pytest.mark.parametrize("average", ["micro", "macro"])
def test_equals_a_counter_in_the_manner_of_spert(seed: int, level: str, average: str):
    gold = sentences(60, seed)
    guess = perturbed(gold, seed + 100)
    score = getattr(score_extractions(gold, guess, TYPES).levels[level], average)()
    expected = spert_scores(gold, guess, level, average)
    np.testing.assert_allclose([score.precision, score.recall, score.f1], expected, rtol=0, atol=1e-12)
    assert 0 < score.f1 < 1


@pytest.mark.parametrize("seed", range(8))
def test_equals_a_counter_in_the_manner_of_pfn(seed: int):
    gold = sentences(60, seed)
    guess = perturbed(gold, seed + 100)
    counts = score_extractions(gold, guess, TYPES).levels["relation_start"]
    found = [int(part.sum()) for part in (counts.gold, counts.predicted, counts.correct)]
    assert found == pfn_counts(gold, guess)
    assert found[2] > 0


@pytest.mark.parametrize("seed", range(4))
def test_first_words_equal_strict_where_no_two_entities_begin_at_one_word(seed: int):
    gold = sentences(60, seed, flat=True)
    guess = perturbed(gold, seed)
    for one in guess:
        if len({e["start"] for e in one["entities"]}) < len(one["entities"]):
            one["entities"], one["relations"] = [], []
    levels = score_extractions(gold, guess, TYPES).levels
    np.testing.assert_array_equal(levels["relation_start"].correct, levels["relation_strict"].correct)
    assert levels["relation_strict"].correct.sum() < levels["relation"].correct.sum()


@pytest.mark.parametrize("seed", range(4))
def test_gold_scores_one_against_itself(seed: int):
    gold = sentences(40, seed)
    flat = score_extractions(gold, gold, TYPES).flat()
    assert set(flat.values()) == {1.0}
    assert len(flat) == len(LEVELS) * 6


def document(entities, relations=(), words: int = 12, **more):
    return {
        "tokens": ["w"] * words,
        "entities": [{"start": a, "end": b, "type": kind} for a, b, kind in entities],
        "relations": [{"head": head, "tail": tail, "type": kind} for head, tail, kind in relations],
        **more,
    }


def counted(scores, level: str) -> tuple[int, int, int]:
    counts = scores.levels[level]
    return int(counts.gold.sum()), int(counts.predicted.sum()), int(counts.correct.sum())


def test_a_case_counted_by_hand():
    gold = document([(0, 2, "Peop"), (3, 5, "Org"), (6, 7, "Loc")], [(0, 1, "Kill"), (0, 2, "Live_In")])
    guess = document([(0, 2, "Peop"), (3, 5, "Loc"), (6, 8, "Loc")], [(0, 1, "Kill"), (0, 2, "Live_In")])
    scores = score_extractions([gold], [guess], TYPES)
    assert counted(scores, "entity") == (3, 3, 1)
    assert counted(scores, "relation") == (2, 2, 1)
    assert counted(scores, "relation_strict") == (2, 2, 0)
    assert counted(scores, "relation_start") == (2, 2, 0)
    assert scores.flat()["relation_micro_f1"] == 0.5
    # Kill has F1 1, Live_In 0.
    assert scores.flat()["relation_macro_f1"] == 0.5
    by_type = scores.levels["entity"].by_type()
    assert {kind: (score.f1, support) for kind, (score, support) in by_type.items()} == {
        "Loc": (0.0, 1),
        "Org": (0.0, 1),
        "Peop": (1.0, 1),
    }


def test_a_symmetric_relation_is_right_either_way_round_and_counts_once():
    gold = document([(0, 1, "Peop"), (2, 3, "Peop")], [(0, 1, "Spouse")])
    guess = document([(0, 1, "Peop"), (2, 3, "Peop")], [(1, 0, "Spouse"), (0, 1, "Spouse")])
    assert counted(score_extractions([gold], [guess], TYPES), "relation_strict") == (1, 1, 1)
    assert counted(score_extractions([gold], [guess], Types()), "relation_strict") == (1, 2, 1)


def test_nothing_found_and_nothing_there_is_zero_and_no_error():
    empty = document([])
    assert set(score_extractions([empty], [empty]).flat().values()) == {0.0}
    assert score_extractions([], []).sentences == 0
    some = document([(0, 1, "Peop")])
    assert score_extractions([some], [empty]).flat()["entity_micro_precision"] == 0.0


def test_overlapping_entities_are_kept_or_dropped_as_told():
    nested = document([(0, 4, "Org"), (1, 2, "Loc"), (6, 7, "Peop")], [(0, 1, "Live_In"), (2, 0, "Live_In")])
    flat = document([(0, 1, "Peop")])
    gold, guess = [nested, flat], [nested, flat]
    assert counted(score_extractions(gold, guess, TYPES), "entity") == (4, 4, 4)
    dropped = score_extractions(gold, guess, TYPES, overlap="drop_items")
    assert counted(dropped, "entity") == (2, 2, 2)
    assert counted(dropped, "relation") == (1, 1, 1)
    sentences_dropped = score_extractions(gold, guess, TYPES, overlap="drop_sentences")
    assert sentences_dropped.sentences == 1
    assert list(sentences_dropped.kept) == [1]
    assert counted(sentences_dropped, "entity") == (1, 1, 1)


def test_what_gold_does_not_know_is_not_counted():
    gold = document([(0, 1, "Peop"), (2, 3, "Org")], ignore=[[5, 9]], ignore_pairs=[[0, 1]])
    guess = document(
        [(0, 1, "Peop"), (2, 3, "Org"), (6, 7, "Loc"), (10, 11, "Loc")],
        [(0, 1, "Live_In"), (1, 0, "Live_In"), (0, 2, "Kill")],
    )
    scores = score_extractions([gold], [guess], TYPES)
    assert counted(scores, "entity") == (2, 3, 2)
    assert counted(scores, "relation") == (0, 1, 0)


@pytest.mark.parametrize("average", ["micro", "macro"])
@pytest.mark.parametrize("level", list(LEVELS))
def test_many_draws_at_once_equal_scores_of_the_drawn_sentences(level: str, average: str):
    gold = sentences(25, 3)
    guess = perturbed(gold, 4)
    drawn = np.random.default_rng(0).integers(0, 25, (6, 25))
    draws = np.stack([np.bincount(row, minlength=25) for row in drawn])
    (found,) = bootstrap([score_extractions(gold, guess, TYPES).levels[level]], draws, average)
    expected = [
        getattr(score_extractions([gold[i] for i in row], [guess[i] for i in row], TYPES).levels[level], average)().f1
        for row in drawn
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert len(set(found)) > 1


def test_unequal_lists_and_unknown_words_are_refused():
    with pytest.raises(ValueError, match="1 sentences of gold and 0 of predictions"):
        score_extractions([document([])], [])
    with pytest.raises(ValueError, match="overlap='none' is none of keep"):
        score_extractions([], [], overlap="none")  # type: ignore[arg-type]
