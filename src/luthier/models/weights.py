"""Whether the weights that were read are the model's, all of them, and finite."""

from __future__ import annotations

import logging
from typing import Any

from luthier.errors import ModelError
from luthier.models.inspect import base_of
from luthier.models.source import ModelSource

log = logging.getLogger(__name__)

# Parts on top of the body that a checkpoint of the bare body may lack.
_ON_TOP = (
    "pooler",
    "lm_head",
    "classifier",
    "classification_head",
    "score",
    "qa_outputs",
    "cls",
    "generator",
)


def account_for(model: Any, info: dict[str, Any], source: ModelSource) -> None:
    """Log which parameters are new and which not used; `model.luthier_new_parameters` keeps the new names.

    Args:
        info: the loading info of transformers' `from_pretrained`.

    Raises:
        ModelError: parameters of the body are missing, or have another shape.
    """
    missing = sorted(info["missing_keys"])
    mismatched = sorted(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])
    lacking = [name for name in [*missing, *mismatched] if _belongs_to_body(model, name)]
    if lacking:
        raise ModelError(
            f"{len(lacking)} weights of the model are missing or have another shape: {some(lacking)}",
            where=str(source.path or source.reference),
            fix="copy the model again: config.json and weights do not belong together, or some are missing",
        )
    if mismatched:
        log.warning(
            "%s: the head has another size than the saved one and starts anew: %s",
            source.reference,
            some(mismatched),
        )
    if missing:
        log.info("%s: newly initialised: %s", source.reference, some(missing))
    if info["unexpected_keys"]:
        log.info("%s: not used: %s", source.reference, some(sorted(info["unexpected_keys"])))
    model.luthier_new_parameters = tuple(sorted({*missing, *mismatched}))


def draw_head_anew(model: Any, seed: int, source: ModelSource, saved: list[str]) -> None:
    """Give the modules on top of the body first values again, since what was saved was trained for other labels.

    Args:
        seed: of the draw; the caller's random state is left as it was.
        saved: the labels of that training.
    """
    import torch

    body = getattr(model, model.base_model_prefix, None)
    heads = {name: module for name, module in model.named_children() if module is not body}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for head in heads.values():
            for module in head.modules():
                # transformers leaves alone what it has marked as set.
                for marked in (module, *module.parameters(recurse=False)):
                    marked._is_hf_initialized = False
                model._init_weights(module)
    drawn = [f"{name}.{parameter}" for name, head in heads.items() for parameter, _ in head.named_parameters()]
    log.warning("%s: the head was trained for the labels %s, so it starts anew", source.reference, some(saved))
    model.luthier_new_parameters = tuple(sorted({*model.luthier_new_parameters, *drawn}))


def new_modules(model: Any) -> list[str]:
    """Names of the modules that the checkpoint lacked and that must therefore be trained and saved, such as
    `classifier`; in the form that PEFT's `modules_to_save` takes."""
    base, names = base_of(model), []
    for name in getattr(base, "luthier_new_parameters", ()):
        parts = name.split(".")
        names.append(parts[1] if parts[0] == base.base_model_prefix and len(parts) > 2 else parts[0])
    return sorted(set(names))


def refuse_non_finite(model: Any, source: ModelSource) -> None:
    """Refuse weights that hold NaN or infinite numbers.

    Raises:
        ModelError: names the tensors.
    """
    import torch

    def finite(tensor: torch.Tensor) -> bool:
        # One pass without a copy. A sum of finite numbers may overflow, so a bad one is looked at again.
        return bool(torch.isfinite(tensor.sum(dtype=torch.float32))) or bool(torch.isfinite(tensor).all())

    with torch.no_grad():
        bad = [name for name, p in model.named_parameters() if p.is_floating_point() and not finite(p)]
    if bad:
        raise ModelError(
            f"{len(bad)} tensors hold NaN or infinite numbers: {some(bad)}",
            where=str(source.path or source.reference),
            fix="use another copy or checkpoint: these are damaged, or come from a run that diverged",
        )


def some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _belongs_to_body(model: Any, name: str) -> bool:
    parts = name.split(".")
    if any(part in _ON_TOP for part in parts):
        return False
    prefix = model.base_model_prefix
    has_head = bool(prefix) and getattr(model, prefix, None) is not None
    return parts[0] == prefix if has_head else True
