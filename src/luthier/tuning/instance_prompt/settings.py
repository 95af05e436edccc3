"""IDPG, instance-dependent prompt generation: its options, and the method of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.errors import ModelError
from luthier.methods.base import MethodContext
from luthier.methods.options import Options, option, refuse_idle, setting
from luthier.methods.prompt_method import PromptMethod
from luthier.models.inspect import table_width
from luthier.peft_bridge.adapter_types import register_adapter_type
from luthier.registry import METHODS
from luthier.settings import Paper

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

register_adapter_type(
    "INSTANCE_PROMPT",
    "luthier.tuning.instance_prompt.tuner",
    why_not_exported="it makes another prompt for every input, so that no file of numbers stands for it",
)

OWN_SEGMENT = 4


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

    @property
    def margin(self) -> int:
        """Separators on either side of the prompt that come with it."""
        return 1 if self.position == OWN_SEGMENT else 0

    def positions_taken(self, length: int) -> int:
        """Positions of the sequence that a prompt of this length takes, its own separators included."""
        return 0 if self.insertion == "key_value" else length + 2 * self.margin


@dataclass(init=False, repr=False, eq=False)
class ConfigurationOptions(InstancePromptOptions):
    """What a configuration has: the same, and the options that a recipe calls by shorter names: length, order, rank
    and input.

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
    vector_width: int | None = option(None, "Width of given vectors; None is the model's width.")
    separator_token_id: int | None = option(
        None, "The separator of positions 1 to 4; None reads it from the model's config."
    )

    @property
    def vectors_per_layer(self) -> int:
        """Vectors that the generator makes for one layer: t, or 2 t where keys and values have their own."""
        return self.prompt_length * (2 if self.insertion == "key_value" else 1)

    @property
    def inserted(self) -> int:
        """Positions that the prompt takes in the sequence, its own separators included."""
        return self.positions_taken(self.prompt_length)

    def check(self) -> None:
        super().check()
        refuse_idle(
            phm_rank=self.phm_rank != 1 and self.generator != "low_rank_phm",
            vector_width=self.vector_width is not None and self.vector_source != "given",
        )
        if self.generator != "dnn":
            check_order("phm_order", self.phm_order, {"the bottleneck": self.bottleneck})


def check_order(option: str, order: int, widths: dict[str, int]) -> None:
    """Raise ValueError where the PHM order does not divide all of these widths of the generator."""
    undivided = [f"{name} {width}" for name, width in widths.items() if width % order]
    if undivided:
        common = gcd(*widths.values())
        divisors = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        raise ValueError(f"{option} is {order}, but must divide {', '.join(undivided)}; orders that do: {divisors}")


@METHODS.register
class InstancePrompt(InstancePromptOptions, PromptMethod):
    """A small generator makes prompt vectors for every layer from each input; the model is frozen."""

    name: Literal["idpg"] = "idpg"
    summary: ClassVar[str] = "generate a prompt for every input with a small network (IDPG)"
    paper: ClassVar[Paper] = Paper(
        title="IDPG: An Instance-Dependent Prompt Generation Method",
        authors="Wu, Wang, Gu, Hou, Dong, Vydiswaran, Ma",
        venue="NAACL 2022",
        url="https://aclanthology.org/2022.naacl-main.403/",
    )
    default_learning_rate: ClassVar[float] = 1e-2
    merges: ClassVar[bool] = False
    may_change: ClassVar[tuple[str, ...]] = ("cache_vectors",)
    length: int = setting(ConfigurationOptions, "prompt_length")
    order: int | None = setting(
        ConfigurationOptions,
        "phm_order",
        default=None,
        text="Kronecker products in a sum; None is the largest of 16, 8, 4, 2 and 1 that divides all widths.",
    )
    rank: int = setting(ConfigurationOptions, "phm_rank")
    input: Literal["previous_layer", "first_pass", "static"] = setting(
        ConfigurationOptions,
        "vector_source",
        text="What the generator reads: the layer below and, for the first layer, a pass without prompts "
        "(previous_layer); that pass for all layers (first_pass); or the mean token embedding (static).",
    )
    cache_vectors: bool = Field(
        True,
        description="Compute the vectors of the pass without prompts once for each data set and keep them on disk.",
    )

    def check(self) -> None:
        super().check()
        refuse_idle(
            order=self.order is not None and self.generator == "dnn",
            rank=self.rank != 1 and self.generator != "low_rank_phm",
            sharing=self.sharing != "layer_bias" and not self.multi_layer,
            insertion=self.insertion == "replace" and not self.multi_layer,
            pooling=self.pooling is not None and self.input == "static",
            dropout_after_activation=self.dropout_after_activation and not self.dropout,
            vector_dropout=self.vector_dropout != "every_layer" and not self.dropout,
            first_pass_dropout=self.first_pass_dropout and not self._reads_pass,
        )
        if self.order is not None:
            check_order("order", self.order, {"the bottleneck": self.bottleneck})

    def reserved_tokens(self) -> int:
        return self.positions_taken(self.length)

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Wrap with the instance prompt.

        Raises:
            ModelError: the settings don't fit the model.
        """
        from luthier.methods.wrapping import wrap
        from luthier.tuning.instance_prompt import InstancePromptConfig

        try:
            config = InstancePromptConfig(
                task_type=context.task_type,
                prompt_length=self.length,
                phm_order=self._order(model),
                phm_rank=self.rank,
                vector_source=self.input,
                separator_token_id=separator_of(context.tokenizer),
                **self.option_values(),
            )
        except ValueError as error:
            raise ModelError(f"idpg can't be put on this model: {error}") from error
        return wrap(model, config, context, self)

    def precompute(self, model: nn.Module, rows: list[Any], directory: Path) -> None:
        """Compute the sentence vectors of all encoded rows, or find them on disk, and use them from then on.

        Args:
            model: what `apply` returned.
            rows: encoded data sets.
            directory: where stores are kept; one serves every run with the same model and data.

        Raises:
            WorkspaceError: the directory can't be written.
        """
        from luthier.training.trunk.sentence_vectors import compute_sentence_vectors

        if self.cache_vectors and self._reads_pass and not self.first_pass_dropout:
            store = compute_sentence_vectors(model, (row for data in rows for row in data), directory)
            model.base_model.use_sentence_vectors(store)  # type: ignore[operator, union-attr]

    @property
    def _reads_pass(self) -> bool:
        """Whether a pass without prompts gives sentence vectors."""
        return self.input == "first_pass" or (self.input == "previous_layer" and self.first_layer == 0)

    def _order(self, model: PreTrainedModel) -> int:
        if self.generator == "dnn":
            return 1
        if self.order is not None:
            return self.order
        widths = [model.config.hidden_size, self.bottleneck, table_width(model) or 0]
        return next(order for order in (16, 8, 4, 2, 1) if gcd(*widths) % order == 0)


def separator_of(tokenizer: Any) -> int | None:
    """The token that a tokenizer puts between and behind texts; None where it has none."""
    separator = getattr(tokenizer, "sep_token_id", None)
    return separator if separator is not None else getattr(tokenizer, "eos_token_id", None)
