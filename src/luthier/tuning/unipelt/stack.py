"""What the layers of one stack have in common."""

from __future__ import annotations

from torch import nn

from luthier.methods.prefix_table import PrefixStack
from luthier.models.layers.blocks import Block


class UniPELTStack(PrefixStack):
    """The shared halves of a stack's prefix networks."""

    def __init__(self, stack: nn.Module, block: Block) -> None:
        super().__init__(stack, block, "unipelt_parts")
