"""Every stage through the same faults: planned, run, run again, changed, killed, chained, without space, with hostile
names, with NaN; then shown and asked. `cases.py` has the rows."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from luthier.cli.arguments import main
from luthier.errors import ModelError, TrainingError, WorkspaceError
from luthier.models.card import read_card
from luthier.prediction.asking import next_command
from luthier.registry import STAGES
from luthier.report.results import read_run
from luthier.stages.artifacts import KINDS
from tests.cli.conftest import BAD_WORDS, GOOD_WORDS, PLAIN_WORDS, sentences, tiny_model
from tests.cli.test_full_disk import largest_file
from tests.evaluation.text_models import model_of, tokenizer_of
from tests.processes import python
from tests.stages.cases import CASES, Block, Case, Sources

__all__ = ["tiny_model"]
ROOT = Path(__file__).parents[2]
SPLITS = {"train": 32, "validation": 16, "test": 16}
HOSTILE = "</script><b>\"'&\n{{7*7}}é🎻"
each_stage = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.fixture(scope="module")
def bases(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where the base models lie."""
    folder = tmp_path_factory.mktemp("decoder") / "model"
    tokenizer = tokenizer_of([*GOOD_WORDS, *BAD_WORDS, *PLAIN_WORDS], "llama")
    tokenizer.save_pretrained(folder)
    model_of("llama", len(tokenizer)).save_pretrained(folder)
    return {"encoder": tiny_model, "decoder": folder}


class Place:
    """A folder with data, a row's recipe, and the command line run on it."""

    def __init__(self, folder: Path, base: Path, name: str = "run", hostile: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name = folder, name
        self.sources = write_data(folder, hostile=hostile)
        self.recipe: dict[str, Any] = {"name": name, "model": str(base), "stages": []}

    def stages(self, case: Case, *, chained: bool = True, **changes: Any) -> Place:
        """Takes the stages of a row into the recipe.

        Args:
            chained: whether those that can follow come, too.
            changes: of the row's own stage.
        """
        stages = [*case.before(self.sources), case.block(self.sources, **changes)]
        after = [case.after(self.sources)] if chained and case.after else []
        self.recipe["stages"] = stages + after
        return self

    def write(self) -> str:
        """The recipe's file."""
        path = self.folder / "recipe.yaml"
        path.write_text(json.dumps(self.recipe, ensure_ascii=False), encoding="utf8")
        return str(path)

    @property
    def output(self) -> list[str]:
        return ["--output", str(self.folder / "runs")]

    @property
    def run_folder(self) -> Path:
        return self.folder / "runs" / self.name

    def run(self, *, report: bool = False) -> int:
        more = [] if report else ["--no-report"]
        return main(["run", self.write(), *self.output, "--quiet", *more])


def write_data(folder: Path, *, hostile: bool) -> Sources:
    """Tables of labelled texts and files of plain text; hostile ones have odd names for all that has a name."""
    columns = (
        {"text": f"text {HOSTILE}", "label": f"label {HOSTILE}"} if hostile else {"text": "text", "label": "label"}
    )
    labelled: Block = dict(columns) if hostile else {}
    text: Block = {}
    for seed, (split, count) in enumerate(SPLITS.items()):
        rows = sentences(count, seed)
        table, plain = folder / f"{split}.csv", folder / f"{split}.txt"
        with table.open("w", newline="", encoding="utf8") as file:
            writer = csv.writer(file)
            writer.writerow(columns.values())
            writer.writerows((words, f"{label} {HOSTILE}" if hostile else label) for words, label in rows)
        plain.write_text("".join(f"{words}\n" for words, _ in rows))
        labelled[split], text[split] = str(table), str(plain)
    return Sources({**labelled, "task": "single_sentence"}, text)


@pytest.fixture
def place(tmp_path: Path, bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Place]:
    """Makes the place of a row, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    return lambda case, **more: Place(tmp_path / "work", bases[case.on], **more)


def stage_folder(run: Path, case: Case, sources: Sources) -> Path:
    return run / f"{len(case.before(sources)):02d}-{case.stage}"


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_every_registered_stage_has_a_row():
    known = {name for name in STAGES.names() if STAGES.get(name).__module__.startswith("luthier.")}
    assert known == {case.stage for case in CASES}


@each_stage
def test_it_is_planned_run_kept_and_run_again_when_it_changes(case: Case, place, capsys):
    at = place(case).stages(case)
    recipe = at.write()
    assert main(["validate", recipe]) == 0
    before = times(at.folder)
    assert main(["plan", recipe, *at.output]) == 0
    planned = capsys.readouterr().out
    parts = planned.split("  to do")[1:]
    assert len(parts) == len(at.recipe["stages"])
    assert all(part.count("\n  ") >= 1 for part in parts), planned
    assert times(at.folder) == before

    assert at.run(report=True) == 0
    own = stage_folder(at.run_folder, case, at.sources)
    noted = json.loads((own / "key.json").read_text())
    assert noted.get("gives", {}) == dict(case.gives)
    assert all((own / name).is_dir() for name in case.gives)
    page = (at.run_folder / "report.html").read_text()
    assert any(f">{name}<" in page for name in (own.name, case.stage, case.stage.capitalize()))

    stages = [path for path in at.run_folder.iterdir() if path.is_dir()]
    made = {path.name: times(path) for path in stages}
    assert at.run() == 0
    assert {path.name: times(path) for path in stages} == made

    at.stages(case, **case.change)
    assert at.run() == 0
    assert json.loads((own / "key.json").read_text())["key"] != noted["key"]
    aside = [path.name for path in (at.run_folder / "replaced").iterdir()]
    assert f"{own.name}-{noted['key'][:8]}" in aside
    unchanged = [f"{number:02d}-{next(iter(b))}" for number, b in enumerate(case.before(at.sources))]
    assert {name: times(at.run_folder / name) for name in unchanged} == {name: made[name] for name in unchanged}


@each_stage
def test_another_run_takes_what_it_gives_by_path_and_it_is_asked(case: Case, place, capsys):
    at = place(case).stages(case, chained=False)
    assert at.run() == 0
    own = stage_folder(at.run_folder, case, at.sources)
    for name, kind in case.gives.items():
        assert not KINDS[kind].is_model or bool(read_card(own / name).base) == case.reads_model
        following = case.after(at.sources) if case.after else {"evaluate": {"data": at.sources.labelled}}
        at.recipe.update(name="other", stages=[following])
        if case.port == "model":
            at.recipe["model"] = str(own / name)
        else:
            next(iter(following.values()))[case.port] = str(own / name)
        if "data" in type_of(following).model_fields and "data" not in next(iter(following.values())):
            next(iter(following.values()))["data"] = at.sources.labelled
        capsys.readouterr()
        assert main(["validate", at.write()]) == (0 if case.after else 2), kind
        if case.after is None:
            assert f"gets {kind}" in capsys.readouterr().err
        else:
            assert main(["run", at.write(), *at.output, "--quiet", "--no-report"]) == 0
    capsys.readouterr()
    check_answer(case, at.run_folder, capsys)


def type_of(block: Block) -> Any:
    """The class of a stage as a recipe has it."""
    return STAGES.get(next(iter(block)))


def check_answer(case: Case, asked: Path, capsys: Any) -> None:
    """Ask what a stage gave; what can't be asked says so, and no command to ask it is told."""
    assert (next_command(asked) is not None) == bool(case.answers)
    code = main(["predict", str(asked), "--text", "a fine film"])
    told = capsys.readouterr()
    if case.answers:
        assert code == 0
        assert case.answers in json.loads(told.out)
    else:
        assert code == ModelError.exit_code
        assert "fix:" in told.err


# Rows that one process runs, undisturbed and killed; each share has a test's time limit.
KILLED_TOGETHER = 6


def share_of(case: Case) -> list[Case]:
    """The rows that a row is run together with."""
    first = CASES.index(case) // KILLED_TOGETHER * KILLED_TOGETHER
    return CASES[first : first + KILLED_TOGETHER]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, bases: dict[str, Path]) -> Callable[[Case], Any]:
    """Row -> its recipe, which ran undisturbed and killed, and how both ended."""
    known: dict[str, tuple[Path, dict[str, Any]]] = {}

    def outcome_of(case: Case) -> tuple[Path, dict[str, Any]]:
        if case.name not in known:
            known.update(killed_together(share_of(case), tmp_path_factory.mktemp("killed"), bases))
        return known[case.name]

    return outcome_of


def killed_together(
    cases: Sequence[Case], folder: Path, bases: dict[str, Path]
) -> dict[str, tuple[Path, dict[str, Any]]]:
    recipes = {case.name: Path(Place(folder / case.name, bases[case.on]).stages(case).write()) for case in cases}
    done = python(
        "-m",
        "tests.stages.killed_runs",
        json.dumps([str(path) for path in recipes.values()]),
        # A process that has used an accelerator can't be forked.
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    return {name: (path, told[str(path)]) for name, path in recipes.items()}


@pytest.mark.parametrize(
    "case",
    # What is run together is asked for by one worker.
    [pytest.param(c, id=c.name, marks=pytest.mark.xdist_group(f"killed with {share_of(c)[0].name}")) for c in CASES],
)
def test_killed_and_continued_equals_never_disturbed(case: Case, killed):
    recipe, outcome = killed(case)
    assert outcome["straight"] == outcome["code"] == 0
    assert outcome["died"] >= 1
    straight, other = (Path(f"{recipe}.{how}") / "run" for how in ("straight", "killed"))
    names = [path.parent.name for path in straight.glob("*/metrics.json")]
    assert names
    for name in names:
        first, second = (json.loads((run / name / "metrics.json").read_text()) for run in (straight, other))
        assert (first["scores"], first["intervals"]) == (second["scores"], second["intervals"]), name
    saved = [path.relative_to(straight) for path in straight.glob("*/*/**/*.safetensors")]
    assert bool(saved) or not case.gives
    for path in saved:
        assert (straight / path).read_bytes() == (other / path).read_bytes(), path


@each_stage
@pytest.mark.parametrize("size", [600, 20_000])
def test_without_space_it_says_so_and_goes_on_when_there_is_some(case: Case, size: int, place, capsys):
    """The stages before it have had space; the one in question has not."""
    at = place(case)
    at.recipe["stages"] = case.before(at.sources)
    if at.recipe["stages"]:
        assert at.run() == 0
    at.stages(case, chained=False)
    recipe = at.write()
    with largest_file(size):
        code = main(["run", recipe, *at.output, "--quiet", "--no-report"])
    own = stage_folder(at.run_folder, case, at.sources)
    told = capsys.readouterr().err
    if code == 0:
        assert size > 600
        assert max(path.stat().st_size for path in own.rglob("*")) <= size
        return
    assert code == WorkspaceError.exit_code, told
    # What stands for a full disk here is a limit on the size of files, which some writers can tell apart.
    assert re.search("fix: (free some space|raise the limit on a file's size)", told)
    assert not (own / "done.json").exists()
    assert at.run() == 0
    assert (own / "done.json").exists()


@each_stage
def test_hostile_names_are_shown_and_do_nothing(case: Case, tmp_path, bases, monkeypatch, capsys):
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "a folder <b>'&\" 🎻"
    at = Place(folder, bases[case.on], name="it's & a {{run}} 🎻", hostile=True).stages(case)
    assert at.run(report=True) == 0, capsys.readouterr().err
    page = (at.run_folder / "report.html").read_text()
    assert "<b>" not in page.replace("<b>Luthier</b>", "")
    assert "</script>" not in page
    assert "it&#39;s &amp; a {{run}}" in page
    run = read_run(at.run_folder)
    assert [cell.status for cell in run.cells] == ["finished"]
    assert not run.problems
    capsys.readouterr()
    asked = stage_folder(at.run_folder, case, at.sources) if case.gives else at.run_folder
    check_answer(case, asked, capsys)


@pytest.mark.parametrize("case", [case for case in CASES if case.reads_model], ids=str)
def test_nan_is_told_and_leaves_nothing_that_counts_as_done(case: Case, place, bases, tmp_path, capsys):
    broken = tmp_path / "broken"
    at = place(case).stages(case, chained=False)
    if case.before(at.sources):
        at.recipe["stages"] = case.before(at.sources)
        assert at.run() == 0
        shutil.copytree(at.run_folder / f"{len(at.recipe['stages']) - 1:02d}-tune" / "model", broken)
    else:
        shutil.copytree(bases[case.on], broken)
    poison(broken)
    at.recipe.update(name="broken", model=str(broken), stages=[case.block(at.sources)])
    code = main(["run", at.write(), *at.output, "--quiet", "--no-report"])
    told = capsys.readouterr().err
    assert code in (ModelError.exit_code, TrainingError.exit_code), told
    assert "fix:" in told
    assert not list((at.folder / "runs" / "broken").glob("*/done.json"))


def poison(folder: Path) -> None:
    """Make the weights of a saved model NaN, as a run that went wrong elsewhere leaves them."""
    from luthier.models.manifest import write_manifest

    for path in folder.glob("*.safetensors"):
        save_file({name: tensor * float("nan") for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    if (folder / "manifest.json").exists():
        write_manifest(folder)
