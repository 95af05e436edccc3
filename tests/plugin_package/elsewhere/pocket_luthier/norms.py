"""A tuning method with a section on the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.methods import MethodContext, TuningMethod
from luthier.registry import METHODS
from luthier.report import Section


@METHODS.register
class PocketNorms(TuningMethod):
    """Trains the normalisation layers and the task head."""

    name: Literal["pocket_norms"] = "pocket_norms"
    summary: ClassVar[str] = "train normalisation layers only"
    default_learning_rate: ClassVar[float] = 3e-2

    biases: bool = Field(True, description="Train their biases too.")

    def apply(self, model: Any, context: MethodContext) -> Any:
        for name, parameter in model.named_parameters():
            normal = "norm" in name.lower() and (self.biases or not name.endswith("bias"))
            parameter.requires_grad = normal or name.startswith("classifier")
        return model

    def examine(self, model: Any, forward: Callable[[int], None]) -> dict[str, Any]:
        layers = sum("norm" in name.lower() and name.endswith("weight") for name, _ in model.named_parameters())
        return {"sections": [Section("Norms in the pocket", facts={"trained layers": layers})]}
