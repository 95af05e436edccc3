"""Light heads on one representation, and the store that keeps it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luthier.errors import DataError, ModelError, WorkspaceError
from luthier.representing.heads import HEADS, LEAST_DEVIATION, PENALTIES, LinearHead, MLPHead, read_head
from luthier.representing.store import RepresentationStore
from luthier.tuning import SharedEncoder
from tests.representing.models import TEXTS, saved_model, with_prefix

LABELS = ["good", "bad", "bad", "good", "good", "bad"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return saved_model(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture
def encoder(bert: Path) -> SharedEncoder:
    encoder = SharedEncoder(str(bert))
    for task in "ab":
        encoder.add(task, with_prefix(bert, seed=ord(task)))
    return encoder


def clusters(classes: int, rows: int = 90) -> tuple[np.ndarray, list[str]]:
    draw = np.random.default_rng(0)
    kinds = np.arange(rows) % classes
    vectors = draw.normal(size=(rows, 5)) + 50 + 4 * draw.normal(size=(classes, 5))[kinds]
    return vectors.astype(np.float32), [f"class {kind}" for kind in kinds]


def passes_of(encoder: SharedEncoder) -> list[int]:
    passes: list[int] = []
    encoder.base.model.encoder.layer[0].register_forward_hook(lambda *_: passes.append(1))
    return passes


@pytest.mark.parametrize("classes", [2, 3])
def test_a_linear_head_is_logistic_regression(encoder: SharedEncoder, classes: int) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    vectors, labels = clusters(classes)
    for standardise in (True, False):
        scaled = StandardScaler().fit_transform(vectors) if standardise else vectors
        peer = LogisticRegression(C=2.0, max_iter=1000).fit(scaled, labels)
        head = LinearHead.fit(vectors, labels, representation=encoder.representation, l2=0.5, standardise=standardise)
        predicted = head.predict(vectors)
        np.testing.assert_allclose(predicted.probabilities, peer.predict_proba(scaled), rtol=0, atol=2e-3)
        assert predicted.labels == list(peer.predict(scaled))
        assert (head.width, head.parameters) == (5, 6 * classes)


@pytest.mark.parametrize("kind", list(HEADS))
@pytest.mark.parametrize("deviation", [1e-32, 1e-12, 1e-6])
def test_a_column_that_hardly_varies_gets_no_huge_weight(encoder: SharedEncoder, kind: str, deviation: float) -> None:
    vectors, labels = clusters(2)
    noise = deviation * np.random.default_rng(1).normal(size=(len(vectors), 1))
    dead = np.hstack([vectors, noise, np.full_like(noise, 3.0)]).astype(np.float64)
    fitted = HEADS[kind].fit(dead, labels, representation=encoder.representation)
    plain = HEADS[kind].fit(vectors, labels, representation=encoder.representation)
    weights = np.abs(fitted.layers[0][0])
    assert weights[-2:].max() <= weights[:-2].max() * 2 / LEAST_DEVIATION
    moved = dead + np.array(
        [0, 0, 0, 0, 0, 1e-5, 1e-5]
    )  # another machine's arithmetic, far above the deviation of the column
    assert np.abs(fitted.predict(moved).probabilities - fitted.predict(dead).probabilities).max() < 0.05
    assert np.mean(np.array(fitted.predict(dead).labels) == plain.predict(vectors).labels) > 0.97


def test_vectors_that_do_not_vary_at_all_are_no_crash(encoder: SharedEncoder) -> None:
    head = LinearHead.fit(np.ones((6, 3)), LABELS, representation=encoder.representation)
    assert np.isfinite(head.predict(np.ones((1, 3))).probabilities).all()


def test_a_head_prints_as_one_line(encoder: SharedEncoder) -> None:
    for classes, kind in ((2, LinearHead), (6, MLPHead)):
        vectors, labels = clusters(classes)
        told = repr(kind.fit(vectors, labels, representation=encoder.representation))
        assert told.startswith(f"{kind.__name__}({classes} classes: class 0, class 1")
        assert "\n" not in told
        assert len(told) < 120


@pytest.mark.parametrize("classes", [2, 3])
def test_an_mlp_learns_what_no_linear_head_can(encoder: SharedEncoder, classes: int) -> None:
    draw = np.random.default_rng(0)
    vectors = draw.uniform(-1, 1, size=(300, 2)).astype(np.float32) * 20 + 100
    ring = np.linalg.norm(vectors - 100, axis=1)
    labels = [str(int(distance // (28.3 / classes))) for distance in ring]
    made = {"representation": encoder.representation}
    linear = LinearHead.fit(vectors, labels, **made).predict(vectors).labels
    head = MLPHead.fit(vectors, labels, **made, hidden=32, learning_rate=1e-2, seed=3)
    share = [np.mean(np.array(found) == labels) for found in (linear, head.predict(vectors).labels)]
    assert share[0] < 0.75 < 0.93 < share[1]
    again = MLPHead.fit(vectors, labels, **made, hidden=32, learning_rate=1e-2, seed=3)
    assert all(np.array_equal(a, b) for x, y in zip(head.layers, again.layers, strict=True) for a, b in zip(x, y))  # noqa: B905
    np.testing.assert_allclose(head.predict(vectors).probabilities.sum(1), 1, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", list(HEADS))
def test_a_head_is_kept_in_a_file(encoder: SharedEncoder, kind: str, tmp_path: Path) -> None:
    vectors, labels = clusters(3)
    head = HEADS[kind].fit(vectors, labels, representation=encoder.representation)
    head.write(tmp_path / "head.safetensors")
    loaded = read_head(tmp_path / "head.safetensors")
    assert (loaded.kind, loaded.labels, loaded.representation) == (kind, head.labels, head.representation)
    assert np.array_equal(loaded.logits(vectors), head.logits(vectors))


def test_the_penalty_is_the_one_that_cross_validation_prefers(encoder: SharedEncoder) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    draw = np.random.default_rng(1)
    vectors = draw.normal(size=(60, 20)).astype(np.float32)
    for noise in (0.1, 3.0):
        labels = ["yes" if x else "no" for x in vectors[:, 0] + noise * draw.normal(size=60) > 0]
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        losses = {
            l2: -cross_val_score(
                make_pipeline(StandardScaler(), LogisticRegression(C=1 / l2, max_iter=1000)),
                vectors,
                labels,
                cv=folds,
                scoring="neg_log_loss",
            ).mean()
            for l2 in PENALTIES
        }
        best = min(losses, key=lambda l2: losses[l2])
        chosen = LinearHead.fit(vectors, labels, representation=encoder.representation)
        given = LinearHead.fit(vectors, labels, representation=encoder.representation, l2=best)
        np.testing.assert_array_equal(chosen.layers[0][0], given.layers[0][0])


def test_many_heads_take_one_pass(encoder: SharedEncoder, tmp_path: Path) -> None:
    for number in range(5):
        labels = LABELS[number:] + LABELS[:number]
        encoder.fit_head(
            f"task{number}", TEXTS, labels, kind=("linear", "mlp")[number % 2], **({"l2": 1.0}, {})[number % 2]
        )
    passes = passes_of(encoder)
    found = encoder.predict(TEXTS)
    assert len(passes) == 1
    assert list(found) == [f"task{number}" for number in range(5)]
    assert found["task0"].labels == LABELS
    assert found["task0"].probabilities.shape == (6, 2)
    assert list(encoder.predict(TEXTS, heads=["task3"])) == ["task3"]
    vectors = encoder.encode(TEXTS)
    assert encoder.predict_vectors(vectors)["task2"].labels == found["task2"].labels
    loaded = SharedEncoder.load(encoder.save(tmp_path / "encoder"))
    again = loaded.predict(TEXTS)
    for name, prediction in found.items():
        assert again[name].labels == prediction.labels
        assert np.array_equal(again[name].probabilities, prediction.probabilities)
    encoder.remove_head("task0")
    assert "task0" not in encoder.heads


def test_a_head_of_another_representation_is_refused(encoder: SharedEncoder, bert: Path, tmp_path: Path) -> None:
    head = encoder.fit_head("sentiment", TEXTS, LABELS, l2=1.0)
    prefix = with_prefix(bert, seed=ord("a"))

    def refused(message: str) -> None:
        passes = passes_of(encoder)
        with pytest.raises(ModelError, match=message):
            encoder.predict(TEXTS)
        with pytest.raises(ModelError, match=message):
            encoder.add_head("other", head)
        assert passes == []

    encoder.remove("a")
    refused("the task 'a' was removed")
    with pytest.raises(ModelError, match="the task 'a' was removed"):
        SharedEncoder.load(encoder.save(tmp_path / "encoder")).predict(TEXTS)
    encoder.add("c", prefix)
    refused("the task 'a' was removed; the task 'c' was added")
    encoder.remove("c")
    encoder.add("a", prefix)
    wanted = encoder.predict(TEXTS)["sentiment"].labels
    assert wanted == LABELS
    encoder.set_weight("b", 0.5)
    refused("weight of the task 'b' was 1 and is 0.5")
    encoder.set_weight("b", 1)
    encoder.replace("b", with_prefix(bert, seed=9))
    refused("the prefix of the task 'b' was replaced")
    encoder.replace("b", with_prefix(bert, seed=ord("b")))
    encoder.configure(pooling="mean")
    refused(r"another pooling \(first then, mean now\)")
    encoder.configure(pooling="first")
    assert encoder.predict(TEXTS)["sentiment"].labels == wanted
    stray = dataclasses.replace(head, representation=dataclasses.replace(head.representation, base="0" * 64))
    with pytest.raises(ModelError, match="another base model"):
        encoder.add_head("other", stray)


def test_mistakes_with_heads_are_named(encoder: SharedEncoder, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no heads"):
        encoder.predict(TEXTS)
    with pytest.raises(DataError, match="6 texts and 2 labels"):
        encoder.fit_head("x", TEXTS, ["a", "b"])
    with pytest.raises(DataError, match="two classes at least, not only a"):
        encoder.fit_head("x", TEXTS, ["a"] * 6)
    with pytest.raises(ValueError, match="kind is 'tree'"):
        encoder.fit_head("x", TEXTS, LABELS, kind="tree")
    with pytest.raises(ValueError, match="l2 is 0"):
        encoder.fit_head("x", TEXTS, LABELS, l2=0)
    with pytest.raises(ModelError, match="can't be the name"):
        encoder.fit_head("x/y", TEXTS, LABELS)
    head = encoder.fit_head("sentiment", TEXTS, LABELS)
    with pytest.raises(ModelError, match="did you mean sentiment"):
        encoder.predict(TEXTS, heads=["sentimant"])
    with pytest.raises(ModelError, match="width 32"):
        head.predict(np.zeros((2, 7)))
    with pytest.raises(DataError, match="vector 1 has NaN"):
        LinearHead.fit(np.array([[0.0], [np.nan]]), ["a", "b"], representation=encoder.representation)
    path = encoder.save(tmp_path / "encoder") / "prefixes" / "a.safetensors"
    with pytest.raises(ModelError, match="no head"):
        read_head(path)


def test_an_unfinished_head_says_so(encoder: SharedEncoder, caplog: Any) -> None:
    vectors, labels = clusters(3)
    LinearHead.fit(vectors, labels, representation=encoder.representation, max_iterations=2)
    assert "still learning after 2 iterations" in caplog.text


def test_a_store_computes_once(encoder: SharedEncoder, tmp_path: Path) -> None:
    store, passes = RepresentationStore(tmp_path), passes_of(encoder)
    wanted = encoder.encode(TEXTS)
    passes.clear()
    found = store.vectors(encoder, TEXTS)
    assert isinstance(found, np.memmap)
    assert np.array_equal(found, wanted)
    assert len(passes) == 1
    assert np.array_equal(RepresentationStore(tmp_path).vectors(encoder, TEXTS), wanted)
    encoder.fit_head("sentiment", TEXTS, LABELS, store=store)
    assert len(passes) == 1
    half = store.vectors(encoder, TEXTS, dtype="bfloat16")
    np.testing.assert_allclose(half, wanted, rtol=1e-2, atol=1e-3)
    assert half.dtype == np.float32
    assert len(passes) == 2
    store.vectors(encoder, TEXTS[::-1])
    store.vectors(encoder, [(text, "bad") for text in TEXTS])
    assert len(passes) == 4


def test_a_store_knows_another_representation(encoder: SharedEncoder, bert: Path, tmp_path: Path) -> None:
    store = RepresentationStore(tmp_path)
    first = np.array(store.vectors(encoder, TEXTS))
    for change in ({"combine": "mean"}, {"combine": "concat"}, {"combine": "joint", "pooling": "mean"}):
        encoder.configure(**change)
        assert np.array_equal(store.vectors(encoder, TEXTS), encoder.encode(TEXTS))
    encoder.configure(pooling="first")
    encoder.remove("a")
    assert np.abs(store.vectors(encoder, TEXTS) - first).max() > 1e-3
    encoder.add("a", with_prefix(bert, seed=ord("a")))
    passes = passes_of(encoder)
    assert np.array_equal(store.vectors(encoder, TEXTS), first)
    assert passes == []


def test_a_torn_store_is_computed_anew(encoder: SharedEncoder, tmp_path: Path) -> None:
    store = RepresentationStore(tmp_path)
    wanted = np.array(store.vectors(encoder, TEXTS))
    (file,) = tmp_path.glob("*/vectors.npy")
    file.write_bytes(file.read_bytes()[:-40])
    assert np.array_equal(store.vectors(encoder, TEXTS), wanted)
    with pytest.raises(ValueError, match="dtype"):
        store.vectors(encoder, TEXTS, dtype="int8")
    with pytest.raises(DataError, match="text 2 is b'x'"):
        store.vectors(encoder, ["good", b"x"])
    assert store.vectors(encoder, []).shape == (0, 32)
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError):
        RepresentationStore(tmp_path / "file").vectors(encoder, TEXTS)
