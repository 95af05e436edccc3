"""Which model, and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from luthier.settings import Settings

Danger = Literal["pickle", "remote_code"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DepthRule = Literal["repeat_last", "uniform", "first", "last"]
WidthRule = Literal["overlap", "overlap_random", "function_preserving"]


class ModelSettings(Settings):
    """A pretrained model. A plain string is short for `{reference: STRING}`."""

    path_fields: ClassVar[tuple[str, ...]] = ("reference",)

    reference: str = Field(
        min_length=1,
        description="hub id `org/name` or `org/name@revision`, a local directory, `package:NAME` or "
        "`package:NAME/folder` for weights in an installed Python package, or a directory that Luthier saved",
    )
    revision: str | None = Field(
        default=None,
        description="branch, tag or commit of a hub id; the same as writing `@revision` after it",
    )
    dtype: Dtype = Field(
        default="float32", description="number format of the weights in memory; `auto` keeps that of the file"
    )
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] = Field(
        default="auto", description="attention implementation; `auto` leaves the choice to transformers"
    )
    allow: tuple[Danger, ...] = Field(
        default=(),
        description="what is refused unless it is named here: `pickle` weights, and `remote_code`, which "
        "runs Python that comes with the model",
    )
    gguf_file: str | None = Field(
        default=None, description="which GGUF file of the folder to read, where there are several"
    )

    @field_validator("allow", mode="before")
    @classmethod
    def _one_is_enough(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"reference": value} if isinstance(value, str) else value

    def loaded_as(self) -> dict[str, Any]:
        """How the model is loaded, in JSON's types: all but where it is."""
        return self.model_dump(mode="json", exclude={"reference"})

    def extras(self) -> Mapping[str, str]:
        """GGUF files are read by the extra `gguf`."""
        if self.gguf_file is not None:
            return {"gguf": "gguf_file"}
        return {"gguf": "reference"} if self.reference.endswith(".gguf") else {}


class RemapSettings(Settings):
    """How a new model starts from the weights of a trained one of other depth or width."""

    depth: DepthRule | list[Annotated[int, Field(ge=0)]] = Field(
        "repeat_last",
        description="which layer of the trained model each new layer starts from: `repeat_last` the one of its number, "
        "or the last one; `uniform` spreads them; `first` and `last` take so many of them; or a list of numbers from 0",
    )
    width: WidthRule = Field(
        "overlap",
        description="what is outside the trained weights in a wider model: zeros in matrices under `overlap`, random "
        "values under `overlap_random`; `function_preserving` repeats units so that it computes the same",
    )
    embeddings: bool = Field(True, description="whether token, position and type vectors are taken over")
    head: bool = Field(True, description="whether the head is taken over, as far as its outputs are the same")
