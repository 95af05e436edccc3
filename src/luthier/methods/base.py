"""What every tuning method is: its settings, how it changes a model, and where it was published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.errors import ModelError
from luthier.settings import Paper, Settings

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


# In names of parameters.
_NO_WEIGHTS = (".ia3_l.", "prompt_encoder.default.embedding.")


@dataclass(frozen=True)
class MethodContext:
    """What a method may need to know beside its own settings.

    Attributes:
        task_type: PEFT's task type: SEQ_CLS, TOKEN_CLS, QUESTION_ANS, CAUSAL_LM or SEQ_2_SEQ_LM.
        seed: of the run; new parameters are drawn after `torch.manual_seed(seed)`.
        tokenizer: of the model, for methods that start from text; None on a dry run without one.
    """

    task_type: str
    seed: int = 0
    tokenizer: Any = None


class TuningMethod(Settings):
    """One tuning method with its settings. Subclasses are registered with `@METHODS.register`.

    A subclass gives `name` a literal type and default, sets the class variables, and defines `apply`.
    """

    name: str
    summary: ClassVar[str] = ""
    paper: ClassVar[Paper | None] = None
    default_learning_rate: ClassVar[float] = 1e-3
    supports_gradient_checkpointing: ClassVar[bool] = True
    # Whether what it trains can be built into the model, so that another training can begin on the result.
    merges: ClassVar[bool] = True
    # Whether what it trains is saved apart from the model, so that it can be trained on; else a whole model is saved.
    saves_adapter: ClassVar[bool] = True
    # Settings, beside learning rates and weight decays, that an adapter may be trained on with other values of.
    may_change: ClassVar[tuple[str, ...]] = ()

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Freeze, wrap or extend `model`; what should be trained has `requires_grad` afterwards.

        The task head is trainable under every method.
        """
        raise TypeError(f"{type(self).__name__} does not define apply()")

    def applied(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """What `apply` makes of a model.

        Raises:
            ModelError: it is no model.
        """
        tuned: Any = self.apply(model, context)
        if not hasattr(tuned, "named_parameters"):
            raise ModelError(
                f"{type(self).__module__}.{type(self).__qualname__}.apply() gave no model but {type(tuned).__name__}",
                fix=f"mend the method {self.name}: `apply` has to return the model",
            )
        made: nn.Module = tuned
        return made

    def files(self) -> list[Path]:
        """Files that `apply` reads beside the model; they are part of the stage's key."""
        return []

    def file_fingerprints(self) -> dict[str, str]:
        """What `files` hold, as a stage's key has it; those that are missing are left out."""
        from luthier.storage.one_version import file_fingerprint

        return {f"file {path}": file_fingerprint(path) for path in self.files() if path.is_file()}

    def precompute(self, model: nn.Module, rows: list[Any], directory: Path) -> None:
        """Compute once what the method needs of rows that are held and seen in every epoch; most need nothing.

        Args:
            model: what `apply` returned.
            rows: encoded data sets.
            directory: where what was computed may be kept for later runs.
        """

    def reserved_tokens(self) -> int:
        """Positions of the model's context that the method fills itself, kept free when text is cut."""
        return 0

    def adapter_config(self) -> Mapping[str, Any] | None:
        """What the PEFT configuration of the adapter that is saved says, as far as the settings tell; None where a
        whole model is saved, or nothing is known of it."""
        return None

    def examine(self, model: nn.Module, forward: Callable[[int], None]) -> dict[str, Any]:
        """What a trained model tells about the method: more `details` for metrics.json; `sections` among them, each a
        `luthier.report.Section`, are shown on the page.

        Args:
            model: what was trained.
            forward: feeds the first so many validation rows through it, in evaluation mode.
        """
        return {}

    def parameter_groups(self, model: nn.Module, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimiser groups over the trainable parameters: decay on matrices, none on biases, norms, and what PEFT
        stores as matrices of vectors that are no weights: factors of (IA)3, which begin at 1, and prompts."""
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        decayed = [p for name, p in trained if p.ndim >= 2 and not any(part in name for part in _NO_WEIGHTS)]
        decayed_ids = set(map(id, decayed))
        return [
            {"params": decayed, "lr": learning_rate, "weight_decay": weight_decay},
            {"params": [p for _, p in trained if id(p) not in decayed_ids], "lr": learning_rate, "weight_decay": 0.0},
        ]
