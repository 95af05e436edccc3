"""What users import, and what the pages tell them to import, is there."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = {
    "luthier": "run load_recipe load predict embed __version__",
    "luthier.cli": "main",
    "luthier.prediction": "predict_texts predict_file",
    "luthier.report": "recommend",
    "luthier.errors": "LuthierError RecipeError DataError ModelError TrainingError WorkspaceError",
    "luthier.data": "DataSettings load_data encode make_collator",
    "luthier.registry": "METHODS",
    "luthier.models.artifacts": "load",
    "luthier.tuning": "ResidualPromptConfig InstancePromptConfig UniPELTConfig BottleneckConfig TaskPrefixConfig "
    "SharedEncoder fold_prompt export_prompt load_trainable_prompt register",
    "luthier.methods.base": "MethodContext TuningMethod",
    "luthier.peft_bridge.registration": "register_tuner",
    "luthier.robustness": "RoastTrainer RoastMixin ObjectiveMixin RoastSettings RobustnessReport EvaluationSet Scorer "
    "expected_calibration_error anomaly_auroc aggregate_improvement average_rank fit_temperature fold_temperature",
    "luthier.robustness.attacks": "EmbeddingNeighbours MaskedWords WordSubstitution",
    "luthier.robustness.baselines": "R3fSettings",
}


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, all_ in NAMES.items() for name in all_.split()]
)
def test_a_public_name_is_there(module: str, name: str) -> None:
    assert getattr(importlib.import_module(module), name) is not None


def imports_of(page: Path) -> list[str]:
    """The import statements of a page's Python examples."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf8"), flags=re.S)
    nodes = [node for block in blocks for node in ast.walk(ast.parse(block))]
    return sorted({ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)})


@pytest.mark.parametrize("statement", sorted({line for page in PAGES for line in imports_of(page)}))
def test_an_import_of_the_pages_works(statement: str) -> None:
    exec(compile(statement, "page", "exec"), {})


def dotted_names(page: Path) -> set[str]:
    """Names like `luthier.embed` in a page's text."""
    found = re.findall(r"`(luthier(?:\.[A-Za-z_]+)+)", page.read_text(encoding="utf8"))
    return {name for name in found if not name.endswith((".json", ".plugins"))}


@pytest.mark.parametrize("dotted", sorted({name for page in PAGES for name in dotted_names(page)}))
def test_a_name_that_the_pages_tell_of_is_there(dotted: str) -> None:
    parent, _, name = dotted.rpartition(".")
    module = importlib.import_module(parent)
    assert hasattr(module, name) or importlib.import_module(dotted)
