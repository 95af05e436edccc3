"""The frozen part of a tuned model: where it ends, and running it once for each row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from luthier.models.layers.blocks import find_blocks
from luthier.storage.hashing import cache_directory
from luthier.tasks.base import task_named
from luthier.training.job import TrainingJob
from luthier.training.trunk.cache import TrunkCache, head_split
from luthier.training.trunk.stored_trunk import can_skip, stored_trunk, trunk_without_dropout

if TYPE_CHECKING:
    from luthier.training.preparing import Prepared
    from luthier.training.supervised_settings import SupervisedSettings


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


@contextmanager
def computed_once(stage: SupervisedSettings, prepared: Prepared, job: TrainingJob) -> Iterator[None]:
    """While training, run the part of the model below everything that is trained without dropout, and once for each
    row where that is wanted. Parts that look into the model, and data that are not held, run all of it."""
    model: Any = job.model
    split = frozen_up_to(model) if can_skip(model) else None
    rows = [prepared.rows[name] for name in ("train", "validation") if name in prepared.rows]
    one_pass = task_named(prepared.schema).one_pass
    if split is None or job.parts or job.other_models or stage.data.streaming or not one_pass:
        yield
        return
    with ExitStack() as changed:
        changed.enter_context(trunk_without_dropout(model, split, job.data.collator([rows[0][0]])))
        if stage.cache_trunk:
            cache = TrunkCache(cache_directory() / "trunk", int(stage.cache_gigabytes * 1e9))
            changed.enter_context(
                stored_trunk(model, split, rows, job.data.collator, cache, batch_size=stage.evaluation_batch_size)
            )
        yield
