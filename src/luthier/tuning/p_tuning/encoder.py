"""P-tuning whose prompt may stand behind [CLS]: the configuration, and PEFT's network over the prompt.

Shapes: B examples, n prompt rows, d embedding width. Source: Liu et al., AI Open 2024, section 3.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from peft import PromptEncoder, PromptEncoderConfig
from peft.utils import PeftType
from torch import Tensor, nn

from luthier.methods.options import like
from luthier.methods.placed_prompts import register_placed_prompt
from luthier.methods.prompt_method import PlaceOptions
from luthier.peft_bridge.own_prompts import OwnPromptEncoder, lstm_outputs


@dataclass
class PTuningConfig(PlaceOptions, PromptEncoderConfig):
    """Configuration of P-tuning with a place for the prompt; all but that is PEFT's.

    PEFT's own checkpoints can't say where a prompt stands, and hold no network. Ours do, so that without Luthier they
    are refused and not read as something else, and so that training goes on from them exactly.

    Raises:
        ValueError: an option out of range.
    """

    freeze_dropout: ClassVar[bool] = False
    insert: Literal["before_text", "after_cls"] = like(PlaceOptions, "insert", default="after_cls")
    num_transformer_submodules: int | None = field(
        default=1, metadata={"help": "Always 1: only classifiers of whole texts, which have one, read [CLS]."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["PLACED_P_TUNING"]
        self.check()


class PTuningEncoder(OwnPromptEncoder):
    """PEFT's prompt encoder, whose network runs once for all examples.

    Attributes:
        embedding: the network's input (n, d).
        recurrent: a bidirectional LSTM over the rows, or None.
        network: the MLP behind it, whose output is the prompt.
    """

    stored_as = "p_tuning."

    def __init__(self, config: PTuningConfig, embeddings: nn.Embedding | None) -> None:
        """Build the embedding and the network that PEFT builds; the model's token embeddings play no part."""
        super().__init__()
        trained = copy(config)
        trained.inference_mode = False  # with it PEFT builds no network
        stock: Any = PromptEncoder(trained)
        self.embedding = stock.embedding
        self.recurrent = getattr(stock, "lstm_head", None)
        # Not under PEFT's name for it, `mlp_head`, which PEFT takes for a task head.
        self.network = stock.mlp_head
        if config.inference_mode:
            self.requires_grad_(False)

    def prompt(self) -> Tensor:
        """(n, d): what is put behind [CLS]."""
        rows: Tensor = self.embedding.weight
        if self.recurrent is not None:
            rows = lstm_outputs(self.recurrent, rows)
        prompt: Tensor = self.network(rows)
        return prompt


register_placed_prompt("placed_p_tuning", PTuningConfig, PTuningEncoder)
