"""Rotary position embeddings as numbers: frequencies, periods, and how attention falls with distance. No torch.

Symbols: d head size (of which the rotated part), j a pair of its dimensions, b base, L tokens.
Pair j of a query or key at position m is turned by the angle m theta_j, theta_j = b^(-2j/d) (Su et al., “RoFormer”).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.errors import ModelError

Numbers = NDArray[np.float64]
DEFAULT_BASE = 10_000.0
# Distances that are looked at together, and up to which all of them are.
_CHUNK, _ALL = 8192, 65_536
_LARGEST_BASE, _STEP = 1e9, 1.001  # the next number of two figures


@dataclass(frozen=True)
class Rope:
    """The rotary embedding of a model.

    Attributes:
        dim: d, rotated dimensions of a head.
        parameters: as transformers keeps them, with `rope_type` and `rope_theta`.
        positions: of the configuration, `max_position_embeddings`.
        head_dim: of a whole head.
    """

    dim: int
    parameters: Mapping[str, Any]
    positions: int
    head_dim: int

    @property
    def base(self) -> float:
        """b."""
        return float(self.parameters["rope_theta"])

    @property
    def kind(self) -> str:
        """transformers' `rope_type`."""
        return str(self.parameters.get("rope_type", "default"))

    def frequencies(self, length: int | None = None) -> Numbers:
        """(d/2,) theta_j, for texts of that many tokens where the type goes by their length."""
        return inverse_frequencies(
            self.parameters, self.dim, positions=self.positions, length=length, head_dim=self.head_dim
        )


def rope_of(config: Mapping[str, Any], where: str = "config.json") -> Rope:
    """The rotary embedding that a `config.json` describes, in transformers' new or old way of writing it.

    Raises:
        ModelError: the model has none, or another one for each kind of layer.
    """
    text = config.get("text_config", config)
    given = text.get("rope_parameters") or text.get("rope_scaling") or {}
    if not isinstance(given, Mapping):
        raise ModelError("`rope_scaling` is no mapping", where=where, fix="correct it, or leave it out")
    parameters = dict(given)
    theta = parameters.get("rope_theta", text.get("rope_theta"))
    if any(isinstance(value, Mapping) for value in parameters.values()):
        raise ModelError(
            "its layers have rotary embeddings of several kinds",
            where=where,
            fix="take a model with one for all layers, such as llama",
        )
    if theta is None and not parameters and text.get("model_type") not in _ROTARY_BY_DEFAULT:
        raise ModelError(
            f"{text.get('model_type', 'the model')} has no rotary position embedding that its configuration names",
            where=where,
            fix="take a model with one, such as llama, qwen2, gpt_neox or smollm",
        )
    heads, hidden = text.get("num_attention_heads"), text.get("hidden_size")
    if not text.get("head_dim") and not (heads and hidden):
        raise ModelError("the size of a head is not in it", where=where, fix="is it a language model's config.json?")
    head_dim = int(text.get("head_dim") or hidden // heads)
    parameters["rope_type"] = parameters.get("rope_type", parameters.pop("type", "default"))
    parameters["rope_theta"] = float(theta or text.get("rotary_emb_base") or DEFAULT_BASE)
    part = parameters.get("partial_rotary_factor", text.get("partial_rotary_factor", text.get("rotary_pct")))
    if part is not None:
        parameters["partial_rotary_factor"] = float(part)
    original = text.get("original_max_position_embeddings")
    if original is not None:
        parameters.setdefault("original_max_position_embeddings", original)
    share = 1.0 if parameters["rope_type"] == "proportional" else float(part or 1.0)
    return Rope(int(head_dim * share), parameters, int(text.get("max_position_embeddings") or 2048), head_dim)


_ROTARY_BY_DEFAULT = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi", "phi3", "gpt_neox"})


def inverse_frequencies(
    parameters: Mapping[str, Any],
    dim: int,
    *,
    positions: int = 2048,
    length: int | None = None,
    head_dim: int | None = None,
) -> Numbers:
    """(d/2,) theta_j in radians a position, in float64.

    Args:
        parameters: `rope_type`, `rope_theta`, and what the type takes beside them, named as transformers names it.
        dim: d, rotated dimensions.
        positions: `max_position_embeddings` of the configuration; of `dynamic` the old length.
        length: of the text; `dynamic` and `longrope` go by it.
        head_dim: of a whole head, of which `proportional` turns a part.

    Raises:
        ModelError: there is no such type, or it lacks a parameter.
    """
    base, kind = float(parameters["rope_theta"]), str(parameters.get("rope_type", "default"))
    if kind == "dynamic" and dim <= 2:
        raise ModelError(
            f"rotary embeddings of type dynamic need more than one pair, and {dim} dimensions turn",
            fix="choose another kind",
        )
    try:
        if kind == "dynamic":
            base = dynamic_base(base, dim, float(parameters["factor"]), positions, length or positions)
        plain = base ** (-np.arange(0, dim, 2) / dim)
        if kind in ("default", "dynamic"):
            return plain
        if kind == "linear":
            return plain / float(parameters["factor"])
        if kind == "llama3":
            return _llama3(plain, parameters)
        if kind == "yarn":
            return _yarn(plain, parameters, dim, positions)
        if kind == "longrope":
            long = (length or 0) > parameters["original_max_position_embeddings"]
            return plain / np.asarray(parameters["long_factor" if long else "short_factor"], dtype=np.float64)
        if kind == "proportional":
            return _proportional(base, parameters, head_dim or dim)
    except KeyError as error:
        raise ModelError(f"rotary embeddings of type {kind} need {error}", fix="give it in `rope_parameters`") from None
    raise ModelError(f"there is no rotary embedding of type {kind!r}", fix=f"one of {', '.join(ROPE_TYPES)}")


# transformers' types, and what each does in a line.
ROPE_TYPES = {
    "default": "theta_j = b^(-2j/d), as it was first published",
    "linear": "position interpolation: all angles divided by a factor",
    "dynamic": "NTK: the base grows with the text once it is longer than the old length",
    "yarn": "fast pairs stay, slow ones are divided by a factor, a ramp between; attention is sharpened a little",
    "llama3": "pairs that turn often over the old length stay, those that don't are divided, a ramp between",
    "longrope": "a factor of its own for every pair, found by a search, for short and for long texts",
    "proportional": "only the first pairs of a head turn, as if it had all of them",
}


def dynamic_base(base: float, dim: int, factor: float, old: int, length: int) -> float:
    """b (f L / L_old - (f - 1))^(d / (d - 2)), for L above L_old: the base of dynamic NTK."""
    return float(base * (factor * max(length, old) / old - (factor - 1)) ** (dim / (dim - 2)))


def _llama3(plain: Numbers, given: Mapping[str, Any]) -> Numbers:
    old, factor = float(given["original_max_position_embeddings"]), float(given["factor"])
    low, high = float(given["low_freq_factor"]), float(given["high_freq_factor"])
    turns = old * plain / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray((1 - smooth) * plain / factor + smooth * plain)


def _yarn(plain: Numbers, given: Mapping[str, Any], dim: int, positions: int) -> Numbers:
    """Peng et al., “YaRN” (ICLR 2024): a ramp over pairs from `beta_fast` to `beta_slow` turns of the old length."""
    base, factor = float(given["rope_theta"]), float(given["factor"])
    old = float(given.get("original_max_position_embeddings") or positions)

    def pair_of(turns: float) -> float:
        return dim * math.log(old / (turns * 2 * math.pi)) / (2 * math.log(base))

    ends = pair_of(float(given.get("beta_fast") or 32)), pair_of(float(given.get("beta_slow") or 1))
    first, last = (math.floor(ends[0]), math.ceil(ends[1])) if given.get("truncate", True) else ends
    first, last = max(first, 0), min(last, dim - 1)
    ramp = np.clip((np.arange(dim // 2) - first) / (max(last - first, 0.001)), 0, 1)
    return np.asarray(plain / factor * ramp + plain * (1 - ramp))


def _proportional(base: float, given: Mapping[str, Any], head_dim: int) -> Numbers:
    turned = int(float(given.get("partial_rotary_factor", 1.0)) * head_dim // 2)
    found = np.zeros(head_dim // 2)
    found[:turned] = base ** (-2 * np.arange(turned) / head_dim) / float(given.get("factor", 1.0))
    return found


def periods(frequencies: Numbers) -> Numbers:
    """(d/2,) positions after which each pair has turned once; infinite for one that does not."""
    with np.errstate(divide="ignore"):
        return np.asarray(2 * math.pi / frequencies)


def decay(frequencies: Numbers, distances: Any) -> Numbers:
    """(N,) raw attention scores of a query and a key of ones, s(n) = (2 / sqrt d) sum_j cos(n theta_j), at distances n.

    The curve of Xiong et al. (NAACL 2024), figure 4.
    """
    n = np.asarray(distances, dtype=np.float64)
    pieces = [np.cos(n[start : start + _CHUNK, None] * frequencies).sum(axis=1) for start in range(0, len(n), _CHUNK)]
    return 2 / math.sqrt(2 * len(frequencies)) * np.concatenate(pieces) if pieces else n


def granularity(frequencies: Numbers) -> float:
    """C_d = (2/d) sum_j sin theta_j: how far apart the images of neighbouring positions are, for x with equal pairs.

    The theorem of Xiong et al. (NAACL 2024), with the factor 2/d that its limits ask for: 1 / (ln b + ln beta) for a
    base of beta b, alpha / ln b for interpolation by alpha.
    """
    return float(np.sin(frequencies).mean())


def xpos_scales(dim: int, positions: Any, *, scale: float = 512.0) -> Numbers:
    """(N, d/2) factors z_j^(m / 512), z_j = (2j/d + 0.4) / 1.4, by which xPos multiplies queries; keys are divided by
    them (Sun et al., “A Length-Extrapolatable Transformer”, ACL 2023).

    No configuration of transformers holds them, so that no saved model could have them: they are for use from Python.
    """
    z = (np.arange(0, dim, 2) / dim + 0.4) / 1.4
    return np.asarray(z ** (np.asarray(positions, dtype=np.float64)[:, None] / scale))


@dataclass(frozen=True)
class BaseAdvice:
    """A base for a length.

    Attributes:
        base: b.
        reason: how it was found, in words.
    """

    base: float
    reason: str


def recommended_base(dim: int, length: int, *, old_base: float = DEFAULT_BASE, old_length: int = 2048) -> BaseAdvice:
    """A base for texts of `length` tokens.

    It is the smallest one at which s(n) stays above zero at every distance up to the length, so that a query never
    prefers a random key to one like itself (Men et al., “Base of RoPE Bounds Context Length”, 2024). Heads with few
    pairs have none below 1e9; they get the base of NTK scaling, b (L / L_old)^(d / (d - 2)), tenfold.
    """
    if length <= old_length:
        return BaseAdvice(old_base, "the length is no longer than the old one")
    base = _rounded_up(old_base)
    while base <= _LARGEST_BASE:
        if _stays_positive(base, dim, length):
            return BaseAdvice(base, f"the least base at which attention stays positive to {length:,}")
        base = _rounded_up(base * _STEP)
    stretched = 10 * old_base * (length / old_length) ** (dim / (dim - 2)) if dim > 2 else 50 * old_base
    return BaseAdvice(
        _rounded_up(stretched), f"{dim // 2} pairs are too few for attention to stay positive; ten times NTK's base"
    )


def _stays_positive(base: float, dim: int, length: int) -> bool:
    frequencies = inverse_frequencies({"rope_theta": base}, dim)
    few = np.unique(np.linspace(1, length, min(length, 512)).round())
    if decay(frequencies, few).min() < 0:
        return False
    every = np.arange(1, length + 1) if length <= _ALL else np.unique(np.geomspace(1, length, _ALL).round())
    return all(decay(frequencies, every[start : start + _CHUNK]).min() >= 0 for start in range(0, len(every), _CHUNK))


def _rounded_up(base: float) -> float:
    """To two figures."""
    unit = 10 ** (math.floor(math.log10(base)) - 1)
    return float(math.ceil(base / unit - 1e-6) * unit)
