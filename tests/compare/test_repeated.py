"""Warnings of a comparison's cells: what all say is shown once, and counted."""

import io
import logging
from pathlib import Path

import pytest

from luthier.compare.repeated import said_once

CELLS = [Path(f"runs/x/cells/seed={seed}") for seed in (1, 2, 3)]


@pytest.fixture
def outputs():
    """Two handlers of the root logger, and what they wrote."""
    root, streams = logging.getLogger(), [io.StringIO(), io.StringIO()]
    handlers = [logging.StreamHandler(stream) for stream in streams]
    for handler in handlers:
        root.addHandler(handler)
    yield lambda: [stream.getvalue().splitlines() for stream in streams]
    for handler in handlers:
        root.removeHandler(handler)


def test_what_all_cells_say_is_said_once_on_every_handler_and_counted(outputs):
    logger = logging.getLogger("luthier.data")
    with said_once() as heard:
        for cell in CELLS:
            heard.begin(cell)
            logger.warning("%d rows were cut", 1)
            logger.warning("%s: it is old", cell)
            if cell is CELLS[1]:
                logger.warning("only here")
                logger.warning("only here")
        heard.tell(len(CELLS))
    wanted = ["1 rows were cut", f"{CELLS[0]}: it is old", "only here"]
    wanted += ["in 3 of 3 runs: 1 rows were cut", f"in 3 of 3 runs: {CELLS[0]}: it is old"]
    assert outputs() == [wanted, wanted]


def test_outside_of_cells_nothing_is_held_back(outputs):
    logger = logging.getLogger("luthier.data")
    with said_once():
        logger.warning("again")
        logger.warning("again")
    logger.warning("again")
    assert outputs()[0] == ["again"] * 3
