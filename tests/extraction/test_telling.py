"""Windows of long texts, relations and entities of several windows, thresholds, and scores."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from luthier.extraction.output import ExtractionOutput
from luthier.extraction.scoring import LEVELS, counts, f1, score_extractions
from luthier.extraction.telling import Found, best_threshold, kept_outputs
from luthier.extraction.types import Types
from luthier.extraction.windows import sentence_ends, windows
from luthier.tasks.base import task_named
from luthier.tasks.running.judged import Judged

TYPES = Types.of_labels(["entity:A", "entity:B", "relation:r", "symmetric relation:s"])


def test_windows_hold_whole_sentences_overlap_and_leave_no_word_out():
    words = " ".join("w " * n + "." for n in (3, 5, 2, 4, 6, 1)).split()
    ends = sentence_ends(words)
    assert ends == [4, 10, 13, 18, 25, 27]
    found = windows(words, [1] * len(words), 13)
    assert found == [(0, 13), (10, 18), (18, 27)]
    assert {word for first, last in found for word in range(first, last)} == set(range(27))
    long = windows(["w"] * 30, [2] * 30, 16)
    assert all(last - first == 8 for first, last in long[:-1])
    assert [second[0] - first[0] for first, second in pairwise(long)] == [4] * (len(long) - 1)
    assert windows(["w", "w"], [9, 9], 5) == [(0, 1), (1, 2)]
    assert sentence_ends(["He", "said", ".", "''", "Yes", "!"]) == [4, 6]


@pytest.mark.parametrize("seed", range(20))
def test_windows_of_any_text_fit_and_cover(seed: int):
    rng = np.random.default_rng(seed)
    words = ["." if x < 0.15 else "w" for x in rng.random(int(rng.integers(1, 80)))]
    pieces = rng.integers(0, 5, len(words)).tolist()
    room = int(rng.integers(4, 20))
    found = windows(words, pieces, room)
    assert all(sum(pieces[first:last]) <= room and first < last for first, last in found)
    assert {word for first, last in found for word in range(first, last)} == set(range(len(words)))
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(found))


def kept(entities: list[list[float]], relations: list[list[float]]) -> dict[str, np.ndarray]:
    return {"entities": np.array(entities).reshape(-1, 4), "relations": np.array(relations).reshape(-1, 4)}


def test_two_windows_are_put_together_and_the_surer_one_counts():
    found = Found()
    found.add(kept([[0, 1, 0, 0.9], [4, 6, 1, 0.6]], [[0, 1, 0, 0.4], [1, 0, 1, 0.7]]), 0, TYPES)
    found.add(kept([[2, 4, 0, 0.8], [5, 6, 1, 0.5]], [[0, 1, 0, 0.9]]), 2, TYPES)
    told = found.document(TYPES, [0.5, 0.5])
    assert told["entities"] == [
        {"type": "A", "start": 0, "end": 1, "score": 0.9},
        {"type": "A", "start": 4, "end": 6, "score": 0.8},
        {"type": "B", "start": 7, "end": 8, "score": 0.5},
    ]
    assert [(r["type"], r["head"], r["tail"]) for r in told["relations"]] == [("s", 0, 1), ("r", 1, 2)]
    assert found.document(TYPES, [0.5, 0.8])["relations"] == told["relations"][1:]


def test_scores_count_duplicates_once_and_symmetric_relations_in_one_order():
    entities = [{"type": "A", "start": 0, "end": 1}, {"type": "B", "start": 2, "end": 3}]
    gold = [
        {"entities": entities, "relations": [{"type": "s", "head": 1, "tail": 0}, {"type": "r", "head": 0, "tail": 1}]}
    ]
    wrong = [{**entities[0], "type": "B"}, entities[1]]
    twice = [{"type": "s", "head": 0, "tail": 1}, {"type": "s", "head": 1, "tail": 0}]
    there, found = counts(gold, [{"entities": wrong, "relations": twice}], TYPES)
    assert f1(there, found, "entity") == pytest.approx(1 / 2)
    assert f1(there, found, "relation") == pytest.approx(2 / 3)
    assert f1(there, found, "relation_strict") == 0
    assert f1(there, found, "relation", macro=True) == pytest.approx((0 + 1) / 2)
    assert f1(*counts(gold, gold, TYPES), "relation_strict", macro=True) == 1
    assert f1(*counts([{}], [{}], TYPES), "entity") == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_best_threshold_is_that_of_a_search(seed: int):
    rng = np.random.default_rng(seed)
    scores, right = rng.uniform(0.06, 0.99, 30).round(1), rng.random(30) < 0.4
    chosen = best_threshold(scores, right, 20, 0.5)

    def score(threshold: float) -> float:
        told = scores >= threshold
        return float(2 * (told & right).sum() / (told.sum() + 20))

    assert score(chosen) == pytest.approx(max(map(score, np.linspace(0.05, 0.99, 500))))
    # Not one of the scores, of which the next pass over other batches may give a slightly lower one.
    assert not np.isclose(scores, chosen, atol=1e-4).any()
    assert best_threshold(np.array([0.9]), np.array([True]), 1, 0.5) == 0.5
    assert best_threshold(np.array([0.9]), np.array([False]), 1, 0.5) == 0.5
    assert best_threshold(np.array([]), np.array([], bool), 1, 0.4) == 0.4


def test_a_low_threshold_is_one():
    found = torch.zeros(1, 2, 2, 2)
    found[0, 0, 1], found[0, 1, 0] = torch.tensor([0.03, 0.03]), torch.tensor([0.005, 0.2])
    words, types = torch.tensor([[[0, 1], [2, 3]]]), torch.tensor([[1, 2]])
    out = ExtractionOutput(found_words=words, found_types=types, found_scores=torch.ones(1, 2), found_pairs=found)
    for lowest, expected in ((0.01, [(0, 1, 0), (0, 1, 1), (1, 0, 1)]), (0.5, [(1, 0, 1)])):
        out["threshold"] = torch.full((2,), lowest)
        told = next(kept_outputs(out))["relations"][:, :3].astype(int).tolist()
        assert sorted(map(tuple, told)) == expected


def test_labels_say_what_they_are():
    assert TYPES.symmetric == (False, True)
    assert TYPES.labels == ["entity:A", "entity:B", "relation:r", "symmetric relation:s"]
    for bad in (["A"], ["entity:"], ["entity:A", "entity:A"], ["relation:r", "symmetric relation:r"]):
        with pytest.raises(ValueError, match=r"is none of|named twice"):
            Types.of_labels(bad)


def drawn_document(rng: np.random.Generator) -> dict[str, list[dict[str, object]]]:
    """A few entities and relations on few words, so that some are the same in two draws."""
    starts = rng.integers(0, 6, int(rng.integers(0, 5)))
    spans = sorted({(int(start), int(start + rng.integers(1, 3))) for start in starts})
    entities = [{"type": "AB"[int(rng.integers(2))], "start": start, "end": end} for start, end in spans]
    pairs = {tuple(map(int, rng.integers(0, len(entities), 2))) for _ in range(3)} if entities else set()
    relations = [{"type": "rs"[int(rng.integers(2))], "head": h, "tail": t} for h, t in sorted(pairs) if h != t]
    return {"tokens": ["w"] * 8, "entities": entities, "relations": relations}


@pytest.mark.parametrize("seed", range(10))
def test_scores_in_training_are_those_of_documents(seed: int):
    rng = np.random.default_rng(seed)
    gold, told = ([drawn_document(rng) for _ in range(12)] for _ in range(2))
    for n in range(0, 12, 2):  # the same, the other way round
        turned = [{**one, "head": one["tail"], "tail": one["head"]} for one in gold[n]["relations"]]
        told[n] = {**gold[n], "relations": turned}
    there, found = counts(gold, told, TYPES)
    types = Types(["A", "B"], {"r": False, "s": True})
    expected = score_extractions(gold, told, types).levels
    for setting in LEVELS:
        assert f1(there, found, setting) == pytest.approx(float(expected[setting].micro().f1))
        assert f1(there, found, setting, macro=True) == pytest.approx(float(expected[setting].macro().f1))


def test_scores_of_many_draws_are_those_of_each():
    rng = np.random.default_rng(0)
    gold, told = ([drawn_document(rng) for _ in range(15)] for _ in range(2))
    judged = Judged(*counts(gold, told, TYPES))
    task = task_named("joint_extraction")
    metrics, statistics = task.own_metrics(), task.own_statistics(judged)
    assert metrics.keys() == statistics.keys()
    draws = rng.multinomial(15, np.full(15, 1 / 15), 8)
    for name, metric in metrics.items():
        each = [judged.drawn(np.repeat(np.arange(15), one)) for one in draws]
        assert statistics[name](draws) == pytest.approx([metric(one.gold, one.guess) for one in each])
