"""What the `evaluate` stage does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from luthier.data.loading import TaskData, load_data
from luthier.data.settings import DataSettings
from luthier.errors import DataError, RecipeError
from luthier.evaluation.subject import Subject, SuiteResult
from luthier.jsonlines import JsonLog
from luthier.meters import CostMeter
from luthier.models.artifacts import load_artifact
from luthier.stages import StageInputs, StageOutputs, metrics_record

if TYPE_CHECKING:
    from luthier.evaluation.stage import Evaluate


def run_evaluation(stage: Evaluate, inputs: StageInputs, folder: Path) -> StageOutputs:
    """Load the model once, and give it to every suite.

    Raises:
        DataError: there is no split to judge on.
        RecipeError: a suite does not fit the task.
    """
    settings: DataSettings | None = stage.data or inputs.data
    if settings is None:
        raise DataError("there is no data to judge on", fix="give evaluate.data")
    model, tokenizer, card = load_artifact(inputs.model.reference, settings=inputs.model)
    if settings.labels is None and card.labels:
        settings = settings.model_copy(update={"labels": list(card.labels)})
    task = load_data(settings, splits=("train", "validation", "test"))
    split = choose_split(task, stage.split)
    subject = Subject(
        model=model,
        tokenizer=tokenizer,
        card=card,
        task=task,
        split=split,
        batch_size=stage.batch_size,
        seed=inputs.seed,
        folder=Path(inputs.model.reference),
        too_long=settings.too_long,
    )
    log, results = JsonLog(folder / "log.jsonl"), []
    with CostMeter() as meter:
        for suite in stage.suites:
            if suite.schemas is not None and subject.schema not in suite.schemas:
                raise RecipeError(
                    f"the {suite.name} suite does not fit a {subject.schema} task",
                    fix=f"it fits: {', '.join(suite.schemas)}",
                )
            result = suite.run(subject)
            log.write("evaluate", step=0, suite=suite.name, **{f"{split}/{k}": v for k, v in result.scores.items()})
            results.append(result)
    cost = {"seconds": meter.seconds, "peak_memory_bytes": meter.peak_memory_bytes}
    return StageOutputs(merge(results, split, task, cost))


def choose_split(task: TaskData, wanted: str) -> str:
    """The split to judge on.

    Raises:
        DataError: the data has none, or not the one asked for.
    """
    order = ("test", "validation") if wanted == "auto" else (wanted,)
    for split in order:
        if split in task.splits and len(task.splits[split]):
            return split
    raise DataError(
        f"the data has no {' or '.join(order)} split; it has {', '.join(task.splits)}",
        fix="give data.test, or another evaluate.split",
    )


def merge(results: list[SuiteResult], split: str, task: TaskData, cost: dict[str, float]) -> dict[str, object]:
    """One metrics record from all suites; score names get the split in front."""
    scores = {f"{split}/{k}": v for r in results for k, v in r.scores.items()}
    intervals = {f"{split}/{k}": v for r in results for k, v in r.intervals.items()}
    details = {k: v for r in results for k, v in r.details.items()}
    details["sections"] = [section for r in results for section in r.details.get("sections", [])]
    first = f"{split}/{task.metrics[0]}" if task.metrics else f"{split}/perplexity"
    return metrics_record(
        "evaluate",
        scores=scores,
        intervals=intervals,
        primary=first if first in scores else next(iter(scores), None),
        cost=cost | {k: v for r in results for k, v in r.cost.items()},
        details=details,
    )
