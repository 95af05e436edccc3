"""The PEFT configuration of instance-dependent prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd
from typing import ClassVar

from peft import PeftConfig
from peft.utils import PeftType
from peft.utils.constants import DUMMY_TARGET_MODULES

from luthier.models.layers.placement import OWN_SEGMENT

CHOICES = {
    "generator": ("phm", "dnn", "low_rank_phm"),
    "sharing": ("layer_bias", "shared", "none"),
    "insertion": ("add", "replace", "key_value"),
    "vector_source": ("previous_layer", "first_pass", "given", "static"),
    "pooling": ("first", "last", "mean", None),
    "position": (-1, 0, 1, 2, 3, 4, None),
}


@dataclass
class InstancePromptConfig(PeftConfig):
    """Configuration of IDPG, instance-dependent prompt generation; the defaults are the paper's M-IDPG-PHM.

    Source: Wu et al., NAACL 2022, sections 3 and 4.

    Raises:
        ValueError: a value out of range, an option that would have no effect, or an order that does not divide
            the widths.
    """

    # PEFT reads this from every tuner's configuration; the tuner finds its place in the model by itself.
    target_modules: ClassVar[str] = DUMMY_TARGET_MODULES

    prompt_length: int = field(default=5, metadata={"help": "Generated prompt vectors t."})
    multi_layer: bool = field(default=True, metadata={"help": "A prompt for every layer, or for the first one only."})
    first_layer: int = field(
        default=0, metadata={"help": "First layer that sees a prompt; those below compute what the bare model does."}
    )
    generator: str = field(default="phm", metadata={"help": "Matrices of the generator: phm, dnn or low_rank_phm."})
    bottleneck: int = field(default=16, metadata={"help": "Hidden width m of the generator."})
    phm_order: int = field(default=16, metadata={"help": "Order n: a matrix is a sum of n Kronecker products."})
    phm_rank: int = field(default=1, metadata={"help": "Rank r of the right-hand factors under low_rank_phm."})
    share_a: bool = field(
        default=False, metadata={"help": "Both matrices of the generator have the same left-hand factors A."}
    )
    sharing: str = field(
        default="layer_bias",
        metadata={
            "help": "What the layers share: shared (all), layer_bias (all but the output bias) or none (nothing)."
        },
    )
    insertion: str = field(
        default="add",
        metadata={
            "help": "From the second layer on, the prompt is added to the hidden states at its positions (add), put "
            "in their place (replace), or fed to the key and value projections of every layer (key_value)."
        },
    )
    vector_source: str = field(
        default="previous_layer",
        metadata={
            "help": "What the generator reads: the layer below, with a pass without prompts for the first one "
            "(previous_layer); that pass for all layers (first_pass); the mean token embedding (static); or the "
            "argument `sentence_vectors` of the forward (given)."
        },
    )
    vector_width: int | None = field(
        default=None, metadata={"help": "Width of given vectors; None is the model's width."}
    )
    pooling: str | None = field(
        default=None,
        metadata={
            "help": "The token that stands for the text: first, last, or the mean; None takes first for encoders, "
            "last for causal models, and the mean for the encoder of an encoder-decoder."
        },
    )
    position: int | None = field(
        default=None,
        metadata={
            "help": "Where the prompt stands: -1 before the text (not in encoders like BERT), 0 after its first "
            "token, 1 before the first separator, 2 after the second, 3 before the last, 4 as a segment of its own "
            "behind the text, between two more separators (not in causal models). None is 0 for encoders like BERT "
            "and -1 for all others."
        },
    )
    separator_token_id: int | None = field(
        default=None, metadata={"help": "The separator of positions 1 to 4; None reads it from the model's config."}
    )
    dropout: float = field(default=0.1, metadata={"help": "Dropout on the generator's input and hidden layer."})
    layer_norm: bool = field(default=False, metadata={"help": "LayerNorm over every generated vector."})
    residual: bool = field(default=False, metadata={"help": "Add the sentence vector to every generated vector."})
    first_pass_dropout: bool = field(
        default=False,
        metadata={"help": "Keep the frozen model's dropout on in the pass without prompts, as the released code does."},
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules outside the generator that are trained and saved: the task head."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["INSTANCE_PROMPT"]
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be one of {', '.join(map(str, known))}")
        for name in ("prompt_length", "bottleneck", "phm_order", "phm_rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if self.first_layer < 0:
            raise ValueError(f"first_layer is {self.first_layer}, but must be at least 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, but must be at least 0 and below 1")
        self._check_idle_options()
        if self.uses_phm and self.bottleneck % self.phm_order:
            raise ValueError(
                f"phm_order is {self.phm_order}, but must divide the bottleneck {self.bottleneck}; "
                f"orders that do: {_divisors(self.bottleneck)}"
            )

    @property
    def uses_phm(self) -> bool:
        return self.generator != "dnn"

    @property
    def vectors_per_layer(self) -> int:
        """Vectors that the generator makes for one layer: t, or 2 t where keys and values have their own."""
        return self.prompt_length * (2 if self.insertion == "key_value" else 1)

    @property
    def margin(self) -> int:
        """Separators on either side of the prompt that come with it."""
        return 1 if self.position == OWN_SEGMENT else 0

    @property
    def inserted(self) -> int:
        """Positions that the prompt takes in the sequence, its own separators included."""
        return 0 if self.insertion == "key_value" else self.prompt_length + 2 * self.margin

    def _check_idle_options(self) -> None:
        idle = {
            "share_a": self.share_a and not self.uses_phm,
            "phm_rank": self.phm_rank != 1 and self.generator != "low_rank_phm",
            "vector_width": self.vector_width is not None and self.vector_source != "given",
            "position": self.position is not None and self.insertion == "key_value",
        }
        named = [name for name, unused in idle.items() if unused]
        if named:
            raise ValueError(f"{', '.join(named)} would have no effect with these settings: leave it out")


def check_order(config: InstancePromptConfig, vector_width: int, model_width: int) -> None:
    """Make sure that the PHM order divides all widths of the generator.

    Raises:
        ValueError: it does not; names the widths and the orders that would do.
    """
    widths = {
        "the sentence vector's width": vector_width,
        "the bottleneck": config.bottleneck,
        "the output width t d": config.vectors_per_layer * model_width,
    }
    wrong = [f"{name} {width}" for name, width in widths.items() if width % config.phm_order]
    if config.uses_phm and wrong:
        common = gcd(*widths.values())
        raise ValueError(
            f"phm_order is {config.phm_order}, but must divide {', '.join(wrong)}; "
            f"orders that divide all widths: {_divisors(common)}"
        )


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)
