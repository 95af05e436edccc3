"""Runs a `distil` stage: the graph is trained, each node ends with its own best weights, and all are saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.sources.fingerprint import check_files_unchanged
from luthier.data.sources.origins import plan
from luthier.distillation.curves import curves, operations_of_each, sections
from luthier.distillation.preparing import Ready, ready_to_train
from luthier.distillation.settings import Node
from luthier.distillation.sources import node_cost, supervised
from luthier.language_modeling.preparing import TextJob
from luthier.models.artifacts import save_artifact
from luthier.models.card import ModelCard, describe
from luthier.models.inspect import bytes_on_disk, parameter_counts
from luthier.report.sections import Section, Value
from luthier.secrets import redact_values
from luthier.stages.base import MODEL, StageInputs, StageOutputs, metrics_record
from luthier.storage.ranks import joined
from luthier.training.job import TrainingResult, train
from luthier.training.preparing import row_counts
from luthier.training.supervised import BESIDE, card_for, finish_objective, method_details, settle_task

if TYPE_CHECKING:
    from luthier.distillation.stage import Distil


def run_distilling(stage: Distil, inputs: StageInputs, folder: Path) -> StageOutputs:
    """Train and save. See `luthier.training.job.train` for what stops it."""
    ready = ready_to_train(stage, inputs, folder)
    with joined("luthier.distillation.run:distil_along", sendable(stage), inputs, folder):
        result = train(ready.job, ready.callbacks)
    check_unchanged(ready)
    if ready.scores is not None and stage.keep_best:
        ready.scores.load_best()
    finished, settled = finish(ready), settle(ready)
    if (finished or settled) and ready.job.validation is not None:
        result = replace(result, **vars(ready.job.validation.evaluate(ready.job.model)))
        for name, best in ready.scores.best.items() if ready.scores is not None else ():
            best.scores = {key: value for key, value in result.scores.items() if f"/{name}/" in key}
    artifacts = {MODEL if name == stage.main else name: save(ready, name, result, folder) for name in stage.trained}
    told = details(ready, result, folder, finished) | settled.get(stage.main, {})
    beside_scores = told.pop(BESIDE, {})
    record = metrics_record(
        stage.name,
        scores=scores_of(ready, result),
        primary=ready.job.validation.primary if ready.job.validation is not None and result.scores else None,
        cost=costs(ready, result, artifacts),
        details=told,
        **beside_scores,
    )
    return StageOutputs(record, artifacts)


def distil_along(stage: Distil, inputs: StageInputs, folder: Path) -> None:
    """What another process of the run does while the main one is in `run_distilling`: it leaves nothing on disk."""
    ready = ready_to_train(stage, inputs, folder)
    train(ready.job, ready.callbacks)


def sendable(stage: Distil) -> Distil:
    """The settings as instances of classes that can be imported, unlike those of a recipe's stage."""
    from luthier.distillation.stage import Distil

    nodes = {
        name: Node.model_construct(
            _fields_set=set(node.model_fields_set), **{field: getattr(node, field) for field in Node.model_fields}
        )
        for name, node in stage.nodes.items()
    }
    fields = {name: getattr(stage, name) for name in Distil.model_fields}
    return Distil.model_construct(_fields_set=set(stage.model_fields_set), **fields | {"nodes": nodes})


def check_unchanged(ready: Ready) -> None:
    """See that what was read while training is still what the run began with."""
    if isinstance(ready.source, TextJob):
        ready.source.corpus.check_unchanged()
    elif ready.stage.data is not None and ready.stage.data.streaming:
        check_files_unchanged(plan(ready.stage.data).values())


def finish(ready: Ready) -> dict[str, float]:
    """What an objective does to the main model at the end."""
    if isinstance(ready.source, TextJob):
        return {}
    return finish_objective(supervised(ready.stage, ready.stage.main), ready.source, ready.job.model, ready.job)


def settle(ready: Ready) -> dict[str, dict[str, Any]]:
    """What the task chooses for the trained nodes on the validation rows, such as thresholds, by node."""
    stage, source = ready.stage, ready.source
    if isinstance(source, TextJob):
        return {}
    found = {name: settle_task(supervised(stage, name), source, ready.models[name]) for name in stage.trained}
    return {name: chosen for name, chosen in found.items() if chosen}


def scores_of(ready: Ready, result: TrainingResult) -> dict[str, float]:
    """The main node's scores, and those of every other node's own best weights."""
    scores = dict(result.scores)
    if ready.scores is not None and ready.stage.keep_best:
        for best in ready.scores.best.values():
            scores |= best.scores
    return scores


def save(ready: Ready, name: str, result: TrainingResult, folder: Path) -> Path:
    """Save a trained node: as `model` the main one, and the others by their names."""
    stage, inputs = ready.stage, ready.builder.inputs_of(name)
    all_scores = scores_of(ready, result)
    if name == stage.main:
        scores = {k: v for k, v in all_scores.items() if k.count("/") == 1}
    else:
        scores = {k.replace(f"/{name}/", "/"): v for k, v in all_scores.items() if f"/{name}/" in k}
    scored = replace(result, scores=scores)
    if isinstance(ready.source, TextJob):
        card = text_card(ready, ready.source, name, inputs, scored)
    else:
        card = card_for(supervised(stage, name), inputs, ready.source, scored)
    place = folder / (MODEL if name == stage.main else name)
    return save_artifact(ready.models[name], ready.tokenizer, place, card)


def text_card(ready: Ready, text: TextJob, name: str, inputs: StageInputs, result: TrainingResult) -> ModelCard:
    """The card of a node that learned text."""
    stage: Any = ready.stage
    method = stage.nodes[name].method
    told = {**method.model_dump(mode="json"), "stage": stage.name, "node": name}
    if method.name == "full":  # a language model as a `pretrain` stage makes it, and asked as such
        told["name"] = text.head
    return describe(
        inputs.model,
        text.head,
        schema="plain_text",
        max_length=text.frame.length,
        reserved_tokens=method.reserved_tokens(),
        method=redact_values(told),
        data=redact_values({"corpus": stage.text.corpus.model_dump(mode="json")}),
        columns={"text": stage.text.corpus.text},
        metrics=result.scores,
    )


def costs(ready: Ready, result: TrainingResult, artifacts: dict[str, Path]) -> dict[str, float]:
    """What the report says of the costs: of the model that goes on, and of the time that all took."""
    trainable, total = parameter_counts(ready.job.model)
    return {
        "trainable_parameters": trainable,
        "total_parameters": total,
        "bytes_on_disk": bytes_on_disk(artifacts[MODEL]),
        "seconds": result.seconds,
        "peak_memory_bytes": result.peak_memory_bytes,
        "tokens_per_second": result.tokens_per_second,
    }


def details(ready: Ready, result: TrainingResult, folder: Path, finished: dict[str, float]) -> dict[str, Any]:
    """What metrics.json and the page hold beside scores and costs."""
    stage = ready.stage
    node_costs = {n: node_cost(ready.source, model, frozen=stage.nodes[n].frozen) for n, model in ready.models.items()}
    operations = operations_of_each(node_costs, stage.edges, alternating=stage.update == "alternating")
    best_steps = {stage.main: result.best_step}
    if ready.scores is not None and stage.keep_best:
        best_steps |= {name: best.step for name, best in ready.scores.best.items()}
    found: dict[str, Any] = {
        "steps": result.steps,
        "best_step": result.best_step,
        "best_steps": best_steps,
        "edges": [edge.name for edge in stage.edges],
        "operations_a_token": operations,
        **({"objective": finished} if finished else {}),
        **result.details,
    }
    if not isinstance(ready.source, TextJob):
        found |= {"rows": row_counts(ready.source), "labels": list(ready.source.task.labels)}
        if ready.source.task.left_out:
            found["rows_left_out"] = ready.source.task.left_out
        found |= method_details(supervised(stage, stage.main), ready.source, ready.job.model, ready.job)
    shown = list(found.pop("sections", []))
    if ready.job.validation is not None:
        primary = ready.job.validation.primary
        points = curves(folder / "log.jsonl", primary, stage.main, stage.trained)
        columns = [
            "node",
            "goes on",
            "parameters",
            "trained",
            "learns from",
            "operations a token",
            "best step",
            primary,
        ]
        rows = [row(ready, name, operations, best_steps, result, primary) for name in ready.models]
        shown = [*sections(points, operations, rows, columns, primary), *shown]
    return {**found, "sections": [*shown, *stored_sections(ready)]}


def stored_sections(ready: Ready) -> list[Section]:
    """What is lost of each teacher whose outputs are stored."""
    made = []
    for name, stored in ready.graph.stored.items():
        lost = stored.left_out
        facts: dict[str, Value] = {
            "positions": f"{lost['positions']:,.0f}",
            "classes or tokens kept at each": stored.kept.top_k,
            "probability of all others, mean": f"{lost['mean']:.3g}",
            "probability of all others, largest": f"{lost['largest']:.3g}",
            "entropy inside them, mean": f"{lost['entropy']:.3g} nats",
        }
        text = (
            "All classes or tokens that are not kept count as one, so that the divergence is at most the whole one. "
            "What these outputs cost is not in the curves at equal cost: they serve every run on the same rows."
        )
        made.append(Section(f"Stored outputs of {name}", text=text, facts=facts))
    return made


def row(
    ready: Ready,
    name: str,
    operations: dict[str, float],
    best_steps: dict[str, int],
    result: TrainingResult,
    primary: str,
) -> list[Value]:
    """A node's line in the report's table."""
    stage = ready.stage
    trainable, total = parameter_counts(ready.models[name])
    taught_by = ", ".join(edge.teacher for edge in stage.edges if edge.student == name)
    split, _, metric = primary.partition("/")
    score = scores_of(ready, result).get(primary if name == stage.main else f"{split}/{name}/{metric}")
    goes_on = "as model" if name == stage.main else ("" if stage.nodes[name].frozen else f"as {name}")
    return [name, goes_on, total, trainable, taught_by, operations[name], best_steps.get(name), score]
