"""Which code a key has in it: what a stage runs, and nothing else; documentation is no code."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import luthier
from luthier.storage.code import IGNORED, Sources, facts_of
from luthier.storage.provenance import version
from tests.processes import python

ROOT = Path(luthier.__file__).parent
LORA = {"luthier.tuning.stage", "luthier.tuning.stock.lora"}
ENCODER = {"luthier.representing.stage", "luthier.representing.settings"}
JUDGED = {"luthier.evaluation.stage", "luthier.evaluation.suites.task"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("copy") / "luthier"
    shutil.copytree(ROOT, place, ignore=shutil.ignore_patterns("__pycache__"))
    return place


@pytest.fixture
def changes(tree: Path) -> Callable[..., bool]:
    """Whether an edit of one file of the copied package changes the digest of what some modules run."""

    def changed(modules: set[str], file: str, text: str, instead: str | None = None) -> bool:
        path = tree / file
        before, whole = Sources({"luthier": tree}).code_digest(modules), path.read_text()
        edited = whole + text if instead is None else whole.replace(text, instead, 1)
        assert edited != whole
        path.write_text(edited)
        try:
            return Sources({"luthier": tree}).code_digest(modules) != before
        finally:
            path.write_text(whole)

    return changed


@pytest.mark.parametrize(
    ("modules", "file"),
    [
        (LORA, "tuning/stock/lora.py"),
        (LORA, "tuning/stage.py"),
        (LORA, "training/trainer.py"),
        (LORA, "training/supervised.py"),
        (LORA, "models/loading.py"),
        (LORA, "data/reading/readers.py"),
        (LORA | {"luthier.tuning.unipelt.settings"}, "tuning/unipelt/layer.py"),
        (LORA | {"luthier.robustness.baselines"}, "robustness/parts/ascent.py"),
        (ENCODER, "representing/run.py"),
        (ENCODER, "representing/tuner.py"),
        (ENCODER, "representing/exporting.py"),
        (JUDGED, "evaluation/suites/task.py"),
        (JUDGED, "evaluation/scoring.py"),
        (JUDGED, "report/intervals.py"),
        ({"luthier.pretraining.glue_table"}, "report/statistics.py"),
    ],
)
def test_an_edit_of_what_a_stage_runs_changes_its_key(modules: set[str], file: str, changes):
    assert changes(modules, file, "\nADDED = 1\n")


@pytest.mark.parametrize(
    ("modules", "file"),
    [
        (LORA, "cli/commands.py"),
        (LORA, "report/html.py"),
        (LORA, "compare/search.py"),
        (LORA, "_version.py"),
        (LORA, "tuning/stock/prefix.py"),
        (LORA, "tuning/unipelt/layer.py"),
        (LORA, "representing/run.py"),
        (LORA, "robustness/baselines.py"),
        (LORA, "prediction/texts.py"),
        (JUDGED, "evaluation/suites/calibration.py"),
        (JUDGED, "training/trainer.py"),
        (ENCODER, "robustness/suite.py"),
    ],
)
def test_an_edit_elsewhere_keeps_the_key(modules: set[str], file: str, changes):
    assert not changes(modules, file, "\nADDED = 1\n")


@pytest.mark.parametrize(
    ("library", "modules", "counts"),
    [
        ("torch", LORA, True),
        ("tokenizers", LORA, True),
        ("scikit-learn", LORA, False),
        ("scikit-learn", {"luthier.vocabulary.clustering"}, True),
        ("scipy", {"luthier.robustness.temperature"}, True),
        ("seqeval", JUDGED, True),
        ("lm-eval", JUDGED, False),
        ("lm-eval", {"luthier.evaluation.suites.standard_tasks"}, True),
        ("vllm", LORA, False),
        ("vllm", {"luthier.redteaming.stage"}, True),
        ("vllm", {"luthier.context.instruction.synthesis"}, True),
        ("ruff", LORA, False),
    ],
)
def test_another_version_of_a_library_that_computes_changes_the_key(monkeypatch, library, modules, counts):
    before = Sources().code_digest(modules)
    monkeypatch.setattr("luthier.storage.code.version", lambda name: "0" if name == library else version(name))
    assert (Sources().code_digest(modules) != before) == counts


def test_an_edit_of_documentation_keeps_the_key(changes):
    assert not changes(LORA, "training/trainer.py", "\n# Said once more.\n")
    assert not changes(LORA, "tuning/stage.py", '"""Trains a model', '"""Trains one model')
    assert not changes(LORA, "training/settings.py", "Passes over", "Passes through")
    assert changes(LORA, "tuning/stage.py", '"lora",', '"ia3",')


def test_imports_are_followed_wherever_they_stand():
    source = b"""
from typing import TYPE_CHECKING
import a.b
from . import near
from ..up import one
if TYPE_CHECKING:
    import never
else:
    import always
def f():
    from late import two
RUNS = "some.module:function"
register_adapter_type("X", "other.module")
import_folder("whole.folder")
TEXT = "not.a.module"
"""
    used = [tuple(use) for use in facts_of(source, "pkg.sub").uses]
    assert used == [
        ("a.b", ""),
        ("always", ""),
        ("late", "two"),
        ("other.module", ""),
        ("pkg.sub", "near"),
        ("pkg.up", "one"),
        ("some.module", ""),
        ("typing", "TYPE_CHECKING"),
    ]


def test_a_plugin_counts_with_its_own_package_and_the_files_beside_it(tmp_path: Path):
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text("def f():\n    from mine import helper\n    import beside\n    import numpy\n")
    for path in (package / "helper.py", package / "unused.py", tmp_path / "beside.py"):
        path.write_text("X = 1\n")

    def digest() -> str:
        return Sources({"mine": package}).code_digest({"mine.method"})

    before = digest()
    assert set(Sources({"mine": package}).closure({"mine.method"})) == {"mine", "mine.method", "mine.helper", "beside"}
    (package / "unused.py").write_text("X = 2\n")
    assert digest() == before
    for path in (package / "helper.py", tmp_path / "beside.py", package / "method.py"):
        path.write_text(path.read_text() + "Y = 2\n")
        assert digest() != before
        before = digest()


@pytest.mark.parametrize("package", [True, False], ids=["package", "plain folder"])
@pytest.mark.parametrize("use", ["from near import part", "import near.part", "from near.part import X"])
def test_the_modules_of_a_folder_beside_a_plugin_count(tmp_path: Path, monkeypatch, use: str, package: bool):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine.py").write_text(f"import datasets\n{use}\n")
    for folder in (tmp_path / "near", tmp_path / "datasets"):
        folder.mkdir()
        (folder / "part.py").write_text("X = 1\n")
    if package:
        (tmp_path / "near" / "__init__.py").write_text("")
    found = set(Sources({"mine": tmp_path / "mine.py"}).closure({"mine"}))
    assert found == {"mine", "near.part"} | ({"near"} if package else set())


def test_a_known_file_is_neither_read_nor_parsed_again(tree: Path, monkeypatch):
    before = Sources({"luthier": tree}).code_digest(LORA)

    def refuse(path: Path, *_: str):
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr("luthier.storage.code.sha256_of", refuse)
    monkeypatch.setattr("luthier.storage.code.facts_of", refuse)
    assert Sources({"luthier": tree}).code_digest(LORA) == before


RUN = """
import json, sys
import luthier
from luthier.recipe.loading import load_recipe
recipe = load_recipe("recipe.yaml")
before = set(sys.modules)
luthier.run(recipe, output="runs")
print(json.dumps(sorted(m for m in set(sys.modules) - before if m.startswith("luthier"))))
"""


def test_every_module_that_a_run_loads_is_in_the_key_of_a_stage(workplace):
    """What loading the recipe imports are the settings of all parts, of which those in use count by themselves."""
    import json

    from luthier.recipe.loading import load_recipe
    from luthier.runs.keys import stage_modules
    from luthier.stages.base import StageInputs

    workplace.tune.update(method="unipelt", epochs=1, objective="r3f")
    recipe = load_recipe(workplace.write())
    done = python("-c", RUN)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "luthier.tuning.unipelt.layer" in loaded
    keyed: set[str] = set()
    for stage in recipe.stage_list():
        keyed |= set(Sources().closure(stage_modules(stage, StageInputs({}, 0))))
    runs_it = ("luthier.api", "luthier.runs", "luthier.recipe", *IGNORED)
    assert {name for name in loaded - keyed if not name.startswith(runs_it)} == set()
