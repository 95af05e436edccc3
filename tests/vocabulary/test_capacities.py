"""ALP, weights, allocation and capacities against references of a few lines."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from pathlib import Path

import pytest

from luthier.errors import DataError
from luthier.storage.steps import Workspace
from luthier.vocabulary import allocate_capacity, average_log_probability
from luthier.vocabulary.allocation import Allocation, cluster_capacities, concave_gains, language_weights, padded
from luthier.vocabulary.building import _Builder
from luthier.vocabulary.capacities import Capacities, numbers_of_file
from luthier.vocabulary.settings import LanguageText, SampleSettings, TrainerSettings, VocabularySettings
from luthier.vocabulary.steps import curve_step, sample_step
from luthier.vocabulary.text import read_units
from luthier.vocabulary.unigram import Segmenter, train_unigram
from luthier.vocabulary.workers import Processes
from tests.vocabulary.texts import UNSPACED, lines_of


def sentences(seed: int) -> list[list[int]]:
    draw = random.Random(seed)
    return [[min(draw.randrange(40), draw.randrange(40)) for _ in range(draw.randint(1, 12))] for _ in range(200)]


@pytest.mark.parametrize("seed", range(5))
def test_alp_is_minus_mean_tokens_times_the_entropy_of_the_tokens(seed: int):
    text = sentences(seed)
    counts = Counter(token for sentence in text for token in sentence)
    total = sum(counts.values())
    entropy = -sum(c / total * math.log(c / total) for c in counts.values())
    by_token = sum(math.log(counts[token] / total) for sentence in text for token in sentence) / len(text)
    found = average_log_probability(text)
    assert found == pytest.approx(-total / len(text) * entropy, abs=1e-10)
    assert found == pytest.approx(by_token, abs=1e-10)
    assert average_log_probability(counts, len(text)) == pytest.approx(found, abs=1e-10)


def test_alp_needs_sentences():
    with pytest.raises(ValueError, match="number of sentences"):
        average_log_probability({1: 2})
    with pytest.raises(ValueError, match="no sentence"):
        average_log_probability([])


@pytest.mark.parametrize("seed", range(6))
def test_gains_are_those_of_the_least_concave_curve_above(seed: int):
    """Reference: at each size the largest value of any chord over it."""
    draw = random.Random(seed)
    curve = [(10 * n, draw.uniform(-9, 0)) for n in range(1, 9)]
    gains = concave_gains(curve)
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(gains))
    height = curve[0][1]
    for number, (size, value) in enumerate(curve[1:], 1):
        height += gains[number - 1]
        chords = [
            a + (b - a) * (size - s) / (t - s) for (s, a), (t, b) in itertools.product(curve[:number], curve[number:])
        ]
        assert height == pytest.approx(max([value, *chords]), abs=1e-9)


def test_a_tie_break_orders_the_steps_inside_a_pool():
    gains = concave_gains([(1, 0.0), (2, 0.0), (3, 2.0)], tie_break=1e-6)
    assert gains == pytest.approx([1.0, 1.0 - 1e-6], abs=1e-12)


def test_weights_are_powers_of_shares_and_parity_keeps_beta():
    lines = {"a": 900.0, "b": 100.0}
    shares = {k: v**0.7 for k, v in lines.items()}
    q = {k: v / sum(shares.values()) for k, v in shares.items()}
    powers = {k: v**0.5 for k, v in q.items()}
    found = language_weights(lines, alpha=0.7, beta=0.5)
    assert found == pytest.approx({k: v / sum(powers.values()) for k, v in powers.items()})
    assert language_weights(lines, alpha=0.7, beta=0.5, rescale=False) == pytest.approx({"a": 0.9, "b": 0.1})
    kept = language_weights(lines, alpha=0.7, beta=0.5, rescale=False, parity=True)
    assert kept == pytest.approx({"a": 0.75, "b": 0.25})


def curves_and_vocabularies(seed: int):
    draw = random.Random(seed)
    curves, vocabularies = {}, {}
    for name in "abcd":
        gains = sorted((draw.uniform(0.1, 4) for _ in range(5)), reverse=True)
        values = list(itertools.accumulate([-20.0, *gains]))
        curves[name] = [(10 * (n + 1), value) for n, value in enumerate(values)]
        pieces = draw.sample(range(140), 60)
        vocabularies[name] = {size: set(pieces[:size]) for size, _ in curves[name]}

    def union_size(sizes):
        return len(set().union(*(vocabularies[name][size] for name, size in sizes.items())))

    return curves, union_size


@pytest.mark.parametrize("seed", range(6))
def test_allocation_is_what_taking_the_best_step_again_and_again_comes_to(seed: int):
    curves, union_size = curves_and_vocabularies(seed)
    lines = {"a": 1000, "b": 300, "c": 90, "d": 20}
    weights = language_weights(lines, alpha=0.7, beta=0.7)
    total = 95
    at = dict.fromkeys(curves, 0)
    while True:
        steps = [(weights[n] * (c[at[n] + 1][1] - c[at[n]][1]), n) for n, c in curves.items() if at[n] + 1 < len(c)]
        best = max(steps, default=None)
        if best is None or union_size({n: curves[n][k + (n == best[1])][0] for n, k in at.items()}) > total:
            break
        at[best[1]] += 1
    found = allocate_capacity(curves, lines, total, union_size)
    assert found.sizes == {n: curves[n][k][0] for n, k in at.items()}
    assert found.union == union_size(found.sizes) <= total


def test_parity_bisects_to_the_same_sizes_and_refuses_hungry_languages():
    curves, union_size = curves_and_vocabularies(1)
    lines = {"a": 1000, "b": 300, "c": 90, "d": 20}
    corrected = allocate_capacity(curves, lines, 90, union_size)
    if not corrected.hungry:
        assert allocate_capacity(curves, lines, 90, union_size, parity=True).sizes == corrected.sizes
    with pytest.raises(DataError, match="still gains"):
        allocate_capacity(curves, lines, 10_000, union_size, parity=True)
    assert allocate_capacity(curves, lines, 10_000, union_size).hungry == list("abcd")
    with pytest.raises(DataError, match="fewest pieces"):
        allocate_capacity(curves, lines, 5, union_size)


def test_padding_takes_english_pieces_in_their_order():
    assert padded({"x", "b"}, ["a", "b", "c", "d"], 4) == {"x", "b", "a", "c"}


def test_padding_is_the_largest_english_vocabulary_alone(tmp_path: Path):
    settings = VocabularySettings.model_validate({"text": "x", "size": 9, "capacity": {"parity": True}})
    bits = [{"x": 0b01}, {"only in the small one": 0b01, "b": 0b11, "c": 0b10}]
    curves = {"de": [(1, -2.0)], "en": [(2, -3.0), (3, -1.0)]}
    allocated = Allocation({"de": 1, "en": 3}, 3, 0.0, [])
    capacities = Capacities(settings, Workspace(tmp_path), {}, Processes(1))
    assert capacities._padded(bits, curves, allocated) == len({"x", "b", "c"})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"a": 1}', "no number for 'b'"),
        ('{"a": 1, "b": 1e999}', "b has inf pieces"),
        ('{"a": 1, "b": NaN}', "b has nan pieces"),
        ('{"a": 1, "b": 0}', "b has 0 pieces"),
        ('{"a": "many", "b": 1}', "can't be read as JSON"),
        ("[1, 2]", "can't be read as JSON"),
        ("{", "can't be read as JSON"),
    ],
)
def test_a_file_of_capacities_has_a_number_for_every_language(tmp_path: Path, content: str, told: str):
    (tmp_path / "numbers.json").write_text(content)
    with pytest.raises(DataError, match=told):
        numbers_of_file(str(tmp_path / "numbers.json"), ["a", "b"])


def test_alp_is_that_of_the_sentences_that_found_room(tmp_path: Path):
    lines = lines_of(UNSPACED, 200)
    (tmp_path / "zh.txt").write_text("\n".join(lines), encoding="utf8")
    text = LanguageText(folder=str(tmp_path))
    root, sources = Workspace(tmp_path / "steps"), [str(tmp_path / "zh.txt")]
    counted, bounds = {"unspaced": True, "lines": 200}, SampleSettings(most_sentences=50)
    sample = sample_step(root, "zh", text, sources, counted, 200, bounds, 0)
    trainer = TrainerSettings(seed_pieces=10_000)
    curve = curve_step(root, "zh", sample, [80], trainer, pruned=False).result["curve"]
    kept = [sentence for sentence, count in read_units(sample.folder) for _ in range(count)]
    assert len(kept) == 50
    encoded = Segmenter(train_unigram(read_units(sample.folder), 80, trainer)).encode(kept)
    assert curve == [[80, pytest.approx(average_log_probability(encoded), abs=1e-10)]]


def test_a_language_has_room_for_the_letters_of_its_lines_once_where_they_count_several_times(tmp_path: Path):
    lines = [f"{line} {chr(0xAC00 + n)}" for n, line in enumerate(lines_of("la", 200))]
    (tmp_path / "ko.txt").write_text("\n".join(lines))
    made = VocabularySettings(
        text=LanguageText(folder=str(tmp_path)),
        size=400,
        language_pieces=20,
        capacity={"least": 20, "most": 20},
        trainer={"seed_pieces": 1000, "character_coverage": 0.98},
    )
    builder = _Builder(made, Workspace(tmp_path / "work"), 0, Processes(1))
    counted = {"unspaced": False, "lines": 200}
    sample = sample_step(builder.root, "ko", made.text, builder.sources["ko"], counted, 270, SampleSettings(), 0)
    assert sample.result["weight"] == 1.35
    assert builder._vocabularies({"ko": sample})
    assert Capacities(made, builder.root, {"ko": sample}, builder.workers).of_languages()[0]


@pytest.mark.parametrize("total", [100, 101, 997])
def test_capacities_add_up_and_follow_the_weights(total: int):
    weights = {"a": 3.0, "b": 2.0, "c": 1.0, "d": 1.0}
    clusters = [["a"], ["b", "c"], ["d"]]
    found = cluster_capacities(weights, clusters, total, [1, 1, 1])
    assert sum(found) == total
    assert all(abs(one - total * share / 7) < 1 for one, share in zip(found, (3, 3, 1), strict=True))


def test_no_cluster_is_starved_below_its_letters():
    found = cluster_capacities({"a": 98.0, "b": 1.0, "c": 1.0}, [["a"], ["b"], ["c"]], 1000, [30, 200, 5])
    assert found[1] == 200
    assert sum(found) == 1000
    assert found[0] > 700
    with pytest.raises(DataError, match="letters alone need 1,200"):
        cluster_capacities({"a": 1.0}, [["a"]], 1000, [1200])
