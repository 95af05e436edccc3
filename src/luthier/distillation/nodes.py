"""Builds the models of a graph: read, new and random, or new and started from another one's weights."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from luthier.distillation.settings import Node
from luthier.distillation.tokens import check_same_outputs, check_same_tokens
from luthier.errors import ModelError
from luthier.models.adapters import is_adapter
from luthier.models.artifacts import check_merges, load_artifact, load_model
from luthier.models.card import read_card
from luthier.models.head_kinds import HEAD_KINDS, Head
from luthier.models.heads import auto_class, output_names
from luthier.models.inspect import model_max_length
from luthier.models.loading import empty_model, load_config, load_tokenizer, translate
from luthier.models.placing import on_accelerator
from luthier.models.references import resolve
from luthier.models.remapping import Remapping, remap_parameters
from luthier.models.settings import ModelSettings, RemapSettings
from luthier.stages.base import MODEL, StageInputs

if TYPE_CHECKING:
    from luthier.distillation.stage import Distil

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Heads:
    """The head that every model of the graph gets.

    Attributes:
        head: its kind.
        arguments: what it has to know of the labels, as `luthier.models.artifacts.load_model` takes it.
    """

    head: Head
    arguments: dict[str, Any]


class NodeBuilder:
    """Builds the nodes of one stage.

    Args:
        stage: with the nodes.
        inputs: what they start from.
    """

    def __init__(self, stage: Distil, inputs: StageInputs) -> None:
        self.stage, self.inputs = stage, inputs

    def reference(self, name: str) -> ModelSettings:
        """The model that a node is built from in the end."""
        return self.inputs_of(name).model

    def inputs_of(self, name: str) -> StageInputs:
        """The stage's inputs with the model that a node is built from in the port `model`."""
        root = self.stage.root(name)
        port = MODEL if self.stage.nodes[root].model is None else f"nodes.{root}"
        return replace(self.inputs, artifacts={MODEL: self.inputs.artifacts[port]})

    def sizes(self, name: str) -> dict[str, Any]:
        """Fields of the configuration that a node has other than its reference, those of the nodes it is like too."""
        node = self.stage.nodes[name]
        below = self.sizes(node.like) if node.like is not None else {}
        return {**below, **node.sizes}

    def seed(self, name: str) -> int:
        """Of a node's new parameters; the main node has the run's, so that it begins as it would alone."""
        others = [one for one in self.stage.nodes if one != self.stage.main]
        return self.inputs.seed if name == self.stage.main else (self.inputs.seed + 1 + others.index(name)) % 2**32

    def checked_tokenizer(self) -> Any:
        """The tokenizer of all nodes.

        Raises:
            ModelError: two nodes have different ones.
        """
        roots = dict.fromkeys([self.stage.root(self.stage.main), *map(self.stage.root, self.stage.nodes)])
        tokenizers = {name: load_tokenizer(self.reference(name)) for name in roots}
        check_same_tokens(tokenizers)
        return next(iter(tokenizers.values()))

    def longest(self, tokenizer: Any) -> int | None:
        """Tokens that every node can be shown; None where none has a limit."""
        limits = []
        for name in self.stage.nodes:
            config = load_config(self.reference(name))
            for key, value in self.sizes(name).items():
                if hasattr(config, key):
                    setattr(config, key, value)
            limits.append(model_max_length(config, tokenizer))
        return min((one for one in limits if one is not None), default=None)

    def models(self, heads: Heads, without: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Every node's model, in evaluation mode, before any tuning method is applied.

        Args:
            heads: of all of them.
            without: nodes that are not needed.

        Raises:
            ModelError: one can't be built, or would teach what it was not taught.
        """
        built: dict[str, Any] = {}

        def build(name: str) -> Any:
            if name not in built:
                node = self.stage.nodes[name]
                given = None
                if node.start == "remap":
                    given = build(node.like) if node.like else self._read(name, heads)
                built[name] = self._built(name, node, heads, given)
            return built[name]

        for name in self.stage.nodes:
            if name not in without:
                build(name)
        found = {name: built[name] for name in self.stage.nodes if name not in without}
        check_vocabularies(found | {name: self.empty(name, heads) for name in without}, heads)
        return found

    def teacher(self, name: str, heads: Heads) -> Any:
        """A frozen node's model, in evaluation mode, on the accelerator where there is one.

        Raises:
            ModelError: it was not trained for the task.
        """
        return on_accelerator(self._teacher(name, heads))

    def check_labels(self, name: str, heads: Heads) -> None:
        """Refuse a frozen node that was trained for other labels.

        Raises:
            ModelError: names the first label that differs.
        """
        settings = self.reference(name)
        folder = resolve(settings).path if resolve(settings).kind == "artifact" else None
        own = output_names(load_config(settings)) if folder is None else read_card(folder).labels
        self._check_labels(name, heads, own)

    def empty(self, name: str, heads: Heads) -> Any:
        """A node's model on the meta device, for dry runs."""
        return self._empty(name, heads, self.sizes(name))

    def _empty(self, name: str, heads: Heads, sizes: dict[str, Any]) -> Any:
        overrides = {**heads.arguments.get("config_overrides", {}), **sizes} or None
        return empty_model(self.reference(name), heads.head, **heads.arguments | {"config_overrides": overrides})

    def check_weights(self, models: dict[str, Any], heads: Heads) -> None:
        """Refuse weights that don't fit a node, for dry runs. What only stands in for a model that is to be made has
        other sizes, and says nothing.

        Args:
            models: all nodes on the meta device.
            heads: of all of them.

        Raises:
            ModelError: `remap` does not fit two models, or a node starts from an adapter that can't be merged.
        """
        for name, node in self.stage.nodes.items():
            if self.inputs_of(name).artifacts[MODEL].stands_in or node.frozen or node.start == "random":
                continue
            check_merges(resolve(self.reference(name)))
            if node.start == "remap":
                whole = models[node.like] if node.like else self._empty(name, heads, {})
                self._remap(name, copy.deepcopy(models[name]), whole)

    def _remap(self, name: str, model: Any, given: Any) -> Remapping:
        rules = self.stage.nodes[name].remap or RemapSettings()
        try:
            return remap_parameters(model, given, **rules.model_dump(), seed=self.inputs.seed)
        except ModelError as error:
            raise ModelError(error.what, where=error.where or f"distil.nodes.{name}.remap", fix=error.fix) from error

    def _built(self, name: str, node: Node, heads: Heads, given: Any) -> Any:
        if node.start == "weights":
            return self._teacher(name, heads) if node.frozen else self._read(name, heads)
        model = self._new(name, heads)
        if node.start == "remap":
            done = self._remap(name, model, given)
            logger.info("%s starts from %s: layers %s", name, node.like or self.reference(name).reference, done.sources)
        return model

    def _read(self, name: str, heads: Heads) -> Any:
        return load_model(self.reference(name), heads.head, seed=self.seed(name), **heads.arguments)

    def _new(self, name: str, heads: Heads) -> Any:
        empty, settings = self.empty(name, heads), self.reference(name)
        dtype = torch.float32 if settings.dtype == "auto" else getattr(torch, settings.dtype)
        options = {} if settings.attention == "auto" else {"attn_implementation": settings.attention}
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed(name))
            make = lambda: auto_class(heads.head).from_config(empty.config, dtype=dtype, **options)  # noqa: E731
            model: Any = translate(make, resolve(settings), f"the node {name} can't be built")
        model.config.pad_token_id = load_config(settings).pad_token_id
        return model.eval()

    def _teacher(self, name: str, heads: Heads) -> Any:
        settings = self.reference(name)
        folder = resolve(settings).path if resolve(settings).kind == "artifact" else None
        self.check_labels(name, heads)
        if folder is not None and is_adapter(folder):
            if (head := read_card(folder).head) != heads.head:
                raise _untaught(name, settings, f"its head is for {head}")
            model = load_artifact(folder, settings=settings)[0]
        else:
            model = self._read(name, heads)
            if new := getattr(model, "luthier_new_parameters", ()):
                raise _untaught(name, settings, f"it has no {new[0]}")
        return model.requires_grad_(False).eval()

    def _check_labels(self, name: str, heads: Heads, own: list[str] | None) -> None:
        labels = heads.arguments.get("labels")
        if not HEAD_KINDS[heads.head].has_labels or not labels or own is None or own == labels:
            return
        number = next(i for i in range(max(len(own), len(labels))) if own[i : i + 1] != labels[i : i + 1])
        mine, theirs = (repr(one[number]) if number < len(one) else "missing" for one in (own, labels))
        raise ModelError(
            f"the frozen node {name} has other labels than the data: number {number} is {mine} in it and {theirs} here",
            where=self.reference(name).reference,
            fix="teach with a model that was trained for these labels, in this order",
        )


def check_vocabularies(models: dict[str, Any], heads: Heads) -> None:
    """Refuse language models that predict other numbers of tokens."""
    if heads.head in ("masked_lm", "causal_lm", "seq2seq_lm"):
        check_same_outputs({name: int(model.config.vocab_size) for name, model in models.items()})


def _untaught(name: str, settings: ModelSettings, why: str) -> ModelError:
    return ModelError(
        f"the frozen node {name} was not trained for this task: {why}",
        where=settings.reference,
        fix="tune it first, in a stage before this one, or leave `frozen` out so that it learns too",
    )
