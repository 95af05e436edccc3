"""A learned prompt as a plain PEFT prompt-tuning checkpoint."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, fields
from pathlib import Path

from peft import PromptTuningConfig
from peft.config import PromptLearningConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor

from luthier.peft_bridge.adapter_types import PROMPT_EMBEDDINGS
from luthier.storage.files import reporting_failed_writes

# All that prompt methods have in common, but what says which of them it is and what state it is in.
_CARRIED = {f.name for f in fields(PromptLearningConfig)} - {"peft_type", "peft_version", "inference_mode"}


@dataclass(frozen=True)
class FoldedPrompt:
    """A plain PEFT prompt-tuning adapter.

    Attributes:
        config: of stock PEFT.
        state: `prompt_embeddings` (n, d), and the task head's weights.
    """

    config: PromptTuningConfig
    state: dict[str, Tensor]

    @classmethod
    def of(cls, config: PromptLearningConfig, prompt: Tensor, heads: dict[str, Tensor]) -> FoldedPrompt:
        """The prompt (n, d) that a method's network makes, with the rest of that method's configuration."""
        plain = PromptTuningConfig(inference_mode=True, **{name: copy(getattr(config, name)) for name in _CARRIED})
        return cls(plain, {PROMPT_EMBEDDINGS: prompt, **heads})

    def save(self, directory: str | Path) -> None:
        """Write what `PeftModel.from_pretrained` of stock PEFT loads.

        Raises:
            WorkspaceError: the disk is full or the directory can't be written.
        """
        tensors = {name: tensor.contiguous().cpu() for name, tensor in self.state.items()}
        with reporting_failed_writes(Path(directory)):
            Path(directory).mkdir(parents=True, exist_ok=True)
            self.config.save_pretrained(str(directory))
            save_file(tensors, str(Path(directory) / SAFETENSORS_WEIGHTS_NAME), metadata={"format": "pt"})
