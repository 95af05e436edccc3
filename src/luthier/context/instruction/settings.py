"""Settings of long instruction tuning: which documents, who writes, and how the samples are learned. Nothing here
imports torch, and annotations are no text, which pydantic would have to compile one by one at every start."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from luthier.data.settings import DataSettings
from luthier.generation.settings import Backend, LocalSettings
from luthier.language_modeling.corpus_settings import CorpusSettings
from luthier.methods.base import TuningMethod
from luthier.settings import Settings
from luthier.training.settings import TrainingSettings

# Held out of the documents, unless the recipe says otherwise: there are fewer of them than lines of a corpus.
HELD_OUT = 0.1


class DocumentSettings(CorpusSettings):
    """Long documents. A plain string or a list is short for `{train: …}`."""

    held_out: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of the documents whose samples score the model and are not trained on, chosen by a hash of "
        "their text; null is 0.1 where there is no `validation`, and 0 holds out none.",
    )
    shuffle: Literal[0] = Field(0, description="Documents are read in their order.")
    join: int = Field(
        1,
        gt=0,
        description="How many texts, one after another, are joined to one document: for text that is stored passage "
        "by passage.",
    )
    most: int = Field(1000, gt=0, description="Documents that are read, the first ones of each split.")

    @property
    def held_out_share(self) -> float:
        """Share of the documents of `train` that is not trained on."""
        return 0.0 if self.validation else HELD_OUT if self.held_out is None else self.held_out


class WritingSettings(Settings):
    """How questions and answers are written and looked at."""

    backend: Backend = Field(
        default_factory=LocalSettings,
        description="What the writing model runs on: `{kind: local}`, `{kind: vllm}`, or `{kind: endpoint, url: …}`, "
        "to which parts of the documents are then sent.",
    )
    chat: bool = Field(
        True,
        description="Whether the model's chat template asks for questions, where it has one. Models of few parameters "
        "keep to the form better where they go on from plain text: false.",
    )
    chunk_tokens: int = Field(
        512, ge=16, description="Tokens of a part of a document that a question is about, at most."
    )
    chunks: int = Field(2, gt=0, description="Parts of a document that are asked about, drawn at random.")
    short_share: float = Field(
        0.5, ge=0, le=1, description="Share of the questions whose answer is to be a few words; published is a half."
    )
    short_words: int = Field(12, gt=0, description="Words that such an answer has at most; longer ones are dropped.")
    max_new_tokens: int = Field(160, gt=0, description="Tokens of a question with its answer.")
    temperature: float = Field(0.7, ge=0, description="0 always takes the likeliest token.")
    top_p: float = Field(0.9, gt=0, le=1, description="Nucleus sampling.")
    verify: bool = Field(
        True, description="Whether the model is shown its answer again, and what it calls wrong is dropped."
    )

    @model_validator(mode="after")
    def _chat_fits(self) -> Self:
        if not self.chat and not isinstance(self.backend, LocalSettings):
            raise ValueError("`chat: false` is for a model in this process: endpoints and vLLM are asked by chat alone")
        return self


class InstructionSettings(TrainingSettings):
    """Training on documents with questions, and on short instructions."""

    documents: DocumentSettings = Field(
        description="The long documents: a source or a list of them, or a mapping with `train`."
    )
    writing: WritingSettings = Field(
        default_factory=lambda: WritingSettings(), description="How questions and answers are written."
    )
    length: int | None = Field(
        None,
        ge=64,
        description="Tokens of a sample, document, question and answer together; a longer document is cut. Null is "
        "what the model was trained on.",
    )
    input_loss_weight: float = Field(
        1.0,
        ge=0,
        le=1,
        description="What a token of document and question weighs in the loss, where one of the answer weighs 1; "
        "published is 1, and 0 learns the answers alone.",
    )
    short: DataSettings | None = Field(
        None,
        description="Short instructions that are mixed in: a mapping with sources and the columns `prompt` and "
        "`response`. They are put one behind another up to `length`, and their responses alone are learned.",
    )
    short_rows: int | None = Field(None, gt=0, description="How many of them, drawn at random; null takes all.")
    epochs: float = Field(1.0, gt=0, description="Passes over the samples.")
    batch_size: int = Field(1, gt=0, description="Samples in one forward pass.")
    accumulation: int = Field(8, gt=0, description="Forward passes per optimiser step.")
    evaluation_batch_size: int = Field(1, gt=0, description="Samples in one forward pass of an evaluation.")
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="Peak learning rate; null takes the method's own default. That of the paper is unpublished.",
    )
    method: Any = None

    @model_validator(mode="after")
    def _instructions_fit(self) -> Self:
        if self.short_rows is not None and self.short is None:
            raise ValueError("`short_rows` has no effect without `short`")
        if self.patience is not None and not self.documents.validation and not self.documents.held_out_share:
            raise ValueError("patience needs evaluations, but no document is held out")
        if self.length is not None and self.writing.chunk_tokens >= self.length:
            raise ValueError("a part of a document has to be shorter than a sample: lower `writing.chunk_tokens`")
        if isinstance(self.method, TuningMethod):
            if self.method.reserved_tokens():
                raise ValueError(
                    f"{self.method.name} puts vectors before the text, which samples without an attention mask can't "
                    "tell from it: take `full`, `lora` or another method that does not"
                )
            if self.gradient_checkpointing and not self.method.supports_gradient_checkpointing:
                raise ValueError(f"{self.method.name} does not work with gradient_checkpointing: leave one of them out")
        return self

    def rate(self) -> float:
        """The peak learning rate: the recipe's, or the method's own."""
        return float(self.learning_rate if self.learning_rate is not None else self.method.default_learning_rate)
