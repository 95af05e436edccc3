"""The options of task prefixes."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.methods.options import Options, option
from luthier.methods.prefix_options import PROJECTION_WIDTH, Site


@dataclass(init=False, repr=False, eq=False)
class TaskPrefixOptions(Options):
    """How long the prefix of one task is, where it stands, and what makes it."""

    prefix_length: int = option(5, "Prefix columns.", ge=1)
    projection: bool = option(False, "Make the prefix from one table by a network while training.")
    projection_width: int = option(PROJECTION_WIDTH, "Hidden width of that network.", ge=1)
    layers: list[int] | None = option(
        None, "Numbers, from 0, of the layers of every stack that get a prefix; None is all."
    )
    sites: list[Site] | None = option(
        None, "Encoder-decoders: which attention gets a prefix, of encoder, decoder and cross; None is all."
    )
    init_std: float = option(0.02, "Standard deviation of the table's first values.", gt=0)

    def check(self) -> None:
        super().check()
        if min(self.layers or [0]) < 0:
            raise ValueError(f"layers has {min(self.layers or [0])}, but layers are counted from 0")
        if self.projection_width != PROJECTION_WIDTH and not self.projection:
            raise ValueError("projection_width would have no effect without projection: leave it out")
