"""IDPG, instance-dependent prompt generation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.errors import ModelError
from luthier.methods.base import MethodContext
from luthier.methods.options import refuse_idle, setting
from luthier.methods.prompt_method import PromptMethod
from luthier.peft_bridge.adapter_types import register_adapter_type
from luthier.registry import METHODS
from luthier.settings import Paper
from luthier.tuning.instance_prompt.options import ConfigurationOptions, InstancePromptOptions

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

register_adapter_type(
    "INSTANCE_PROMPT",
    "luthier.tuning.instance_prompt.tuner",
    why_not_exported="it makes another prompt for every input, so that no file of numbers stands for it",
)


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
        )
        if self.order is not None and self.bottleneck % self.order:
            raise ValueError(f"order {self.order} does not divide the bottleneck {self.bottleneck}")

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

        from luthier.training.trunk.sentence_vectors import compute_sentence_vectors

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
    separator = getattr(tokenizer, "sep_token_id", None)
    return separator if separator is not None else getattr(tokenizer, "eos_token_id", None)
