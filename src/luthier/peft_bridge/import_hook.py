"""After `import luthier`, PEFT loads our adapters as it loads its own; importing Luthier still imports nothing heavy.

PEFT looks an adapter's type up in a table, where ours stand only once the package that defines them is imported. So
three members of PEFT are wrapped when it is imported itself: when one of them meets a type that PEFT does not know,
the defining package is imported first. What they do is otherwise untouched. And its model for question answering
hands segments on, see `luthier.peft_bridge.question_segments`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from luthier.errors import ModelError
from luthier.peft_bridge.question_segments import with_segments


def watch_peft() -> None:
    """Wrap the members now where PEFT is imported already, and else as soon as it is."""
    for name, wrap in _WRAPPERS.items():
        if name in sys.modules:
            wrap(sys.modules[name])
        else:
            sys.meta_path.insert(0, _Watch(name))


class _Watch:
    """Finds one module with the other finders' help, and wraps its members after it has run; once."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                _WRAPPERS[fullname](module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _wrap_config(module: ModuleType) -> None:
    mixin = module.PeftConfigMixin

    def type_of(stock: Callable[..., str]) -> Callable[..., str]:
        @functools.wraps(stock)
        def get_peft_type(cls: Any, model_id: str, **options: Any) -> str:
            peft_type = stock(cls, model_id, **options)
            _learn(peft_type)
            return peft_type

        return get_peft_type

    def config_of(stock: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(stock)
        def from_peft_type(cls: Any, **settings: Any) -> Any:
            _learn(settings.get("peft_type"))
            return stock(cls, **settings)

        return from_peft_type

    mixin._get_peft_type = classmethod(type_of(mixin._get_peft_type.__func__))
    mixin.from_peft_type = classmethod(config_of(mixin.from_peft_type.__func__))


def _wrap_model(module: ModuleType) -> None:
    model_cls = module.PeftModel
    stock = model_cls.from_pretrained.__func__

    @functools.wraps(stock)
    def from_pretrained(cls: Any, model: Any, model_id: Any, *arguments: Any, **options: Any) -> Any:
        if _learn(_type_in(Path(str(model_id)) / (options.get("subfolder") or ""))):
            # What was imported may have wrapped this member in its turn.
            return model_cls.from_pretrained.__func__(cls, model, model_id, *arguments, **options)
        return stock(cls, model, model_id, *arguments, **options)

    model_cls.from_pretrained = classmethod(from_pretrained)
    answering = module.PeftModelForQuestionAnswering
    answering.forward = with_segments(answering.forward)


_WRAPPERS = {"peft.config": _wrap_config, "peft.peft_model": _wrap_model}


def _type_in(folder: Path) -> Any:
    """The type that a saved adapter's folder names; None where this is no such folder."""
    with suppress(OSError, ValueError, AttributeError):
        return json.loads((folder / "adapter_config.json").read_text(encoding="utf8")).get("peft_type")
    return None


def _learn(peft_type: Any) -> bool:
    """Make PEFT know a type of ours; whether it did not before. Types that nobody knows are left to PEFT."""
    known = importlib.import_module("peft.mapping").PEFT_TYPE_TO_CONFIG_MAPPING
    before = len(known)
    if isinstance(peft_type, str) and peft_type not in known:
        # By name, since this module is below all others.
        with suppress(ModelError):
            importlib.import_module("luthier.peft_bridge.adapter_types").ensure_adapter_type(peft_type, "")
    return len(known) > before
