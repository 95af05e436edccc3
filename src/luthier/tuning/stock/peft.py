"""Any method of PEFT by its name, with its own settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_type_hints

from pydantic import Field

from luthier.errors import RecipeError, nearest
from luthier.methods.base import MethodContext, TuningMethod
from luthier.registry import METHODS
from luthier.settings import Paper

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

# Tuners that train keys and values in front of every layer's own.
_KEYS_AND_VALUES = ("PREFIX_TUNING", "CARTRIDGE")
# Tuners that are no change of weights, and have no `merge_and_unload`.
_UNMERGED = {
    "ADAPTION_PROMPT",
    "CARTRIDGE",
    "CPT",
    "MULTITASK_PROMPT_TUNING",
    "P_TUNING",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
}
_OURS_TO_SET = ("peft_type", "task_type", "inference_mode", "auto_mapping", "peft_version")


@METHODS.register
class Peft(TuningMethod):
    """A tuner of the PEFT library."""

    name: Literal["peft"] = "peft"
    summary: ClassVar[str] = "any tuner of the PEFT library, by its name"
    paper: ClassVar[Paper | None] = None
    default_learning_rate: ClassVar[float] = 1e-3
    peft_type: str = Field(description="PEFT's name of the tuner: VERA, BOFT, LOHA, ...")
    settings: dict[str, Any] = Field(default_factory=dict, description="Fields of the tuner's PEFT configuration.")

    @property
    def supports_gradient_checkpointing(self) -> bool:  # type: ignore[override]
        """Checkpointed layers drop keys and values from outside in silence."""
        return self.peft_type.upper() not in _KEYS_AND_VALUES

    @property
    def merges(self) -> bool:  # type: ignore[override]
        """Whether the tuner changes weights of the model."""
        return self.peft_type.upper() not in _UNMERGED

    def reserved_tokens(self) -> int:
        if self.peft_type.upper() == "CPT":  # its prompt is these tokens, by default a single one
            given = self.settings.get("cpt_token_ids") or [0]
            return len(given) if isinstance(given, list) else 0
        tokens = self.settings.get("num_virtual_tokens")
        return tokens if isinstance(tokens, int) else 0  # what is no number is refused by the tuner

    def adapter_config(self) -> Mapping[str, Any]:
        return {**self.settings, "peft_type": self.peft_type.upper()}

    def apply(self, model: PreTrainedModel, context: MethodContext) -> nn.Module:
        """Wrap with the named tuner.

        Raises:
            RecipeError: there is no such tuner, it has no such setting, or a value does not fit.
            ModelError: PEFT refuses the model.
        """
        from luthier.methods.prompt_method import check_prompts_fit
        from luthier.methods.wrapping import wrap

        config = self._config(model, context)
        if config.is_prompt_learning:
            check_prompts_fit(model, context, f"peft ({self.peft_type})")
        wrapped = wrap(model, config, context)
        if not self.supports_gradient_checkpointing:
            model.supports_gradient_checkpointing = False
        return wrapped

    def _config(self, model: Any, context: MethodContext) -> Any:
        from luthier.methods.targets import check_targets

        config_cls = _config_class(self.peft_type)
        known = [f.name for f in fields(config_cls) if f.init and f.name not in _OURS_TO_SET]
        for name in self.settings:
            if name not in known:
                guess = nearest(name, known)
                raise RecipeError(
                    f"{self.peft_type.upper()} has no setting {name!r}",
                    fix=(f"did you mean {guess!r}? " if guess else "") + f"it has: {', '.join(sorted(known))}",
                )
        check_numbers(config_cls, self.settings)
        try:
            config = config_cls(task_type=context.task_type, **self.settings)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"{self.peft_type.upper()} does not take these settings: {error}") from error
        targets = getattr(config, "target_modules", None)
        if isinstance(targets, set | list | tuple):
            check_targets(model, sorted(targets))
        return config


def check_numbers(config_cls: type, settings: Mapping[str, Any]) -> None:
    """Refuse words and lists where a configuration says that it holds a number, which PEFT finds out deep in a model.

    Raises:
        RecipeError: names the setting.
    """
    hints = get_type_hints(config_cls)
    for name, value in settings.items():
        kinds = {hints[name], *get_args(hints[name])} - {NoneType}
        if not kinds & {int, float} or kinds - {int, float, hints[name]} or value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RecipeError(f"settings.{name} is {value!r}, and takes a number", fix="write a number")


def _config_class(peft_type: str) -> Any:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {str(kind.value): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if peft_type.upper() not in known:
        guess = nearest(peft_type.upper(), list(known))
        raise RecipeError(
            f"PEFT has no tuner called {peft_type!r}",
            fix=(f"did you mean {guess}? " if guess else "") + f"it has: {', '.join(sorted(known))}",
        )
    return known[peft_type.upper()]
