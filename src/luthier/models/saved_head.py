"""A trained head on disk without the frozen model below it.

It is written as an adapter of stock PEFT, a LoRA that adds to no layer and brings modules of its own, so that
`peft.PeftModel.from_pretrained(base, folder)` loads it as well. Luthier puts the modules straight into the base, and
the model is the plain one that it was in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.errors import ModelError
from luthier.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from luthier.models.tensors import check_safetensors, read_json

_PREFIX = "base_model.model."
# What PEFT calls no layer at all, `peft.utils.constants.DUMMY_TARGET_MODULES`; known here without importing it.
NO_LAYER = "dummy-target-modules"


@dataclass(frozen=True)
class SavedHead:
    """What is saved of a model whose other parts stay as they were loaded.

    Attributes:
        modules: names of the modules.
        task_type: PEFT's.
    """

    modules: tuple[str, ...]
    task_type: str


def save_head_only(model: Any, head: SavedHead | None) -> None:
    """Say that saving the model needs to write these modules only; None says that it writes all."""
    model.luthier_saved_head = head


def head_to_save(model: Any) -> SavedHead | None:
    """What `save_head_only` said of the model; None where something beside the head can have been trained."""
    head: SavedHead | None = getattr(model, "luthier_saved_head", None)
    if head is None:
        return None
    inside = tuple(f"{name}." for name in head.modules)
    others = (name for name, p in model.named_parameters() if p.requires_grad and not name.startswith(inside))
    return None if any(others) else head


def write_head(model: Any, head: SavedHead, folder: Path) -> None:
    """Write the modules as adapter configuration and weights."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    config = LoraConfig(
        task_type=head.task_type,
        target_modules=NO_LAYER,
        modules_to_save=list(head.modules),
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    tensors = {
        f"{_PREFIX}{name}.{inner}": tensor.detach().cpu().contiguous()
        for name in head.modules
        for inner, tensor in model.get_submodule(name).state_dict().items()
    }
    save_file(tensors, str(folder / ADAPTER_WEIGHTS), metadata={"format": "pt"})


def saved_head_in(folder: Path) -> SavedHead | None:
    """The head that a folder with an adapter holds, None for an adapter of any other kind."""
    config = read_json(folder / ADAPTER_CONFIG)
    modules = config.get("modules_to_save")
    if config.get("target_modules") != NO_LAYER or not isinstance(modules, list):
        return None
    return SavedHead(tuple(map(str, modules)), str(config.get("task_type")))


def put_head(model: Any, head: SavedHead, folder: Path, *, trainable: bool) -> Any:
    """Put a saved head into its base, in eval mode; all below it is frozen.

    Args:
        model: the base with a head of the same shape.
        trainable: whether the head can be trained on.

    Raises:
        ModelError: the base has no such modules, or of another shape.
    """
    from safetensors.torch import load_file

    check_safetensors(folder / ADAPTER_WEIGHTS)
    state = load_file(folder / ADAPTER_WEIGHTS)
    model.requires_grad_(False)
    try:
        for name in head.modules:
            start = f"{_PREFIX}{name}."
            part = model.get_submodule(name)
            part.load_state_dict({k.removeprefix(start): v for k, v in state.items() if k.startswith(start)})
            part.requires_grad_(trainable)
    except (AttributeError, RuntimeError) as error:
        raise ModelError(
            f"the head can't be put on its base: {error}",
            where=str(folder),
            fix="use the base it was trained on, as it was then",
        ) from error
    save_head_only(model, head)
    return model.eval()
