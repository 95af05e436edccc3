"""Secrets, the append-only log, files, progress."""

import json
from pathlib import Path

import pytest

from luthier import progress, secrets
from luthier.errors import DataError, InterruptedRunError, RecipeError, WorkspaceError
from luthier.progress import progress_display, track
from luthier.storage.files import write_json, write_text
from luthier.storage.jsonlines import JsonLog, read_log


def test_secrets_are_filled_in_and_blotted_out_everywhere(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("LUTHIER_TEST_TOKEN", "hunter2-hunter2")
    value = {"a": ["x ${env:LUTHIER_TEST_TOKEN}"], "b": 3}
    assert secrets.references(value) == {"LUTHIER_TEST_TOKEN"}
    assert secrets.expand(value) == {"a": ["x hunter2-hunter2"], "b": 3}
    write_json(tmp_path / "f.json", {"leak": "hunter2-hunter2"})
    assert "hunter2" not in (tmp_path / "f.json").read_text()
    JsonLog(tmp_path / "log.jsonl").write("log", text="hunter2-hunter2")
    assert "hunter2" not in (tmp_path / "log.jsonl").read_text()


def test_a_missing_variable_is_named(monkeypatch):
    monkeypatch.delenv("LUTHIER_TEST_NONE", raising=False)
    with pytest.raises(RecipeError, match="LUTHIER_TEST_NONE is not set"):
        secrets.expand("${env:LUTHIER_TEST_NONE}")


def test_the_log_survives_a_line_that_was_cut_short(tmp_path: Path):
    log = JsonLog(tmp_path / "log.jsonl")
    log.write("start", step=0)
    with log.path.open("a") as file:
        file.write('{"event": "log", "st')
    log.write("log", step=1, loss=float("nan"))
    events = read_log(log.path)
    assert [e["event"] for e in events] == ["start", "log"]
    assert events[1]["loss"] is None


def test_writes_are_whole_or_nothing(tmp_path: Path):
    place = tmp_path / "a.txt"
    write_text(place, "first")
    with pytest.raises(WorkspaceError):
        write_text(place / "below" / "a.txt", "x")
    assert place.read_text() == "first"
    assert list(tmp_path.iterdir()) == [place]


def test_bars_without_a_display_are_silent(capsys):
    with track("work", 3) as bar:
        bar.update(1, "note")
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_each_task_ends_in_one_line(capsys):
    with progress_display(), track("work", 3) as bar:
        bar.update(3, "score 0.5")
    assert capsys.readouterr().err == "work: score 0.5\n"


ENDINGS = [(ValueError("broken"), "failed"), (KeyboardInterrupt(), "stopped"), (InterruptedRunError("x"), "stopped")]


@pytest.mark.parametrize(("error", "ending"), ENDINGS)
@pytest.mark.parametrize("remark", ["", "step 3"])
def test_work_that_is_cut_short_is_not_called_done_and_what_failed_not_stopped(capsys, error, ending, remark):
    def cut_short():
        with progress_display(), track("work") as bar:
            bar.update(1, remark)
            raise error

    with pytest.raises(type(error)):
        cut_short()
    assert capsys.readouterr().err == f"work: {ending}{', ' if remark else ''}{remark}\n"


def test_json_written_is_json(tmp_path: Path):
    write_json(tmp_path / "x.json", {"a": [1, "é"]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1, "é"]}


def test_halves_of_surrogate_pairs_in_messages_are_escaped():
    error = DataError("the column \ud800", where="\udce3.csv", fix="name \udfff")
    assert str(error) == "\\udce3.csv: the column \\ud800\n  fix: name \\udfff"
    assert (error.what, error.where, error.fix) == ("the column \\ud800", "\\udce3.csv", "name \\udfff")


@pytest.mark.xdist_group("kept together")
def test_tests_of_a_group_run_in_one_worker(request):
    """Else each worker makes anew what the tests of a module share, which no other test notices: pytest 9.2 shows
    pytest-xdist 3.8 no group.
    """
    if getattr(request.config.option, "loadgroup", False):
        assert request.node.nodeid.endswith("@kept together")


def test_numbers_of_numpy_and_torch_are_numbers_in_json(tmp_path: Path):
    import numpy as np
    import torch

    write_json(tmp_path / "f.json", {"a": np.float32(0.5), "b": np.int64(3), "c": torch.tensor(2), "d": tmp_path})
    assert json.loads((tmp_path / "f.json").read_text()) == {"a": 0.5, "b": 3, "c": 2, "d": str(tmp_path)}


def test_a_recipe_from_python_may_hold_paths_and_numbers_of_numpy(tmp_path: Path):
    import numpy as np

    from luthier.api import as_recipe
    from luthier.models.settings import ModelSettings

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "t.tsv").write_text("text\tlabel\na\tx\nb\ty\n")
    tune = {"method": "lora", "data": {"train": tmp_path / "t.tsv"}, "epochs": np.float32(2)}
    recipe = {"name": "x", "seed": np.int64(5), "stages": [{"tune": tune}]}
    for model in (tmp_path / "model", ModelSettings(reference=str(tmp_path / "model"))):
        made = as_recipe({**recipe, "model": model})
        assert (made.model.reference, made.seed) == (str(tmp_path / "model"), 5)
        assert made.stage_list()[0].data.train == str(tmp_path / "t.tsv")
    with pytest.raises(RecipeError, match="is of the type set"):
        as_recipe({**recipe, "model": {"a"}})


def test_names_in_a_bar_are_no_markup(monkeypatch):
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with progress_display(), track("run [v2] [/b]", 3) as bar:
        bar.update(1, "best [/x]")
        progress._display.get()[0].refresh()
    assert "run [v2] [/b]" in shown.getvalue()
    assert "best [/x]" in shown.getvalue()
