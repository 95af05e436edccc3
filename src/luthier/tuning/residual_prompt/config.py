"""The PEFT configuration of Residual Prompt Tuning."""

from __future__ import annotations

from dataclasses import dataclass, field

from peft.config import PromptLearningConfig
from peft.utils import PeftType

from luthier.tuning.residual_prompt.options import OPTION_NAMES, complete_options

PROMPT_INITS = ("vocabulary", "uniform", "text", "tensor")


@dataclass
class ResidualPromptConfig(PromptLearningConfig):
    """Configuration of Residual Prompt Tuning; the defaults are the paper's.

    An option that is None takes the default of the chosen network (`luthier.tuning.residual_prompt.options.OPTIONS`)
    and is written to the saved configuration with that value.

    Raises:
        ValueError: an option that would have no effect, or a value out of range.
    """

    num_virtual_tokens: int = field(default=10, metadata={"help": "Prompt length n."})
    num_transformer_submodules: int | None = field(
        default=1, metadata={"help": "Always 1: in an encoder-decoder the prompt stands before the encoder only."}
    )
    reparameterizer: str = field(
        default="mlp",
        metadata={
            "help": "Network over the prompt: mlp (bottleneck), mlp2 (two of them in a row), lstm (bidirectional, over "
            "the rows), transformer (over the rows), none (plain prompt tuning)."
        },
    )
    residual: bool | None = field(default=None, metadata={"help": "Add the prompt to the network's output."})
    bottleneck: int | None = field(
        default=None,
        metadata={"help": "Hidden width m of the MLP, or of the transformer's feed-forward part."},
    )
    layer_norm: bool | None = field(
        default=None, metadata={"help": "LayerNorm at the end of the branch, before the addition."}
    )
    activation: str | None = field(default=None, metadata={"help": "relu, tanh or sigmoid."})
    dropout: float | None = field(
        default=None,
        metadata={
            "help": "Dropout in the network: after the MLP's up-projection, between LSTM layers, in the transformer."
        },
    )
    shared: bool | None = field(
        default=None, metadata={"help": "One MLP for all prompt rows; False gives every row its own."}
    )
    tied: bool | None = field(default=None, metadata={"help": "mlp2: both halves have the same weights."})
    layers: int | None = field(default=None, metadata={"help": "LSTM or transformer layers."})
    prompt_init: str = field(
        default="vocabulary",
        metadata={"help": "First prompt: vocabulary rows, uniform(-0.5, 0.5), the embeddings of a text, or a tensor."},
    )
    prompt_init_seed: int | None = field(
        default=None, metadata={"help": "Seed of the first prompt; None draws from torch's global generator."}
    )
    prompt_init_text: str | None = field(default=None, metadata={"help": "The text of prompt_init='text'."})
    prompt_init_ids: list[int] | None = field(
        default=None, metadata={"help": "Token ids of that text, in place of prompt_init_text."}
    )
    tokenizer_name_or_path: str | None = field(default=None, metadata={"help": "What tokenizes prompt_init_text."})
    prompt_init_file: str | None = field(
        default=None, metadata={"help": "A safetensors file whose single tensor (n, d) is the first prompt."}
    )
    freeze_dropout: bool = field(
        default=False, metadata={"help": "Switch the dropout of the frozen model off while training."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["RESIDUAL_PROMPT"]
        options = complete_options(self.reparameterizer, {name: getattr(self, name) for name in OPTION_NAMES})
        for name, value in options.items():
            setattr(self, name, value)
        if self.num_virtual_tokens < 1:
            raise ValueError(f"num_virtual_tokens is {self.num_virtual_tokens}, but must be at least 1")
        if self.num_transformer_submodules != 1:
            raise ValueError("the prompt stands before the encoder only: num_transformer_submodules must be 1")
        self._check_init()

    def _check_init(self) -> None:
        if self.prompt_init not in PROMPT_INITS:
            raise ValueError(f"prompt_init is {self.prompt_init!r}, but must be one of {', '.join(PROMPT_INITS)}")
        wanted = {
            "prompt_init_text": self.prompt_init == "text" and self.prompt_init_ids is None,
            "tokenizer_name_or_path": self.prompt_init == "text" and self.prompt_init_ids is None,
            "prompt_init_ids": self.prompt_init == "text" and self.prompt_init_text is None,
            "prompt_init_file": self.prompt_init == "tensor",
        }
        for name, needed in wanted.items():
            given = getattr(self, name)
            if needed and not given:
                raise ValueError(f"prompt_init {self.prompt_init!r} needs {name}")
            if given and not needed:
                raise ValueError(f"{name} would have no effect here: leave it out")
