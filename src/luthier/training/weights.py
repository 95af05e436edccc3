"""Files with the parameters that are trained, those of the best evaluation among them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from luthier.errors import TrainingError, WorkspaceError
from luthier.storage.files import reporting_failed_writes, sha256_of, sync
from luthier.training.split import is_split, put, trained_on_main


@dataclass
class BestScore:
    """The best evaluation so far.

    Attributes:
        score: its value, or None before the first evaluation.
        step: the optimiser step it was made at.
        since: evaluations since then.
        scores, details: everything that evaluation returned.
        sha256: of the file with the weights it was made with, in hex; empty before the first evaluation.
    """

    score: float | None = None
    step: int = 0
    since: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""

    @property
    def file(self) -> str:
        """Name of the file with those weights, beside the checkpoints."""
        return best_file(self.step)

    @property
    def files(self) -> dict[str, str]:
        """That file's name and hash; empty before the first evaluation."""
        return {self.file: self.sha256} if self.sha256 else {}


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter that requires a gradient, by name. Of a model that is split over processes the main one gets
    them, on the CPU, and the others nothing; all have to ask together."""
    if is_split(model):
        return trained_on_main(model)
    return {n: p.detach().contiguous() for n, p in model.named_parameters() if p.requires_grad}


def best_file(step: int | str) -> str:
    """Name of the file with the weights of a step that was the best so far."""
    return f"best-{step}.safetensors"


def remove_other_best(folder: Path, keep: set[str]) -> None:
    """Delete the best weights that no checkpoint and no running job refers to."""
    for path in [*folder.glob(best_file("*")), *folder.glob(f".writing-{best_file('*')}")]:
        if path.name not in keep:
            path.unlink(missing_ok=True)


def save_trainable(state: dict[str, Tensor], path: Path) -> str:
    """Write the trainable parameters to one safetensors file that is either whole or not there.

    Args:
        state: as `trainable_state` gives it.

    Returns:
        The file's SHA-256, in hex.

    Raises:
        WorkspaceError: the disk is full or can't be written.
    """
    scratch = path.with_name(f".writing-{path.name}")
    try:
        with reporting_failed_writes(path):
            save_file(state, scratch)
            sync(scratch)
            digest = sha256_of(scratch)
            scratch.replace(path)
            sync(path.parent)
    except WorkspaceError:
        with suppress(OSError):
            scratch.unlink()
        raise
    return digest


def load_trainable(model: nn.Module, path: Path) -> None:
    """Put the parameters of such a file back.

    Raises:
        TrainingError: the file holds other parameters than the model trains.
    """
    expected = {n: p for n, p in model.named_parameters() if p.requires_grad}
    with safe_open(path, framework="pt") as saved:
        odd = sorted(set(saved.keys()) ^ expected.keys())
        if not odd:
            for name, parameter in expected.items():
                put(parameter, saved.get_tensor(name))
            return
        raise TrainingError(
            f"the checkpoint holds other parameters than the model trains, {odd[0]} for one",
            where=str(path),
            fix="start the run afresh in another directory",
        )
