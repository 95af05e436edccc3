"""Rotary settings in a model's configuration, before the model is built, and the proof that they reached it."""

from __future__ import annotations

import copy
from typing import Any

from luthier.context.rope import Numbers, Rope, rope_of
from luthier.context.rope_settings import RopeSettings
from luthier.errors import ModelError

# How far a float32 frequency may be from the float64 one, relative.
TOLERANCE = 1e-5


def adjust_base_frequency(config: Any, base: float = 500_000.0, *, length: int | None = None) -> Any:
    """A copy of a configuration with another rotary base: ABF of “Effective Long-Context Scaling of Foundation Models”
    (Xiong et al., NAACL 2024), section 2.1.

    Build or load the model with it: `AutoModelForCausalLM.from_pretrained(folder, config=adjusted)`.

    Args:
        config: of transformers, of a model with rotary embeddings.
        base: b, instead of the usual 10,000.
        length: the new number of positions; None keeps it.

    Raises:
        ModelError: the model has no rotary embedding, or a built model is given, whose frequencies no configuration
            changes any more.
    """
    return with_rope(config, RopeSettings(kind="abf", base=base), length or rope_in(config).positions)


def with_rope(config: Any, settings: RopeSettings, length: int) -> Any:
    """A copy of a configuration with another rotary embedding, for texts of `length` tokens.

    Raises:
        ModelError: see `adjust_base_frequency`.
    """
    overrides = rope_overrides(config, settings, length)
    changed = copy.deepcopy(config)
    for name, value in overrides.items():
        setattr(changed, name, value)
    return changed


def rope_overrides(config: Any, settings: RopeSettings, length: int) -> dict[str, Any]:
    """The fields of a configuration that change, to be set before the model is built.

    Raises:
        ModelError: the model has no rotary embedding, or the settings do not fit its heads.
    """
    rope = rope_in(config)
    try:
        parameters = settings.parameters(rope, length)
    except ValueError as error:
        raise ModelError(str(error), where="lengthen.rope", fix="correct it") from None
    fields: dict[str, Any] = {
        "rope_parameters": parameters,
        "max_position_embeddings": settings.positions(rope, length),
    }
    if hasattr(config, "original_max_position_embeddings") and "original_max_position_embeddings" in parameters:
        fields["original_max_position_embeddings"] = parameters["original_max_position_embeddings"]
    return fields


def rope_in(config: Any) -> Rope:
    """The rotary embedding of a configuration of transformers.

    Raises:
        ModelError: there is none; or a model is given instead.
    """
    if hasattr(config, "named_parameters"):
        raise ModelError(
            "the frequencies of a model are computed when it is built, and a changed configuration changes nothing",
            fix="adjust `model.config` of a model that you load with it: from_pretrained(folder, config=adjusted)",
        )
    return rope_of(config.to_dict(), getattr(config, "name_or_path", "") or config.model_type)


def asked_frequencies(config: Any) -> Numbers:
    """(d/2,) frequencies that a model of this configuration has to have when it was just built."""
    return rope_in(config).frequencies()


def check_frequencies(model: Any, config: Any) -> None:
    """See that every rotary embedding in a model has the frequencies of a configuration, in float32.

    Raises:
        ModelError: one has others, was rounded to half precision, or there is none.
    """
    import torch

    asked = torch.from_numpy(asked_frequencies(config))
    found = [(name, module.inv_freq) for name, module in model.named_modules() if hasattr(module, "inv_freq")]
    if not found:
        raise ModelError(
            f"no rotary embedding was found in {type(model).__name__}", fix="take a model with one, such as llama"
        )
    for name, values in found:
        if values.dtype not in (torch.float32, torch.float64):
            raise ModelError(
                f"{name} keeps its frequencies in {str(values.dtype).removeprefix('torch.')}, which puts far positions "
                "at wrong angles",
                fix="load the model with `dtype: bfloat16` instead of converting it",
            )
        if values.shape != asked.shape or not torch.allclose(values.cpu().double(), asked, rtol=TOLERANCE, atol=1e-12):
            raise ModelError(
                f"{name} has other frequencies than its configuration asks for: theta_1 is "
                f"{float(values[min(1, len(values) - 1)]):.6g}, and not {float(asked[min(1, len(asked) - 1)]):.6g}",
                fix="set the rotary settings before the model is built",
            )
