"""S4: clusters of languages by their fingerprints.

Shapes: L languages, k clusters, D coordinates. Languages that must stay together are one point with as much weight as
they are languages.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from luthier.errors import DataError, nearest
from luthier.vocabulary.fingerprints import Fingerprints
from luthier.vocabulary.settings import ClusterMethod

log = logging.getLogger(__name__)
DEFAULT_COUNT = 8


def cluster_languages(
    fingerprints: Fingerprints,
    count: int | None = None,
    *,
    method: ClusterMethod = "kmeans",
    must_link: Iterable[Sequence[str]] = (),
    pins: Mapping[str, int] | None = None,
    starts: int = 10,
    seed: int = 0,
) -> list[list[str]]:
    """Languages in clusters, the largest first, then by the name of their first language.

    Args:
        fingerprints: of L languages.
        count: k; default 8, or as many as there are languages or groups. 1 puts all together, L each by itself.
        method: `kmeans` is Lloyd's from k-means++ starts, `agglomerative` Ward's, `pins` takes `pins` as they are.
        must_link: groups of languages that stay together.
        pins: language -> number of its cluster, from 1; the others go to the nearest centre.
        starts: of k-means, of which the one of the least inertia counts.
        seed: of the starts.

    Raises:
        DataError: a name is unknown, a language without a pin is left under `pins`, a pin names a cluster beyond k, or
            there are fewer groups than clusters.
    """
    languages, pins = fingerprints.languages, dict(pins or {})
    groups, k = groups_of(languages, count, method=method, must_link=must_link, pins=pins)
    pinned = {number: pins[group[0]] for number, group in enumerate(groups) if group[0] in pins}
    if method == "pins":
        return _sorted(groups, [pinned[number] for number in range(len(groups))])
    points, weights = _points(fingerprints, groups)
    labels = _labels(points, weights, k, method, {n: p - 1 for n, p in pinned.items()}, starts, seed)
    if method == "kmeans" and 2 < k < len(groups) / 2 and _alone(labels) > k / 2:
        log.warning(
            "%d of %d clusters are one language: `fingerprint.normalise: l2`, another `fingerprint.kind` or "
            "`cluster.method: agglomerative` may part them better",
            _alone(labels),
            k,
        )
    return _sorted(groups, labels.tolist())


def groups_of(
    languages: list[str],
    count: int | None,
    *,
    method: ClusterMethod,
    must_link: Iterable[Sequence[str]],
    pins: Mapping[str, int],
) -> tuple[list[list[str]], int]:
    """Languages that stay together, and k; arguments and errors are those of `cluster_languages`."""
    must_link = list(must_link)
    for name in [*pins, *(one for group in must_link for one in group)]:
        _check_known(name, languages)
    groups = _groups(languages, must_link, pins)
    if method == "pins":
        if missing := [one for one in languages if one not in pins]:
            raise DataError(f"no pin says where {missing[0]!r} belongs", fix="pin every language, or use k-means")
        return groups, len(groups)
    last, most = max(pins.values(), default=0), len(groups) if count is None else count
    if last > most:
        raise DataError(f"a pin names cluster {last} of at most {most}", fix="number clusters from 1, without gaps")
    k = max(min(DEFAULT_COUNT, len(groups)), last) if count is None else count
    if k > len(groups):
        raise DataError(
            f"{k} clusters of {len(groups)} languages, or groups of them that stay together, can't be made",
            fix=f"set `count: {len(groups)}` or less",
        )
    return groups, k


def _sorted(groups: list[list[str]], labels: Sequence[int]) -> list[list[str]]:
    found: dict[int, list[str]] = {}
    for group, label in zip(groups, labels, strict=True):
        found.setdefault(label, []).extend(group)
    return sorted((sorted(members) for members in found.values()), key=lambda one: (-len(one), one[0]))


def _alone(labels: np.ndarray) -> int:
    return int((np.bincount(labels) == 1).sum())


def _check_known(name: str, languages: list[str]) -> None:
    if name not in languages:
        guess = nearest(name, languages)
        raise DataError(
            f"there is no language {name!r}",
            fix=f"did you mean {guess!r}?" if guess else f"known: {', '.join(languages)}",
        )


def _groups(languages: list[str], must_link: Iterable[Sequence[str]], pins: Mapping[str, int]) -> list[list[str]]:
    """Languages that stay together, by the links and by equal pins."""
    root = {language: language for language in languages}

    def find(one: str) -> str:
        while root[one] != one:
            one = root[one]
        return one

    same: dict[int, list[str]] = {}
    for language, number in pins.items():
        same.setdefault(number, []).append(language)
    for group in [*must_link, *same.values()]:
        known = [one for one in group if one in root]
        for one in known[1:]:
            root[find(one)] = find(known[0])
    joined: dict[str, list[str]] = {}
    for language in languages:
        joined.setdefault(find(language), []).append(language)
    for members in joined.values():
        members.sort(key=lambda one: (one not in pins, languages.index(one)))
        if len({pins[one] for one in members if one in pins}) > 1:
            raise DataError(
                f"{' and '.join(members)} must stay together, and are pinned to different clusters",
                fix="pin them alike, or leave them out of `must_link`",
            )
    return list(joined.values())


def _points(fingerprints: Fingerprints, groups: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    factor, place = fingerprints.factor(), {name: n for n, name in enumerate(fingerprints.languages)}
    means = [factor[[place[one] for one in group]].mean(axis=0) for group in groups]
    return np.array(means), np.array([len(group) for group in groups], dtype=np.float64)


def _labels(
    points: np.ndarray,
    weights: np.ndarray,
    k: int,
    method: ClusterMethod,
    pinned: dict[int, int],
    starts: int,
    seed: int,
) -> np.ndarray:
    if k == len(points) and not pinned:
        return np.arange(k)
    if method == "agglomerative":
        from sklearn.cluster import AgglomerativeClustering

        # Ward's weighs nothing: a group stands there once for each of its languages, which are joined first.
        copies = weights.astype(int)
        ward: np.ndarray = AgglomerativeClustering(n_clusters=k, linkage="ward").fit_predict(points.repeat(copies, 0))
        return ward[copies.cumsum() - 1]
    if pinned:
        return _pinned_means(points, weights, k, pinned, starts, seed)
    from sklearn.cluster import KMeans

    means = KMeans(n_clusters=k, n_init=starts, random_state=seed, algorithm="lloyd")
    labels: np.ndarray = means.fit(points, sample_weight=weights).labels_
    return labels


def _pinned_means(
    points: np.ndarray, weights: np.ndarray, k: int, pinned: dict[int, int], starts: int, seed: int
) -> np.ndarray:
    """k-means in which some points keep their clusters (Basu et al., “Semi-supervised Clustering by Seeding”, ICML
    2002): their means start those clusters, k-means++ the others."""
    draw, best, least = np.random.default_rng(seed), None, np.inf
    fixed = np.full(len(points), -1)
    for place, label in pinned.items():
        fixed[place] = label
    for _ in range(starts):
        labels = _lloyd(points, weights, fixed, _first_centres(points, weights, fixed, k, draw))
        inertia = sum(_spread(points[labels == c], weights[labels == c]) for c in range(k))
        if inertia < least:
            best, least = labels, inertia
    assert best is not None
    return best


def _first_centres(
    points: np.ndarray, weights: np.ndarray, fixed: np.ndarray, k: int, draw: np.random.Generator
) -> np.ndarray:
    centres: list[np.ndarray | None] = [
        np.average(points[fixed == c], axis=0, weights=weights[fixed == c]) if (fixed == c).any() else None
        for c in range(k)
    ]
    for c in range(k):
        if centres[c] is not None:
            continue
        known = [one for one in centres if one is not None]
        far = np.min([((points - one) ** 2).sum(axis=1) for one in known], axis=0) * weights * (fixed < 0)
        chance = far if far.sum() > 0 else weights * (fixed < 0)
        centres[c] = points[draw.choice(len(points), p=chance / chance.sum())]
    return np.array(centres)


def _lloyd(points: np.ndarray, weights: np.ndarray, fixed: np.ndarray, centres: np.ndarray) -> np.ndarray:
    labels = fixed.copy()
    for _ in range(300):
        distances = ((points[:, None] - centres[None]) ** 2).sum(axis=2)
        new = np.where(fixed >= 0, fixed, distances.argmin(axis=1))
        for c in range(len(centres)):  # an emptied cluster takes the free point that is farthest from its own centre
            if not (new == c).any():
                may_go = (fixed < 0) & (np.bincount(new, minlength=len(centres))[new] > 1)
                new[np.where(may_go, distances[np.arange(len(points)), new], -1.0).argmax()] = c
        if (new == labels).all():
            break
        labels = new
        centres = np.array(
            [np.average(points[labels == c], axis=0, weights=weights[labels == c]) for c in range(len(centres))]
        )
    return labels


def _spread(points: np.ndarray, weights: np.ndarray) -> float:
    centre = np.average(points, axis=0, weights=weights)
    return float((weights * ((points - centre) ** 2).sum(axis=1)).sum())
