"""What the `represent` stage does, and its dry run.

Source: Huang et al., Findings of EMNLP 2023. Shapes: N texts, D width of a representation, C classes.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.data.batches.encoding import encode_rows
from luthier.data.loading import load_data
from luthier.data.rows.identity import rows_digest
from luthier.data.settings import SPLITS, DataSettings
from luthier.data.sources.fingerprint import source_fingerprint
from luthier.data.task_data import TaskData
from luthier.errors import DataError, ModelError, RecipeError, Refusals
from luthier.evaluation.meters import CostMeter
from luthier.evaluation.prediction import Predictions
from luthier.evaluation.scoring import TaskResult, task_result
from luthier.models.inspect import bytes_on_disk, parameter_counts
from luthier.models.loading import local_folder
from luthier.models.placing import device
from luthier.models.references import check_model_unchanged, fingerprint, resolve
from luthier.models.settings import ModelSettings
from luthier.progress import track
from luthier.report.intervals import bounded_interval
from luthier.representing.shared_encoder import SharedEncoder
from luthier.representing.shown import nothing_learned, sections, told_of_stage
from luthier.representing.store import RepresentationStore
from luthier.representing.texts import Texts
from luthier.stages import StageInputs, StageOutputs, StagePlan, metrics_record
from luthier.stages.parts import modules_of
from luthier.storage.code import code_digest
from luthier.storage.hashing import cache_directory
from luthier.storage.keys import digest_of
from luthier.storage.one_version import check_file_unchanged, file_fingerprint
from luthier.storage.paths import is_file, is_there, user_path
from luthier.storage.ranks import several_processes
from luthier.storage.steps import Workspace, shared_step
from luthier.tasks.base import task_of
from luthier.training.planning import plan_supervised
from luthier.training.settings import TrainingSettings
from luthier.training.supervised import train_supervised
from luthier.training.supervised_settings import SupervisedSettings

if TYPE_CHECKING:
    from luthier.representing.stage import HeadTask, Represent, SourceTask

MEAN = "heads/mean_score"


@dataclass(frozen=True)
class Target:
    """The data of one head.

    Attributes:
        split: the split that it is scored on.
    """

    task: TaskData
    split: str

    @property
    def columns(self) -> list[str]:
        """What the file calls the text, or both texts."""
        names = [
            self.task.columns.get(name, name) for name in ("text", "text_pair") if name in self.task.schema.columns
        ]
        return [name for name in names if isinstance(name, str)]

    def texts(self, split: str) -> Texts:
        """Texts, or pairs, of a split."""
        rows = self.task.splits[split]
        columns = [list(rows[name]) for name in ("text", "text_pair") if name in self.task.schema.columns]
        return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))

    def labels(self, split: str) -> list[str]:
        """Names of the classes of a split's rows."""
        return [self.task.labels[i] for i in self.task.splits[split]["label"]]


def check_sources(stage: Represent) -> None:
    """Find what is wrong with the data of tasks and heads.

    Raises:
        DataError, RecipeError: the data can't be read, or have no labels where they need some.
    """
    refusals = Refusals()
    for name, task in stage.tasks.items():
        with refusals.next():
            if task.data is not None and load_data(task.data).schema.label_column is None:
                raise no_labels(f"tasks.{name}")
    for name, head in stage.heads.items():
        with refusals.next():
            target(name, head.data)
    refusals.raise_all()


def no_labels(where: str) -> DataError:
    return DataError("the rows have no labels", where=where, fix="name the column with `label: COLUMN` in its `data`")


def check_lengths(stage: Represent, encoder: SharedEncoder, targets: dict[str, Target]) -> None:
    """Refuse rows of the heads that are too long, unless their data allow to cut them.

    Raises:
        DataError: names them.
    """
    for name, one in targets.items():
        for split in {"train", one.split} if stage.heads[name].data.too_long == "error" else ():
            rows = [dict(row) for row in one.task.splits[split]]
            schema, named = str(one.task.schema.name), f"heads.{name}, split {split!r}"
            encode_rows(rows, schema, encoder.base.tokenizer, max_length=encoder.max_length, named=named)


def check_given(stage: Represent, encoder: SharedEncoder) -> None:
    """Refuse trained prefixes that the model can't take, before others are trained.

    Raises:
        ModelError: one is damaged, or belongs to another model.
    """
    for task in stage.tasks.values():
        if task.prefix is not None:
            encoder.base.prefix_from(task.prefix)


def run_representing(stage: Represent, inputs: StageInputs, folder: Path) -> StageOutputs:
    """Train the prefixes that are not there yet, combine them, fit the heads, save all."""
    workspace = inputs.workspace or Workspace(folder, inputs.key)
    targets = {name: target(name, head.data) for name, head in stage.heads.items()}
    encoder = encoder_of(stage, inputs)
    check_lengths(stage, encoder, targets)
    check_given(stage, encoder)
    # Heads that read the model as it is: what the prefixes have to beat. The ones that are kept replace them.
    plain: dict[str, float] = {}
    if stage.tasks and targets:
        plain = beside_scores(targets, fit_heads(stage, encoder, targets, inputs.seed))["scores"]
    with CostMeter() as meter:
        learned = {}
        with track("prefixes", len(stage.tasks)) as bar:
            for number, (name, task) in enumerate(stage.tasks.items()):
                bar.update(number, name)
                source, learned[name] = learned_prefix(stage, name, task, inputs, workspace)
                encoder.add(name, source, task.weight)
                if task.prefix is not None:
                    check_prefix_unchanged(task.prefix)
            bar.update(len(stage.tasks), "")
        results = fit_heads(stage, encoder, targets, inputs.seed)
    beside = beside_scores(targets, results)
    scores = beside.pop("scores")
    beside["intervals"] |= mean_interval(results, targets)
    artifact = encoder.save(folder / "model")
    prefixes = sum(prefix.size for prefix in encoder.prefixes.values())
    heads = sum(head.parameters for head in encoder.heads.values())
    cost = {
        "trainable_parameters": prefixes + heads,
        "total_parameters": parameter_counts(encoder.base.model)[1] + prefixes + heads,
        "bytes_on_disk": bytes_on_disk(artifact),
        "seconds": meter.seconds + sum(one["seconds"] for one in learned.values() if one["kept"]),
        "peak_memory_bytes": meter.peak_memory_bytes,
    }
    if targets:
        mains = [scores[f"{one.split}/{name}/{one.task.metrics[0]}"] for name, one in targets.items()]
        scores = {MEAN: statistics.fmean(mains)} | scores
    for name, one in learned.items():
        scores |= {f"source/{name}/{k.rpartition('/')[2]}": v for k, v in one["scores"].items()}
    rows = scored_rows(targets)
    details = {
        "width": encoder.width,
        "passes": encoder.passes,
        "tasks": learned,
        "heads": {name: list(head.labels) for name, head in encoder.heads.items()},
        "scored_rows": {MEAN.partition("/")[0]: digest_of(rows)} if targets else {},
        "drawn_scores": {MEAN: mean_draws(results, targets)} if targets else {},
        "without_prefixes": plain,
        "ran": told_of_stage(stage, inputs, encoder, targets, learned, rows),
        "sections": sections(stage, encoder, targets, learned, scores, plain),
    }
    record = metrics_record(
        "represent",
        scores=scores,
        **beside,
        primary=MEAN if targets else None,
        cost=cost,
        details=details,
    )
    return StageOutputs(record, {"model": artifact})


def encoder_of(stage: Represent, inputs: StageInputs) -> SharedEncoder:
    """The frozen model, without prefixes yet, on the accelerator where there is one."""
    encoder = SharedEncoder(
        inputs.model,
        combine=stage.combine,
        pooling=stage.pooling,
        normalise=stage.normalise,
        max_length=stage.max_length,
    )
    return encoder.to(device())


def target(name: str, data: DataSettings) -> Target:
    """Read and check the data of a head.

    Raises:
        DataError: there are no rows to fit on or to score on.
        RecipeError: the task is not one of classes.
    """
    where = f"heads.{name}"
    if data.streaming:
        raise RecipeError("a head is fitted on all rows at once, not on a stream", where=where, fix="leave it out")
    task = load_data(data, splits=SPLITS)
    if task.schema.label_column is None:
        raise no_labels(where)
    if task.schema.label_kind != "class" or task.form is not None:
        kind = "posed as text" if task.form is not None else f"of the kind {task.schema.name}"
        raise RecipeError(
            f"a head tells classes of texts or pairs apart, and the task is {kind}",
            where=where,
            fix="tune a model for it, or give another task",
        )
    there = [split for split in SPLITS if split in task.splits and len(task.splits[split])]
    scored = next((split for split in ("test", "validation") if split in there), None)
    if "train" not in there or scored is None:
        missing = "training rows" if "train" not in there else "rows to score it on"
        raise DataError(f"the head has no {missing}", where=where, fix="give data.train, and data.test or .validation")
    return Target(task, scored)


def learned_prefix(
    stage: Represent, name: str, task: SourceTask, inputs: StageInputs, workspace: Workspace
) -> tuple[Path, dict[str, Any]]:
    """Where the prefix of a task is, trained now unless it has been before, and what its training told."""
    if task.prefix is not None:
        return user_path(task.prefix), {"kept": False, "scores": {}, "seconds": 0.0, "from": task.prefix}
    tune = tuning_of(stage, task)

    def trained(work: Workspace) -> dict[str, Any]:
        return train_supervised(tune, replace(inputs, key=work.key, workspace=work), work.folder).metrics

    step = workspace.step(f"tasks/{name}", prefix_inputs(tune, inputs), trained, shared=True)
    return step.folder / "model", told(step.result, kept=step.cached)


def told(metrics: dict[str, Any], *, kept: bool) -> dict[str, Any]:
    """What the report says of a prefix's training."""
    return {
        "kept": kept,
        "scores": metrics["scores"],
        "seconds": metrics["cost"]["seconds"],
        "rows": metrics["details"]["rows"],
        "nothing_learned": nothing_learned(metrics),
        "data": metrics["details"].get("ran", {}).get("data", {}),
        "steps": metrics["details"]["steps"],
    }


def tuning_of(stage: Represent, task: SourceTask) -> SupervisedSettings:
    """How the prefix of one task is trained."""
    shared = {name: getattr(stage, name) for name in TrainingSettings.model_fields}
    return SupervisedSettings(data=task.data, method=stage.prefix, **shared)


def prefix_inputs(tune: SupervisedSettings, inputs: StageInputs) -> dict[str, Any]:
    """All that a prefix depends on."""
    return {
        "settings": tune,
        "model": fingerprint(resolve(inputs.model)),
        "model_settings": inputs.model.loaded_as(),
        "data": source_fingerprint(tune.data),
        "seed": inputs.seed,
        "code": code_digest({train_supervised.__module__, *modules_of(tune)}),
        **several_processes(),
    }


def prefix_fingerprint(reference: str) -> str:
    """Hash of a trained prefix's files.

    Raises:
        ModelError: there is none.
    """
    path = user_path(reference)
    if not is_there(path):
        raise ModelError(
            "there is no such file or folder",
            where=reference,
            fix="name the folder of a run with the method task_prefix, or a file in `prefixes` of an encoder",
        )
    return file_fingerprint(path) if path.is_file() else fingerprint(resolve(reference))


def check_prefix_unchanged(reference: str) -> None:
    """To be called when a trained prefix was read.

    Raises:
        WorkspaceError: it is no longer what it was when the run first looked at it.
    """
    path = user_path(reference)
    if is_file(path):
        check_file_unchanged(path)
    else:
        source = resolve(reference)
        check_model_unchanged(source, local_folder(source, ModelSettings.model_validate(reference)))


def fit_heads(stage: Represent, encoder: SharedEncoder, targets: dict[str, Target], seed: int) -> dict[str, TaskResult]:
    """Fit and score every head."""
    store, size = RepresentationStore(cache_directory() / "representations"), stage.representation_batch_size
    results: dict[str, TaskResult] = {}
    with track("heads", len(targets)) as bar:
        for number, (name, one) in enumerate(targets.items()):
            bar.update(number, name)
            head: HeadTask = stage.heads[name]
            options: dict[str, Any] = {"store": store, "batch_size": size, **head.options(seed)}
            texts = one.texts("train")
            encoder.fit_head(name, texts, one.labels("train"), kind=head.kind, columns=one.columns, **options)
            vectors = store.vectors(encoder, one.texts(one.split), batch_size=size)
            answers = predictions(encoder, name, vectors, one)
            prior = task_of(one.task).prior(one.task)
            results[name] = task_result(answers, one.task, one.split, None, prior=prior)
        bar.update(len(targets), "")
    return results


def beside_scores(targets: dict[str, Target], results: dict[str, TaskResult]) -> dict[str, Any]:
    """Scores of all heads as `split/head/metric`, and what stands beside them, as arguments of `metrics_record`."""
    found: dict[str, Any] = {"scores": {}, "intervals": {}, "baselines": {}, "marks": [], "about": {}}
    for name, result in results.items():
        prefix = f"{targets[name].split}/{name}"
        found["scores"] |= {f"{prefix}/{k}": v for k, v in result.scores.items()}
        found["intervals"] |= {f"{prefix}/{k}": v for k, v in result.intervals.items()}
        told = result.told(prefix)
        found["baselines"] |= told["baselines"]
        found["about"] |= told["about"]
        found["marks"] += [f"{name}: {mark}" for mark in told["marks"]]
    return found


def mean_draws(results: dict[str, TaskResult], targets: dict[str, Target]) -> list[float]:
    """The mean of all heads' first metrics in every draw; nothing where a head has too few rows to draw from."""
    drawn = [results[name].drawn.get(one.task.metrics[0]) for name, one in targets.items()]
    known = [one for one in drawn if one is not None]
    return [round(float(x), 6) for x in np.mean(known, axis=0)] if known and len(known) == len(drawn) else []


def mean_interval(results: dict[str, TaskResult], targets: dict[str, Target]) -> dict[str, tuple[float, float]]:
    """The interval of the mean score of all heads, where there is one."""
    drawn = mean_draws(results, targets)
    interval = bounded_interval(np.array(drawn), None) if drawn else None
    return {} if interval is None else {MEAN: interval}


def scored_rows(targets: dict[str, Target]) -> dict[str, str]:
    """Head -> fingerprint of the rows that it is scored on."""
    return {name: rows_digest(one.task.splits[one.split], one.task.labels) for name, one in targets.items()}


def predictions(encoder: SharedEncoder, name: str, vectors: np.ndarray, one: Target) -> Predictions:
    """A head's answers in the form that scores are computed from; a class that it never met has probability 0."""
    said = encoder.predict_vectors(vectors, heads=[name])[name]
    known = [one.task.labels.index(label) for label in encoder.heads[name].labels]
    probabilities = np.zeros((len(vectors), len(one.task.labels)))
    probabilities[:, known] = said.probabilities
    rows = one.task.splits[one.split]
    labels = np.asarray(rows["label"])
    logits = np.log(np.maximum(probabilities, 1e-12))
    return Predictions(
        schema=str(one.task.schema.name),
        logits=logits,
        labels=labels,
        rows=np.asarray(rows["row"]),
        nll=-logits[np.arange(len(labels)), labels],
        items=np.ones(len(labels)),
    )


def plan_representing(stage: Represent, inputs: StageInputs) -> StagePlan:
    """Check all data, and count what would be trained."""
    facts: dict[str, str] = {"combine": stage.combine}
    seconds, memory = 0.0, 0
    for name, task in stage.tasks.items():
        if task.prefix is not None:
            prefix_fingerprint(task.prefix)
            facts[f"prefix {name}"] = f"from {task.prefix}"
            continue
        tune = tuning_of(stage, task)
        if not inputs.stands_in and shared_step(prefix_inputs(tune, inputs)) is not None:
            facts[f"prefix {name}"] = "trained already"
            continue
        plan = plan_supervised(tune, inputs)
        facts[f"prefix {name}"] = ", ".join(f"{k} {plan.facts[k]}" for k in ("rows", "parameters to train", "steps"))
        seconds += plan.seconds or 0
        memory = max(memory, plan.memory_bytes or 0)
    for name, head in stage.heads.items():
        one = target(name, head.data)
        facts[f"head {name}"] = (
            f"{head.kind}, {len(one.task.labels)} classes, {len(one.task.splits['train'])} rows, "
            f"scored on {len(one.task.splits[one.split])} of {one.split}"
        )
    return StagePlan(facts, seconds or None, memory or None)
