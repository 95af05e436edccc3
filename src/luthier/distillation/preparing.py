"""From the settings of a `distil` stage to its training job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.batches.encoding import make_collator
from luthier.distillation.graph import Graph, LanguageTerms
from luthier.distillation.nodes import Heads, NodeBuilder
from luthier.distillation.parts import TermLog
from luthier.distillation.scores import KeptNode, NodeScores, validation_of_nodes
from luthier.distillation.sources import check_begun, prepared_source, supervised, text_steps
from luthier.distillation.store import Kept, StoredTeacher, some_of, stored_outputs
from luthier.distillation.twins import refuse_twins
from luthier.errors import ModelError
from luthier.language_modeling.held_out import collate
from luthier.language_modeling.preparing import TextJob, validation_of
from luthier.language_modeling.rows import check_head
from luthier.models.head_kinds import HEAD_KINDS, Head, peft_task_type
from luthier.models.inspect import parameter_counts
from luthier.models.references import fingerprint, resolve
from luthier.objectives.part import Part
from luthier.stages.base import StageInputs
from luthier.storage.jsonlines import JsonLog
from luthier.storage.keys import digest_of
from luthier.storage.ranks import world_size
from luthier.tasks.base import task_named, task_of
from luthier.training.checkpoints import of_key
from luthier.training.job import TrainingJob, TrainingRows, resolve_precision, total_steps
from luthier.training.preparing import Prepared
from luthier.training.settings import TrainingSettings
from luthier.training.starting import start_at_mean
from luthier.training.supervised import apply_method, training_rows
from luthier.training.supervised import validation_of as task_validation
from luthier.training.validation import Validation

if TYPE_CHECKING:
    from luthier.distillation.stage import Distil

TEXT_RATE = 5e-4


@dataclass(frozen=True)
class Ready:
    """All that a `distil` stage trains.

    Attributes:
        stage, inputs: as they came.
        builder: which model each node is built from.
        models: by node, tuned as the stage says; those whose outputs are stored are left out.
        source: the task's data, or the text.
        graph: of the models.
        job: how they are trained.
        callbacks: what looks on.
        scores: of the nodes beside the main one.
    """

    stage: Distil
    inputs: StageInputs
    builder: NodeBuilder
    models: dict[str, Any]
    source: Prepared | TextJob
    graph: Graph
    job: TrainingJob
    callbacks: list[Any]
    scores: NodeScores | None

    @property
    def tokenizer(self) -> Any:
        """Of all nodes."""
        return self.source.tokenizer


def ready_to_train(stage: Distil, inputs: StageInputs, folder: Path) -> Ready:
    """Read the data, build the nodes, and put the job together.

    Raises:
        DataError, ModelError, RecipeError: they don't fit one another.
    """
    builder = NodeBuilder(stage, inputs)
    source, heads = prepared_source(stage, inputs, builder)
    without = frozenset(name for name, node in stage.nodes.items() if node.store is not None)
    models = builder.models(heads, without)
    stored = {name: stored_teacher(stage, source, builder, heads, name, models) for name in sorted(without)}
    for name in stage.trained:
        models[name] = tuned(stage, source, name, models[name], builder.seed(name), heads)
    objective = stage.objective.parts() if stage.objective else []
    graph = Graph(
        models,
        stage.edges,
        stage.main,
        {n: node.hard_weight for n, node in stage.nodes.items() if node.hard_weight is not None},
        objective,
        stage.max_grad_norm,
        {n: node.max_grad_norm for n, node in stage.nodes.items() if node.max_grad_norm is not None},
        stored,
        stage.update,
    )
    rates = {name: stage.nodes[name].rate(stage, _text_rate(stage)) for name in stage.trained}
    refuse_twins(graph, rates, same_mask=stage.same_mask)
    language = None
    if isinstance(source, TextJob):
        for model in models.values():
            check_head(model)
        precision = resolve_precision(stage.precision)
        dtype = None if precision == "float32" else _dtype(precision)
        language = LanguageTerms(shifted=not source.masked, dtype=dtype)
    parts = graph.parts(language)
    return _with_job(stage, inputs, builder, models, source, graph, parts, folder)


def _dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)


def _with_job(
    stage: Distil,
    inputs: StageInputs,
    builder: NodeBuilder,
    models: dict[str, Any],
    source: Prepared | TextJob,
    graph: Graph,
    parts: list[Part],
    folder: Path,
) -> Ready:
    place, log = of_key(folder, inputs.key), folder / "log.jsonl"
    main = validation(stage, source, stage.main)
    others = {
        n: (models[n], one.evaluate) for n in stage.trained if n != stage.main and (one := validation(stage, source, n))
    }
    scores = None
    if main is not None:
        kept = [KeptNode(name, graph.places[name], model) for name, (model, _) in others.items()]
        scores = NodeScores(kept, main.primary, main.higher_is_better, place, JsonLog(log))
        parts = [*parts, scores]
    settings: dict[str, Any] = {"max_grad_norm": 0.0}  # what clips is a part, a model at a time
    groups = [group for name in stage.trained for group in _groups(stage, name, models[name])]
    labels: tuple[str, ...] = ()
    if isinstance(source, TextJob):
        stream = source.stream(inputs.seed)
        if not stage.same_mask and source.masking is not None:
            seeds = {name: builder.seed(name) for name in stage.nodes if name != stage.main}
            stream.copies = {name: replace(source.masking, seed=seed) for name, seed in seeds.items()}
        rows = TrainingRows(stream, None, collate)
        schema, shifted = "plain_text", not source.masked
        settings["max_steps"] = text_steps(source, stage, models)
    else:
        rows = training_rows(supervised(stage, stage.main), source, inputs.seed)
        schema, shifted, labels = source.schema, source.shifted, tuple(source.task.labels)
    job = TrainingJob(
        model=models[stage.main],
        task=task_named(schema),
        shifted=shifted,
        data=rows,
        settings=TrainingSettings.model_construct(
            **{name: getattr(stage, name) for name in TrainingSettings.model_fields} | settings
        ),
        groups=groups,
        folder=place,
        log=log,
        seed=inputs.seed,
        validation=validation_of_nodes(main, others),
        labels=labels,
        parts=parts,
        other_models=graph.other_models,
        description=f"distilling seed {inputs.seed}",
    )
    check_begun(stage, total_steps(job.settings, 0 if rows.sampler is None else len(rows.rows)))
    callbacks: list[Any] = [TermLog(parts, graph.places, JsonLog(log))]
    return Ready(stage, inputs, builder, models, source, graph, job, callbacks + ([scores] if scores else []), scores)


def stored_teacher(
    stage: Distil, source: Prepared | TextJob, builder: NodeBuilder, heads: Heads, name: str, models: dict[str, Any]
) -> StoredTeacher:
    """A frozen node's outputs on all training rows, found on disk, else computed now.

    Raises:
        ModelError: it was trained for other labels, or outputs of this task can't be stored.
    """
    settings, reference = stage.nodes[name].store, builder.reference(name)
    assert settings is not None
    builder.check_labels(name, heads)
    if heads.head == "question_answering":
        raise ModelError(
            "outputs for answers in a text can't be stored", where=f"distil.nodes.{name}.store", fix="leave it out"
        )
    edge = next(edge for edge in stage.edges if edge.teacher == name)
    size = stage.evaluation_batch_size
    if isinstance(source, TextJob):
        steps = text_steps(source, stage, models) or 0
        rows = steps * stage.batch_size * stage.accumulation * world_size()
        batches: Iterator[Any] = some_of(source.stream(builder.inputs.seed, alone=True), rows, size, collate)
        shifted = not source.masked
    else:
        data, collator = source.rows["train"], make_collator(source.schema, source.tokenizer)
        batches = some_of((data[i] for i in range(len(data))), len(data), size, collator)
        shifted = source.shifted
    kept = Kept(
        teacher=digest_of(
            {"model": fingerprint(resolve(reference)), "loaded": reference.loaded_as(), "head": vars(heads)}
        ),
        top_k=settings.top_k,
        temperature=edge.temperature.start,
        everywhere=edge.positions == "non_pad",
        shifted=shifted,
        language=isinstance(source, TextJob),
    )
    most = int(settings.gigabytes * 1e9)
    return stored_outputs(kept, batches, lambda: builder.teacher(name, heads), most_bytes=most)


def tuned(stage: Distil, source: Prepared | TextJob, name: str, model: Any, seed: int, heads: Heads) -> Any:
    """A node's model with its tuning method applied.

    Raises:
        ModelError: the method needs a saved model below its adapter, and the node is new.
    """
    node = stage.nodes[name]
    if isinstance(source, TextJob):
        found = _tuned_on_text(node.method, model, seed, heads.head, source.tokenizer)
    else:
        start_at_mean(model, task_of(source.task).prior(source.task))
        found = apply_method(supervised(stage, name), model, source, seed)
    trained, total = parameter_counts(found)
    if node.start != "weights" and node.method.name != "full" and trained < total:
        raise ModelError(
            f"the node {name} is new, and {node.method.name} would leave its random weights as they are",
            where=f"distil.nodes.{name}.method",
            fix="train a new node with `method: full`",
        )
    return found


def _tuned_on_text(method: Any, model: Any, seed: int, head: Head, tokenizer: Any) -> Any:
    import torch

    from luthier.methods.base import MethodContext

    bare = not HEAD_KINDS[head].peft_task_type
    if bare and method.name != "full":
        raise ModelError(
            f"{method.name} has no form for a {head} model",
            where="distil.nodes",
            fix="use `method: full` for masked language models",
        )
    if bare:
        return model.requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return method.applied(model, MethodContext(peft_task_type(head), seed, tokenizer))


def _groups(stage: Distil, name: str, model: Any) -> list[dict[str, Any]]:
    node = stage.nodes[name]
    rate = node.rate(stage, _text_rate(stage))
    found: list[dict[str, Any]] = node.method.parameter_groups(model, rate, stage.weight_decay)
    return found


def _text_rate(stage: Distil) -> float | None:
    return TEXT_RATE if stage.text is not None else None


def validation(stage: Distil, source: Prepared | TextJob, name: str) -> Validation | None:
    """How a node is scored."""
    if isinstance(source, TextJob):
        return validation_of(source.held_out) if stage.evaluate_every != "never" else None
    return task_validation(supervised(stage, name), source)
