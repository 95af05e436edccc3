"""What a trained stage tells of itself, for a page that says what was run: the model, the method, the data, the steps
that were taken, the rate that was used, and which step's weights were kept and why."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.rows.identity import rows_digest
from luthier.metric_names import higher_is_better
from luthier.models.inspect import bytes_on_disk
from luthier.models.loading import load_config
from luthier.models.references import resolve
from luthier.secrets import redact_values
from luthier.storage.ranks import world_size
from luthier.training.checkpoints import UNBOUNDED
from luthier.training.job import TrainingJob, TrainingResult, resolve_precision, total_steps

if TYPE_CHECKING:
    from luthier.models.card import ModelCard
    from luthier.stages.base import StageInputs
    from luthier.training.preparing import Prepared
    from luthier.training.supervised_settings import SupervisedSettings


def training_cost(counts: tuple[int, int], result: TrainingResult, artifact: Path) -> dict[str, float]:
    """What the report says of the costs.

    Args:
        counts: parameters that were trained, and all, as `luthier.models.inspect.parameter_counts` gives them.
        result: of the training.
        artifact: where its model was saved.
    """
    trainable, total = counts
    return {
        "trainable_parameters": trainable,
        "total_parameters": total,
        "bytes_on_disk": bytes_on_disk(artifact),
        "seconds": result.seconds,
        "peak_memory_bytes": result.peak_memory_bytes,
        "tokens_per_second": result.tokens_per_second,
    }


def told_of_training(
    stage: SupervisedSettings, prepared: Prepared, job: TrainingJob, result: TrainingResult
) -> dict[str, Any]:
    """Method, data, training and choice, as `luthier.report.ran` reads them from `ran` in a stage's details."""
    streamed = stage.data.streaming
    planned = total_steps(stage, 0 if streamed else len(prepared.rows["train"]))
    return {
        "method": told_of_settings(stage.method),
        **({"objective": told_of_settings(stage.objective)} if stage.objective is not None else {}),
        "schema": str(prepared.task.schema.name),
        "columns": dict(prepared.task.columns),
        "longest": prepared.max_length,
        "data": told_of_data(prepared),
        "training": {
            "steps": result.steps,
            "planned_steps": planned if planned < UNBOUNDED else None,
            "rows_per_step": stage.batch_size * stage.accumulation * world_size(),
            "learning_rate": stage.rate(),
            "rate_from": "recipe" if stage.learning_rate is not None else "method",
            "schedule": stage.schedule,
            "warmup_ratio": stage.warmup_ratio,
            "weight_decay": stage.weight_decay,
            "precision": resolve_precision(stage.precision),
            "seed": job.seed,
        },
        "kept": told_of_choice(stage, job, result),
    }


def told_of_model(inputs: StageInputs, card: ModelCard, parameters: int) -> dict[str, Any]:
    """What was started from: reference, commit or fingerprint, architecture, parameters before the method."""
    return {
        "reference": redact_values(inputs.model.reference),
        "base": redact_values(card.base),
        "revision": resolve(inputs.model).revision,
        "fingerprint": card.base_fingerprint,
        "architecture": load_config(inputs.model).model_type,
        "parameters": parameters,
    }


def told_of_settings(part: Any) -> dict[str, Any]:
    """The name of a method or objective, and all its settings."""
    settings: dict[str, Any] = redact_values(part.model_dump(mode="json"))
    return settings


def told_of_data(prepared: Prepared) -> dict[str, dict[str, Any]]:
    """Rows of every split, how many carry each label, and where they came from."""
    found: dict[str, dict[str, Any]] = {}
    for split, summary in prepared.task.summary.items():
        found[split] = {
            "rows": summary.rows,
            "labels": dict(summary.label_counts),
            "source": redact_values(summary.source),
            "note": summary.told,
        }
    return found


def sources_of(prepared: Prepared) -> dict[str, dict[str, Any]]:
    """By split, how many rows were read, from where, and how the split was made, for the card of the model."""
    kept = ("rows", "source", "note")
    return {split: {name: told[name] for name in kept} for split, told in told_of_data(prepared).items()}


def told_of_choice(stage: SupervisedSettings, job: TrainingJob, result: TrainingResult) -> dict[str, Any]:
    """The step whose weights were kept, the score that chose it, or why none did."""
    if job.validation is None:
        why = "evaluate_every is `never`" if stage.evaluate_every == "never" else "there are no validation rows"
        return {"step": result.best_step, "by": None, "why": why}
    if not stage.keep_best:
        return {"step": result.best_step, "by": None, "why": "keep_best is false"}
    name = job.validation.primary
    if not math.isfinite(result.scores.get(name, math.nan)):
        return {"step": result.best_step, "by": None, "why": f"{name} was never a finite number"}
    return {"step": result.best_step, "by": name, "higher": higher_is_better(name)}


def told_of_validation_rows(prepared: Prepared) -> dict[str, dict[str, str]]:
    """Fingerprint of the validation rows, where there are any."""
    rows = prepared.task.splits.get("validation")
    if rows is None or not hasattr(rows, "column_names") or not len(rows):
        return {}
    return {"scored_rows": {"validation": rows_digest(rows, list(prepared.task.labels))}}
