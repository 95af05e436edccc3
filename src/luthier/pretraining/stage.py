"""The `pretrain` stage: text gives a language model, from scratch or on from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from luthier.errors import LuthierError
from luthier.language_modeling.settings import (
    ONLY_CAUSAL,
    ContextParallelSettings,
    LanguageTrainingSettings,
    MaskingSettings,
)
from luthier.models.settings import RemapSettings
from luthier.pretraining.glue import Glue
from luthier.pretraining.suite import PseudoPerplexitySuite
from luthier.registry import STAGES
from luthier.settings import Settings
from luthier.stages.artifacts import MODEL_FIELD, Artifact, Port, Reference
from luthier.stages.base import MODEL, Stage, StageInputs
from luthier.storage.paths import user_path
from luthier.training.row_rules import refused_settings

__all__ = ["ArchitectureSettings", "Glue", "Pretrain", "PseudoPerplexitySuite", "TokenizerSettings"]
BUILT_IN = "english"
INITIAL = "initialise_from"
_TOP = 10
_LEAST_BYTES = 256 + 5


class ArchitectureSettings(Settings):
    """A new model: an architecture of transformers, and any fields of its configuration, such as `hidden_size`."""

    model_config = ConfigDict(extra="allow")

    model_type: str = Field(description="As in transformers' config.json: bert, roberta, gpt2, llama, ...")

    @property
    def fields(self) -> dict[str, object]:
        """Fields of the configuration."""
        return dict(self.model_extra or {})


class TokenizerSettings(Settings):
    """A new tokenizer, trained on the text."""

    kind: Literal["wordpiece", "bpe", "unigram"] = Field(
        "wordpiece", description="WordPiece as BERT has it, byte-level BPE as GPT-2 has it, or Unigram."
    )
    vocabulary: int = Field(8192, ge=32, description="Most tokens that it has, special ones included.")
    lowercase: bool = Field(True, description="Whether text is put in lower case, and accents are taken off.")
    documents: int = Field(200_000, gt=0, description="Documents of the text that it is trained on, the first ones.")

    @model_validator(mode="after")
    def _bytes_fit(self) -> Self:
        if self.kind == "bpe" and self.vocabulary < _LEAST_BYTES:
            raise ValueError(
                f"byte-level BPE has a token for each of 256 bytes beside the special ones: `vocabulary` is at least "
                f"{_LEAST_BYTES}"
            )
        return self


@STAGES.register
class Pretrain(ContextParallelSettings, LanguageTrainingSettings, Stage):
    """Trains a masked or causal language model on plain text that is read while it trains."""

    name: ClassVar[str] = "pretrain"
    summary: ClassVar[str] = "train a language model on text, from scratch or on from a checkpoint"
    ports: ClassVar[Mapping[str, Port]] = {
        "model": Port(
            ("pretrained", "task"), optional=True, about="what is trained on; beside `architecture`, its tokenizer"
        ),
        INITIAL: Port(("pretrained", "task"), optional=True, about="whose weights a new model of other sizes gets"),
    }
    products: ClassVar[Mapping[str, tuple[str, ...]]] = {"model": ("pretrained",)}
    scores_by_step: ClassVar[bool] = True
    path_fields: ClassVar[tuple[str, ...]] = ("cloze",)
    no_paths: ClassVar[frozenset[str]] = frozenset({BUILT_IN})
    runs: ClassVar[str] = "luthier.pretraining.run:run_pretraining"
    merges_adapters: ClassVar[bool] = True
    plans: ClassVar[str] = "luthier.pretraining.planning:plan_pretraining"

    model: Reference = Field(None, description=MODEL_FIELD)
    architecture: ArchitectureSettings | None = Field(
        None, description="A new model with random weights, in place of the given one: `{model_type: bert, ...}`."
    )
    tokenizer: TokenizerSettings | None = Field(
        None, description="A new tokenizer for a new model; null takes the given model's."
    )
    initialise_from: Reference = Field(
        None,
        description="A trained model, written as `model` is, whose weights the new one of other depth or width starts "
        "from, as `remap` fits them; its tokenizer is taken over, and so is every field of its configuration that "
        "`architecture` leaves out. Null is random weights.",
    )
    remap: RemapSettings | None = Field(
        None, description="How the weights of `initialise_from` are fitted into the new sizes."
    )
    cloze: str | None = Field(
        None,
        description=f"Sentences with a word to guess, before and after training: `{BUILT_IN}` for those that come "
        "with Luthier, or a file with one sentence a line and the word in double brackets, `Snow is [[white]].`",
    )
    cloze_top: int = Field(_TOP, gt=0, description="A word counts as guessed when it is among this many.")

    sampled_softmax: int | None = Field(
        None,
        gt=0,
        description="Tokens that every step draws to normalise by, in place of the whole vocabulary; for vocabularies "
        "of hundreds of thousands of tokens in the order of falling frequency. Evaluations take all tokens, and so "
        "does null.",
    )
    row_updates: bool | None = Field(
        None,
        description="With `sampled_softmax`: whether a step updates those rows of the embeddings alone that it reads, "
        "and others when they are next read, with the same result but for rounding. Null does so from 200,000 tokens "
        "on, where it can be done: in one process, with weights in single precision.",
    )

    @model_validator(mode="after")
    def _start_fits(self) -> Self:
        if self.tokenizer is not None and self.architecture is None:
            raise ValueError(
                "a new `tokenizer` needs a new model: give `architecture`, or leave `tokenizer` out to go on with the "
                "model's own"
            )
        if self.tokenizer is not None and self.model is not None:
            raise ValueError("`model` has no effect beside a new `architecture` and a new `tokenizer`")
        self._check_initial()
        self._check_row_updates()
        if self.cloze is None and self.cloze_top != _TOP:
            raise ValueError("`cloze_top` has no effect without `cloze`")
        return self

    def _check_initial(self) -> None:
        if self.initialise_from is None:
            if self.remap is not None:
                raise ValueError("`remap` has no effect without `initialise_from`")
            return
        if self.architecture is None:
            raise ValueError(
                "`initialise_from` gives its weights to a model of other sizes: say with `architecture` which, or go "
                "on with the model as it is by `model`"
            )
        if self.tokenizer is not None:
            raise ValueError("a new `tokenizer` has other tokens than `initialise_from`: leave one of them out")
        if self.model is not None:
            raise ValueError("`model` has no effect beside `initialise_from`, whose tokenizer is taken as well")

    def _check_row_updates(self) -> None:
        if self.row_updates is not None and self.sampled_softmax is None:
            raise ValueError("`row_updates` has no effect without `sampled_softmax`: every step moves all rows")
        if self.row_updates and (reason := refused_settings(self)) is not None:
            raise ValueError(f"`row_updates` can't be done: {reason}")

    def start(self, inputs: StageInputs) -> Artifact:
        """The model that is trained on, or whose tokenizer or weights a new one gets."""
        return inputs.artifacts[MODEL if self.initialise_from is None else INITIAL]

    def takes(self) -> dict[str, Port]:
        """A model to go on from, or whose tokenizer or weights a new one gets; nothing where all is new."""
        if self.tokenizer is not None:
            return {}
        if self.initialise_from is not None:
            return {INITIAL: Port(self.ports[INITIAL].kinds, about=self.ports[INITIAL].about)}
        port = self.ports["model"]
        return {"model": Port(port.kinds, about=port.about)}

    def language_head(self, name: str, before: str, *, read: bool) -> str:
        if self.objective is not None:
            return "masked_lm" if self.objective == "masked" else "causal_lm"
        if self.architecture is None:
            return before
        if not read:
            return ""
        from luthier.models.inspect import language_head
        from luthier.pretraining.checking import configuration

        return language_head(configuration(self.architecture))

    def misfit(self, kinds: Mapping[str, str], data: Any, language_head: Callable[[str], str]) -> str:
        masks = self.masking != MaskingSettings()
        if self.context_parallel_size == 1 and not masks:
            return ""
        given = language_head("model") if "model" in kinds else ""
        head = self.language_head("model", given, read=True)
        if head == "masked_lm" and self.context_parallel_size > 1:
            return f"`context_parallel_size`: {ONLY_CAUSAL}"
        return "`masking` has no effect on a causal model" if head == "causal_lm" and masks else ""

    def external_inputs(self, inputs: StageInputs) -> dict[str, str]:
        from luthier.language_modeling.documents import Corpus
        from luthier.storage.one_version import file_fingerprint

        found = {"train": Corpus(self.corpus.train, self.corpus).fingerprint()}
        if self.corpus.validation:
            found["validation"] = Corpus(self.corpus.validation, self.corpus).fingerprint()
        if self.cloze not in (None, BUILT_IN):
            found["cloze"] = file_fingerprint(self.cloze_file())
        return found

    def cloze_file(self) -> Path:
        """Where the sentences to complete are."""
        built_in = self.cloze == BUILT_IN
        return Path(__file__).with_name("cloze_english.txt") if built_in else user_path(str(self.cloze))

    def missing(self) -> Iterator[tuple[str, LuthierError]]:
        """A file of sentences that is not there, or has none that can be read."""
        from luthier.pretraining.sentences import read_sentences

        try:
            if self.cloze is not None:
                read_sentences(self.cloze_file())
        except LuthierError as error:
            yield "cloze", error

    def check(self, inputs: StageInputs) -> None:
        from luthier.pretraining.checking import check_pretraining

        check_pretraining(self, inputs)
