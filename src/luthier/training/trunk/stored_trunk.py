"""Training with the trunk cache: rows whose features are stored skip the frozen part of the model.

The cache itself is `luthier.training.trunk.cache`. Rows are known by all that the model is fed of them, so that
training, validation and everything else that feeds encoded rows profits without knowing of it; rows that are not stored
run through the whole model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from luthier.errors import WorkspaceError
from luthier.training.trunk.cache import Features, TrunkCache, cached_features
from luthier.training.trunk.fed_rows import row_keys
from luthier.training.trunk.split_point import finished_before, replaced_forward, replayed

logger = logging.getLogger(__name__)


@contextmanager
def trunk_without_dropout(model: Any, split_point: str, batch: dict[str, Tensor]) -> Iterator[None]:
    """Keep all that runs before the split point in evaluation mode, also when the model is set to train.

    So training gives the same with stored features, which are made without dropout, as without them.

    Args:
        model: its frozen part ends at the split point.
        split_point: name of a module.
        batch: any collated rows; one pass of them finds what runs first.
    """
    modules = finished_before(model, split_point, batch)
    was_training = [module.training for module in modules]
    for module in modules:
        module.training = False
        module.__dict__["train"] = lambda _mode=True, module=module: module
    try:
        yield
    finally:
        for module, training in zip(modules, was_training, strict=True):
            del module.__dict__["train"]
            module.training = training


@contextmanager
def stored_trunk(
    model: Any,
    split_point: str,
    splits: Sequence[Sequence[Mapping[str, Any]]],
    collator: Callable[[list[Any]], dict[str, Tensor]],
    cache: TrunkCache,
    *,
    batch_size: int = 64,
) -> Iterator[bool]:
    """Let the model skip its frozen part for the rows of these splits; yields whether it does.

    Where the features can't be stored, a warning says why and the model runs whole, for rows of the splits behind
    those that were stored alone.

    Args:
        model: what runs up to the split point must be frozen.
        split_point: see `cached_features`.
        splits: encoded data sets.
        collator: rows -> a padded batch.
        cache: where features are kept.
        batch_size: rows of one pass when they are computed.
    """
    stores: list[_Store] = []
    try:
        for rows in filter(len, splits):
            keep = [store.features.folder for store in stores]
            found = cached_features(model, split_point, rows, batch_size, cache=cache, collator=collator, keep=keep)
            stores.append(_Store(found))
    except (WorkspaceError, ValueError) as error:
        some = " for some of the rows" if stores else ""
        logger.warning("the frozen part of the model is run in every epoch%s: %s", some, error)
    if not stores:
        yield False
        return
    run, precision = model.forward, next(p.dtype for p in model.parameters() if p.is_floating_point())

    def forward(*args: Any, **batch: Any) -> Any:
        found = None if args else _look_up(stores, batch)
        if found is None:
            return run(*args, **batch)
        # Features are read as float32, and what comes behind them may have been loaded in another precision.
        found = {name: values.to(precision) for name, values in found.items()}
        with replayed(model, split_point, found, batch["attention_mask"]):
            return run(**batch)

    with ExitStack() as changed:
        changed.enter_context(replaced_forward(model, forward))
        yield True


class _Store:
    """The features of one data set, and the place of every row by its key."""

    def __init__(self, features: Features) -> None:
        self.features = features
        self.places = {key: place for place, key in enumerate(features.keys)}


def _look_up(stores: Sequence[_Store], batch: Mapping[str, Any]) -> dict[str, Tensor] | None:
    keys = row_keys(batch)
    if keys is None:
        return None
    for store in stores:
        places = [store.places.get(key) for key in keys]
        if all(place is not None for place in places):
            mask = batch["attention_mask"]
            return store.features.batch([place for place in places if place is not None], mask)
    return None


def can_skip(model: nn.Module) -> bool:
    """Whether the model has weights that can be run."""
    return next(model.parameters()).device.type != "meta"
