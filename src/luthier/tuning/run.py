"""What the `tune` stage does, and its dry run."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from luthier.data.encoding import encode, make_collator
from luthier.data.fingerprint import check_files_unchanged
from luthier.data.loading import TaskData, load_data
from luthier.data.origins import plan
from luthier.data.sampling import LengthBucketSampler
from luthier.data.streaming import EndlessStream
from luthier.errors import DataError, RecipeError
from luthier.evaluation.label_scoring import predict_task
from luthier.evaluation.prediction import is_shifted, predict_rows
from luthier.evaluation.scoring import task_scores
from luthier.metric_names import higher_is_better
from luthier.models.artifacts import save_artifact
from luthier.models.card import ModelCard, describe
from luthier.models.hashing import cache_directory
from luthier.models.inspect import bytes_on_disk, is_decoder, is_encoder_decoder, model_max_length, parameter_counts
from luthier.models.loading import empty_model, load_config, load_model, load_tokenizer
from luthier.models.settings import Head
from luthier.one_version import check_file_unchanged
from luthier.progress import track
from luthier.secrets import redact
from luthier.stages import StageInputs, StageOutputs, StagePlan, metrics_record
from luthier.tasks import PEFT_TASK_TYPES, head_for
from luthier.training.job import UNBOUNDED, TrainingJob, TrainingResult, total_steps, train
from luthier.tuning.continuing import check_continues, continued_model, without_networks
from luthier.tuning.frozen import computed_once, freeze_head, frozen_up_to, head_parameters
from luthier.tuning.method import MethodContext

if TYPE_CHECKING:
    from luthier.tuning.stage import Tune

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Data, tokenizer and the facts about the model that both the dry run and the run need."""

    task: TaskData
    rows: dict[str, Any]
    tokenizer: Any
    head: Head
    max_length: int
    shifted: bool

    @property
    def schema(self) -> str:
        """The schema of the encoded rows."""
        return self.task.encoded_schema


def run_tuning(stage: Tune, inputs: StageInputs, folder: Path) -> StageOutputs:
    """Load, train, save. See `luthier.training.job.train` for what stops it."""
    prepared = prepare(stage, inputs)
    if stage.continue_adapter:
        model, inputs = continued_model(stage, inputs, prepared)
    else:
        model = load_model(inputs.model, prepared.head, seed=inputs.seed, **label_arguments(prepared.task))
        model = apply_method(stage, model, prepared, inputs.seed)
    trainable, total = parameter_counts(model)
    if hasattr(stage.method, "precompute") and not stage.data.streaming:
        stage.method.precompute(model, list(prepared.rows.values()), cache_directory() / "sentence-vectors")
    job = training_job(stage, inputs, prepared, model, folder)
    with computed_once(stage, prepared, job):
        result = train(job)
        if stage.data.streaming:  # a last pass that was not finished has not been looked at
            check_files_unchanged(plan(stage.data).values())
        finished = finish_objective(stage, prepared, model, job)
        if finished and job.evaluator is not None:
            result = replace(result, scores=job.evaluator(model))
        told = method_details(stage, prepared, model, job)
        if result.scores:
            told |= correct_rows(stage, prepared, model)
    card = card_for(stage, inputs, prepared, result)
    artifact = save_artifact(model, prepared.tokenizer, folder / "model", card)
    cost = {
        "trainable_parameters": trainable,
        "total_parameters": total,
        "bytes_on_disk": bytes_on_disk(artifact),
        "seconds": result.seconds,
        "peak_memory_bytes": result.peak_memory_bytes,
        "tokens_per_second": result.tokens_per_second,
    }
    details = {
        "steps": result.steps,
        "best_step": result.best_step,
        "learning_rate": stage.rate(),
        "rows": row_counts(prepared),
        "labels": list(prepared.task.labels),
        **({"objective": finished} if finished else {}),
        **told,
    }
    primary = f"validation/{primary_metric(prepared.task)[0]}" if result.scores else None
    return StageOutputs(
        metrics_record("tune", scores=result.scores, primary=primary, cost=cost, details=details), artifact
    )


def row_counts(prepared: Prepared) -> dict[str, int | None]:
    """Encoded rows of every split; None for a stream."""
    return {split: len(rows) if hasattr(rows, "__len__") else None for split, rows in prepared.rows.items()}


def prepare(stage: Tune, inputs: StageInputs) -> Prepared:
    """Read, check and encode the data.

    Raises:
        DataError: a row can't be used, or a row is too long and may not be cut.
        RecipeError: the method leaves no room for text, or the objective does not fit the data.
    """
    tokenizer, config = load_tokenizer(inputs.model), load_config(inputs.model)
    task = load_data(stage.data, splits=("train", "validation"))
    if task.form is not None:
        check_answers_in_text(stage, config)
    if "train" not in task.splits or (not stage.data.streaming and not len(task.splits["train"])):
        raise DataError("there are no training rows", fix="give data.train or data.source")
    if stage.data.streaming and stage.max_steps is None and stage.max_minutes is None:
        raise RecipeError("a stream has no end that epochs could count", fix="give tune.max_steps or tune.max_minutes")
    reserved = stage.method.reserved_tokens()
    limit = model_max_length(config, tokenizer)
    longest = min(x for x in (stage.data.max_length, limit, 512 if stage.data.max_length is None else None) if x)
    if longest - reserved < 8:
        raise RecipeError(
            f"the method fills {reserved} of the {longest} positions, which leaves no room for text",
            fix="shorten the prompt or raise data.max_length",
        )
    with track("encoding text"):
        rows = encode(
            task,
            tokenizer,
            max_length=longest,
            reserved=reserved,
            too_long=stage.data.too_long,
            encoder_decoder=is_encoder_decoder(config),
        )
    if task.form is not None and task.form.ranks_candidates:
        rows["train"] = rows["train"].select([i for i, answer in enumerate(rows["train"]["answer"]) if answer >= 0])
    schema = task.encoded_schema
    if stage.objective is not None:
        stage.objective.check(
            schema=schema,
            classes=len(task.labels),
            validation=_has_rows(rows.get("validation")),
            streamed=stage.data.streaming,
        )
    return Prepared(task, rows, tokenizer, head_for(schema, config), longest, is_shifted(schema, config))


def _has_rows(split: Any) -> bool:
    return split is not None and (not hasattr(split, "__len__") or len(split) > 0)


def check_answers_in_text(stage: Tune, config: Any) -> None:
    """Refuse what needs a classification head where the task is posed as text.

    Raises:
        RecipeError: the model does not write text, or the objective changes the head.
    """
    if not (is_decoder(config) or is_encoder_decoder(config)):
        raise RecipeError(
            f"`as_text` needs a model that writes text, which a {config.model_type} model does not",
            fix="leave `as_text` out, so that it gets a classification head, or take a decoder or an encoder-decoder",
        )
    if stage.objective is not None and stage.objective.needs_validation_logits:
        raise RecipeError(
            f"the objective {stage.objective.name} changes a classification head, which `as_text` does without",
            fix="leave one of them out",
        )


def label_arguments(task: TaskData) -> dict[str, Any]:
    """What a new head has to know; a language model's own head needs nothing."""
    schema = str(task.schema.name)
    if task.form is not None:
        return {}
    if schema == "regression":
        return {"regression": True, "num_labels": 1}
    return {"labels": list(task.labels)} if task.labels and schema != "multiple_choice" else {}


def apply_method(stage: Tune, model: Any, prepared: Prepared | None, seed: int, head: str | None = None) -> Any:
    """Apply the tuning method; its new parameters depend on the seed alone."""
    head = head or (prepared.head if prepared else "encoder")
    tokenizer = prepared.tokenizer if prepared else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        context = MethodContext(PEFT_TASK_TYPES[head], seed, tokenizer)
        parts = [] if stage.train_head else head_parameters(model, context.task_type)
        tuned = stage.method.apply(model, context)
    for path in stage.method.files():
        check_file_unchanged(path)
    if not stage.train_head:
        freeze_head(tuned, parts)
    return tuned


def primary_metric(task: TaskData) -> tuple[str, bool]:
    """The score that the best weights are chosen by, and whether higher is better."""
    name = task.metrics[0] if task.metrics else "loss"
    return name, higher_is_better(name)


def training_job(stage: Tune, inputs: StageInputs, prepared: Prepared, model: Any, folder: Path) -> TrainingJob:
    """The job that trains the model on the encoded rows."""
    collator = make_collator(prepared.schema, prepared.tokenizer)
    name, higher = primary_metric(prepared.task)
    rows, objective = prepared.rows["train"], stage.objective
    return TrainingJob(
        model=model,
        schema=prepared.schema,
        shifted=prepared.shifted,
        rows=EndlessStream(rows) if stage.data.streaming else rows,
        sampler=None if stage.data.streaming else row_sampler(stage, rows, inputs.seed),
        collator=collator,
        settings=stage,
        learning_rate=stage.rate(),
        groups=stage.method.parameter_groups(model, stage.rate(), stage.weight_decay),
        folder=folder / "checkpoints" / inputs.key[:16],
        log=folder / "log.jsonl",
        seed=inputs.seed,
        evaluator=validation_scorer(stage, prepared),
        primary=(f"validation/{name}", higher),
        labels=prepared.task.labels,
        description=f"{stage.method.name} seed {inputs.seed}",
        mixin=objective.trainer_mixin() if objective else None,
        mixin_arguments={"objective": objective} if objective else {},
    )


def row_sampler(stage: Tune, rows: Any, seed: int) -> LengthBucketSampler:
    """The order in which rows are trained on."""
    lengths = list(rows["length"]) if stage.group_by_length else [0] * len(rows)
    return LengthBucketSampler(lengths, batch_size=stage.batch_size, accumulation=stage.accumulation, seed=seed)


def finish_objective(stage: Tune, prepared: Prepared, model: Any, job: TrainingJob) -> dict[str, float]:
    """What an objective does to the trained model, given its outputs on the validation split."""
    if stage.objective is None or not stage.objective.needs_validation_logits:
        return {}
    found = predict_rows(
        model, prepared.rows["validation"], job.collator, prepared.schema, batch_size=stage.evaluation_batch_size
    )
    return dict(stage.objective.finish(model, found.logits, found.labels))


def method_details(stage: Tune, prepared: Prepared, model: Any, job: TrainingJob) -> dict[str, Any]:
    """What the method tells about the trained model, given its validation rows."""
    rows = prepared.rows.get("validation")
    if rows is None or not len(rows):
        return {}

    def forward(most: int) -> None:
        some, size = rows.select(range(min(most, len(rows)))), stage.evaluation_batch_size
        predict_rows(model, some, job.collator, prepared.schema, batch_size=size, shifted=prepared.shifted)

    details: dict[str, Any] = stage.method.examine(model, forward)
    return details


def correct_rows(stage: Tune, prepared: Prepared, model: Any) -> dict[str, str]:
    """Which validation rows the trained model got right, a 1 or 0 for each in their order, where that makes its main
    score: so that two runs can be compared row by row."""
    if primary_metric(prepared.task)[0] != "accuracy" or prepared.task.form is not None:
        return {}
    rows, size = prepared.rows["validation"], stage.evaluation_batch_size
    found = predict_task(model, rows, prepared.task, prepared.tokenizer, batch_size=size)
    if found.labels is None or getattr(found.logits, "ndim", 0) != 2:
        return {}
    right = found.logits.argmax(axis=1) == found.labels
    return {"validation_correct": "".join("1" if one else "0" for one in right)}


def validation_scorer(stage: Tune, prepared: Prepared) -> Any:
    """model -> scores on the validation split, or None where there is none."""
    rows = prepared.rows.get("validation")
    if rows is None or not len(rows) or stage.evaluate_every == "never":
        return None

    def scores(model: Any) -> dict[str, float]:
        predictions = predict_task(
            model, rows, prepared.task, prepared.tokenizer, batch_size=stage.evaluation_batch_size
        )
        found = task_scores(predictions, prepared.task, "validation", rows)
        return {f"validation/{name}": value for name, value in found.items()}

    return scores


def card_for(stage: Tune, inputs: StageInputs, prepared: Prepared, result: TrainingResult) -> ModelCard:
    """The card of the saved model."""
    return describe(
        inputs.model,
        prepared.head,
        schema=str(prepared.task.schema.name),
        labels=list(prepared.task.labels) or None,
        regression=prepared.schema == "regression",
        text_form=prepared.task.form,
        columns=dict(prepared.task.columns),
        max_length=prepared.max_length,
        reserved_tokens=stage.method.reserved_tokens(),
        method=stage.method.model_dump(mode="json"),
        data=json.loads(redact(stage.data.model_dump_json())),
        metrics=result.scores,
    )


def plan_tuning(stage: Tune, inputs: StageInputs) -> StagePlan:
    """Check the data, and build the model without its weights to count what would be trained."""
    prepared = prepare(stage, inputs)
    model = empty_model(inputs.model, prepared.head, **label_arguments(prepared.task))
    with torch.device("meta"):
        model = apply_method(stage, model, prepared, inputs.seed)
    if stage.continue_adapter:
        check_continues(stage, inputs, prepared)
        without_networks(model)
    trainable, total = parameter_counts(model)
    streamed = stage.data.streaming
    lengths = [prepared.max_length] if streamed else list(prepared.rows["train"]["length"])
    steps = total_steps(stage, len(lengths))
    tokens = sum(lengths) / len(lengths) * stage.batch_size * stage.accumulation
    memory = memory_estimate(total, trainable, model.config, max(lengths) * stage.batch_size)
    split = frozen_up_to(model) if stage.cache_trunk else None
    facts = {
        "method": stage.method.name,
        **({"objective": stage.objective.name} if stage.objective else {}),
        "rows": ", ".join(f"{k} {'streamed' if n is None else n}" for k, n in row_counts(prepared).items()),
        "task": described_task(prepared.task),
        "longest row": f"{max(lengths)} of {prepared.max_length} tokens",
        "parameters to train": f"{trainable:,} of {total:,} ({trainable / total:.2%})",
        **({"computed once": f"what runs up to {split}"} if split else {}),
        "learning rate": f"{stage.rate():g}",
        "steps": f"{steps:,}" if steps < UNBOUNDED else f"what {stage.max_minutes:g} minutes allow",
    }
    limit = 60 * stage.max_minutes if stage.max_minutes else math.inf
    cost = stage.objective.relative_cost() if stage.objective else 1.0
    return StagePlan(facts, min(limit, cost * time_estimate(model, total, tokens, steps)), memory)


def described_task(task: TaskData) -> str:
    """The task in a few words."""
    labels = f", {len(task.labels)} labels" if task.labels else ""
    read = f" on {' and '.join(task.columns)}" if task.schema.optional else ""
    return f"{task.schema.name}{read}{labels}" + (f', as text: "{task.form.template}"' if task.form else "")


def memory_estimate(total: int, trainable: int, config: Any, tokens: int) -> int:
    """Bytes: weights, gradients and two moments in float32, and activations of the longest batch.

    Activations are counted as 16 numbers of the hidden width per token and layer, which is what a transformer
    block of the usual shape keeps for its backward pass; libraries add about 400 MB.
    """
    width = getattr(config, "hidden_size", 768)
    layers = getattr(config, "num_hidden_layers", 12)
    return int(4 * total + 12 * trainable + 4 * 16 * width * layers * tokens + 400e6)


def time_estimate(model: Any, total: int, tokens: float, steps: int) -> float:
    """Seconds: 6 operations per weight and token that is multiplied, at the speed of a measured matrix product."""
    import time

    embedded = sum(p.numel() for n, p in model.named_parameters() if "embedding" in n or n.endswith("wte.weight"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(512, 512, device=device)
    for _ in range(2):
        started = time.perf_counter()
        for _ in range(8):
            a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        speed = 8 * 2 * 512**3 / (time.perf_counter() - started)
    return 6 * (total - embedded) * tokens * steps / speed / 0.5
