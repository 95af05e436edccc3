"""Which passes are shared; that they are shared rightly is tested with real processes in tests/runs/test_sharing.py."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from luthier.errors import DataError
from luthier.storage import helping
from luthier.storage.helping import each, helped


def scaled(model: torch.nn.Linear, item: float) -> float:
    return model.weight.item() * item


def model() -> torch.nn.Linear:
    linear = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(linear.weight, 2.0)
    return linear


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the main one of two processes deals out to the other."""
    dealt: list[Any] = []
    monkeypatch.setattr(helping, "world_size", lambda: 2)
    monkeypatch.setattr(helping, "dealt", lambda parts: dealt.append(parts[1]) or parts[0])
    return dealt


def test_one_process_does_all_by_itself() -> None:
    assert helped(lambda: list(each(scaled, model(), [1.0, 3.0])), model()) == [2.0, 6.0]


def test_another_model_or_one_with_other_weights_is_no_work_for_the_others(orders: list[Any]) -> None:
    shared = model()

    def work() -> list[float]:
        other = list(each(scaled, model(), [1.0]))
        with torch.no_grad():
            shared.weight.mul_(5)
        return other + list(each(scaled, shared, [1.0]))

    assert helped(work, shared) == [2.0, 10.0]
    assert orders == [("end", [2.0, 10.0], None)]
    assert list(each(scaled, shared, [1.0])) == [10.0]


def test_batches_are_made_as_they_are_needed_and_results_keep_their_order(
    orders: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, made = model(), []

    def batches() -> Iterator[float]:
        for number in range(20):
            made.append(number)
            yield float(number)

    def answered(own: Any) -> list[Any]:
        _, function, share = orders[-1]
        return [own, ([function(shared, item) for item in share], None)]

    monkeypatch.setattr(helping, "collected", answered)

    def work() -> list[float]:
        results = each(scaled, shared, batches())
        first = next(results)
        assert len(made) < 20
        return [first, *results]

    assert helped(work, shared) == [2.0 * number for number in range(20)]
    assert sorted(item for order in orders[:-1] for item in order[2]) == [float(n) for n in range(1, 20, 2)]


def test_the_others_are_told_of_an_error(orders: list[Any]) -> None:
    def fail() -> None:
        raise DataError("no rows")

    with pytest.raises(DataError):
        helped(fail, model())
    assert orders == [("end", None, ("no rows", 3))]
