"""Where a loaded model runs while it is not trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def device() -> torch.device:
    """This process's accelerator, or the CPU where there is none."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def on_accelerator(model: Any) -> Any:
    """The same model, its weights on the accelerator where there is one."""
    return model.to(device())
