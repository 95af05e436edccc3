import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.rows.subsets import cut_shares, draw_examples, draw_per_class, first_of_order
from luthier.errors import DataError


@given(st.integers(2, 60), st.integers(0, 5), st.data())
def test_smaller_draws_are_part_of_larger_ones(rows, seed, data):
    large = data.draw(st.integers(1, rows))
    small = data.draw(st.integers(1, large))
    assert set(draw_examples(rows, small, seed, "x")[0]) <= set(draw_examples(rows, large, seed, "x")[0])
    train, after = draw_examples(rows, small, seed, "x", large - small)
    assert sorted(train + after) == draw_examples(rows, large, seed, "x")[0]


def test_the_order_of_a_seed_never_changes():
    assert draw_examples(10, 4, 13, "x")[0] == first_of_order([[i] for i in range(10)], 4, 13) == [0, 3, 7, 8]
    assert cut_shares(10, {"train": 0.8, "validation": 0.2}, "x")["validation"] == [6, 9]


def test_per_class_draws_as_many_of_each():
    labels = [0, 1, 2] * 10
    drawn = draw_per_class(labels, ["a", "b", "c"], 4, 7, "x")
    assert [sum(labels[i] == c for i in drawn) for c in range(3)] == [4, 4, 4]
    assert set(draw_per_class(labels, ["a", "b", "c"], 2, 7, "x")) <= set(drawn)
    assert drawn != draw_per_class(labels, ["a", "b", "c"], 4, 8, "x")


def test_too_few_rows_are_told_with_counts():
    with pytest.raises(DataError, match="5 examples and 6 more for validation were asked for, but there are 10"):
        draw_examples(10, 5, 0, "x", 6)
    with pytest.raises(DataError, match="2 examples of every label were asked for, but 'b' has 1, 'c' has 0"):
        draw_per_class([0, 0, 1], ["a", "b", "c"], 2, 0, "x")
    with pytest.raises(DataError, match=r"1 rows are too few to cut off (train|validation)"):
        cut_shares(1, {"train": 0.5, "validation": 0.5}, "x")


@given(st.integers(10, 300))
def test_cut_parts_hold_every_row_once(rows):
    parts = cut_shares(rows, {"train": 0.8, "validation": 0.1, "test": 0.1}, "x")
    assert sorted(i for part in parts.values() for i in part) == list(range(rows))
