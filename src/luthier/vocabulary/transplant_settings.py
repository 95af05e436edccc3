"""How a model gets another vocabulary."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from luthier.settings import Settings
from luthier.vocabulary.settings import TextByLanguage, TrainerSettings

Init = Literal["copy", "subword_mean", "focus", "wechsel", "gaussian", "mean", "random"]


class PruneSettings(Settings):
    """The model's own tokenizer with what some text needs."""

    text: TextByLanguage = Field(description="Text of the languages that stay.")
    least: int = Field(1, gt=0, description="Tokens that occur less often go; letters of the text stay.")


class ExtendSettings(Settings):
    """The model's own tokenizer with the pieces of further languages behind it, so that old ids stay as they are."""

    text: TextByLanguage = Field(description="Text of the languages that come.")
    pieces: int = Field(8000, gt=0, description="Of the model of the new text, of which those that are new come.")
    trainer: TrainerSettings = Field(default_factory=TrainerSettings, description="Of the model of the new text.")
    weight: float = Field(
        1.0,
        gt=0,
        le=1,
        description="What probabilities of new pieces are multiplied with; below 1 favours old ones.",
    )

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        if self.trainer.changed("normaliser"):
            raise ValueError("`trainer.normaliser` has no effect: text is normalised as the model's tokenizer does it")
        if self.trainer.byte_fallback:
            raise ValueError("`trainer.byte_fallback` has no effect: pieces for bytes are the model's own or none")
        return self


class TransplantSettings(Settings):
    """Which rows the embeddings of new tokens start from."""

    init: Init = Field(
        "subword_mean",
        description="How tokens start that the old vocabulary lacks: the mean of the old tokens they are made of; "
        "`focus` and `wechsel` by their neighbours in `text`; draws, or the mean, of all rows; `copy` refuses any.",
    )
    weights: Literal["uniform", "length"] = Field(
        "uniform", description="Of old tokens under `subword_mean`: all the same, or by their letters."
    )
    rescale: bool | None = Field(
        None,
        description="Give composed rows the median length of the copied ones. Null does so where tokens are not "
        "predicted by these rows: a head that is tied to them would take all composed tokens for likelier.",
    )
    text: TextByLanguage | None = Field(
        None, description="Text of `focus` and `wechsel`, and on which the model is scored before and after."
    )
    lines: int = Field(2000, gt=0, description="Lines of each language of `text` that are read.")

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        if self.init in ("focus", "wechsel") and self.text is None:
            raise ValueError(f"`init: {self.init}` compares tokens by `text`: give some")
        if self.init != "subword_mean" and self.changed("weights"):
            raise ValueError(f"`weights` has no effect beside `init: {self.init}`")
        if self.init not in ("subword_mean", "focus", "wechsel") and self.changed("rescale"):
            raise ValueError(f"`rescale` has no effect beside `init: {self.init}`")
        if self.text is None and self.changed("lines"):
            raise ValueError("`lines` has no effect without `text`")
        return self
