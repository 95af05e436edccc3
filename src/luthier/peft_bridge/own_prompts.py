"""Prompt methods that PEFT does not know by itself: their encoder, and which one runs which configuration's prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BasePromptEncoder
from torch import Tensor, nn
from torch.nn import functional

ENCODERS: dict[type[PeftConfig], type[nn.Module]] = {}
CHECKS: dict[type[PeftConfig], Callable[[Any, nn.Module], None]] = {}


class OwnPromptEncoder(BasePromptEncoder):
    """A prompt and what makes it; both are stored, so that training goes on from what was saved.

    A subclass is built as `encoder_cls(config, token_embeddings)`, says `stored_as` and defines `prompt`. Its member
    `embedding` holds the trained rows. Shapes: B examples, n prompt rows, d embedding width.

    Attributes:
        stored_as: what the names of its tensors begin with in a saved adapter.
    """

    stored_as: ClassVar[str]

    def prompt(self) -> Tensor:
        """(n, d): the prompt that the model sees."""
        raise TypeError(f"{type(self).__name__} does not define prompt()")

    def forward(self, indices: Tensor) -> Tensor:
        """(B, n) row numbers -> (B, n, d)."""
        return functional.embedding(indices, self.prompt())

    @classmethod
    def own_state(cls, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """The part of a stored adapter that belongs to the encoder, named as in it."""
        return {k.removeprefix(cls.stored_as): v for k, v in state_dict.items() if k.startswith(cls.stored_as)}

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: PeftModel,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        names = model.prompt_encoder[adapter_name].state_dict()
        return {cls.stored_as + name: state_dict[f"prompt_encoder.{adapter_name}.{name}"] for name in names}

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return key if key.startswith(cls.stored_as) else super()._remove_adapter_name_from_key(key, adapter_name)

    def _load_adapter_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        self.load_state_dict(self.own_state(state_dict))


def lstm_outputs(lstm: nn.LSTM, rows: Tensor) -> Tensor:
    """(n, d) -> (n, 2h), with the same rounding whether gradients are on or off.

    With gradients off torch takes another kernel: a prompt that is folded or evaluated must equal the one that was
    trained.

    Args:
        lstm: bidirectional, of hidden width h, with `batch_first`.
        rows: one sequence.
    """
    wants_gradients = torch.is_grad_enabled()
    with torch.enable_grad():
        outputs: Tensor = lstm(rows[None])[0][0]
    return outputs if wants_gradients else outputs.detach()


def register_prompt_encoder(
    config_cls: type[PeftConfig], encoder_cls: type[OwnPromptEncoder], check: Callable[[Any, nn.Module], None]
) -> None:
    """Make PEFT run prompts of this configuration through this encoder.

    Args:
        config_cls: a `PromptLearningConfig` with the fields `freeze_dropout` and `insert` (before_text or after_cls).
        encoder_cls: built as `encoder_cls(config, token_embeddings)`; maps (B, n) row numbers to (B, n, d) vectors.
        check: called with a configuration and the base model; raises where they don't fit.
    """
    ENCODERS[config_cls] = encoder_cls
    CHECKS[config_cls] = check


def is_own_prompt(config: PeftConfig) -> bool:
    """Whether a configuration is that of a prompt method that PEFT does not know by itself."""
    return type(config) in ENCODERS
