"""IDPG, instance-dependent prompt generation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.errors import ModelError
from luthier.methods.base import MethodContext
from luthier.methods.prompt_method import PromptMethod
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


@METHODS.register
class InstancePrompt(PromptMethod):
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
    may_change: ClassVar[tuple[str, ...]] = ("cache_vectors",)
    length: int = Field(5, gt=0, description="Prompt length: generated vectors.")
    multi_layer: bool = Field(True, description="A prompt for every layer; false inserts one at the first layer only.")
    first_layer: int = Field(0, ge=0, description="First layer that sees a prompt.")
    generator: Literal["phm", "dnn", "low_rank_phm"] = Field(
        "phm",
        description="Matrices of the generator: sums of Kronecker products (phm), the same with low-rank factors "
        "(low_rank_phm), or ordinary ones (dnn).",
    )
    bottleneck: int = Field(16, gt=0, description="Hidden width of the generator.")
    order: int | None = Field(
        None,
        gt=0,
        description="Kronecker products in a sum; null is the largest of 16, 8, 4, 2 and 1 that divides all widths.",
    )
    rank: int = Field(1, gt=0, description="Rank of the factors under low_rank_phm.")
    share_a: bool = Field(False, description="Both matrices of the generator share their left-hand factors.")
    sharing: Literal["layer_bias", "shared", "none"] = Field(
        "layer_bias",
        description="What layers share: all but a bias each (layer_bias), all (shared), or nothing (none).",
    )
    insertion: Literal["add", "replace", "key_value"] = Field(
        "add",
        description="Above its first layer a prompt is added to the hidden states (add), replaces them (replace), or "
        "gives extra keys and values (key_value).",
    )
    input: Literal["previous_layer", "first_pass", "static"] = Field(
        "previous_layer",
        description="What the generator reads: the layer below and, for the first layer, a pass without prompts "
        "(previous_layer); that pass for all layers (first_pass); or the mean token embedding (static).",
    )
    pooling: Literal["first", "last", "mean"] | None = Field(
        None, description="The token that stands for the text; null takes first, last or mean by architecture."
    )
    position: Literal[-1, 0, 1, 2, 3, 4] | None = Field(
        None,
        description="Prompt before the text (-1), after its first token (0), before the first separator (1), after the "
        "second (2), before the last (3), or as a segment of its own behind the text, between two more separators (4); "
        "null is 0 for encoders and -1 for all others.",
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout in the generator.")
    layer_norm: bool = Field(False, description="LayerNorm over every generated vector.")
    residual: bool = Field(False, description="Add the sentence vector to every generated vector.")
    first_pass_dropout: bool = Field(
        False, description="Keep the frozen model's dropout on in the pass without prompts, as in the released code."
    )
    cache_vectors: bool = Field(
        True,
        description="Compute the vectors of the pass without prompts once for each data set and keep them on disk.",
    )

    @model_validator(mode="after")
    def _options_have_effect(self) -> Self:
        idle = {
            "order": self.order is not None and self.generator == "dnn",
            "share_a": self.share_a and self.generator == "dnn",
            "rank": self.rank != 1 and self.generator != "low_rank_phm",
            "position": self.position is not None and self.insertion == "key_value",
        }
        named = [name for name, unused in idle.items() if unused]
        if named:
            raise ValueError(f"{', '.join(named)} would have no effect with these settings")
        if self.order is not None and self.bottleneck % self.order:
            raise ValueError(f"order {self.order} does not divide the bottleneck {self.bottleneck}")
        return self

    def reserved_tokens(self) -> int:
        if self.insertion == "key_value":
            return 0
        return self.length + 2 if self.position == 4 else self.length

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
                multi_layer=self.multi_layer,
                first_layer=self.first_layer,
                generator=self.generator,
                bottleneck=self.bottleneck,
                phm_order=self._order(model),
                phm_rank=self.rank,
                share_a=self.share_a,
                sharing=self.sharing,
                insertion=self.insertion,
                vector_source=self.input,
                pooling=self.pooling,
                position=self.position,
                separator_token_id=separator_of(context.tokenizer),
                dropout=self.dropout,
                layer_norm=self.layer_norm,
                residual=self.residual,
                first_pass_dropout=self.first_pass_dropout,
            )
        except ValueError as error:
            raise ModelError(f"idpg can't be put on this model: {error}") from error
        return wrap(model, config, context)

    def precompute(self, model: nn.Module, rows: list[Any], directory: Path) -> None:
        """Compute the sentence vectors of all encoded rows, or find them on disk, and use them from then on.

        Args:
            model: what `apply` returned.
            rows: encoded data sets.
            directory: where stores are kept; one serves every run with the same model and data.

        Raises:
            WorkspaceError: the directory can't be written.
        """
        from itertools import chain

        from luthier.tuning.instance_prompt.sentence_vectors import compute_sentence_vectors

        reads_pass = self.input == "first_pass" or (self.input == "previous_layer" and self.first_layer == 0)
        if self.cache_vectors and reads_pass and not self.first_pass_dropout:
            store = compute_sentence_vectors(model, chain.from_iterable(rows), directory)
            model.base_model.use_sentence_vectors(store)  # type: ignore[operator, union-attr]

    def _order(self, model: PreTrainedModel) -> int:
        if self.generator == "dnn":
            return 1
        if self.order is not None:
            return self.order
        from math import gcd

        widths = [model.config.hidden_size, self.bottleneck, model.get_input_embeddings().embedding_dim]
        return next(order for order in (16, 8, 4, 2, 1) if gcd(*widths) % order == 0)


def separator_of(tokenizer: Any) -> int | None:
    """The token that a tokenizer puts between and behind texts; None where it has none."""
    found = getattr(tokenizer, "sep_token_id", None)
    return found if found is not None else getattr(tokenizer, "eos_token_id", None)
