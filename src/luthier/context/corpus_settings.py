"""The text that a model is lengthened on: several domains by weight, and how long documents count."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from luthier.language_modeling.corpus_settings import CorpusSettings
from luthier.settings import Settings

_THRESHOLD, _SHARE = 4096, 0.5
# What scores of held-out text are called beside those of the domains.
_NAMES = {"main": "what `train` names", "short": "its held-out text in rows of the old length"}


class LongDocumentSettings(Settings):
    """What becomes of long documents. A plain string is short for `{kind: STRING}`."""

    kind: Literal["as_is", "drop", "upsample"] = Field(
        "as_is",
        description="`as_is` takes documents as they come; `drop` leaves the long ones out; `upsample` takes them for "
        "`share` of the tokens, again and again where there are fewer.",
    )
    threshold: int = Field(_THRESHOLD, gt=0, description="Tokens from which on a document is long.")
    share: float = Field(_SHARE, gt=0, lt=1, description="Share of the tokens that come from long documents.")

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: object) -> object:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _settings_have_effect(self) -> Self:
        if self.kind == "as_is" and self.threshold != _THRESHOLD:
            raise ValueError("`threshold` has no effect under `kind: as_is`")
        if self.kind != "upsample" and self.share != _SHARE:
            raise ValueError(f"`share` has no effect under `kind: {self.kind}`")
        return self


class DomainSettings(CorpusSettings):
    """One domain of the text. A plain string or a list is short for `{train: …}`."""

    weight: float = Field(1.0, gt=0, description="Its share of the tokens, beside the weights of the other domains.")


class MixtureSettings(DomainSettings):
    """Text of any size, of one domain or of several by weight. A plain string is short for `{train: STRING}`."""

    domains: dict[str, DomainSettings] = Field(
        default_factory=dict,
        description="More text, by name: each is a source, or a list of them, or a mapping with `train` and `weight`. "
        "What `train` names beside them is the domain `main`.",
    )
    long_documents: LongDocumentSettings = Field(
        default_factory=lambda: LongDocumentSettings(), description="How long documents of all domains count."
    )

    @model_validator(mode="after")
    def _domains_fit(self) -> Self:
        for name, other in _NAMES.items():
            if name in self.domains:
                raise ValueError(f"`{name}` is the name of {other}: call the domain something else")
        for name in self.domains:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"a domain is named by letters, digits, - and _, and not {name!r}")
        if self.weight != 1.0 and not self.domains:
            raise ValueError("`weight` has no effect without other `domains`")
        return self

    @property
    def by_name(self) -> dict[str, DomainSettings]:
        """All domains, that of `train` first."""
        return {"main": self, **self.domains}

    @property
    def is_plain(self) -> bool:
        """Whether documents are taken as they come from one domain, so that a pass over the text has an end."""
        return not self.domains and self.long_documents.kind == "as_is"
