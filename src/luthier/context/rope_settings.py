"""How the rotary embedding of a model is changed, as a recipe writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from luthier.settings import Settings

if TYPE_CHECKING:
    from luthier.context.rope import Rope

RopeKind = Literal["abf", "base", "interpolation", "dynamic", "yarn", "llama3", "longrope", "proportional"]
ABF_BASE = 500_000.0
_WITH_FACTOR = ("interpolation", "dynamic", "yarn", "llama3", "longrope", "proportional")

ABOUT: dict[str, str] = {
    "abf": "a larger base, the one change of “Effective Long-Context Scaling”: slow pairs turn slower, fast ones stay",
    "base": "nothing is changed: the model's own frequencies, on longer texts",
    "interpolation": "all angles divided by new length / old length (PI): positions are squeezed into the old range",
    "dynamic": "NTK: the base grows with each text that is longer than the old length; short ones see the old model",
    "yarn": "fast pairs stay, slow ones are interpolated, with a ramp between, and attention is a little sharper",
    "llama3": "pairs that turn often over the old length stay, the others are interpolated, with a ramp between",
    "longrope": "a factor for every pair, which a search has found: give `long_factor` and `short_factor`",
    "proportional": "only a share of the pairs turns, spread over all of the head's frequencies",
}

# Types under which slow pairs turn slower, or each by a factor of its own, than their base says.
STRETCHED = ("yarn", "llama3", "longrope")


def _refuse_xpos(value: Any) -> Any:
    if value in ("xpos", "xpos_abf"):
        raise ValueError(
            "xPos multiplies queries and keys by factors that no configuration of transformers holds, so a saved model "
            "would load without them and give other answers; from Python: luthier.context.rope.xpos_scales. `abf` has "
            "the same base, and the paper's numbers for both are alike"
        )
    return value


class RopeSettings(Settings):
    """How a model's positions are told apart on longer texts. A plain string is short for `{kind: STRING}`."""

    kind: Annotated[RopeKind, BeforeValidator(_refuse_xpos, json_schema_input_type=RopeKind)] = Field(
        "abf", description="; ".join(f"`{name}`: {about}" for name, about in ABOUT.items()) + "."
    )
    base: float | None = Field(
        None,
        gt=1,
        description="The new base under `abf`; null is 500,000, or what `luthier explain rope` recommends where the "
        "model's own is that large already.",
    )
    factor: float | None = Field(
        None,
        ge=1,
        description="How many times longer the text becomes, for kinds that interpolate; null is new / old length.",
    )
    original_length: int | None = Field(
        None,
        ge=8,
        description="Tokens that the model was trained on before; null is what its configuration says: for kinds with "
        "an original length that one, else its number of positions.",
    )
    long_factor: list[float] | None = Field(None, description="Of `longrope`, one number for each pair.")
    short_factor: list[float] | None = Field(None, description="Of `longrope`, one number for each pair.")
    low_freq_factor: float = Field(1.0, gt=0, description="Of `llama3`: turns below which a pair is interpolated.")
    high_freq_factor: float = Field(4.0, gt=0, description="Of `llama3`: turns above which a pair stays as it is.")
    beta_fast: float = Field(32.0, gt=0, description="Of `yarn`: turns above which a pair stays as it is.")
    beta_slow: float = Field(1.0, gt=0, description="Of `yarn`: turns below which a pair is interpolated.")
    rotated_share: float | None = Field(
        None, gt=0, le=1, description="Of `proportional`: share of the pairs that turn."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _settings_have_effect(self) -> Self:
        own = {
            "base": ("abf",),
            "factor": _WITH_FACTOR,
            "long_factor": ("longrope",),
            "short_factor": ("longrope",),
            "low_freq_factor": ("llama3",),
            "high_freq_factor": ("llama3",),
            "beta_fast": ("yarn",),
            "beta_slow": ("yarn",),
            "rotated_share": ("proportional",),
        }
        for name, kinds in own.items():
            if self.kind not in kinds and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` has no effect under `kind: {self.kind}`; it belongs to {', '.join(kinds)}")
        if self.kind == "longrope" and (self.long_factor is None or self.short_factor is None):
            raise ValueError("`longrope` needs `long_factor` and `short_factor`, a number for each pair")
        if self.kind == "llama3" and self.low_freq_factor >= self.high_freq_factor:
            raise ValueError("`low_freq_factor` has to be below `high_freq_factor`")
        if self.kind == "yarn" and self.beta_slow >= self.beta_fast:
            raise ValueError("`beta_slow` has to be below `beta_fast`")
        return self

    def old_length(self, rope: Rope) -> int:
        """Tokens that a model with this embedding was trained on."""
        return self.original_length or int(rope.parameters.get("original_max_position_embeddings") or rope.positions)

    def parameters(self, rope: Rope, length: int) -> dict[str, Any]:
        """transformers' `rope_parameters` for texts of `length` tokens.

        Args:
            rope: of the model as it is.
            length: of the longer texts, L_new.

        Raises:
            ValueError: the factors are not as many as pairs, or the kind would take back an earlier interpolation.
        """
        from luthier.context.rope import recommended_base

        if rope.kind == "linear" and self.kind not in ("base", "interpolation", "longrope"):
            raise ValueError(
                f"the model's positions are divided by {float(rope.parameters['factor']):g} already, which "
                f"`kind: {self.kind}` would take back: take `interpolation`, which divides them once more, or `base`"
            )
        if rope.kind in STRETCHED and self.kind in ("abf", "dynamic", "proportional"):
            raise ValueError(
                f"the model's slow pairs are stretched by `{rope.kind}` already, which `kind: {self.kind}` would take "
                f"back: take `{rope.kind}`, which stretches them further, or `base`"
            )
        old = self.old_length(rope)
        kept = {"rope_theta": rope.base}
        if "partial_rotary_factor" in rope.parameters:
            kept["partial_rotary_factor"] = rope.parameters["partial_rotary_factor"]
        if self.kind == "base":
            return dict(rope.parameters)
        if self.kind == "abf":
            advised = recommended_base(rope.dim, length, old_base=rope.base, old_length=old).base
            default = advised if rope.base >= ABF_BASE else ABF_BASE
            return kept | {"rope_type": "default", "rope_theta": self.base or default}
        factor = float(self.factor or max(1.0, length / old))
        if self.factor is None and rope.kind in STRETCHED:  # Llama 3.2 is stretched by more than its length tells
            factor = max(factor, float(rope.parameters.get("factor") or 1) * length / rope.positions)
        if self.kind == "interpolation" and rope.kind == "linear":
            factor *= float(rope.parameters["factor"])  # positions that are squeezed already
        made: Mapping[str, Any] = {
            "interpolation": {"rope_type": "linear", "factor": factor},
            "dynamic": {"rope_type": "dynamic", "factor": factor},
            "yarn": {
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": old,
                "beta_fast": self.beta_fast,
                "beta_slow": self.beta_slow,
            },
            "llama3": {
                "rope_type": "llama3",
                "factor": factor,
                "original_max_position_embeddings": old,
                "low_freq_factor": self.low_freq_factor,
                "high_freq_factor": self.high_freq_factor,
            },
            "longrope": {
                "rope_type": "longrope",
                "factor": factor,
                "original_max_position_embeddings": old,
                "long_factor": self.long_factor,
                "short_factor": self.short_factor,
            },
            "proportional": {"rope_type": "proportional", "factor": self.factor or 1.0},
        }[self.kind]
        for name in ("long_factor", "short_factor"):
            given = getattr(self, name)
            if given is not None and len(given) != rope.dim // 2:
                raise ValueError(f"`{name}` has {len(given)} numbers, and a head has {rope.dim // 2} pairs")
        if self.kind == "proportional" and self.rotated_share is not None:
            kept["partial_rotary_factor"] = self.rotated_share
        return kept | dict(made)

    def positions(self, rope: Rope, length: int) -> int:
        """`max_position_embeddings` of the longer model: under `dynamic` the old length, which transformers reads it
        as, else the new one."""
        if self.kind == "base" and rope.kind == "dynamic":
            return rope.positions
        return self.old_length(rope) if self.kind == "dynamic" else max(length, rope.positions)
