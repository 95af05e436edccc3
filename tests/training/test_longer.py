"""The advice to train longer, from the log of a training."""

from types import SimpleNamespace

import pytest

from luthier.training.longer import too_short, with_advice

NAME = "validation/accuracy"


def advice(losses, scores, name=NAME, marks=(), **settings):
    given = SimpleNamespace(**{"epochs": 3.0, "max_steps": None, "max_minutes": None, **settings})
    pairs = zip(losses, scores, strict=True)
    log = [
        {"event": "evaluate", "step": 10 * n, "validation/loss": loss} | {name: score}
        for n, (loss, score) in enumerate(pairs, 1)
    ]
    return too_short(given, [{"event": "start"}, {"event": "log", "step": 5, "loss": 1.0}, *log], name, marks)


def test_a_score_that_rises_to_the_end_is_told_with_the_setting_that_ended_it():
    falling, rising = [0.7, 0.6, 0.5], [0.5, 0.6, 0.7]
    said = "the score was still rising at the last step, 30: train longer, e.g. "
    assert advice(falling, rising) == said + "`epochs: 6`"
    assert advice(falling, rising, max_steps=30) == said + "`max_steps: 60`"
    assert advice(falling, rising, max_minutes=1.5) == said + "`max_minutes: 3`"
    assert advice(falling, rising, max_minutes=1.5, max_steps=31) == said + "`max_minutes: 3`"
    assert advice(falling, rising, max_minutes=1.5, max_steps=30) == said + "`max_steps: 60`"
    assert advice(falling, [0.5, 0.5, 0.5]).startswith("the validation loss was still falling")
    assert advice([0.7, 0.6], [0.5, 0.6])
    slowly = [0.6940, 0.6935, 0.6932], [0.5, 0.5, 0.5]
    assert not advice(*slowly)
    assert advice(*slowly, marks=["not shown to be better than the trivial baseline by accuracy"])


@pytest.mark.parametrize(
    ("losses", "scores"),
    [
        ([0.7, 0.6, 0.5], [0.5, 0.8, 0.7]),  # the best step is an earlier one
        ([0.7, 0.5, 0.6], [0.5, 0.6, 0.7]),  # the loss rises again
        ([0.5, 0.6, 0.5], [0.5, 0.6, 0.7]),
        ([0.7, 0.6, 0.599], [0.5, 0.6, 0.7]),  # it has come to rest
        ([0.7, 0.6, 0.5], [0.5, 0.9, 1.0]),  # nothing is better than all right
        ([0.7], [0.5]),
        ([], []),
    ],
)
def test_what_gets_no_better_or_can_not_is_not_told(losses, scores):
    assert advice(losses, scores) == ""


def test_an_evaluation_that_was_done_again_counts_once():
    given = SimpleNamespace(epochs=2, max_steps=None, max_minutes=None)
    log = [
        {"event": "evaluate", "step": s, "validation/loss": x, NAME: 1 - x} for s, x in [(1, 0.7), (2, 0.5), (2, 0.5)]
    ]
    assert too_short(given, log, NAME).endswith("`epochs: 4`")
    earlier = [{"event": "evaluate", "step": s, "validation/loss": 0.1, NAME: 0.95} for s in (1, 2, 3)]
    assert too_short(given, [*earlier, *log], NAME) == too_short(given, log, NAME)


def test_lower_scores_that_fall():
    assert advice([0.7, 0.6], [9.0, 7.0], "validation/perplexity").startswith("the score was still falling")


def test_it_stands_behind_the_mark_that_it_may_explain():
    mark = "not shown to be better than the trivial baseline by accuracy"
    assert with_advice([mark], "train") == [mark, "it may be trained too little: train"]
    assert with_advice([], "train") == ["train"]
    assert with_advice([mark], "") == [mark]


def test_an_evaluation_without_a_number_does_not_count():
    """The log has null in the place of a score that is none."""
    assert advice([0.9, None, 0.6, 0.5], [0.4, 0.5, 0.6, 0.7]) == advice([0.9, 0.6, 0.5], [0.4, 0.6, 0.7]).replace(
        "30", "40"
    )
    assert advice([0.7, 0.6, 0.5], [None, None, None]) == ""
