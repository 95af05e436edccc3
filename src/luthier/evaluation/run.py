"""What the `evaluate` stage does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.loading import load_data
from luthier.data.looks import look_at
from luthier.data.schemas import SCHEMAS, TaskSchema, TrainedOn
from luthier.data.settings import SPLITS, DataSettings
from luthier.data.sources.origins import plan as origins_of
from luthier.data.task_data import TaskData
from luthier.errors import DataError, ModelError, RecipeError, a_model
from luthier.evaluation.fit import (
    cut_splits,
    head_misfit,
    language_misfit,
    suites_misfit,
    wanted_splits,
)
from luthier.evaluation.meters import CostMeter
from luthier.evaluation.subject import Subject, Suite, SuiteResult
from luthier.evaluation.untuned import UNTUNED, untuned_scores, worse_than_untuned
from luthier.models.adapters import base_settings
from luthier.models.artifacts import load_artifact, load_model
from luthier.models.card import ModelCard, describe, read_card
from luthier.models.inspect import language_head
from luthier.models.loading import load_config, load_tokenizer, local_folder
from luthier.models.placing import on_accelerator
from luthier.models.references import resolve
from luthier.models.trained_columns import trained_on
from luthier.secrets import redact_values
from luthier.stages import StageInputs, StageOutputs, StagePlan, metrics_record
from luthier.storage.helping import helped
from luthier.storage.jsonlines import JsonLog
from luthier.storage.ranks import joined, meeting
from luthier.tasks.base import task_named, task_of
from luthier.tasks.heads import LANGUAGE_HEADS

if TYPE_CHECKING:
    from luthier.evaluation.stage import Evaluate

SPEAKING = (*LANGUAGE_HEADS.values(), "masked_lm")


def run_evaluation(stage: Evaluate, inputs: StageInputs, folder: Path) -> StageOutputs:
    """Load the model once, and give it to every suite.

    Raises:
        DataError: there is no split to judge on.
        RecipeError: a suite does not fit the task.
        ModelError: the model is neither one of a task nor a language model.
    """
    settings = data_of(stage, inputs)
    heads = speaking_heads(stage.suites)
    with joined("luthier.evaluation.run:help_along", inputs, settings, heads):
        with meeting():
            subject = _subject(stage, inputs, settings)
        return helped(partial(_judged, stage, subject, folder), subject.model)


def help_along(inputs: StageInputs, settings: DataSettings, heads: frozenset[str]) -> None:
    """What another process of the run does while the main one is in `run_evaluation`: it loads the model and takes its
    share of the passes over the rows."""
    with meeting():
        model, _, _ = loaded(inputs, settings, heads)
    helped(lambda: None, model)


def _subject(stage: Evaluate, inputs: StageInputs, settings: DataSettings) -> Subject:
    model, tokenizer, card = loaded(inputs, settings, speaking_heads(stage.suites))
    if reason := head_misfit(stage.suites, card.head if card.head in SPEAKING else ""):
        raise RecipeError(reason)
    task = rows_for(settings, card)
    task = with_text_form(task, card, stage.data)
    check_fit(stage.suites, task)
    return Subject(
        model=model,
        tokenizer=tokenizer,
        card=card,
        task=task,
        split=choose_split(task, stage.split),
        batch_size=stage.batch_size,
        seed=inputs.seed,
        folder=local_folder(resolve(inputs.model), inputs.model),
        too_long=settings.too_long,
        prior=card.prior or task_of(task).prior(task),
        untuned=base_settings(card, inputs.model) if stage.untuned and card.head in SPEAKING else None,
    )


def _judged(stage: Evaluate, subject: Subject, folder: Path) -> StageOutputs:
    task, split = subject.task, subject.split
    log, results = JsonLog(folder / "log.jsonl"), dict[int, SuiteResult]()
    with CostMeter() as meter:
        for place, suite in sorted(enumerate(stage.suites), key=lambda one: not one[1].runs_first):
            result = suite.run(subject)
            log.write("evaluate", step=0, suite=suite.name, **{f"{split}/{k}": v for k, v in result.scores.items()})
            results[place] = result
        before = untuned_scores(subject, {name for result in results.values() for name in result.scores})
        for result in results.values():
            before |= result.untuned
    cost = {"seconds": meter.seconds, "peak_memory_bytes": meter.peak_memory_bytes}
    return StageOutputs(merge([results[place] for place in sorted(results)], split, task, cost, before))


def check_fit(suites: Sequence[Suite], task: TaskData) -> None:
    """Raises:
    RecipeError: a suite can't judge the task.
    """
    name = str(task.schema.name)
    for suite in suites:
        if not fits(suite, task.schema):
            raise RecipeError(
                f"the {suite.name} suite does not fit a {name} task",
                fix="leave it out of `suites` and run again, what is trained is kept; "
                f"it fits: {', '.join(name for name, schema in SCHEMAS.items() if fits(suite, schema))}",
            )
        if suite.needs_probabilities and not task_of(task).gives_probabilities:
            posed = task.form is not None
            raise RecipeError(
                f"the {suite.name} suite needs probabilities, which "
                f"{'`label_scoring: generate`' if posed else f'a {name} task'} does not give",
                fix=f"{'use `label_scoring: likelihood`, or ' if posed else ''}leave the suite out",
            )


def fits(suite: Suite, schema: TaskSchema) -> bool:
    """Whether a suite can judge a task."""
    return suite.label_kinds is None or schema.label_kind in suite.label_kinds


def data_of(stage: Evaluate, inputs: StageInputs) -> DataSettings:
    """The data to judge on.

    Raises:
        DataError: there are none.
    """
    settings: DataSettings | None = stage.data or inputs.data
    if settings is None:
        raise DataError("there is no data to judge on", fix="give evaluate.data")
    return settings


def speaking_heads(suites: Sequence[Suite]) -> frozenset[str]:
    """The language-model heads that all of the suites can judge."""
    found = frozenset(SPEAKING)
    for suite in suites:
        found &= frozenset(SPEAKING if suite.language_heads is None else suite.language_heads)
    return found


def loaded(inputs: StageInputs, data: DataSettings, heads: frozenset[str]) -> tuple[Any, Any, ModelCard]:
    """The model that is judged, on the accelerator where there is one, with its tokenizer and card: what Luthier saved,
    or any language model.

    Args:
        inputs: with the model.
        data: that it is judged on.
        heads: the language-model heads that can be judged.

    Raises:
        ModelError: it can't be loaded, or has no language-model head.
    """
    if resolve(inputs.model).kind == "artifact":
        model, tokenizer, card = load_artifact(inputs.model.reference, settings=inputs.model)
        return on_accelerator(model), tokenizer, card
    config = load_config(inputs.model)
    head = checked_head(inputs, config, heads)
    model = load_model(inputs.model, head, seed=inputs.seed)
    if drawn := getattr(model, "luthier_new_parameters", ()):
        raise ModelError(
            f"the model has no language-model head: {', '.join(sorted(drawn)[:3])} would be drawn at random",
            where=inputs.model.reference,
            fix="tune it first",
        )
    card = describe(inputs.model, head, max_length=data.max_length)
    return on_accelerator(model), load_tokenizer(inputs.model), card


def checked_head(inputs: StageInputs, config: Any, heads: frozenset[str]) -> str:
    """The language-model head of a model that has none of a task.

    Raises:
        ModelError: it has none that can be judged.
    """
    head = language_head(config)
    if head in heads:
        return head
    raise ModelError(
        f"{a_model(config.model_type)} without a task head does not write text, so there is nothing to judge"
        if head not in LANGUAGE_HEADS.values()
        else f"{a_model(config.model_type)} is no masked language model",
        where=inputs.model.reference,
        fix="tune it first, or take a decoder or an encoder-decoder"
        if head not in LANGUAGE_HEADS.values()
        else "judge it by its perplexity",
    )


def check_language(stage: Evaluate, inputs: StageInputs) -> None:
    """Find out, before any stage runs, whether data and suites are those of a language model.

    Raises:
        RecipeError, DataError: they are not.
        ModelError: the model is none.
    """
    task = load_data(data_of(stage, inputs), splits=SPLITS)
    if task.form is None and (reason := language_misfit(str(task.schema.name), stage.suites)):
        raise RecipeError(reason)
    if not inputs.artifacts["model"].key and resolve(inputs.model).kind != "artifact":
        checked_head(inputs, load_config(inputs.model), speaking_heads(stage.suites))


def check_before(stage: Evaluate, data: DataSettings, inputs: StageInputs) -> None:
    """Find what the settings of the data and the first rows of local files tell, before any stage runs; where other
    stages run first, what all rows tell that none of them reads.

    Args:
        stage: that will judge.
        data: what it judges on.
        inputs: of the stage.

    Raises:
        DataError: there is no split to judge on, or too few rows for a suite, or a source names nothing, or rows can't
            be used.
        RecipeError: a suite can't judge the task of the rows.
    """
    there = {*origins_of(data), *cut_splits(data)}
    wanted = wanted_splits(stage.split)
    if there.isdisjoint(wanted):
        raise _no_split(wanted, [split for split in SPLITS if split in there])
    if inputs.kind != "task":
        return
    trained_here = bool(inputs.artifacts["model"].key)
    look = look_at(data).read if trained_here and stage.data is None else None
    if look is not None and (reason := suites_misfit(look.task, stage.suites)):
        what, _, fix = reason.partition(": ")
        raise RecipeError(what, fix=fix)
    if (stage.data is not None and inputs.waits) or (trained_here and any(s.fewest_rows()[0] for s in stage.suites)):
        task = rows_to_judge(stage, inputs)
        split = choose_split(task, stage.split)
        for suite in stage.suites:
            suite.check_count(f"the split {split!r}", len(task.splits[split]))


def plan_evaluation(stage: Evaluate, inputs: StageInputs) -> StagePlan:
    """The suites, and the rows that they will judge: of a saved model those that it can be judged on."""
    task = rows_to_judge(stage, inputs)
    split = choose_split(task, stage.split)
    rows = f"{len(task.splits[split])} of {split}"
    facts = {"suites": ", ".join(suite.name for suite in stage.suites), "task": str(task.schema.name), "rows": rows}
    if task.schema.label_kind is None and "text" in task.splits[split].column_names:
        tokenizer, texts = load_tokenizer(inputs.model), task.splits[split]["text"]
        for suite in stage.suites:
            facts |= suite.planned(texts, tokenizer)
    return StagePlan(facts)


def rows_to_judge(stage: Evaluate, inputs: StageInputs) -> TaskData:
    """The rows as the model will read them, which need not be there yet.

    Raises:
        DataError: they can't be read, or are of another task or other labels.
    """
    settings, training = data_of(stage, inputs), inputs.trained_on
    if not inputs.artifacts["model"].key:
        source = resolve(inputs.model)
        folder = source.path if source.kind == "artifact" else None
        return load_data(settings, splits=SPLITS) if folder is None else rows_for(settings, read_card(folder))
    if stage.data is None or training is None or training.as_text:
        return load_data(settings, splits=SPLITS)
    trained = load_data(training, splits=("train",))
    return _as_read(settings, trained.labels, TrainedOn(str(trained.schema.name), tuple(trained.columns)))


def rows_for(settings: DataSettings, card: ModelCard) -> TaskData:
    """The data as a saved model reads them, with its labels.

    Raises:
        DataError: they can't be read, or are of another task or other labels.
    """
    task = _as_read(settings, card.labels, trained_on(card))
    check_same_task(task, card)
    return task


def _as_read(settings: DataSettings, labels: Sequence[str] | None, trained: TrainedOn | None) -> TaskData:
    if settings.labels is None and labels:
        settings = settings.model_copy(update={"labels": list(labels)})
    return load_data(settings, splits=SPLITS, trained=trained)


def check_same_task(task: TaskData, card: ModelCard) -> None:
    """Raises:
    DataError: a model with a head of its own was trained on rows of another task.
    """
    trained = trained_on(card)
    if trained is None or trained.task == task.schema.name:
        return
    if task_named(trained.task).language and task_named(task.schema.name).language:
        return
    raise DataError(
        f"the model was trained for the task {trained.task}, on the columns {', '.join(trained.columns)}, and the data "
        f"are of the task {task.schema.name}, with {', '.join(task.columns)}",
        fix=f"give data with these columns; name yours as in `{trained.columns[0]}: COLUMN`",
    )


def with_text_form(task: TaskData, card: ModelCard, own: DataSettings | None) -> TaskData:
    """The data, posed as text where the model was trained so, in the form of that training unless the data's own
    settings ask for one.

    Raises:
        RecipeError: the data are posed as text and the model has no language-model head.
        DataError: the labels are not those of the training.
    """
    if task.form is not None and card.head not in LANGUAGE_HEADS.values():
        raise RecipeError(
            f"`as_text` needs a language-model head, and the model has a {card.head} head", fix="leave `as_text` out"
        )
    if card.text_form is None or (own is not None and own.as_text):
        return task
    return replace(task, form=card.text_form.for_labels(task.labels))


def choose_split(task: TaskData, wanted: str) -> str:
    """The split to judge on.

    Raises:
        DataError: the data has none, or not the one asked for.
    """
    order = wanted_splits(wanted)
    for split in order:
        if split in task.splits and len(task.splits[split]):
            return split
    raise _no_split(order, list(task.splits))


def _no_split(wanted: Sequence[str], there: Sequence[str]) -> DataError:
    return DataError(
        f"the data has no {' or '.join(wanted)} split; it has {', '.join(there)}",
        fix=f"give data.{wanted[0]}, or another evaluate.split",
    )


def told_of_rows(split: str, task: TaskData) -> dict[str, Any]:
    """Which rows were scored: their split, how many carry each label, and where they came from."""
    summary = task.summary[split]
    return {
        "split": split,
        "rows": summary.rows,
        "labels": dict(summary.label_counts),
        "source": redact_values(summary.source),
        "note": summary.told,
    }


def _together(first: Any, second: Any) -> Any:
    """The entries of two mappings, and those of the mappings that both have by one name; of what is none the second."""
    if not isinstance(first, dict) or not isinstance(second, dict):
        return second
    return first | {name: _together(first.get(name), value) for name, value in second.items()}


def merge(
    results: list[SuiteResult], split: str, task: TaskData, cost: dict[str, float], untuned: dict[str, float]
) -> dict[str, object]:
    """One metrics record from all suites, and the scores of the model before it was tuned; names get the split in
    front."""
    worse = worse_than_untuned({k: v for r in results for k, v in r.scores.items()}, untuned)
    scores = {f"{split}/{k}": v for r in results for k, v in r.scores.items()}
    intervals = {f"{split}/{k}": v for r in results for k, v in r.intervals.items()}
    baselines = {f"{split}/{k}": v.to_json() for r in results for k, v in r.baselines.items()}
    about = {f"{split}/{k}": v for r in results for k, v in r.about.items()}
    details: dict[str, Any] = reduce(_together, (r.details for r in results), {})
    details["ran"] = {"scored": told_of_rows(split, task)}
    if untuned:
        details[UNTUNED] = {f"{split}/{k}": v for k, v in untuned.items()}
    if split in task.left_out:
        details["rows_left_out"] = {split: task.left_out[split]}
    details["sections"] = [section for r in results for section in (*r.sections, *r.details.get("sections", []))]
    first = f"{split}/{task.metrics[0]}" if task.metrics else f"{split}/perplexity"
    return metrics_record(
        "evaluate",
        scores=scores,
        intervals=intervals,
        baselines=baselines,
        marks=[*task.marks_of_repeats(split), *dict.fromkeys(mark for r in results for mark in r.marks), *worse],
        about=about,
        primary=first if first in scores else next(iter(scores), None),
        cost=cost | {k: v for r in results for k, v in r.cost.items()},
        details=details,
    )
