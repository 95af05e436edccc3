"""Who works on languages and clusters: the same steps, in the same order, from processes and from Ray."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from luthier.cli.arguments import main
from luthier.errors import DataError, WorkspaceError
from luthier.extras import is_installed
from luthier.storage.steps import Workspace
from luthier.vocabulary import build_vocabulary
from luthier.vocabulary.settings import LanguageText, RaySettings, VocabularySettings
from luthier.vocabulary.steps import count_step
from luthier.vocabulary.text import language_sources
from luthier.vocabulary.workers import Processes, Workers, each, workers_of
from tests.vocabulary.conftest import settings
from tests.vocabulary.texts import ended

needs_ray = pytest.mark.skipif(not is_installed("ray"), reason="no Ray")
KINDS = [
    pytest.param({"processes": 1}, id="here"),
    pytest.param({"processes": 2}, id="processes"),
    pytest.param({"ray": {}}, id="ray", marks=needs_ray),
]


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    """One Ray for all tests that use it."""
    if not is_installed("ray"):
        yield
        return
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(params=KINDS)
def workers(request: pytest.FixtureRequest, text: Path, tmp_path: Path) -> Iterator[Workers]:
    with workers_of(VocabularySettings.model_validate(settings(text, **request.param)), tmp_path / "work") as found:
        yield found


def jobs_of(text: Path, folder: Path) -> list[tuple[Any, ...]]:
    known = LanguageText(folder=str(text))
    return [(Workspace(folder), name, known, sources) for name, sources in language_sources(known).items()]


def test_steps_come_in_the_order_of_their_jobs(workers: Workers, text: Path, tmp_path: Path):
    jobs = jobs_of(text, tmp_path / "work")[::-1]
    steps = each(workers, count_step, jobs, "lines")
    expected = {job[1]: count_step(*job) for job in jobs}
    assert [step.key for step in steps] == [expected[job[1]].key for job in jobs]
    for job, step in zip(jobs, steps, strict=True):
        assert step.folder.is_dir()
        assert step.folder == expected[job[1]].folder
        assert without_costs(step.result) == without_costs(expected[job[1]].result)
    assert each(workers, count_step, [], "lines") == []


def test_the_error_of_a_job_arrives_as_it_was_raised(workers: Workers, text: Path, tmp_path: Path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    jobs = jobs_of(text, tmp_path / "work")
    jobs[1] = (*jobs[1][:3], [str(empty)])
    found = workers.map(count_step, jobs)
    assert next(found).result["lines"] == 150
    with pytest.raises(DataError) as caught:
        next(found)
    assert type(caught.value) is DataError
    assert caught.value.what == "there is no text in it"
    assert caught.value.where == str(empty)


def test_a_process_that_is_ended_from_outside_is_told_as_such():
    with pytest.raises(WorkspaceError, match="ended from outside"):
        list(Processes(2).map(ended, [(1,), (2,)]))


@needs_ray
def test_what_ray_builds_is_what_processes_build(text: Path, tmp_path: Path, built: Any):
    made = build_vocabulary(settings(text, ray={}), tmp_path / "tokenizer", seed=3)
    names = {path.name for path in built.folder.iterdir()}
    assert {path.name for path in made.folder.iterdir()} == names
    for name in names - {"vocabulary.json"}:
        assert (made.folder / name).read_bytes() == (built.folder / name).read_bytes(), name
    told, expected = (without_costs(json.loads((one.folder / "vocabulary.json").read_text())) for one in (made, built))
    assert told == expected


def without_costs(value: Any) -> Any:
    """The same without what differs from run to run: seconds and memory."""
    if isinstance(value, dict):
        return {k: without_costs(v) for k, v in value.items() if k not in ("seconds", "peak_memory_bytes")}
    return [without_costs(one) for one in value] if isinstance(value, list) else value


@needs_ray
def test_a_machine_that_does_not_see_the_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from luthier.vocabulary import on_ray as module

    monkeypatch.setattr(module, "_marks", lambda folder, _: nullcontext([folder / "mark"]))
    with (
        pytest.raises(WorkspaceError, match=r"does not see .*work"),
        module.on_ray(RaySettings(), tmp_path / "work"),
    ):
        pass


@needs_ray
def test_more_memory_than_any_machine_has_is_refused(text: Path, tmp_path: Path):
    with pytest.raises(DataError, match="memory that a task asks for"):
        build_vocabulary(settings(text, ray={"memory_gb": 1e6}), tmp_path / "tokenizer")
    assert not (tmp_path / "tokenizer-steps").exists()


def test_without_ray_it_is_refused_before_anything_runs(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for module in ("luthier.vocabulary.on_ray", "luthier.recipe.inputs"):
        monkeypatch.setattr(f"{module}.is_installed", lambda extra: extra != "ray")
    with pytest.raises(DataError, match=r"pip install 'luthier\[ray\]'"):
        build_vocabulary(settings(text, ray={"address": "auto"}), tmp_path / "tokenizer")
    assert not (tmp_path / "tokenizer-steps").exists()
    recipe = tmp_path / "recipe.yaml"
    stage = {"text": str(text), "size": 420, "ray": {"address": "auto"}}
    recipe.write_text(json.dumps({"name": "run", "stages": [{"vocabulary": stage}]}))
    assert main(["validate", str(recipe)]) == 2
    told = capsys.readouterr()
    assert "needs the extra ray, which is not installed" in told.out + told.err


@needs_ray
def test_an_address_where_nobody_answers_is_refused_at_once():
    from luthier.vocabulary.on_ray import _connect

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(DataError, match=r"can't be reached at '127.0.0.1:\d+': .*refused"):
            _connect(f"127.0.0.1:{taken.getsockname()[1]}")


def test_processes_and_ray_are_two_answers_to_one_question(text: Path):
    with pytest.raises(ValidationError, match="no effect beside `ray`"):
        VocabularySettings.model_validate(settings(text, processes=2, ray={}))
    with pytest.raises(ValidationError, match="pattern"):
        VocabularySettings.model_validate(settings(text, ray={"address": "http://here"}))
