"""Runs a `glue` stage: one fine-tuning for each model, task, rate and seed, and one table of all."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.sources.fingerprint import source_fingerprint
from luthier.errors import DataError
from luthier.evaluation.meters import CostMeter
from luthier.language_modeling.budget import body_cost
from luthier.models.inspect import parameter_counts
from luthier.models.loading import empty_model
from luthier.models.references import fingerprint, resolve
from luthier.pretraining.glue import GLUE
from luthier.pretraining.glue_table import Found, Line, sections, titles
from luthier.progress import track
from luthier.stages.artifacts import Artifact
from luthier.stages.base import MODEL, StageInputs, StageOutputs, StagePlan, metrics_record
from luthier.stages.parts import modules_of
from luthier.storage.code import code_digest
from luthier.storage.ranks import several_processes
from luthier.storage.steps import Workspace
from luthier.training.planning import plan_supervised
from luthier.training.settings import TrainingSettings
from luthier.training.supervised import train_supervised
from luthier.training.supervised_settings import SupervisedSettings

if TYPE_CHECKING:
    from luthier.pretraining.glue import Glue

# What a task of GLUE is judged by where that is not its accuracy: one metric, or the mean of two.
METRICS = {
    "cola": ("matthews_correlation",),
    "mrpc": ("accuracy", "f1"),
    "qqp": ("accuracy", "f1"),
    "stsb": ("pearson", "spearman"),
}


def run_glue(stage: Glue, inputs: StageInputs, folder: Path) -> StageOutputs:
    """Fine-tune each model on each task; what was done before is not done again."""
    workspace, tasks = inputs.workspace or Workspace(folder, inputs.key), stage.chosen()
    models, found = models_of(stage, inputs), dict[str, Found]()
    cells = list(itertools.product(models, tasks, stage.rates(), range(stage.seeds)))
    with CostMeter() as meter, track("fine-tunings", len(cells)) as bar:
        for number, (name, task, rate, seed) in enumerate(cells, 1):
            own = replace(inputs, artifacts={MODEL: models[name]}, seed=(inputs.seed + seed) % 2**32)
            metrics = fine_tuned(stage, own, name, task, rate, workspace)
            found.setdefault(name, {}).setdefault(task, {}).setdefault(rate, []).append(metrics)
            bar.update(number, f"{name}, {titles(tasks)[task]}")
    lines = [line(stage, name, artifact, found[name]) for name, artifact in models.items()]
    scores = {f"validation/{one.name}/{task}": one.score(task) for one in lines for task in tasks}
    scores |= {f"validation/{one.name}/mean": one.mean(tasks) for one in lines}
    details = {
        "tasks": tasks,
        "not_at_hand": absent(tasks),
        "by_seed": {one.name: {task: one.by_seed(task) for task in tasks} for one in lines},
        "rates": {one.name: {task: one.rate(task) for task in tasks} for one in lines},
        "sections": sections(lines, tasks, stage.baseline, stage.seeds, stage.source),
    }
    cost = {"seconds": meter.seconds, "peak_memory_bytes": meter.peak_memory_bytes}
    primary = f"validation/{stage.baseline or lines[0].name}/mean"
    return StageOutputs(metrics_record(stage.name, scores=scores, primary=primary, cost=cost, details=details))


def plan_glue(stage: Glue, inputs: StageInputs) -> StagePlan:
    """Count the fine-tunings, and add up what each would take."""
    models, tasks, times = models_of(stage, inputs), stage.chosen(), stage.seeds * len(stage.rates())
    seconds, memory = 0.0, 0
    for artifact, task in itertools.product(models.values(), tasks):
        own = replace(inputs, artifacts={MODEL: artifact})
        plan = plan_supervised(tuning(stage, task, stage.rates()[0]), own)
        seconds += times * (plan.seconds or 0.0)
        memory = max(memory, plan.memory_bytes or 0)
    facts = {
        "models": ", ".join(models),
        "tasks": ", ".join(titles(tasks)[task] for task in tasks),
        "not at hand": ", ".join(GLUE[task] for task in absent(tasks)) or "none",
        "fine-tunings": f"{len(models) * len(tasks) * times:,}",
    }
    return StagePlan(facts, seconds, memory)


def absent(tasks: Sequence[str]) -> list[str]:
    """The tasks of GLUE that the table has a column for and no scores of."""
    return [task for task in titles(tasks) if task not in tasks]


def models_of(stage: Glue, inputs: StageInputs) -> dict[str, Artifact]:
    """Line -> model."""
    if not stage.models:
        return {MODEL: inputs.artifacts[MODEL]}
    return {name: inputs.artifacts[f"models.{name}"] for name in stage.models}


def tuning(stage: Glue, task: str, rate: float) -> SupervisedSettings:
    """How a model is fine-tuned: as many steps for each."""
    shared = {name: getattr(stage, name) for name in TrainingSettings.model_fields} | {"learning_rate": rate}
    return SupervisedSettings(data=stage.data_of(task), method=stage.method, **shared)


def fine_tuned(
    stage: Glue, inputs: StageInputs, name: str, task: str, rate: float, workspace: Workspace
) -> dict[str, float]:
    """The metrics of one fine-tuning, with the seed of the inputs."""
    settings = tuning(stage, task, rate)
    made_from = {
        "settings": settings,
        "model": fingerprint(resolve(inputs.model)),
        "loaded": inputs.model.loaded_as(),
        "data": source_fingerprint(settings.data),
        **stage.method.file_fingerprints(),
        "seed": inputs.seed,
        "code": code_digest({train_supervised.__module__, *modules_of(settings)}),
        **several_processes(),
    }

    def train(work: Workspace) -> dict[str, Any]:
        outputs = train_supervised(settings, replace(inputs, key=work.key, workspace=work), work.folder)
        shutil.rmtree(work.folder / "model")
        if outputs.metrics["primary"] is None:
            raise DataError("there are no validation rows to score", where=task, fix="give it `validation_fraction`")
        own = METRICS.get(task, ("accuracy",)) if task in GLUE else (outputs.metrics["primary"].partition("/")[2],)
        return {metric: outputs.metrics["scores"][f"validation/{metric}"] for metric in own}

    place = f"{name}/{task}-{rate:g}-{inputs.seed}"
    return workspace.step(place, made_from, train, shared=True).result


def line(stage: Glue, name: str, artifact: Artifact, found: Found) -> Line:
    """A model's line, with its size."""
    body: Any = empty_model(artifact.model, "encoder")
    operations = body_cost(body, stage.max_length) * stage.max_length / 1e9
    layers = getattr(body.config, "num_hidden_layers", None)
    return Line(name, layers, parameter_counts(body)[1], operations, found)
