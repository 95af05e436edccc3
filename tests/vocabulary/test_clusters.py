"""Fingerprints against dense matrices, and clusters of languages whose groups are known."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from luthier.errors import DataError
from luthier.vocabulary import cluster_languages, lexical_fingerprints
from luthier.vocabulary.clustering import _lloyd, _pinned_means

KINDS = ("neg_logprob", "prob", "binary", "tfidf")


def vocabularies(groups: int = 3, each: int = 4) -> dict[str, dict[str, float]]:
    """Languages of a group share most of their pieces."""
    draw = random.Random(0)
    found = {}
    for group in range(groups):
        common = [f"{group}-{n}" for n in range(30)]
        for member in range(each):
            pieces = [*draw.sample(common, 25), *(f"{group}-{member}-{n}" for n in range(5)), "shared"]
            counts = [draw.uniform(1, 50) for _ in pieces]
            found[f"g{group}m{member}"] = {p: math.log(c / sum(counts)) for p, c in zip(pieces, counts, strict=True)}
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("absent", [0.0, 12.5])
@pytest.mark.parametrize("normalise", ["none", "l2"])
def test_products_and_distances_are_those_of_the_dense_matrix(kind: str, absent: float, normalise: str):
    given = vocabularies()
    prints = lexical_fingerprints(given, kind=kind, absent=absent, normalise=normalise)
    pieces = sorted(set().union(*given.values()))
    having = {piece: sum(piece in one for one in given.values()) for piece in pieces}
    value = {
        "neg_logprob": lambda p, s: -s,
        "prob": lambda p, s: math.exp(s),
        "binary": lambda p, s: 1.0,
        "tfidf": lambda p, s: math.exp(s) * math.log(len(given) / having[p]),
    }[kind]
    dense = np.array([[value(p, one[p]) if p in one else absent for p in pieces] for one in given.values()])
    if normalise == "l2":
        dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    assert np.allclose(prints.dense(), dense, atol=1e-12)
    assert np.allclose(prints.gram(), dense @ dense.T, rtol=1e-10, atol=1e-8)
    factor = prints.factor()
    wanted = ((dense[:, None] - dense[None]) ** 2).sum(axis=2)
    assert np.allclose(((factor[:, None] - factor[None]) ** 2).sum(axis=2), wanted, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("method", ["kmeans", "agglomerative"])
@pytest.mark.parametrize("kind", ["neg_logprob", "binary"])
def test_groups_that_share_pieces_are_found(method: str, kind: str):
    prints = lexical_fingerprints(vocabularies(), kind=kind)
    found = cluster_languages(prints, 3, method=method, seed=5)
    assert found == [[f"g{group}m{m}" for m in range(4)] for group in range(3)]
    assert found == cluster_languages(prints, 3, method=method, seed=5)


def test_one_cluster_and_as_many_as_languages():
    prints = lexical_fingerprints(vocabularies())
    assert [len(one) for one in cluster_languages(prints, 1)] == [12]
    assert cluster_languages(prints, 12) == [[name] for name in sorted(vocabularies())]
    assert len(cluster_languages(prints)) == 8


def test_links_and_pins_hold():
    prints = lexical_fingerprints(vocabularies())
    linked = cluster_languages(prints, 3, must_link=[["g0m0", "g1m3"]])
    assert any({"g0m0", "g1m3"} <= set(one) for one in linked)
    pinned = cluster_languages(prints, 3, pins={"g0m0": 1, "g1m0": 1, "g2m0": 2})
    together = next(one for one in pinned if "g0m0" in one)
    assert "g1m0" in together
    assert "g2m0" not in together
    assert len(pinned) == 3
    everyone = {name: 1 + (name[1] == "2") for name in vocabularies()}
    assert [len(one) for one in cluster_languages(prints, method="pins", pins=everyone)] == [8, 4]
    gaps = {name: 9 * number for name, number in everyone.items()}
    assert cluster_languages(prints, method="pins", pins=gaps) == cluster_languages(
        prints, method="pins", pins=everyone
    )


def test_a_group_counts_for_its_languages_in_agglomerative_clusters():
    """Ward's cost of a merge is n_a n_b / (n_a + n_b) d²: for 4 languages at 0, and single ones at 1 and 2.1, that of
    the near pair is 0.8, and of the others 0.605."""
    given = {**{f"a{n}": {"x": -1.0} for n in range(4)}, "b": {"x": -2.0}, "c": {"x": -3.1}}
    prints = lexical_fingerprints(given, normalise="none")
    linked = [[f"a{n}" for n in range(4)]]
    found = cluster_languages(prints, 2, method="agglomerative", must_link=linked)
    assert found == [linked[0], ["b", "c"]]


def test_equal_points_fill_all_clusters():
    points = np.array([[5.0, 5.0], *[[0.0, 0.0]] * 4])
    fixed = np.array([0, -1, -1, -1, -1])
    labels = _lloyd(points, np.ones(5), fixed, points[[0, 1, 1, 1]])
    assert labels[0] == 0
    assert set(labels) == {0, 1, 2, 3}


def test_pinned_means_never_leaves_a_cluster_empty_and_keeps_pins():
    draw = np.random.default_rng(0)
    points, weights = draw.normal(size=(9, 2)), np.ones(9)
    labels = _pinned_means(points, weights, 4, {0: 2, 1: 3}, 5, 0)
    assert set(labels) == {0, 1, 2, 3}
    assert (labels[0], labels[1]) == (2, 3)
    fixed = np.full(9, -1)
    settled = _lloyd(points, weights, fixed, points[:3].copy())
    centres = np.array([points[settled == c].mean(axis=0) for c in range(3)])
    assert (((points[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1) == settled).all()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"must_link": [["g0m0", "g9"]]}, "no language 'g9'"),
        ({"pins": {"g0mO": 1}}, "no language 'g0mO'"),
        ({"count": 13}, "can't be made"),
        ({"method": "pins", "pins": {"g0m0": 1}}, "no pin says"),
        ({"pins": {"g0m0": 13}}, "names cluster 13 of at most 12"),
        ({"pins": {"g0m0": 3}, "count": 2}, "names cluster 3 of at most 2"),
        ({"pins": {"g0m0": 1, "g0m1": 2}, "must_link": [["g0m0", "g0m1"]]}, "pinned to different"),
    ],
)
def test_what_is_refused(more, told: str):
    with pytest.raises(DataError, match=told):
        cluster_languages(lexical_fingerprints(vocabularies()), **more)


def test_clusters_of_single_languages_are_told(caplog: pytest.LogCaptureFixture):
    """Fingerprints at right angles of unlike lengths: k-means parts the long ones from all others."""
    given = {f"l{n:02}": {f"{n}-{p}": -1.0 for p in range(5 if n < 9 else 400)} for n in range(12)}
    prints = lexical_fingerprints(given, normalise="none")
    found = cluster_languages(prints, 4)
    assert [len(one) for one in found] == [9, 1, 1, 1]
    assert "3 of 4 clusters are one language" in caplog.text
