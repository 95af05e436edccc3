"""What the hooks of one forward pass share.

Shapes: B examples, L = T + t positions of text and prompt, g sentence vector width, d model width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from luthier.models.layers.placement import Placement
from luthier.tuning.instance_prompt.config import InstancePromptConfig
from luthier.tuning.instance_prompt.generator import PromptGenerator


@dataclass
class Given:
    """What the caller passed beside the model's own arguments.

    Attributes:
        vectors: sentence vectors (B, g).
        context: (B,) column of the last token that a causal model may summarise.
    """

    vectors: Tensor | None = None
    context: Tensor | None = None


@dataclass
class Running:
    """One forward pass.

    Attributes:
        config, generator: of the active adapter.
        vectors: (B, g) that the first prompt is made from; None takes the running hidden states.
        mask: (B, L), 1 at the tokens that may be summarised.
        last: (B,) column of L that counts as the last of the text.
        placement: None where the prompt takes no positions.
        continues: whether the prompt is in the cache already, so that none is made.
        extras: by layer, the keys and values made.
        shown: the attention mask in which the prompt can be seen, by that in which it can't.
    """

    config: InstancePromptConfig
    generator: PromptGenerator
    vectors: Tensor | None
    mask: Tensor
    last: Tensor
    placement: Placement | None
    continues: bool = False
    extras: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    shown: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Note:
    """What a key-value cache has to know about the prompt in it: its columns, and the extra keys and values."""

    placement: Placement | None
    extras: dict[int, tuple[Tensor, Tensor]]
