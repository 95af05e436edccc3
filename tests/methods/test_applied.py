"""What every method has to do, whoever wrote it, and when plugins are imported."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from luthier import registry
from luthier.errors import ModelError
from luthier.methods.base import MethodContext, TuningMethod


class Forgetful(TuningMethod):
    name: str = "forgetful"

    def apply(self, model: Any, context: MethodContext) -> Any:
        model.requires_grad_(False)


def test_a_method_that_returns_no_model_is_named():
    with pytest.raises(ModelError, match=r"Forgetful.apply\(\) gave no model but NoneType"):
        Forgetful().applied(nn.Linear(1, 1), MethodContext("SEQ_CLS"))


def test_what_comes_with_luthier_is_registered_before_a_plugin_is(tmp_path, monkeypatch):
    (tmp_path / "hasty_plugin.py").write_text("from luthier import registry\nraise KeyError(registry.discover())\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    calls: list[str] = []
    monkeypatch.setattr(registry, "discover", lambda: calls.append("call") or len(calls))
    assert registry.import_plugins(["hasty_plugin"]) == {"hasty_plugin": "KeyError: 2"}
