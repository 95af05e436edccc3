"""A task: texts with a grade each, where a far guess costs more than a near one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from luthier.registry import TASKS
from luthier.tasks.classes import ClassTask


@TASKS.register
class PocketGrades(ClassTask):
    """Gives texts a grade."""

    name: ClassVar[str] = "pocket_grades"
    summary: ClassVar[str] = "texts with a grade each"
    columns: ClassVar[tuple[str, ...]] = ("text",)
    metrics: ClassVar[tuple[str, ...]] = ("within_one", "accuracy")
    scored_as: ClassVar[str | None] = None

    def loss(self, logits: Any, batch: Mapping[str, Any], *, items: float, shifted: bool = False) -> Any:
        import torch

        grades = torch.arange(logits.shape[-1], device=logits.device)
        expected = (logits.float().softmax(dim=-1) * grades).sum(dim=-1)
        return (expected - batch["labels"]).square().sum() / items

    def own_metrics(self) -> Mapping[str, Callable[[Any, Any], float]]:
        return {"within_one": lambda gold, guess: float((abs(gold - guess) <= 1).mean())}
