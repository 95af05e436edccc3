"""The dry run of supervised training: its data checked, its model counted, its time and memory estimated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from luthier.data.batches.samples import Sample, SampleEncoding
from luthier.models.artifacts import check_merges
from luthier.models.inspect import parameter_counts
from luthier.models.loading import empty_model
from luthier.models.references import resolve
from luthier.stages.base import StageInputs, StagePlan
from luthier.tasks.heads import LANGUAGE_HEADS
from luthier.training.checkpoints import UNBOUNDED
from luthier.training.continuing import check_continues, with_saved_head, without_networks
from luthier.training.estimates import MEMORY_FACTOR, TIME_FACTOR, memory_estimate, time_estimate
from luthier.training.job import total_steps
from luthier.training.preparing import Prepared, described_task, new_head, prepare
from luthier.training.supervised import apply_method
from luthier.training.trunk.once import frozen_up_to

if TYPE_CHECKING:
    from luthier.training.supervised_settings import SupervisedSettings


def plan_supervised(stage: SupervisedSettings, inputs: StageInputs) -> StagePlan:
    """Read and check the data, encode a sample of them, and build the model without its weights to count what would be
    trained."""
    encoding = SampleEncoding()
    prepared = prepare(stage, inputs, encoding)
    samples, sample = encoding.samples, encoding.samples["train"]
    model = planned_model(stage, inputs, prepared)
    trainable, total = parameter_counts(model)
    rows = _rows_trained_on(prepared, sample)
    steps = total_steps(stage, rows)
    lengths = prepared.rows["train"]["length"][:]
    reserved = stage.method.reserved_tokens()
    length = sum(lengths) / max(1, len(lengths)) + reserved
    tokens = length * stage.batch_size * stage.accumulation
    held = sum(split.data.nbytes for split in prepared.task.splits.values() if hasattr(split, "data"))
    frozen = frozen_up_to(model)
    memory = memory_estimate(
        total,
        trainable,
        model.config,
        (sample.longest + reserved) * stage.batch_size,
        held,
        backward=frozen is None,
        scored=prepared.head in LANGUAGE_HEADS.values(),
    )
    split = frozen if stage.cache_trunk else None
    about = f", of the rows looked at: {sample.about}" if sample.about else ""
    facts = {
        "method": stage.method.name,
        **({"objective": stage.objective.name} if stage.objective else {}),
        "rows": ", ".join(f"{name} {_counted(one)}" for name, one in samples.items()),
        "task": described_task(prepared.task),
        "longest row": f"{sample.longest} of {prepared.max_length} tokens{about}",
        "parameters to train": f"{trainable:,} of {total:,} ({trainable / total:.2%})",
        **({"computed once": f"what runs up to {split}"} if split else {}),
        "learning rate": f"{stage.rate():g}",
        "steps": f"{steps:,}" if steps < UNBOUNDED else f"what {stage.max_minutes:g} minutes allow",
        "estimates": f"time within a factor of {TIME_FACTOR:g}, memory within a factor of {MEMORY_FACTOR:g}",
    }
    limit = 60 * stage.max_minutes if stage.max_minutes else math.inf
    cost = stage.objective.relative_cost() if stage.objective else 1.0
    return StagePlan(
        facts,
        min(limit, cost * time_estimate(model, total, tokens, steps, backward=frozen is None, length=length)),
        memory,
    )


def planned_model(stage: SupervisedSettings, inputs: StageInputs, prepared: Prepared) -> Any:
    """The model that would be trained, on the device `meta`."""
    stage = with_saved_head(stage, inputs)
    model = empty_model(inputs.model, prepared.head, **new_head(stage, prepared.task))
    with torch.device("meta"):
        model = apply_method(stage, model, prepared, inputs.seed)
    if stage.continue_adapter:
        if not inputs.stands_in:
            check_continues(stage, inputs, prepared)
        without_networks(model)
    else:
        check_merges(resolve(inputs.model))
    return model


def _rows_trained_on(prepared: Prepared, sample: Sample) -> int:
    """Encoded training rows, those left out that have nothing to learn; 1 for a stream, of which no one knows."""
    kept = len(prepared.rows["train"]) / max(1, sample.encoded)
    return 1 if sample.total is None else max(1, round(sample.total * kept))


def _counted(sample: Sample) -> str:
    if sample.total is None:
        return "streamed"
    return f"{sample.total}" if sample.exact else f"about {sample.total}"
