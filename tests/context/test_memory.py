"""The estimate of memory: what it grows with, and that it is near what a process takes.

`benchmarks/context_memory.py` measures it on more sizes; its results are in the repository.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from luthier.context.memory import LIBRARIES, training_memory
from luthier.training.estimates import split_states

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "context_memory.json"
SIZES = {"hidden_size": 320, "num_hidden_layers": 8, "num_attention_heads": 5, "intermediate_size": 960}


def estimate(tokens: int = 4096, length: int = 2048, **more: int) -> int:
    return training_memory(SimpleNamespace(**SIZES), 12_000_000, tokens, length, **more).total


def test_it_grows_with_tokens_and_masks_and_falls_with_checkpointing():
    assert estimate(8192) - estimate(4096) == pytest.approx(estimate(4096) - estimate(0), rel=0.1)
    assert estimate(checkpointing=True) < 0.7 * estimate()
    more = estimate(masked=True) - estimate()
    assert more == 4 * 8 * 4096 * 2048  # numbers of every layer's mask
    assert estimate(length=4096, masked=True) - estimate() == 2 * more
    assert estimate(0) > LIBRARIES + 16 * 12_000_000


def test_it_was_within_15_per_cent_of_what_processes_took():
    """The estimate of today against the peaks that the script measured."""
    found = json.loads(RESULTS.read_text())
    assert len(found["cells"]) >= 5
    for name, one in found["cells"].items():
        cell, processes = one["cell"], one["cell"].get("processes", 1)
        told = training_memory(
            SimpleNamespace(**found["settings"]["sizes"][cell["size"]]),
            one["parameters"],
            cell["batch"] * cell["length"],
            cell["length"],
            checkpointing=cell["checkpointing"],
            masked=cell["mask"] == "block",
            states=split_states(one["parameters"], one["whole"], processes) if processes > 1 else None,
            sharing=cell.get("sharing", 1),
        )
        assert told.total == pytest.approx(one["peak"], rel=0.15), name


def test_two_processes_took_less_each_than_one_with_all():
    """By more than a third of the weights, gradients and moments; half of them is the most that can be saved."""
    cells = json.loads(RESULTS.read_text())["cells"].values()
    wide = {one["cell"].get("processes", 1): one for one in cells if one["cell"]["size"] == "wide"}
    assert wide[1]["peak"] - max(wide[2]["peaks"]) > 16 * wide[1]["parameters"] / 3


@pytest.mark.parametrize(("length", "checkpointing"), [(4096, False), (4096, True), (8192, False)])
def test_two_processes_that_shared_a_row_took_less_each_than_one_with_all_of_it(length: int, checkpointing: bool):
    cells = json.loads(RESULTS.read_text())["cells"].values()
    found = {
        one["cell"].get("sharing", 1): one
        for one in cells
        if (one["cell"]["length"], one["cell"]["checkpointing"]) == (length, checkpointing)
    }
    assert found.keys() == {1, 2}
    assert max(found[2]["peaks"]) < found[1]["peak"]


def test_each_process_has_its_part_of_the_activations_and_keys_and_values_of_all():
    """Keys and values are two times 320 numbers of a token and layer; the gradients of 12 million weights are held
    twice by several processes."""
    own = estimate(4096, sharing=2) - 4 * 12_000_000
    more = own - estimate(2048)
    assert more == pytest.approx(4 * 2 * 320 * 4096 * (8 * 1.3 + 8), rel=0.01)
    assert estimate(4096, sharing=4) < estimate(4096, sharing=2) < estimate(4096)
    assert estimate(4096, sharing=2, checkpointing=True) < estimate(4096, checkpointing=True)


def test_split_states_are_a_part_of_all_and_what_is_whole():
    assert split_states(1000, 0, 4) == 4000
    assert split_states(1000, 10, 2) == 8080
