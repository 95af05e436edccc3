"""The stages `vocabulary`, which makes a tokenizer of raw text, and `transplant`, which gives a model another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import Field, model_validator

from luthier.registry import STAGES
from luthier.settings import Paper
from luthier.stages.artifacts import MODEL_FIELD, Port, Reference, register_kind
from luthier.stages.base import Stage, StageInputs
from luthier.vocabulary.settings import LanguageText, VocabularySettings
from luthier.vocabulary.transplant_settings import ExtendSettings, PruneSettings, TransplantSettings

TOKENIZER = "tokenizer"
register_kind(TOKENIZER, "a tokenizer, and no model", is_model=False, mark="vocabulary.json")


@STAGES.register
class Vocabulary(VocabularySettings, Stage):
    """Learns one tokenizer for many languages: one model a language, clusters of languages that share words, capacities
    by what pieces are worth, a model a cluster, and their union."""

    name: ClassVar[str] = "vocabulary"
    summary: ClassVar[str] = "learn one tokenizer for many languages from their raw text"
    paper: ClassVar[Paper | None] = Paper(
        title="XLM-V: Overcoming the Vocabulary Bottleneck in Multilingual Masked Language Models",
        authors="Liang, Gonen, Mao, Hou, Goyal, Ghazvininejad, Zettlemoyer, Khabsa",
        venue="EMNLP 2023",
        url="https://arxiv.org/abs/2301.10472",
    )
    ports: ClassVar[Mapping[str, Port]] = {}
    products: ClassVar[Mapping[str, tuple[str, ...]]] = {TOKENIZER: (TOKENIZER,)}
    runs: ClassVar[str] = "luthier.vocabulary.run:run_vocabulary"
    plans: ClassVar[str] = "luthier.vocabulary.planning:plan_vocabulary"

    def external_inputs(self, inputs: StageInputs) -> dict[str, str]:
        from luthier.storage.one_version import file_fingerprint

        found = text_fingerprints(self.text)
        if self.capacity.file is not None:
            from pathlib import Path

            found["capacity.file"] = file_fingerprint(Path(self.capacity.file).expanduser())
        return found

    def check(self, inputs: StageInputs) -> None:
        from luthier.vocabulary.checking import check_vocabulary

        check_vocabulary(self)


@STAGES.register
class Transplant(TransplantSettings, Stage):
    """Gives a model another vocabulary: that of a tokenizer, or its own with fewer or with more pieces."""

    name: ClassVar[str] = "transplant"
    summary: ClassVar[str] = "give a model another vocabulary, whose embeddings start from the old ones"
    ports: ClassVar[Mapping[str, Port]] = {
        "model": Port(("pretrained",), about="what gets the new vocabulary"),
        TOKENIZER: Port((TOKENIZER, "pretrained", "task"), optional=True, about="whose vocabulary it gets"),
    }
    products: ClassVar[Mapping[str, tuple[str, ...]]] = {"model": ("pretrained",)}
    runs: ClassVar[str] = "luthier.vocabulary.transplant_run:run_transplant"
    merges_adapters: ClassVar[bool] = True
    plans: ClassVar[str] = "luthier.vocabulary.planning:plan_transplant"

    model: Reference = Field(None, description=MODEL_FIELD)
    tokenizer: Reference = Field(
        None,
        description="The new tokenizer: `stages.0` for that of a vocabulary stage, the folder of one, or any model "
        "whose tokenizer is taken.",
    )
    prune: PruneSettings | None = Field(
        None, description="In place of `tokenizer`: the model's own, with what some text needs."
    )
    extend: ExtendSettings | None = Field(
        None, description="In place of `tokenizer`: the model's own, with pieces of further languages."
    )

    @model_validator(mode="after")
    def _one_vocabulary(self) -> Self:
        given = [name for name in (TOKENIZER, "prune", "extend") if getattr(self, name) is not None]
        if len(given) != 1:
            told = f"`{given[0]}` and `{given[1]}` both say" if given else "nothing says"
            raise ValueError(f"{told} which vocabulary the model gets: give one of `tokenizer`, `prune`, `extend`")
        if self.extend is not None and self.init == "copy":
            raise ValueError("`init: copy` refuses new tokens, which `extend` is for: choose another `init`")
        return self

    def takes(self) -> dict[str, Port]:
        """A model, and a tokenizer where one is named."""
        port = self.ports[TOKENIZER]
        model = {"model": self.ports["model"]}
        return model if self.tokenizer is None else {**model, TOKENIZER: Port(port.kinds, about=port.about)}

    def external_inputs(self, inputs: StageInputs) -> dict[str, str]:
        found: dict[str, str] = {}
        for part in (self.prune, self.extend, self):
            if part is not None and part.text is not None:
                found |= {f"{type(part).__name__} {name}": one for name, one in text_fingerprints(part.text).items()}
        return found

    def check(self, inputs: StageInputs) -> None:
        from luthier.vocabulary.checking import check_transplant

        check_transplant(self)


def text_fingerprints(text: LanguageText) -> dict[str, str]:
    """Language -> what identifies its text."""
    from luthier.vocabulary.text import corpus_of, language_sources

    return {name: corpus_of(text, sources).fingerprint() for name, sources in language_sources(text).items()}
