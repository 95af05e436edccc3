"""What is read from rates that were tried beside the defaults."""

import pytest
from defaults_language import LENGTHS, RATES, SEEDS, SETS, answers, cells, moved, page

from luthier.registry import METHODS


def measured(best: int, gain: float = 0.1, fails: bool = False) -> list[dict]:
    """Cells of a sweep in which one of the three rates of every method is best."""
    found = []
    for cell in cells():
        place = RATES[cell["method"]].index(cell["rate"])
        accuracy = 0.6 + 0.01 * cell["seed"] + (gain if place == best else 0.0)
        lost = fails and place == best and cell["seed"] == 2
        found.append({"cell": cell, "validation_accuracy": accuracy, "commonest": 0.9 if lost else 0.3})
    return found


@pytest.mark.parametrize("method", RATES)
def test_defaults_stand_in_the_middle(method):
    below, default, above = RATES[method]
    assert default == METHODS.get(method).default_learning_rate
    assert 3 <= round(default / below, 1) <= 3.3
    assert 3 <= round(above / default, 1) <= 3.3


@pytest.mark.parametrize(("best", "behind"), [(0, len(RATES)), (1, 0), (2, len(RATES))])
def test_a_default_is_behind_where_a_neighbour_is_better(best, behind):
    *told, moves = answers(measured(best))
    assert len(told) == len(LENGTHS)
    assert all(line[1].startswith(f"{behind} of {len(RATES)} ") for line in told)
    assert moves[1].startswith(f"To a lower one in 0 of {len(RATES)} methods, to a higher one in 0; ")


def test_a_best_rate_that_moves_with_the_length_is_counted():
    best = dict(zip(LENGTHS, (2, 0), strict=True))
    short, long = ([e for e in measured(best[steps]) if e["cell"]["steps"] == steps] for steps in LENGTHS)
    assert moved(short + long, "lora") == (1e-2, 1e-3, pytest.approx(0.1))
    told = answers(short + long)[-1][1]
    assert told.startswith(f"To a lower one in {len(RATES)} of {len(RATES)} methods, to a higher one in 0; ")
    assert told.endswith("by at most 0.100.")


def test_a_rate_at_which_a_run_failed_is_not_the_best():
    shown = page(measured(2, fails=True))
    assert "2 failed" in shown
    assert "**0.720" not in shown


def test_a_sweep_that_has_begun_shows_what_is_whole():
    seed, name = SEEDS[0], next(iter(SETS))
    begun = [e for e in measured(1) if e["cell"]["seed"] == seed and e["cell"]["method"] == "lora"]
    assert "| lora | 0.003 | 100 | 0.610 (one seed) | **0.710 (one seed)** |" in page(begun)
    assert "idpg" not in page(begun)
    assert "lora" not in page([e for e in begun if e["cell"]["set"] == name])
