"""What the layers of one stack have in common."""

from __future__ import annotations

from torch import nn

from luthier.tuning.blocks import Block
from luthier.tuning.prefix_table import PrefixStack


class UniPELTStack(PrefixStack):
    """The shared halves of a stack's prefix networks."""

    def __init__(self, stack: nn.Module, block: Block) -> None:
        super().__init__(stack, block, "unipelt_parts")
