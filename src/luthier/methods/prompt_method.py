"""What methods that put trained vectors before the input have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from luthier.errors import ModelError, a_model
from luthier.methods.base import MethodContext, TuningMethod
from luthier.methods.options import Options, option
from luthier.models.inspect import is_of_choices, table_width

if TYPE_CHECKING:
    from torch import nn


@dataclass(init=False, repr=False, eq=False)
class PlaceOptions(Options):
    """Where a prompt of trained vectors stands; a prompt that was saved without this setting stands before the text."""

    insert: Literal["before_text", "after_cls"] = option(
        "before_text",
        "Where the prompt stands: before the text, as in PEFT; or after_cls, behind the first token. Encoders like "
        "BERT classify from the first position, which before_text gives to the first prompt vector, and after_cls "
        "leaves to the token that was trained for it.",
    )


class PromptMethod(TuningMethod):
    """A method that fills positions in front of the text."""

    length: int = Field(20, gt=0, description="Prompt length: trained vectors in front of the text.")
    head_learning_rate: float | None = Field(
        None, gt=0, description="Peak learning rate of the task head; null takes that of the prompt."
    )

    def reserved_tokens(self) -> int:
        return self.length

    def adapter_config(self) -> Mapping[str, Any]:
        return {"peft_type": self.name.upper()}

    def parameter_groups(self, model: nn.Module, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Prompt and head with their own rates.

        Prompt vectors are not decayed: decay is multiplied by the rate, which for prompts is so large that it would
        erase them.
        """
        from luthier.methods.heads import HEAD_MARK
        from luthier.methods.wrapping import groups, trainable

        named = trainable(model)
        head = [(name, p) for name, p in named if HEAD_MARK in name]
        network = [(name, p) for name, p in named if HEAD_MARK not in name and not is_prompt(name)]
        prompt = [(name, p) for name, p in named if is_prompt(name)]
        rate, decay = self.network_schedule(learning_rate, weight_decay)
        return groups(
            (prompt, learning_rate, 0.0),
            (network, rate, decay),
            (head, self.head_learning_rate or learning_rate, weight_decay),
        )

    def network_schedule(self, learning_rate: float, weight_decay: float) -> tuple[float, float]:
        """Learning rate and weight decay of the network over the prompt, where there is one."""
        return learning_rate, weight_decay


def is_prompt(name: str) -> bool:
    """Whether a parameter's name is that of the prompt vectors themselves."""
    return name.startswith("prompt_encoder.") and name.endswith(".embedding.weight")


def check_prompts_fit(model: Any, context: MethodContext, method: str) -> None:
    """Refuse models that do not take vectors in place of token ids.

    Raises:
        ModelError: a multiple-choice model, an encoder-decoder that classifies, or one without a table of embeddings.
    """
    if is_of_choices(model):
        raise ModelError(
            f"{method} can't be put on a multiple-choice model, whose rows hold several texts",
            fix="use lora, ia3, bitfit or full",
        )
    if getattr(model.config, "is_encoder_decoder", False) and context.task_type == "SEQ_CLS":
        raise ModelError(
            f"{method} can't be put on an encoder-decoder that classifies: it finds the end of the text by its token",
            fix="pose the task as text with `data.as_text: true`, or use lora, ia3 or full",
        )
    if table_width(model) is None:
        raise ModelError(
            f"{method} can't be put on {a_model(model.config.model_type)}, which has no table of token embeddings",
            fix="use lora, bitfit or full",
        )


def check_insert(insert: str, model: Any, task_type: str | None) -> None:
    """Refuse a prompt behind a first token that does not stand for the text.

    Raises:
        ModelError: the task is not to classify whole texts, or the model has no such token.
    """
    if insert == "before_text":
        return
    from luthier.models.layers.trunk import find_trunk

    reason = ""
    if task_type != "SEQ_CLS":
        reason = f"only classifiers of whole texts read that token, and the task is {task_type}"
    elif not find_trunk(model).has_first_token:
        reason = f"{a_model(model.config.model_type)} has no first token that stands for the text"
    if reason:
        raise ModelError(f"a prompt can't stand behind [CLS]: {reason}", fix="set `insert` to before_text")


def text_ids(text: str, context: MethodContext) -> list[int]:
    """Token ids of a first prompt.

    Raises:
        ModelError: there is no tokenizer, or it finds no token in the text.
    """
    if context.tokenizer is None:
        raise ModelError("a prompt can't start from text without the model's tokenizer", fix="use `init: vocabulary`")
    ids = list(context.tokenizer(text, add_special_tokens=False)["input_ids"])
    if not ids:
        raise ModelError("the text has no tokens", fix="start the prompt from a text with at least one word")
    return ids
