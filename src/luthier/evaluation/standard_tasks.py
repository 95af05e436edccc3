"""Asks a causal model the tasks of lm-evaluation-harness, and takes over its scores."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch

from luthier.errors import DataError, LuthierError, RecipeError, nearest
from luthier.evaluation.subject import Subject, SuiteResult
from luthier.evaluation.untuned import untuned_model
from luthier.metric_names import range_of
from luthier.models.inspect import model_max_length
from luthier.report.intervals import agreeing_interval
from luthier.report.sections import Section, SectionTable, Value
from luthier.report.text import interval_text, number_text

if TYPE_CHECKING:
    from luthier.evaluation.suites.standard_tasks import StandardTasksSuite

_DRAWS, _FALLBACK = 1000, 2048


@dataclass(frozen=True)
class TaskScore:
    """One number of a task.

    Attributes:
        name: task and metric, `arc_easy/acc`, with the filter of its answers where there is one.
        value: the number.
        error: standard error as the harness has it; nan where it has none.
        questions: how many it is over.
        shots: solved examples before each; None for a group of tasks.
    """

    name: str
    value: float
    error: float
    questions: int
    shots: int | None

    def interval(self) -> tuple[float, float] | None:
        """95 %, inside what the number can be; None where there is no standard error, or nobody tells of how many
        questions."""
        least, most = range_of(self.name)
        if not math.isfinite(self.error) or not self.questions:
            return None
        if self.error == 0:
            bounded = math.isfinite(least) and math.isfinite(most)
            return agreeing_interval(self.value, self.questions, (least, most)) if bounded else None
        return max(least, self.value - 1.96 * self.error), min(most, self.value + 1.96 * self.error)


def known_tasks(suite: StandardTasksSuite) -> Any:
    """The harness's list of tasks: those of the suite's folder, and where these are not all that the suite asks for,
    the thousands of its own, which takes many seconds to read.

    Raises:
        RecipeError: the suite asks for one that isn't there.
    """
    files = tuple(suite.external_inputs().items())
    with _quiet():
        if suite.folder is not None:
            own = _task_list(suite.folder, files, built_in=False)
            if not _unknown(suite, own):
                return own
        manager = _task_list(suite.folder, files, built_in=True)
    for name in _unknown(suite, manager):
        guess = nearest(name, manager.all_tasks)
        raise RecipeError(
            f"lm-evaluation-harness has no task {name!r}",
            fix=f"did you mean {guess!r}?" if guess else "`lm_eval ls tasks` lists them",
        )
    return manager


@cache
def _task_list(folder: str | None, files: tuple[tuple[str, str], ...], *, built_in: bool) -> Any:
    """Where the files of tasks are; a run asks before its stages and in each that evaluates. The files themselves are
    read when a task is asked.

    Args:
        folder: of own task files.
        files: what it holds, with digests, so that a changed folder is looked through anew.
        built_in: whether the harness's own are among them.
    """
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder, include_defaults=built_in)


def _unknown(suite: StandardTasksSuite, manager: Any) -> list[str]:
    """Tasks that are not in a list; names may have wildcards."""
    return [name for name in suite.tasks if not manager.match_tasks([name])]


def standard_scores(suite: StandardTasksSuite, subject: Subject) -> SuiteResult:
    """All scores of the tasks, and those of the model that the judged one was made from beside them.

    Raises:
        RecipeError: the harness has no such task, or no template to chat by.
        DataError: a task's data can't be had.
    """
    manager = known_tasks(suite)
    if suite.chat and getattr(subject.tokenizer, "chat_template", None) is None:
        raise RecipeError("`chat` needs a chat template, and the tokenizer has none", fix="leave `chat` out")
    found, versions = _asked(suite, subject, subject.model, manager)
    result = SuiteResult(scores={one.name: one.value for one in found}, details={suite.name: versions})
    result.intervals = {one.name: ends for one in found if (ends := one.interval()) is not None}
    with untuned_model(subject) as base:
        if base is not None:
            result.untuned = {one.name: one.value for one in _asked(suite, subject, base, manager)[0]}
    result.sections.append(_section(suite, found, result.untuned))
    return result


def _asked(
    suite: StandardTasksSuite, subject: Subject, model: Any, manager: Any
) -> tuple[list[TaskScore], dict[str, Any]]:
    """The scores of one model, and the versions of the harness and of its tasks."""
    from lm_eval import __version__, simple_evaluate
    from lm_eval.models.huggingface import HFLM

    limit = model_max_length(model.config, subject.tokenizer) or subject.card.max_length or _FALLBACK
    with _quiet(), _same_draws():
        asked = HFLM(
            pretrained=model,
            tokenizer=subject.tokenizer,
            batch_size=subject.batch_size,
            max_length=limit - subject.card.reserved_tokens,
        )
        try:
            found = simple_evaluate(
                asked,
                tasks=list(suite.tasks),
                task_manager=manager,
                num_fewshot=suite.shots,
                limit=suite.limit,
                bootstrap_iters=_DRAWS,
                apply_chat_template=suite.chat,
                log_samples=False,
                random_seed=suite.seed,
                numpy_random_seed=suite.seed,
                torch_random_seed=suite.seed,
                fewshot_random_seed=suite.seed,
            )
        except (LuthierError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # what a task's own files and the hub's can raise is not known
            raise DataError(
                f"lm-evaluation-harness can't ask {', '.join(suite.tasks)}: {type(error).__name__}: {error}",
                fix="the tasks' data come from the Hugging Face Hub; on a machine without it, name files in task files "
                "of your own (`folder`)",
            ) from error
    versions = {"harness": __version__, "versions": {name: str(one) for name, one in found["versions"].items()}}
    return list(_scores(found)), versions


def _has_numbers(of: Mapping[str, Any]) -> bool:
    return any("," in key and isinstance(value, int | float) for key, value in of.items())


def _scores(found: Mapping[str, Any]) -> Iterator[TaskScore]:
    """The numbers of tasks and groups; tasks inside a group count in the group, where it has numbers of its own."""
    groups = found.get("group_subtasks", {})
    inside, waiting = set[str](), [name for name in groups if _has_numbers(found["results"].get(name, {}))]
    while waiting:
        below = set(groups.get(waiting.pop(), ())) - inside
        inside |= below
        waiting += below
    for task, numbers in found["results"].items():
        if task in inside:
            continue
        questions = found["n-samples"].get(task, {}).get("effective") or numbers.get("sample_len") or 0
        for key, value in numbers.items():
            metric, _, rule = key.partition(",")
            if not rule or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = numbers.get(f"{metric}_stderr,{rule}")
            yield TaskScore(
                f"{task}/{metric}" + ("" if rule == "none" else f" {rule}"),
                float(value),
                float(error) if isinstance(error, int | float) else math.nan,
                int(questions),
                found["n-shot"].get(task),
            )


def _section(suite: StandardTasksSuite, found: list[TaskScore], before: Mapping[str, float]) -> Section:
    rows: list[list[Value]] = []
    for one in found:
        shots = "" if one.shots is None else str(one.shots)
        last = [number_text(before[one.name])] if before else []
        interval = interval_text(one.interval())
        rows.append([one.name, f"{one.questions:,}", shots, number_text(one.value), interval, *last])
    columns = ["task", "questions", "shots", "score", "95 %", *(["before tuning"] if before else [])]
    some = f" The first {suite.limit:,} questions of each." if suite.limit is not None else ""
    return Section(
        "Standard tasks",
        text="As EleutherAI's lm-evaluation-harness asks and scores them; intervals by its standard errors." + some,
        table=SectionTable(columns, rows),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the harness logs below an error, and its question for git's revision of the working directory,
    to which git answers `fatal` on the terminal where there is none."""
    from lm_eval import evaluator

    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with patch.object(evaluator, "get_git_commit_hash", lambda: None, create=True):
            yield
    finally:
        log.setLevel(level)


@contextmanager
def _same_draws() -> Iterator[None]:
    """The harness seeds the generators of the whole process: give them back as they were."""
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
