"""Residual Prompt Tuning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.methods.base import MethodContext
from luthier.methods.options import setting
from luthier.methods.prompt_method import PromptMethod, check_prompts_fit, text_ids
from luthier.peft_bridge.adapter_types import register_adapter_type
from luthier.registry import METHODS
from luthier.settings import Paper
from luthier.tuning.residual_prompt.options import FirstPromptOptions, ResidualPromptOptions

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

register_adapter_type(
    "RESIDUAL_PROMPT",
    "luthier.tuning.residual_prompt.encoder",
    exported_by="luthier.methods.export:folded_prompt",
)


@METHODS.register
class ResidualPrompt(ResidualPromptOptions, PromptMethod):
    """Prompt vectors that pass through a small network with a skip connection while they are trained."""

    name: Literal["residual_prompt"] = "residual_prompt"
    summary: ClassVar[str] = "prompt tuning through a small residual network, folded away afterwards"
    paper: ClassVar[Paper] = Paper(
        title="Residual Prompt Tuning: Improving Prompt Tuning with Residual Reparameterization",
        authors="Razdaibiedina, Mao, Khabsa, Lewis, Hou, Ba, Almahairi",
        venue="Findings of ACL 2023",
        url="https://arxiv.org/abs/2305.03937",
    )
    default_learning_rate: ClassVar[float] = 1e-3
    length: int = Field(10, gt=0, description="Prompt length: trained vectors in front of the text.")
    head_learning_rate: float | None = Field(
        1e-2, gt=0, description="Peak learning rate of the task head; null takes that of the prompt."
    )
    network_learning_rate: float | None = Field(
        1e-3, gt=0, description="Peak learning rate of the network; null takes that of the prompt."
    )
    network_weight_decay: float = Field(1e-5, ge=0, description="Weight decay of the network's matrices.")
    init: Literal["vocabulary", "uniform", "text", "tensor"] = setting(
        FirstPromptOptions, "prompt_init", default="uniform"
    )
    init_text: str | None = Field(None, description="The text of `init: text`, cut or repeated to the length.")
    init_file: str | None = setting(FirstPromptOptions, "prompt_init_file")

    def check(self) -> None:
        super().check()
        for init, name in (("text", "init_text"), ("tensor", "init_file")):
            if (self.init == init) != bool(getattr(self, name)):
                raise ValueError(f"{name} goes with `init: {init}`, and only with it")

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Wrap with the Residual Prompt Tuning adapter.

        Raises:
            ModelError: the model does not take vectors in place of token ids, has no [CLS] to insert behind, or the
                first prompt can't be made.
        """
        from luthier.methods.wrapping import wrap
        from luthier.tuning.residual_prompt import ResidualPromptConfig

        check_prompts_fit(model, context, self.name)
        config = ResidualPromptConfig(
            task_type=context.task_type,
            num_virtual_tokens=self.length,
            prompt_init=self.init,
            prompt_init_seed=None if self.init in ("text", "tensor") else context.seed,
            prompt_init_ids=text_ids(self.init_text, context) if self.init_text else None,
            prompt_init_file=self.init_file,
            **self.option_values(),
        )
        return wrap(model, config, context)

    def files(self) -> list[Path]:
        return [Path(self.init_file)] if self.init_file else []

    def network_schedule(self, learning_rate: float, weight_decay: float) -> tuple[float, float]:
        return self.network_learning_rate or learning_rate, self.network_weight_decay
