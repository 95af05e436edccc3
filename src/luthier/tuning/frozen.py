"""The frozen part of a tuned model: where it ends, running it once for each row, and freezing the task head too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from luthier.errors import RecipeError
from luthier.models.hashing import cache_directory
from luthier.training.job import TrainingJob
from luthier.training.stored_trunk import can_skip, stored_trunk, trunk_without_dropout
from luthier.training.trunk_cache import TrunkCache, head_split
from luthier.tuning.blocks import find_blocks
from luthier.tuning.heads import head_modules
from luthier.tuning.wrapping import HEAD_MARK

if TYPE_CHECKING:
    from luthier.tuning.run import Prepared
    from luthier.tuning.stage import Tune


def frozen_up_to(model: Any) -> str | None:
    """Name of the last module that runs before anything that is trained, or None where there is none.

    It is the body where the task head alone is trained, and the layer below the lowest trained one where adapters
    begin above. Whatever is trained beside the layers, such as prompts and token vectors, may act anywhere.

    Args:
        model: a transformers model or a PEFT model, as a method's `apply` returned it.
    """
    wrapped = hasattr(model, "peft_config")
    inner = model.get_base_model() if wrapped else model
    place = "base_model.model." if wrapped else ""
    if getattr(inner, "base_model", inner) is inner:
        return None
    body = f"{inner.base_model_prefix}."
    trained = [name for name, p in inner.named_parameters() if p.requires_grad and name.startswith(body)]
    beside = {n for n, p in model.named_parameters() if p.requires_grad} - {
        f"{place}{n}" for n, _ in inner.named_parameters()
    }
    if beside:
        return None
    if not trained or all(name.startswith(f"{body}pooler.") for name in trained):
        try:
            return place + head_split(inner)
        except ValueError:
            return None
    try:
        blocks = find_blocks(inner)
    except ValueError:
        return None
    if any(block.stack for block in blocks):
        return None
    by_depth = sorted(blocks, key=lambda block: block.index)
    inside = {n: next((b.index for b in by_depth if n.startswith(f"{b.name}.")), None) for n in trained}
    lowest = min((i for i in inside.values() if i is not None), default=0)
    before = [n for n, i in inside.items() if i is None and not n.startswith(f"{body}pooler.")]
    return place + by_depth[lowest - 1].name if lowest and not before else None


def head_parameters(model: Any, task_type: str) -> list[nn.Parameter]:
    """The parameters of the task head.

    Raises:
        RecipeError: the model has none.
    """
    found = [p for name in head_modules(model, task_type) for p in model.get_submodule(name).parameters()]
    if not found:
        raise RecipeError("a language model has no task head that could be frozen", fix="leave `train_head` out")
    return found


def freeze_head(model: Any, parameters: list[nn.Parameter]) -> None:
    """Leave the task head as it is, and the copy of it that PEFT trains and saves.

    Raises:
        RecipeError: nothing is left to train.
    """
    for parameter in parameters:
        parameter.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if HEAD_MARK in name:
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise RecipeError("without the task head nothing is trained", fix="leave `train_head: false` out")


@contextmanager
def computed_once(stage: Tune, prepared: Prepared, job: TrainingJob) -> Iterator[None]:
    """While training, run the part of the model below everything that is trained without dropout, and once for each
    row where that is wanted. Objectives that look into the model, and data that are not held, run all of it."""
    model: Any = job.model
    split = frozen_up_to(model) if can_skip(model) else None
    rows = [prepared.rows[name] for name in ("train", "validation") if name in prepared.rows]
    one_pass = prepared.schema not in ("multiple_choice", "extractive_qa")
    if split is None or stage.objective is not None or stage.data.streaming or not one_pass:
        yield
        return
    with ExitStack() as changed:
        changed.enter_context(trunk_without_dropout(model, split, job.collator([rows[0][0]])))
        if stage.cache_trunk:
            cache = TrunkCache(cache_directory() / "trunk", int(stage.cache_gigabytes * 1e9))
            changed.enter_context(
                stored_trunk(model, split, rows, job.collator, cache, batch_size=stage.evaluation_batch_size)
            )
        yield
