"""How a language model is trained on text: the settings that every such stage shares."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from luthier.errors import RecipeError
from luthier.language_modeling.corpus_settings import CorpusSettings
from luthier.settings import Settings
from luthier.training.settings import SplitSettings, TrainingSettings

BUDGETS = ("max_steps", "max_tokens", "max_flops", "max_minutes")
ONLY_CAUSAL = "processes share rows of causal language models alone, and this one guesses masked tokens"
_ONE_PASS = 1.0


class MaskingSettings(Settings):
    """Which tokens a masked language model guesses. Published settings: BERT's."""

    rate: float = Field(0.15, gt=0, lt=1, description="Share of the tokens that are guessed.")
    masked: float = Field(0.8, ge=0, le=1, description="Share of these in whose place stands the mask token.")
    random: float = Field(0.1, ge=0, le=1, description="Share of these in whose place stands a random token.")
    whole_words: bool = Field(False, description="Guess all tokens of a word together.")

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.masked + self.random > 1:
            raise ValueError("`masked` and `random` are shares of the guessed tokens: together at most 1")
        return self


class LanguageTrainingSettings(TrainingSettings):
    """Training on plain text that is packed into blocks of one length."""

    corpus: CorpusSettings = Field(description="The text: a source or a list of them, or a mapping with `train`.")
    objective: Literal["masked", "causal"] | None = Field(
        None, description="Guess masked tokens, or the next one; null takes what the model is built for."
    )
    length: int = Field(128, ge=8, description="Tokens of a block, special ones included.")
    masking: MaskingSettings = Field(
        default_factory=lambda: MaskingSettings(), description="What is masked, under `objective: masked`."
    )
    epochs: float = Field(
        _ONE_PASS,
        gt=0,
        description="Passes over the text, where no other budget is given; its tokens are counted first.",
    )
    max_tokens: float | None = Field(
        None, gt=0, description="Tokens to train on, of all blocks together; `1e6` is a million."
    )
    max_flops: float | None = Field(
        None, gt=0, description="Floating-point operations of forward and backward passes to spend, such as `1e15`."
    )
    learning_rate: float | None = Field(5e-4, gt=0, description="Peak learning rate.")
    evaluate_every: int | Literal["epoch", "never"] = Field(
        200, description="Optimiser steps between evaluations on the held-out text, or `never`; `epoch` is at the end."
    )
    checkpoint_every: int | Literal["epoch"] = Field(
        200, description="Optimiser steps between checkpoints that a stopped run continues from; `epoch` is at the end."
    )
    held_out_rows: int | None = Field(
        256, gt=0, description="Blocks of held-out text, always the same with the same masks; null takes all."
    )
    pseudo_perplexity_tokens: int = Field(
        64,
        ge=0,
        description="Held-out tokens that every evaluation masks one at a time, for the pseudo-perplexity of a masked "
        "language model; 0 leaves it out.",
    )

    @model_validator(mode="after")
    def _text_fits(self) -> Self:
        # By their values, since a recipe that is written out has every default in it.
        if self.objective == "causal" and self.masking != MaskingSettings():
            raise ValueError("`masking` has no effect under `objective: causal`")
        if self.patience is not None and not self.corpus.validation and not self.corpus.held_out_share:
            raise ValueError("patience needs evaluations, but no text is held out")
        if self.epochs != _ONE_PASS and (given := [b for b in BUDGETS if getattr(self, b) is not None]):
            raise ValueError(f"`epochs` and `{given[0]}` both end the training: keep one of them")
        if not self.group_by_length:
            raise ValueError("`group_by_length` has no effect: all blocks have one length")
        return self


class ContextParallelSettings(SplitSettings):
    """Beside `LanguageTrainingSettings`: what the processes of a run have together, weights or rows."""

    context_parallel_size: int = Field(
        1,
        ge=1,
        description="Processes that share every row (context parallelism): each has a slice of it, and attends to keys "
        "and values of the whole, so that a row may be longer than one device has room for. `length` has to be a "
        "multiple of twice as many, and the run needs a multiple of them, as torchrun starts it; 1 gives each process "
        "rows of its own.",
    )

    def row_lengths(self) -> list[int]:
        """Tokens of all rows that are trained on."""
        return [getattr(self, "length", 0)]

    @model_validator(mode="after")
    def _rows_can_be_shared(self) -> Self:
        size = self.context_parallel_size
        if size == 1:
            return self
        if getattr(self, "objective", None) == "masked":
            raise ValueError(f"`context_parallel_size`: {ONLY_CAUSAL}")
        for length in self.row_lengths():
            if length % (2 * size):
                raise ValueError(
                    f"`context_parallel_size: {size}` cuts rows into {2 * size} equal pieces, two for each process, "
                    f"and {length:,} tokens can't be cut so: take a multiple of {2 * size}"
                )
        return self

    def check_processes(self, processes: int) -> None:
        """Raises:
        RecipeError: there is nothing to split a model over, or not every row would have as many processes.
        """
        super().check_processes(processes)
        size = self.context_parallel_size
        if processes % size:
            raise RecipeError(
                f"`context_parallel_size: {size}` shares every row out among {size} processes, and this run is of "
                f"{'one' if processes == 1 else processes}",
                fix=f"start it with `torchrun --nproc_per_node {size} -m luthier.cli run recipe.yaml`, or with a "
                f"multiple of {size}",
            )
