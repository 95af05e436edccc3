"""What the nodes of a graph learn: a task's rows, or text as a stream, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.distillation.curves import NodeCost, cost_of
from luthier.distillation.edge import never_begun
from luthier.distillation.nodes import Heads, NodeBuilder
from luthier.errors import RecipeError, a_model
from luthier.language_modeling.budget import TRAINING_PASSES, TokenCost, budget_of
from luthier.language_modeling.documents import check_corpora
from luthier.language_modeling.preparing import TextJob, text_job
from luthier.language_modeling.settings import BUDGETS
from luthier.models.inspect import is_decoder, is_encoder_decoder
from luthier.models.loading import load_config
from luthier.stages.base import StageInputs
from luthier.storage.ranks import world_size
from luthier.training.preparing import Prepared, checked_rows, label_arguments, prepare
from luthier.training.settings import TrainingSettings
from luthier.training.supervised_settings import SupervisedSettings

if TYPE_CHECKING:
    from luthier.distillation.stage import Distil


def prepared_source(stage: Distil, inputs: StageInputs, builder: NodeBuilder) -> tuple[Prepared | TextJob, Heads]:
    """The data of all nodes, encoded or as a stream, and the head that they need.

    Raises:
        ModelError: the nodes have different tokenizers.
    """
    tokenizer = builder.checked_tokenizer()
    config: Any = load_config(builder.reference(stage.main))
    longest = builder.longest(tokenizer)
    if stage.text is not None:
        settings = stage.language_settings()
        masked = settings.objective == "masked" if settings.objective is not None else not is_decoder(config)
        if is_encoder_decoder(config):
            raise RecipeError(
                f"{a_model(config.model_type)} is neither a masked nor a causal language model",
                where="distil.text",
                fix="take an encoder such as bert, or a decoder such as llama",
            )
        if not masked and not stage.same_mask:
            raise RecipeError(
                f"`same_mask` is about masked text, and {a_model(config.model_type)} predicts the next token",
                where="distil.same_mask",
                fix="leave it out",
            )
        if longest is not None and settings.length > longest:
            raise RecipeError(
                f"`length` is {settings.length}, and one of the nodes takes {longest} tokens",
                where="distil.text.length",
                fix=f"set `length: {longest}` or less",
            )
        text = text_job(settings, tokenizer, config, masked=masked, seed=inputs.seed)
        return text, Heads(text.head, {})
    most = max(
        (n for n in stage.nodes if not stage.nodes[n].frozen), key=lambda n: stage.nodes[n].method.reserved_tokens()
    )
    prepared = prepare(supervised(stage, most), builder.inputs_of(stage.main), most=longest)
    check_positions(stage, prepared)
    return prepared, Heads(prepared.head, label_arguments(prepared.task))


def check_positions(stage: Distil, prepared: Prepared) -> None:
    """Refuse edges that compare tokens where the task has one answer a row, or none of KL's settings mean anything.

    Raises:
        RecipeError: names the edge.
    """
    for edge in stage.edges:
        where = f"distil.edges, {edge.name}"
        if edge.positions == "non_pad" and prepared.head not in ("token_classification", "masked_lm", "causal_lm"):
            raise RecipeError(
                f"`positions: non_pad` compares every token, and a {prepared.head} head gives no output for each",
                where=where,
                fix="leave `positions` out",
            )
        changed = edge.changed("kl_direction", "scale_by_t2", "temperature")
        if prepared.regression and changed:
            raise RecipeError(
                f"`{changed[0]}` has no effect on numbers, whose difference is squared",
                where=where,
                fix="leave it out",
            )


def check_begun(stage: Distil, steps: int) -> None:
    """Refuse edges that would never be there.

    Raises:
        RecipeError: names the edge.
    """
    if late := never_begun(stage.edges, steps):
        raise RecipeError(late, where="distil.edges", fix="lower its `start_step`")


def check_data(stage: Distil, *, waits: bool) -> None:
    """Look at the first document of each text, or read the rows.

    Args:
        stage: that will train.
        waits: whether other stages run first.

    Raises:
        DataError: there is no document, or what is there can't be read or used.
    """
    if stage.text is not None:
        check_corpora(stage.text.corpus)  # type: ignore[attr-defined]
    elif waits:
        checked_rows(supervised(stage, stage.main))


def supervised(stage: Distil, name: str) -> SupervisedSettings:
    """How one node would be trained alone on the task."""
    assert stage.data is not None
    node = stage.nodes[name]
    shared = {field: getattr(stage, field) for field in TrainingSettings.model_fields}
    objective = stage.objective if name == stage.main else None
    return SupervisedSettings.model_construct(
        **shared
        | {
            "data": stage.data,
            "method": node.method,
            "objective": objective,
            "train_head": True,
            "continue_adapter": False,
            "cache_trunk": False,
            "learning_rate": node.learning_rate or stage.learning_rate,
        }
    )


def text_steps(source: TextJob, stage: Distil, models: dict[str, Any]) -> int | None:
    """Optimiser steps that the budget of a text allows; `max_flops` counts all nodes."""
    # A teacher's forward pass is a third of what a trained model of its size costs.
    shares = [
        (source.cost(model), (0 if stage.nodes[name].frozen else 1) + forward_passes(stage, name) / TRAINING_PASSES)
        for name, model in models.items()
    ]
    cost = TokenCost(*(sum(share * getattr(c, part) for c, share in shares) for part in ("body", "attention", "head")))
    given = [getattr(source.settings, name) for name in BUDGETS]
    blocks = None if any(one is not None for one in given) else source.tokens() // source.frame.room
    return budget_of(source.settings, cost, processes=world_size(), blocks=blocks).steps


def node_cost(source: Prepared | TextJob, model: Any, *, frozen: bool) -> NodeCost:
    """What a node costs; of language models as the budget `max_flops` counts it."""
    return cost_of(model, frozen=frozen, forward=source.cost(model).forward if isinstance(source, TextJob) else None)


def forward_passes(stage: Distil, name: str) -> int:
    """Passes that a node runs in a step for others alone, beside those that it is trained by."""
    if stage.update == "alternating":
        return sum(edge.teacher == name for edge in stage.edges)
    return 1 if stage.nodes[name].frozen else 0
