"""Rotary frequencies against a few-line reference, transformers' own functions, and the published numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from luthier.context.rope import (
    ROPE_TYPES,
    decay,
    dynamic_base,
    granularity,
    inverse_frequencies,
    periods,
    recommended_base,
    rope_of,
    xpos_scales,
)
from luthier.context.rope_config import adjust_base_frequency, check_frequencies, rope_in, with_rope
from luthier.context.rope_settings import ABOUT, RopeSettings
from luthier.errors import ModelError
from luthier.models.inspect import model_max_length

SIZES = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 50}
PAIRS = 16


def config(**more: Any) -> LlamaConfig:
    return LlamaConfig(**{**SIZES, "max_position_embeddings": 128, "pad_token_id": 0, **more})


def settings_of(kind: str) -> RopeSettings:
    more: dict[str, Any] = {}
    if kind == "longrope":
        more = {"long_factor": [1.0 + j for j in range(PAIRS)], "short_factor": [1.0] * PAIRS}
    if kind == "proportional":
        more = {"rotated_share": 0.5}
    return RopeSettings(kind=kind, **more)


@pytest.mark.parametrize("kind", list(ABOUT))
def test_angles_are_those_of_transformers_and_the_saved_model_generates_alike(kind: str, tmp_path: Path):
    changed = with_rope(config(), settings_of(kind), 512)
    stock = changed.rope_parameters["rope_type"]
    if stock != "default":
        theirs, _ = ROPE_INIT_FUNCTIONS[stock](changed, torch.device("cpu"))
        np.testing.assert_allclose(rope_in(changed).frequencies(), theirs.double().numpy(), rtol=2e-6)
    torch.manual_seed(0)
    model = LlamaForCausalLM(changed).eval()
    check_frequencies(model, changed)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.arange(1, 31)[None]
    options = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert torch.equal(again.generate(ids, options), model.generate(ids, options))
    assert again.config.rope_parameters == changed.rope_parameters


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "llama3", "longrope", "proportional"])
@pytest.mark.parametrize("length", [64, 400])
def test_every_type_at_a_length_is_transformers_own(kind: str, length: int):
    given = {"rope_type": kind, "rope_theta": 30_000.0, "factor": 4.0, "original_max_position_embeddings": 96}
    given |= {
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "long_factor": [2.0] * PAIRS,
        "short_factor": [1.0] * PAIRS,
    }
    given |= {"partial_rotary_factor": 0.5} if kind == "proportional" else {}
    theirs, _ = ROPE_INIT_FUNCTIONS[kind](config(rope_parameters=given), torch.device("cpu"), seq_len=length)
    ours = inverse_frequencies(given, 2 * PAIRS, positions=128, length=length)
    np.testing.assert_allclose(ours, theirs.double().numpy(), rtol=2e-6, atol=1e-12)
    assert kind in ROPE_TYPES


def test_the_turn_of_a_pair_is_the_papers_equation():
    """f(x, m)_j = x_j exp(i m theta_j), with x_j = x_{2j} + i x_{2j+1}, against transformers' cosines and sines."""
    changed = adjust_base_frequency(config(), 500_000.0)
    embedding = LlamaRotaryEmbedding(changed)
    cos, sin = embedding(torch.zeros(1, 40, 32), torch.arange(40)[None])
    for j in range(PAIRS):
        for m in (0, 1, 7, 39):
            turn = np.exp(1j * m * 500_000.0 ** (-2 * j / 32))
            assert abs(complex(float(cos[0, m, j]), float(sin[0, m, j])) - turn) < 1e-5


def test_interpolation_is_rope_at_squeezed_positions():
    pi = with_rope(config(), RopeSettings(kind="interpolation"), 512)
    plain = inverse_frequencies({"rope_theta": 10_000.0}, 32)
    np.testing.assert_allclose(rope_in(pi).frequencies() * 100, plain * 25, rtol=1e-12)
    twice = with_rope(pi, RopeSettings(kind="interpolation"), 1024)
    assert twice.rope_parameters["factor"] == 8.0


def test_published_decay_periods_and_granularity():
    """Section 2 of the specification: the decay table, the pairs beyond the length, the normalised C_d, dynamic NTK."""
    rope, abf = (inverse_frequencies({"rope_theta": base}, 128) for base in (1e4, 5e5))
    distances = [0, 1024, 4096, 8192, 16_384, 32_768]
    table = {
        (11.31, 2.31, -0.60, 0.28, -1.61, 0.64): rope,
        (11.31, 3.77, 2.48, 2.31, 1.35, -0.60): rope / 8,
        (11.31, 5.42, 4.33, 3.00, 1.51, 2.37): abf,
    }
    for expected, frequencies in table.items():
        np.testing.assert_allclose(decay(frequencies, distances), expected, atol=0.006)
    assert [(periods(one) > 32_768).sum() for one in (rope, abf)] == [4, 22]
    assert [round(granularity(one), 4) for one in (abf, rope / 4, rope / 8)] == [0.0788, 0.0290, 0.0146]
    large = [inverse_frequencies({"rope_theta": base}, 16_384) for base in (5e5, 1e4)]
    assert [round(granularity(one), 4) for one in (large[0], large[1] / 4, large[1] / 8)] == [0.0721, 0.0271, 0.0136]
    limits = 1 / math.log(5e5), 0.25 / math.log(1e4)  # of C_d for many pairs, up to sin x for x
    np.testing.assert_allclose([granularity(large[0]), granularity(large[1] / 4)], limits, rtol=0.06)
    assert round(dynamic_base(1e4, 128, 8, 4096, 32_768)) == 607_779


def test_a_recommended_base_is_the_least_that_keeps_attention_positive():
    advice = recommended_base(128, 32_768, old_base=1e4, old_length=4096)
    assert 4e5 < advice.base < 8e5
    n = np.arange(1, 32_769)
    assert decay(inverse_frequencies({"rope_theta": advice.base}, 128), n).min() >= 0
    assert decay(inverse_frequencies({"rope_theta": advice.base / 1.5}, 128), n).min() < 0
    assert recommended_base(128, 2048, old_base=1e4, old_length=4096).base == 1e4
    assert "too few" in recommended_base(8, 32_768, old_length=2048).reason


def test_xpos_is_one_at_the_start_and_can_not_be_saved():
    scales = xpos_scales(8, [0, 512, 1024])
    np.testing.assert_allclose(scales[0], 1)
    np.testing.assert_allclose(scales[1], [(2 * j / 8 + 0.4) / 1.4 for j in range(4)])
    np.testing.assert_allclose(scales[2], scales[1] ** 2)
    with pytest.raises(ValidationError, match="no configuration of transformers holds"):
        RopeSettings(kind="xpos_abf")


def test_a_model_that_is_built_is_refused_and_wrong_frequencies_are_found():
    """Changing `config.rope_parameters` of a built model changes nothing; rounding the model rounds its frequencies."""
    plain = config()
    model = LlamaForCausalLM(plain)
    with pytest.raises(ModelError, match="computed when it is built"):
        adjust_base_frequency(model, 500_000.0)
    with pytest.raises(ModelError, match="other frequencies"):
        check_frequencies(model, adjust_base_frequency(plain))
    check_frequencies(model, plain)
    with pytest.raises(ModelError, match="bfloat16"):
        check_frequencies(model.to(torch.bfloat16), plain)
    assert plain.rope_parameters["rope_theta"] == 1e4  # the given configuration stays as it was


def test_old_ways_of_writing_are_read():
    old = {"hidden_size": 64, "num_attention_heads": 2, "max_position_embeddings": 99, "model_type": "llama"}
    assert rope_of({**old, "rope_theta": 5e4}).base == 5e4
    scaled = rope_of({**old, "rope_scaling": {"type": "linear", "factor": 2.0}})
    assert (scaled.kind, scaled.base) == ("linear", 1e4)
    assert rope_of({**old, "model_type": "gpt_neox", "rotary_pct": 0.25, "rotary_emb_base": 7e3}).dim == 8
    with pytest.raises(ModelError, match="no rotary position embedding"):
        rope_of({**old, "model_type": "gpt2"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "base", "base": 5e5}, "no effect"),
        ({"kind": "abf", "factor": 2}, "no effect"),
        ({"kind": "longrope"}, "needs"),
        ({"kind": "yarn", "beta_fast": 1, "beta_slow": 2}, "below"),
    ],
)
def test_settings_without_effect_are_refused(given: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=said):
        RopeSettings.model_validate(given)


def test_factors_are_as_many_as_pairs():
    with pytest.raises(ModelError, match="16 pairs"):
        with_rope(config(), RopeSettings(kind="longrope", long_factor=[1.0], short_factor=[1.0]), 512)


@pytest.mark.parametrize("kind", ["abf", "dynamic", "yarn", "llama3", "proportional"])
def test_an_interpolation_is_not_taken_back(kind: Any):
    linear = config(rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4})
    with pytest.raises(ModelError, match=f"divided by 4 already, which `kind: {kind}` would take back"):
        with_rope(linear, RopeSettings(kind=kind), 512)


STRETCHED = {
    "llama3": {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
    "longrope": {
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "short_factor": [1.0] * 16,
        "long_factor": [4.0] * 16,
    },
}


@pytest.mark.parametrize("kind", ["abf", "dynamic", "proportional"])
@pytest.mark.parametrize("before", list(STRETCHED))
def test_stretched_pairs_do_not_turn_as_before(before: str, kind: Any):
    made = config(
        max_position_embeddings=256, rope_parameters={"rope_type": before, "rope_theta": 1e4, **STRETCHED[before]}
    )
    with pytest.raises(ModelError, match=f"stretched by `{before}` already, which `kind: {kind}` would take back"):
        with_rope(made, RopeSettings(kind=kind), 512)
    kept = with_rope(made, RopeSettings(kind="base"), 512)
    assert np.array_equal(rope_in(kept).frequencies(300), rope_in(made).frequencies(300))


def test_stretched_pairs_are_stretched_further():
    """Llama 3.2 has a factor of 32 and sixteen times its original length: twice the length is a factor of 64."""
    parameters = {"rope_type": "llama3", "rope_theta": 1e4, **STRETCHED["llama3"]}
    made = config(max_position_embeddings=1024, rope_parameters=parameters)
    longer = with_rope(made, RopeSettings(kind="llama3"), 2048)
    assert longer.rope_parameters["factor"] == 64
    assert (rope_in(longer).frequencies(2048) <= rope_in(made).frequencies(1024)).all()
    assert with_rope(made, RopeSettings(kind="llama3", factor=40), 2048).rope_parameters["factor"] == 40


def test_dynamic_positions_are_of_before_and_the_model_takes_more():
    """transformers reads `max_position_embeddings` as the old length; its other stages have to know of the new one."""
    old = LlamaConfig(hidden_size=32, num_attention_heads=2, max_position_embeddings=64)
    made = with_rope(old, RopeSettings(kind="dynamic"), 256)
    assert (made.max_position_embeddings, model_max_length(made)) == (64, 256)
    kept = with_rope(made, RopeSettings(kind="base"), 512)
    assert kept.max_position_embeddings == 64
    assert np.array_equal(rope_in(kept).frequencies(300), rope_in(made).frequencies(300))
    assert model_max_length(with_rope(old, RopeSettings(kind="abf"), 256)) == 256
