"""Supervised training of one model by one method, from checked data to a saved model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from luthier.data.batches.encoding import make_collator
from luthier.data.batches.sampling import LengthBucketSampler
from luthier.data.batches.sharing import SharedRows, collating_fillers
from luthier.data.batches.stream import EndlessStream, Share
from luthier.data.sources.fingerprint import check_files_unchanged
from luthier.data.sources.origins import plan
from luthier.data.task_data import TaskData
from luthier.errors import WorkspaceError
from luthier.evaluation.prediction import Predictions, predict_rows, predict_task
from luthier.evaluation.scoring import task_result
from luthier.evaluation.unigram import MOST_ROWS, log_shares, predicted_tokens
from luthier.methods.base import MethodContext
from luthier.methods.heads import check_head_rate, freeze_head, head_parameters
from luthier.metric_names import higher_is_better
from luthier.models.artifacts import load_model, save_artifact
from luthier.models.card import ModelCard, describe
from luthier.models.head_kinds import peft_task_type
from luthier.models.inspect import parameter_counts
from luthier.secrets import redact_values
from luthier.stages.base import StageInputs, StageOutputs, metrics_record
from luthier.storage.hashing import cache_directory
from luthier.storage.jsonlines import read_log
from luthier.storage.one_version import check_file_unchanged
from luthier.storage.ranks import joined, rank, world_size
from luthier.tasks.base import task_named, task_of
from luthier.training.checkpoints import of_key
from luthier.training.continuing import continued_model, with_saved_head
from luthier.training.job import TrainingJob, TrainingResult, TrainingRows, train
from luthier.training.longer import too_short, with_advice
from luthier.training.preparing import Prepared, new_head, prepare, row_counts
from luthier.training.starting import start_at_mean
from luthier.training.telling import sources_of, told_of_model, told_of_training, told_of_validation_rows, training_cost
from luthier.training.trunk.once import computed_once
from luthier.training.validation import Evaluation, Validation

if TYPE_CHECKING:
    from luthier.training.supervised_settings import SupervisedSettings

logger = logging.getLogger(__name__)
# What an evaluation tells beside its scores, among its details: arguments of `metrics_record`.
BESIDE = "beside scores"
# Of the seed of a run.
_SEED_BITS = 32


def train_supervised(stage: SupervisedSettings, inputs: StageInputs, folder: Path) -> StageOutputs:
    """Load, train, save. See `luthier.training.job.train` for what stops it."""
    stage = with_saved_head(stage, inputs)
    prepared, made_from, job, size = _ready(stage, inputs, folder)
    model = job.model
    counts = parameter_counts(model)
    with computed_once(stage, prepared, job):
        with joined("luthier.training.supervised:train_along", _sendable(stage), inputs, folder):
            result = train(job)
        if stage.data.streaming:  # a last pass that was not finished has not been looked at
            check_files_unchanged(plan(stage.data).values())
        finished = finish_objective(stage, prepared, model, job)
        settled = settle_task(stage, prepared, model)
        if (finished or settled) and job.validation is not None:
            result = replace(result, **vars(job.validation.evaluate(model)))
        told = method_details(stage, prepared, model, job)
    card = card_for(stage, made_from, prepared, result)
    artifact = save_artifact(model, prepared.tokenizer, folder / "model", card)
    cost = training_cost(counts, result, artifact)
    details = {
        "steps": result.steps,
        "best_step": result.best_step,
        "learning_rate": stage.rate(),
        "rows": row_counts(prepared),
        "labels": list(prepared.task.labels),
        **({"rows_left_out": prepared.task.left_out} if prepared.task.left_out else {}),
        **({"objective": finished} if finished else {}),
        **settled,
        **told,
        **result.details,
        **told_of_validation_rows(prepared),
        "ran": {"model": told_of_model(inputs, card, size), **told_of_training(stage, prepared, job, result)},
    }
    beside_scores = details.pop(BESIDE, {})
    if result.scores:
        beside_scores = {**beside_scores, "marks": marks_beside(stage, prepared, job, beside_scores.get("marks", []))}
    primary = f"validation/{primary_metric(prepared.task)[0]}" if result.scores else None
    return StageOutputs(
        metrics_record("tune", scores=result.scores, primary=primary, cost=cost, details=details, **beside_scores),
        {"model": artifact},
    )


def marks_beside(stage: SupervisedSettings, prepared: Prepared, job: TrainingJob, marks: Sequence[str]) -> list[str]:
    """What a reader must not miss beside the validation scores: rows that were trained on, the marks of the scores, and
    whether training ended too early."""
    name = f"validation/{primary_metric(prepared.task)[0]}"
    advice = too_short(stage, read_log(job.log), name, marks) if job.log is not None else ""
    return [*prepared.task.marks_of_repeats("validation"), *with_advice(marks, advice)]


def train_along(stage: SupervisedSettings, inputs: StageInputs, folder: Path) -> None:
    """What another process of the run does while the main one is in `train_supervised`: it leaves nothing on disk."""
    prepared, _, job, _ = _ready(stage, inputs, folder)
    with computed_once(stage, prepared, job):
        train(job)


def _ready(
    stage: SupervisedSettings, inputs: StageInputs, folder: Path
) -> tuple[Prepared, StageInputs, TrainingJob, int]:
    """The data, what the saved model will have been made from, the job with the model to train, and how many parameters
    that model had before the method changed it."""
    prepared, made_from = prepare(stage, inputs), inputs
    if stage.continue_adapter:
        model, made_from = continued_model(stage, inputs, prepared)
        size = parameter_counts(model)[1]
    else:
        model = load_model(inputs.model, prepared.head, seed=inputs.seed, **new_head(stage, prepared.task))
        size = parameter_counts(model)[1]
        start_at_mean(model, task_of(prepared.task).prior(prepared.task))
        model = apply_method(stage, model, prepared, inputs.seed)
    if not stage.data.streaming:
        try:
            stage.method.precompute(model, list(prepared.rows.values()), cache_directory() / "sentence-vectors")
        except WorkspaceError as error:
            logger.warning("what the method could compute once is computed in every epoch: %s", error)
    return prepared, made_from, training_job(stage, made_from, prepared, model, folder), size


def _sendable(stage: SupervisedSettings) -> SupervisedSettings:
    """The settings as an instance of a class that can be imported, unlike that of a recipe's stage."""
    from luthier.training.supervised_settings import SupervisedSettings

    fields = {name: getattr(stage, name) for name in SupervisedSettings.model_fields}
    return SupervisedSettings.model_construct(**fields)


def apply_method(
    stage: SupervisedSettings, model: Any, prepared: Prepared | None, seed: int, head: str | None = None
) -> Any:
    """Apply the tuning method; its new parameters depend on the seed alone."""
    head = head or (prepared.head if prepared else "encoder")
    tokenizer = prepared.tokenizer if prepared else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        context = MethodContext(peft_task_type(head), seed, tokenizer)
        check_head_rate(stage.method, context.task_type, trained=stage.train_head)
        parts = [] if stage.train_head else head_parameters(model, context.task_type)
        tuned = stage.method.applied(model, context)
    for path in stage.method.files():
        check_file_unchanged(path)
    if not stage.train_head:
        freeze_head(tuned, parts)
    return tuned


def primary_metric(task: TaskData) -> tuple[str, bool]:
    """The score that the best weights are chosen by, and whether higher is better."""
    name = task.metrics[0] if task.metrics else "loss"
    return name, higher_is_better(name)


def training_job(
    stage: SupervisedSettings, inputs: StageInputs, prepared: Prepared, model: Any, folder: Path
) -> TrainingJob:
    """The job that trains the model on the encoded rows."""
    return TrainingJob(
        model=model,
        task=task_named(prepared.schema),
        shifted=prepared.shifted,
        data=training_rows(stage, prepared, inputs.seed),
        settings=stage,
        groups=stage.method.parameter_groups(model, stage.rate(), stage.weight_decay),
        folder=of_key(folder, inputs.key),
        log=folder / "log.jsonl",
        seed=inputs.seed,
        validation=validation_of(stage, prepared),
        labels=prepared.task.labels,
        description=f"{stage.method.name} seed {inputs.seed}",
        parts=stage.objective.parts() if stage.objective else [],
    )


def training_rows(stage: SupervisedSettings, prepared: Prepared, seed: int) -> TrainingRows:
    """The training split, in the order in which it is trained on."""
    rows, collator = prepared.rows["train"], make_collator(prepared.schema, prepared.tokenizer)
    if stage.data.streaming:
        share = Share(stage.batch_size, rank(), world_size())
        rows.seed = (stage.data.subset_seed << _SEED_BITS) + seed
        return TrainingRows(EndlessStream(rows.shared(share, stage.workers)), None, collator)
    lengths = rows["length"][:] if stage.group_by_length else [0] * len(rows)
    sampler = LengthBucketSampler(
        lengths,
        batch_size=stage.batch_size,
        accumulation=stage.accumulation,
        seed=seed,
        processes=world_size(),
        process=rank(),
    )
    if world_size() > 1:
        return TrainingRows(SharedRows(rows), sampler, collating_fillers(collator))
    return TrainingRows(rows, sampler, collator)


def finish_objective(stage: SupervisedSettings, prepared: Prepared, model: Any, job: TrainingJob) -> dict[str, float]:
    """What an objective does to the trained model, given its outputs on the validation split."""
    if stage.objective is None or not stage.objective.needs_validation_logits:
        return {}
    found = predict_rows(
        model, prepared.rows["validation"], job.data.collator, prepared.schema, batch_size=stage.evaluation_batch_size
    )
    return dict(stage.objective.finish(model, found.logits, found.labels))


def settle_task(stage: SupervisedSettings, prepared: Prepared, model: Any) -> dict[str, Any]:
    """What the task chooses for the trained model on the validation split."""
    rows = prepared.rows.get("validation")
    if rows is None or not len(rows):
        return {}
    size = stage.evaluation_batch_size
    return task_of(prepared.task).settle(model, prepared.task, rows, prepared.tokenizer, batch_size=size)


def method_details(stage: SupervisedSettings, prepared: Prepared, model: Any, job: TrainingJob) -> dict[str, Any]:
    """What the method tells about the trained model, given its validation rows."""
    rows = prepared.rows.get("validation")
    if rows is None or not len(rows):
        return {}

    def forward(most: int) -> None:
        some, size = rows.select(range(min(most, len(rows)))), stage.evaluation_batch_size
        predict_rows(model, some, job.data.collator, prepared.schema, batch_size=size, shifted=prepared.shifted)

    details: dict[str, Any] = stage.method.examine(model, forward)
    return details


def validation_of(stage: SupervisedSettings, prepared: Prepared) -> Validation | None:
    """How the model is scored on the validation split, or None where there is none."""
    rows = prepared.rows.get("validation")
    if rows is None or not len(rows) or stage.evaluate_every == "never":
        return None
    name, higher = primary_metric(prepared.task)
    prior = task_of(prepared.task).prior(prepared.task)

    def evaluate(model: Any) -> Evaluation:
        size = stage.evaluation_batch_size
        predictions = predict_task(model, rows, prepared.task, prepared.tokenizer, batch_size=size)
        unigram = by_unigram(stage, prepared, model, rows, predictions)
        found = task_result(predictions, prepared.task, "validation", rows, prior=prior, unigram=unigram)
        return Evaluation(
            {f"validation/{score}": value for score, value in found.scores.items()},
            correct_rows(prepared, predictions) | {BESIDE: found.told("validation")},
        )

    return Validation(evaluate, f"validation/{name}", higher)


def by_unigram(
    stage: SupervisedSettings, prepared: Prepared, model: Any, rows: Any, predictions: Predictions
) -> Predictions | None:
    """What the shares of tokens in the first training rows give for these rows, where text itself is learned; None
    elsewhere, and of a stream."""
    if not task_of(prepared.task).language or prepared.task.form is not None or stage.data.streaming:
        return None
    train = prepared.rows["train"]
    labels = train.select(range(min(MOST_ROWS, len(train))))["labels"]
    shares = log_shares(labels, model.get_input_embeddings().weight.shape[0])
    return predicted_tokens(shares, rows, predictions, shifted=prepared.shifted)


def correct_rows(prepared: Prepared, predictions: Predictions) -> dict[str, str]:
    """Which validation rows the model got right, a 1 or 0 for each in their order, where that makes its main score: so
    that two runs can be compared row by row."""
    if primary_metric(prepared.task)[0] != "accuracy" or prepared.task.form is not None:
        return {}
    if predictions.labels is None or getattr(predictions.logits, "ndim", 0) != 2:
        return {}
    right = predictions.logits.argmax(axis=1) == predictions.labels
    return {"validation_correct": "".join("1" if row else "0" for row in right)}


def card_for(stage: SupervisedSettings, inputs: StageInputs, prepared: Prepared, result: TrainingResult) -> ModelCard:
    """The card of the saved model."""
    return describe(
        inputs.model,
        prepared.head,
        schema=str(prepared.task.schema.name),
        labels=list(prepared.task.labels) or None,
        regression=prepared.regression,
        head_settings=new_head(stage, prepared.task).get("config_overrides"),
        text_form=prepared.task.form,
        columns=dict(prepared.task.columns),
        max_length=prepared.max_length,
        reserved_tokens=stage.method.reserved_tokens(),
        method=redact_values(stage.method.model_dump(mode="json")),
        data=redact_values(stage.data.model_dump(mode="json")),
        splits=sources_of(prepared),
        rows_left_out=redact_values(prepared.task.left_out) or None,
        prior=task_of(prepared.task).prior(prepared.task) or None,
        metrics=result.scores,
    )
