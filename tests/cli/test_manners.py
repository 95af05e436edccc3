"""What the command line says to typos, missing folders and stops, before anything heavy is imported."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.cli.arguments import main
from luthier.cli.starter import starter_recipe
from luthier.registry import METHODS
from luthier.report.results import read_run
from tests.processes import python


def test_an_unknown_verb_is_answered_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["rnu", "recipe.yaml"])
    assert caught.value.code == 2
    assert "there is no command 'rnu'; did you mean 'run'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["xyzzy"])
    assert "known: init, validate, plan, run," in capsys.readouterr().err


@pytest.mark.parametrize("module", ["luthier", "luthier.cli"])
def test_runs_as_a_module(module):
    command = [sys.executable, "-m", module, "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("luthier ")


def test_a_file_of_the_folder_takes_the_place_of_no_module(workplace):
    """As the command does, which has its own folder first on the path and not the working one."""
    workplace.write()
    (workplace.folder / "statistics.py").write_text("raise RuntimeError('this ran')\n")
    (workplace.folder / "my_plugin.py").write_text("print('this is imported')\n")
    program = "import sys; from luthier.cli import main; code = main(sys.argv[1:]); import statistics; sys.exit(code)"
    command = [sys.executable, "-P", "-c", program, "validate", "--set", "plugins=[my_plugin]"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=workplace.folder, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "this is imported" in done.stdout


@pytest.mark.parametrize("exit_code", [0, 1])
def test_a_plugin_that_ends_the_program_is_an_error_of_the_recipe(workplace, monkeypatch, capsys, exit_code):
    (workplace.folder / f"my_script_{exit_code}.py").write_text(f"import sys\nsys.exit({exit_code})\n")
    monkeypatch.syspath_prepend(str(workplace.folder))
    workplace.recipe["plugins"] = [f"my_script_{exit_code}"]
    assert main(["validate", workplace.write()]) == 2
    told = f"my_script_{exit_code} can't be imported: ImportError: it ends the program with sys.exit({exit_code})"
    assert told in capsys.readouterr().err


def test_a_folder_that_is_gone_needs_no_traceback(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["list"]) == 0
    assert "lora" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["run", "plan", "validate"])
def test_a_recipe_that_is_not_named_is_that_of_the_folder(workplace, capsys, verb):
    assert main([verb]) == 2
    assert "no recipe is named, and there is no recipe.yaml here" in capsys.readouterr().err
    workplace.tune["epoch"] = 3
    workplace.write()
    assert main([verb]) == 2
    assert "unknown key 'epoch'" in capsys.readouterr().err
    del workplace.tune["epoch"]
    workplace.write()
    assert main([verb, "--set", "seed=x"]) == 2
    assert "seed" in capsys.readouterr().err


def test_the_recipe_of_the_folder_is_valid(workplace, capsys):
    workplace.write()
    assert main(["validate"]) == 0
    assert "recipe.yaml is valid: tune → evaluate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("validate", "recipe.yaml is valid: tune \\u2192 evaluate"),
        ("init käse→.yaml", "next: luthier validate 'käse\\u2192.yaml'"),
    ],
)
def test_output_in_an_encoding_without_arrows_has_escapes(workplace, monkeypatch, command, said):
    workplace.write()
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding="cp1252"))
    assert main(command.split()) == 0
    assert said in printed.getvalue().decode("cp1252")


def test_the_recipe_of_the_folder_is_valid_for_python_callers_that_keep_what_is_printed(workplace):
    workplace.write()
    with contextlib.redirect_stdout(io.StringIO()) as kept:
        assert main(["validate"]) == 0
    assert "tune → evaluate" in kept.getvalue()


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("predict smal --text a", 4),
        ("predict runs/smal --text a", 4),
        ("embed smal --text a --output v.npy", 4),
        ("export smal --to p.safetensors", 4),
        ("report smal", 6),
        ("compare smal runs/other", 2),
    ],
)
def test_a_run_that_is_not_there_is_said_without_torch_and_the_nearest_is_named(tmp_path: Path, command, code):
    for name in ("small", "other"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    asked = f"import sys; from luthier.cli import main; code = main({command.split()!r})"
    script = f"{asked}; print('torch' in sys.modules); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "False\n"), done.stderr
    assert "smal: there is no such folder" in done.stderr
    assert "did you mean runs/small? otherwise " in done.stderr


def test_a_folder_near_nothing_says_what_to_name(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "xyzzy"]) == 6
    assert "xyzzy: there is no such folder\n  fix: name a folder that `luthier run` made" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict rows.csv --text a", "report rows.csv", "export rows.csv --to p"])
def test_a_file_in_place_of_a_run_is_said(tmp_path: Path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("text\na\n")
    assert main(command.split()) in (4, 6)
    assert "rows.csv: this is a file and not a folder\n  fix: name a" in capsys.readouterr().err


def test_a_stop_while_luthier_starts_is_no_traceback(tmp_path: Path):
    """Ctrl-C before the verb's code is imported."""
    (tmp_path / "stopping.py").write_text(
        "import signal, sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'luthier.cli.commands': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Stop())\n"
        "from luthier.cli.arguments import main\n"
        "sys.exit(main(['schema']))\n"
    )
    done = subprocess.run([sys.executable, "stopping.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert done.stderr.startswith("luthier: stopped at once\n  fix: ")


def test_what_two_stages_warn_of_is_said_once(workplace):
    """Both stages read the same data, of which few are cut for validation."""
    del workplace.tune["data"]["validation"]
    workplace.tune.update({"data": workplace.tune["data"] | {"validation_fraction": 0.2}, "epochs": 1})
    workplace.write()
    done = python("-m", "luthier.cli", "run", "recipe.yaml", "--quiet", cwd=workplace.folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("rows are cut for validation") == 1


def test_a_stop_outside_of_training_says_what_is_kept(workplace, monkeypatch, capsys):
    (workplace.folder / "stopping.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    monkeypatch.syspath_prepend(str(workplace.folder))
    workplace.recipe["plugins"] = ["stopping"]
    assert workplace.run() == 130
    said = capsys.readouterr().err
    assert said.startswith("luthier: stopped at once\n  fix: run the same command again")
    assert "checkpoint where there is one" in said


def test_a_schema_takes_the_place_of_no_pipe(tmp_path: Path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert main(["schema", "--output", str(tmp_path / "pipe")]) == 6
    assert "this is no ordinary file" in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()


class OutOfMemoryError(RuntimeError):
    """As torch's is called."""


@pytest.mark.parametrize("error", [MemoryError, OutOfMemoryError])
def test_the_fix_for_full_memory_is_one_of_the_verb(workplace, monkeypatch, capsys, error):
    def full(*_args, **_options):
        raise error

    monkeypatch.setattr("luthier.api.run", full)
    assert workplace.run() == 1
    assert "fix: lower batch_size" in capsys.readouterr().err
    monkeypatch.setattr("luthier.prediction.texts.predict_texts", full)
    assert main(["predict", "runs/none", "--text", "a", "--batch-size", "32"]) == 1
    assert "fix: lower --batch-size, which is 32" in capsys.readouterr().err


def test_a_stop_of_what_keeps_nothing_promises_nothing(monkeypatch, capsys):
    def stop(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("luthier.prediction.texts.predict_texts", stop)
    assert main(["predict", "runs/none", "--text", "a"]) == 130
    assert "run the same command again, which begins anew" in capsys.readouterr().err


BREAKING = """
import signal
from typing import Literal
from luthier.registry import METHODS
from luthier.methods import TuningMethod

@METHODS.register
class Breaking(TuningMethod):
    name: Literal["breaking"] = "breaking"
    how: str = "fails"

    def apply(self, model, context):
        if self.how == "fails":
            raise ArithmeticError("seven is no even number")
        signal.raise_signal(signal.SIGINT)
"""


@pytest.fixture
def breaking(workplace, monkeypatch) -> Iterator[None]:
    """A method that fails as a defect does, or is interrupted."""
    (workplace.folder / "breaking.py").write_text(BREAKING)
    monkeypatch.syspath_prepend(str(workplace.folder))
    workplace.recipe["plugins"] = ["breaking"]
    yield
    METHODS._entries.pop("breaking", None)
    sys.modules.pop("breaking", None)


@pytest.mark.usefixtures("breaking")
def test_a_run_that_failed_is_called_failed_and_one_that_was_stopped_unfinished(workplace):
    for how, code, status in (("fails", 1, "failed"), ("stops", 130, "unfinished")):
        workplace.tune["method"] = {"name": "breaking", "how": how}
        assert workplace.run() == code
        (cell,) = read_run(workplace.run_folder).cells
        assert cell.status == status
        assert (cell.error == "unexpected ArithmeticError: seven is no even number") == (status == "failed")
    workplace.recipe |= {"name": "compared", "compare": {"over": {"seed": [1]}}}
    workplace.ran_as = "compared"
    for how, code, status in (("fails", 1, "failed"), ("stops", 130, "unfinished")):
        workplace.tune["method"] = {"name": "breaking", "how": how}
        assert workplace.run() == code
        assert [cell.status for cell in read_run(workplace.run_folder).cells] == [status]


def test_the_starter_recipe_names_methods_that_need_no_settings():
    listed = starter_recipe().text.partition("One of: ")[2].partition(".\n")[0].split(", ")
    assert {"lora", "full", "unipelt"} <= set(listed)
    assert "peft" not in listed
