"""Nothing slow before a small refusal: every verb says what is missing before torch is imported."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Workplace

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "datasets", "peft", "sklearn", "scipy", "matplotlib", "pandas")
SCRIPT = """
import json, sys
from luthier.cli import main
try:
    code = main({words!r})
except SystemExit as stop:
    code = stop.code
open("imported.json", "w").write(json.dumps(sorted(sys.modules)))
sys.exit(code)
"""


def asked(place: Path, *words: str) -> tuple[int, str, set[str]]:
    """Exit code, standard error and imported modules of one command."""
    command = [sys.executable, "-c", SCRIPT.format(words=list(words))]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr, set(json.loads((place / "imported.json").read_text()))


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model) -> Path:
    """A folder with a finished run of LoRA, files of other columns, and recipes that lack something."""
    folder = tmp_path_factory.mktemp("refusals")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        workplace = Workplace(folder, tiny_model)
        workplace.tune.update(method="lora", max_steps=1)
        assert workplace.run("--no-report") == 0
        workplace.recipe["stages"][0]["tune"]["report_to"] = ["mlflow"]
        shutil.copy(workplace.write(), "tracked.yaml")
        del workplace.recipe["stages"][0]["tune"]["report_to"]
        workplace.recipe["model"] = "runs/smal"
        shutil.copy(workplace.write(), "lost.yaml")
        workplace.recipe["model"] = "./model"
        workplace.write()
    (folder / "wrong.tsv").write_text("txt\na\n")
    (folder / "lines.txt").write_text("a film\n")
    (folder / "empty.jsonl").touch()
    return folder


LINES = [
    ("run gone.yaml", 2, "gone.yaml: there is no such recipe"),
    ("plan recpie.yaml", 2, "did you mean recipe.yaml?"),
    ("compare recpie.yaml --over seed=1,2", 2, "did you mean recipe.yaml?"),
    ("run tracked.yaml", 2, "report_to: needs the extra mlflow, which is not installed"),
    ("plan tracked.yaml", 2, "pip install 'luthier[mlflow]'"),
    ("compare tracked.yaml --over seed=1,2", 2, "needs the extra mlflow"),
    ("run lost.yaml", 4, "model: runs/smal: no such model directory"),
    ("plan lost.yaml", 4, "did you mean runs/small?"),
    ("run recipe.yaml --set stages.0.tune.data.train=trian.tsv", 3, "did you mean train.tsv?"),
    (
        "plan recipe.yaml --set stages.1.evaluate.data.test=wrong.tsv --set stages.1.evaluate.data.text=t",
        3,
        "there is no column 't'",
    ),
    ("predict runs/smal --text a", 4, "did you mean runs/small?"),
    ("predict runs/small --file wrong.tsv", 3, "there is no column 'text'"),
    ("predict runs/small --file empty.jsonl", 3, "empty.jsonl: the file is empty"),
    ("predict runs/small --file trian.tsv", 3, "did you mean train.tsv?"),
    ("predict runs/small --text a --pair b", 3, "the model reads one text a row"),
    ("predict runs/small --text a --allow all", 2, "invalid choice"),
    ("predict runs/small --text a --output runs", 6, "runs: can't write here: Is a directory"),
    ("predict runs/small --text a --output train.tsv/new.jsonl", 6, "can't write here: Not a directory"),
    ("predict runs/small --file train.tsv --output train.tsv", 6, "this is the file that is read, which would be lost"),
    ("predict runs/small --file train.tsv --output p.csv", 2, "JSON lines are written\n  fix: name the file .jsonl"),
    ("extract runs/small --file train.tsv --output ./train.tsv", 6, "this is the file that is read"),
    ("extract runs/small --text a --view runs", 6, "can't write here: Is a directory"),
    ("embed runs/small --text a --column b --output v.npy", 2, "--column is a column of --file, which was not given"),
    ("embed runs/small --text a --output runs/small/recipe.yaml/v.npy", 6, "can't write here: Not a directory"),
    ("embed runs/small --text a --output v.npy", 4, "there is no encoder here"),
    ("embed runs/small --text a --output v.csv", 3, "vectors are written as .npy or .parquet"),
    ("embed runs/small --file wrong.tsv --output v.npy", 3, "there is no column 'text'"),
    ("embed runs/small --file gone.tsv --output v.npy", 3, "gone.tsv: there is no such file"),
    ("export runs/smal --to p.safetensors", 4, "did you mean runs/small?"),
    ("export runs/small --to p.safetensors", 4, "lora can't be exported as a prompt or prefix"),
    ("export runs/small --to train.tsv", 6, "the file is there already"),
    ("report model", 6, "this is no run directory"),
    ("compare runs/small runs/gone", 2, "there is no such folder"),
    ("init --data trian.tsv new.yaml", 3, "did you mean train.tsv?"),
    ("explain loar", 2, "did you mean 'lora'"),
    ("validate tracked.yaml", 2, "needs the extra mlflow"),
]


@pytest.mark.parametrize(("words", "code", "said"), LINES, ids=[line[0] for line in LINES])
def test_a_small_refusal_comes_first(place, words, code, said):
    found, told, imported = asked(place, *words.split())
    assert (found, said in told) == (code, True), told
    assert "Traceback" not in told
    assert not imported.intersection(HEAVY)


def test_a_file_of_lines_is_told_what_the_model_reads(place):
    card = place / "runs/small/00-tune/model/luthier.json"
    told = asked(place, "predict", "runs/small", "--file", "lines.txt")
    assert told[0] == 0, told[1]
    assert json.loads(card.read_text())["schema"] == "single_sentence"


NOT_FOR_A_CHECK = {
    *HEAVY,
    "numpy",
    "pyarrow",
    "rich",
    "filelock",
    "xxhash",
    "jinja2",
    "huggingface_hub",
    "luthier.report.plots",
    "luthier.data.batches.encoders",
    "luthier.data.batches.label_text",
    "luthier.api",
    "luthier.runs.runner",
}
CHECKS = [["validate", "recipe.yaml"], ["list"], ["explain", "tune"]]


@pytest.mark.parametrize("words", CHECKS, ids=lambda words: words[0])
def test_a_check_imports_no_more_than_it_needs(place, words):
    code, told, imported = asked(place, *words)
    assert code == 0, told
    assert not imported & NOT_FOR_A_CHECK


SHIPPED = ["extraction", "lengthen", "masked_lm", "redteam", "represent", "robust_sentiment", "vocabulary"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A folder that sees the checkout's recipes and what the demo makes."""
    subprocess.run([sys.executable, str(ROOT / "demo" / "prepare_relations.py")], check=True)
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("recipes", ".cache"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.mark.parametrize("name", SHIPPED)
def test_a_check_of_a_shipped_recipe_imports_no_more_than_it_needs(checkout, name):
    _, _, imported = asked(checkout, "validate", f"recipes/local/{name}.yaml")
    assert "luthier.recipe.checking" in imported
    assert not imported & NOT_FOR_A_CHECK


@pytest.mark.parametrize("words", CHECKS, ids=lambda words: words[0])
def test_a_check_costs_little_beside_the_libraries_that_it_needs(place, words):
    command = ["-m", "luthier.cli", *words]
    libraries = processor_time(place, ["-c", "import argparse, logging, pydantic, ruamel.yaml, importlib.metadata"])
    assert processor_time(place, command) < 6 * libraries


def processor_time(place: Path, arguments: list[str]) -> float:
    """The least of several runs, in seconds, with compiled modules kept as every installation keeps them."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = kept | {"PYTHONPYCACHEPREFIX": str(place / "compiled")}
    least = float("inf")
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], cwd=place, env=environment, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return least
