"""The length curriculum: the published count of operations, where stages begin, what is refused."""

from __future__ import annotations

import pytest

from luthier.context import LengthCurriculum
from luthier.errors import RecipeError

TOKENS, LAYERS, HIDDEN = 100_000 * 2**22, 32, 4096


def published(share: float) -> LengthCurriculum:
    return LengthCurriculum([(4096, share), (32_768, 1 - share)] if share else [(32_768, 1.0)])


@pytest.mark.parametrize(("share", "flops"), [(0, 3.783e22), (0.2, 3.405e22), (0.4, 3.026e22), (0.8, 2.270e22)])
def test_operations_are_the_four_published_figures(share: float, flops: float):
    assert published(share).flops(TOKENS, LAYERS, HIDDEN) == pytest.approx(flops, rel=2e-4)


def test_the_saving_is_forty_per_cent_and_less_with_the_causal_half_alone():
    assert published(0.8).saving(LAYERS, HIDDEN) == pytest.approx(0.40, abs=0.005)
    assert published(0.8).saving(LAYERS, HIDDEN, causal_half=True) == pytest.approx(0.28, abs=0.01)
    one, other = (72 * LAYERS * HIDDEN**2 * (1 + length / (6 * HIDDEN)) for length in (4096, 32_768))
    assert one / other == pytest.approx(0.5, abs=0.01)  # a token at 4k costs half of one at 32k


def test_of_a_training_that_ended_early_its_own_steps_count():
    whole = LengthCurriculum([(8, 0.5), (16, 0.3), (32, 0.2)])
    assert whole.trained(100, 100) == whole.trained(100, 0) == whole
    assert whole.trained(100, 40).stages == ((8, 1.0),)
    assert [one[0] for one in whole.trained(100, 60).stages] == [8, 16]
    assert [one[1] for one in whole.trained(100, 60).stages] == pytest.approx([5 / 6, 1 / 6])
    early = whole.trained(100, 40)
    at_the_longest = LengthCurriculum([(32, 1.0)]).flops(40, 2, 4)
    assert early.saving(2, 4, longest=32) == pytest.approx(1 - early.flops(40, 2, 4) / at_the_longest)


def test_stages_begin_at_their_share_of_the_steps():
    three = LengthCurriculum([(16, 0.5), (32, 0.25), (64, 0.25)])
    assert three.switches(100) == [0, 50, 75]
    assert [three.length_at(step, 100) for step in (0, 49, 50, 74, 75, 99)] == [16, 16, 32, 32, 64, 64]
    assert three.longest == 64
    assert three.mean(float) == 32


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([], "needs a length"),
        ([(16, 0.0), (32, 1.0)], "above 0"),
        ([(16, 0.5), (32, 0.4)], "sum to 1"),
        ([(24, 0.5), (64, 0.5)], "can't be cut"),
    ],
)
def test_what_is_no_curriculum_is_refused(stages: list[tuple[int, float]], said: str):
    with pytest.raises(RecipeError, match=said):
        LengthCurriculum(stages)


def test_a_stage_without_a_step_is_refused():
    with pytest.raises(RecipeError, match="less than one"):
        LengthCurriculum([(16, 0.01), (32, 0.99)]).switches(10)
