from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.batches.sampling import LengthBucketSampler

LENGTHS = [(i * 37) % 101 + 1 for i in range(203)]


@given(st.lists(st.integers(1, 50), max_size=80), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))
def test_every_example_comes_once(lengths, batch, accumulation, epoch):
    sampler = LengthBucketSampler(lengths, batch, accumulation, seed=1)
    sampler.set_epoch(epoch)
    assert sorted(sampler) == list(range(len(lengths)))


def test_accumulation_changes_nothing():
    orders = [list(LengthBucketSampler(LENGTHS, b, a, seed=3)) for b, a in ((8, 1), (4, 2), (2, 4), (1, 8))]
    assert all(order == orders[0] for order in orders)


def test_a_step_holds_similar_lengths_and_steps_are_mixed():
    sampler = LengthBucketSampler(LENGTHS, 8, seed=0)
    order = list(sampler)
    steps = [[LENGTHS[i] for i in order[k : k + 8]] for k in range(0, len(order), 8)]
    assert max(max(step) - min(step) for step in steps[:-1]) < 30
    assert [max(step) for step in steps] != sorted((max(step) for step in steps), reverse=True)
    assert len(steps[-1]) == len(LENGTHS) % 8


def test_order_follows_seed_and_epoch():
    one, other = LengthBucketSampler(LENGTHS, 4, seed=1), LengthBucketSampler(LENGTHS, 4, seed=2)
    first = list(one)
    assert first == list(one) != list(other)
    one.set_epoch(1)
    assert list(one) != first


@pytest.mark.parametrize("done", [0, 1, 77, 203])
def test_going_on_gives_the_rest(done):
    sampler = LengthBucketSampler(LENGTHS, 4, seed=5)
    sampler.set_epoch(2)
    whole = list(sampler)
    running = iter(sampler)
    list(islice(running, done))
    state = sampler.state_dict()
    resumed = LengthBucketSampler(LENGTHS, 4, seed=0)
    resumed.load_state_dict(state)
    resumed.set_epoch(2)
    assert list(resumed) == (whole[done:] if done < 203 else [])
    assert list(resumed) == whole
    resumed.set_epoch(3)
    assert len(list(resumed)) == 203


def test_a_pass_that_was_broken_off_does_not_shorten_the_next():
    sampler = LengthBucketSampler(LENGTHS, 4)
    next(iter(sampler))
    assert len(list(sampler)) == 203


def test_sizes_must_be_positive():
    with pytest.raises(ValueError, match="positive"):
        LengthBucketSampler(LENGTHS, 0)
