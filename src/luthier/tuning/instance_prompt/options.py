"""The options of IDPG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from luthier.methods.options import Options, option, refuse_idle

OWN_SEGMENT = 4
SEPARATORS_AROUND = 2


@dataclass(init=False, repr=False, eq=False)
class InstancePromptOptions(Options):
    """Where prompts stand and what makes them; the defaults are M-IDPG-PHM (Wu et al., NAACL 2022, sections 3, 4).

    With `residual` the released code adds the sentence vector to a prompt that went through a LayerNorm, which here is
    `residual` with `layer_norm`.
    """

    multi_layer: bool = option(True, "A prompt for every layer; False inserts one at the first layer only.")
    first_layer: int = option(0, "First layer that sees a prompt.", ge=0)
    generator: Literal["phm", "dnn", "low_rank_phm"] = option(
        "phm",
        "Matrices of the generator: sums of Kronecker products (phm), the same with low-rank factors (low_rank_phm), "
        "or ordinary ones (dnn).",
    )
    bottleneck: int = option(16, "Hidden width of the generator.", gt=0)
    share_a: bool = option(False, "Both matrices of the generator share their left-hand factors.")
    sharing: Literal["layer_bias", "shared", "none"] = option(
        "layer_bias", "What layers share: all but a bias each (layer_bias), all (shared), or nothing (none)."
    )
    insertion: Literal["add", "replace", "key_value"] = option(
        "add",
        "Above its first layer a prompt is added to the hidden states (add), replaces them (replace), or gives extra "
        "keys and values (key_value).",
    )
    pooling: Literal["first", "last", "mean"] | None = option(
        None, "The token that stands for the text; None takes first, last or mean by architecture."
    )
    position: Literal[-1, 0, 1, 2, 3, 4] | None = option(
        None,
        "Prompt before the text (-1), after its first token (0), before the first separator (1), after the second (2), "
        "before the last (3), or as a segment of its own behind the text, between two more separators (4); None is 0 "
        "for encoders and -1 for all others.",
    )
    dropout: float = option(0.1, "Dropout in the generator.", ge=0, lt=1)
    dropout_after_activation: bool = option(
        False, "Dropout of the generator's hidden layer follows the non-linearity, as in the released code."
    )
    vector_dropout: Literal["every_layer", "first_layer"] = option(
        "every_layer",
        "Where the sentence vector goes through dropout: for every layer's prompt, or for the first one's only, as in "
        "the released code.",
    )
    bias_init: Literal["uniform", "zero"] = option(
        "uniform",
        "First numbers of the output bias: uniform(-0.5, 0.5); or zero, as in the released code for dnn with "
        "`multi_layer: false`.",
    )
    layer_norm: bool = option(False, "LayerNorm over every generated vector.")
    residual: bool = option(False, "Add the sentence vector to every generated vector.")
    first_pass_dropout: bool = option(
        False, "Keep the frozen model's dropout on in the pass without prompts, as in the released code."
    )

    def check(self) -> None:
        super().check()
        refuse_idle(
            share_a=self.share_a and self.generator == "dnn",
            position=self.position is not None and self.insertion == "key_value",
            vector_dropout=self.vector_dropout == "first_layer" and not self.multi_layer,
        )

    def positions_taken(self, length: int) -> int:
        """Positions of the sequence that a prompt of this length takes, its own separators included."""
        if self.insertion == "key_value":
            return 0
        return length + SEPARATORS_AROUND if self.position == OWN_SEGMENT else length


@dataclass(init=False, repr=False, eq=False)
class ConfigurationOptions(Options):
    """The options that a recipe calls by shorter names: length, order, rank and input.

    In a recipe the order is None, since its method fits it to the model's widths; and the input can't be `given`,
    since no program stands beside a recipe to give vectors.
    """

    prompt_length: int = option(5, "Prompt length: generated vectors.", gt=0)
    phm_order: int = option(16, "Kronecker products in a sum; it divides all widths of the generator.", gt=0)
    phm_rank: int = option(1, "Rank of the factors under low_rank_phm.", gt=0)
    vector_source: Literal["previous_layer", "first_pass", "given", "static"] = option(
        "previous_layer",
        "What the generator reads: the layer below and, for the first layer, a pass without prompts (previous_layer); "
        "that pass for all layers (first_pass); the mean token embedding (static); or the forward's argument "
        "`sentence_vectors` (given).",
    )
