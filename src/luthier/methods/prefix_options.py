"""What the options of all methods with trained keys and values share."""

from __future__ import annotations

from typing import Any, Literal

Site = Literal["encoder", "decoder", "cross"]
PROJECTION_WIDTH = 512
NETWORK_RATE = 1e-3


def check_network_rate(options: Any) -> None:
    """Check that the learning rate of the network behind a prefix is set only where there is one.

    Raises:
        ValueError: the rate would have no effect.
    """
    if options.network_learning_rate != NETWORK_RATE and not options.projection:
        raise ValueError("network_learning_rate would have no effect without projection: leave it out")
