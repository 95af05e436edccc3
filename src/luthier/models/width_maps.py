"""Which unit of a teacher each unit of a wider or narrower student comes from, for every dimension of every parameter.

All layers share one map of the residual stream; each layer has a map of its heads and one of its feed-forward units.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from luthier.errors import ModelError
from luthier.models.layers.blocks import Block

_HIDDEN, _EMBEDDING, _ROWS, _SAME = "hidden", "embedding", "rows", "same"
_INNER, _QUERY, _KEY = "inner", "query", "key"
_OUTSIDE = (_HIDDEN, _EMBEDDING)
_BY_SIDE = {"in": (_HIDDEN, _INNER, _QUERY), "out": (_INNER, _HIDDEN, _QUERY, _KEY)}
_OF_VECTORS = (_HIDDEN, _QUERY, _KEY, _INNER)


@dataclass(frozen=True)
class Axis:
    """One dimension of a parameter.

    Attributes:
        targets: places in the student's tensor that are written.
        sources: where each comes from in the teacher's, as many.
        is_width: whether places outside the targets belong to new units.
        scale: factor of each target, or None.
    """

    targets: Tensor
    sources: Tensor
    is_width: bool = True
    scale: Tensor | None = None


@dataclass(frozen=True)
class LayerSizes:
    """Sizes of one layer.

    Attributes:
        heads, key_heads: of queries, and of keys and values.
        head_width: of each of them.
        inner: units of the feed-forward part.
    """

    heads: int
    key_heads: int
    head_width: int
    inner: int

    @classmethod
    def of(cls, block: Block) -> LayerSizes:
        """Those of a layer."""
        attention, last = block.self_attention, block.module.get_submodule(block.feed_forward_output)
        shape = last.get_parameter("weight").shape
        heads = attention.projections["query"].outputs // attention.head_width
        inner = shape[0] if isinstance(last, Conv1D) else shape[1]
        return cls(heads, attention.key_value_heads, attention.head_width, inner)

    def by_role(self, width: int) -> dict[str, int]:
        """How many units each role has."""
        query, key = self.heads * self.head_width, self.key_heads * self.head_width
        return {_HIDDEN: width, _INNER: self.inner, _QUERY: query, _KEY: key}


class WidthMaps:
    """The maps of one student and its teacher.

    Args:
        student, teacher: the models.
        student_blocks, teacher_blocks: their layers.
        rule: as `width` of `luthier.models.remapping.remap_parameters`.
        seed: of the random choices.

    Raises:
        ModelError: the rule does not fit the two.
    """

    def __init__(
        self,
        student: Any,
        teacher: Any,
        student_blocks: Sequence[Block],
        teacher_blocks: Sequence[Block],
        rule: str,
        seed: int,
    ) -> None:
        self.student, self.seed, self.repeats = student, seed, rule == "function_preserving"
        self.layers = {(b.stack, b.index): (LayerSizes.of(b), b.width) for b in teacher_blocks}
        widths = (student_blocks[0].width, teacher_blocks[0].width)
        tables = [m.get_input_embeddings().embedding_dim for m in (student, teacher)]
        self.outside = {_HIDDEN: widths, _EMBEDDING: (tables[0], tables[1])}
        self._maps: dict[str, Tensor] = {}
        if self.repeats and any(b.stack for b in student_blocks):
            raise ModelError("`function_preserving` knows no encoder-decoders", fix="use overlap or overlap_random")
        for block in student_blocks:
            self._check_heads(LayerSizes.of(block), LayerSizes.of(teacher_blocks[0]))

    @property
    def exact(self) -> bool:
        """Whether every unit that was asked for so far is repeated equally often."""
        return all(len(set(torch.bincount(g).tolist())) == 1 for g in self._maps.values())

    def axes(self, name: str, own: Tensor, source: Tensor, block: Block | None, layer: int) -> list[Axis] | None:
        """The dimensions of a parameter; None where it belongs to outputs of another number.

        Args:
            name: of the student's parameter.
            own, source: the student's and the teacher's tensor.
            block, layer: the student's layer that it belongs to, and the number of the teacher's; no layer outside.

        Raises:
            ModelError: the tensors differ in a way that is not known.
        """
        path, _, leaf = name.rpartition(".")
        if own.ndim != source.ndim:
            raise _unknown(name, own, source)
        sizes, known = self.outside, {}
        if block is not None:
            (theirs, width), mine = self.layers[block.stack, layer], LayerSizes.of(block)
            other = theirs.by_role(width)
            sizes = {role: (size, other[role]) for role, size in mine.by_role(block.width).items()}
            known = _known_roles(block, path.removeprefix(f"{block.name}.")) if path != block.name else {}
            if self.repeats:
                self._map_heads(block.name, mine, theirs)
        axes = []
        for dim, side in enumerate(_sides(self.student.get_submodule(path), leaf, own.ndim)):
            pair = own.shape[dim], source.shape[dim]
            roles = known.get(side) or _roles_by_size(side, pair, sizes, inside=block is not None)
            if roles is None:
                if block is None and side in ("out", "unit"):
                    return None
                raise _unknown(name, own, source)
            axes.append(self._axis(roles, side, block.name if block else "", pair, sizes))
        return axes

    def settle_tied_output(self, *, head: bool) -> None:
        """Where the token vectors are the output layer too, let the norm in front of it make up for repeated units,
        which the output layer adds up as often as they are there."""
        embedding, output = self.student.get_input_embeddings(), self.student.get_output_embeddings()
        role = _HIDDEN if self.outside[_EMBEDDING] == self.outside[_HIDDEN] else _EMBEDDING
        chosen = self._maps.get(role)
        if output is None or chosen is None or output.weight is not embedding.weight:
            return
        if output.weight.device.type == "meta":  # which norm it is, a run of the model tells
            return
        name, norm = _norm_before(self.student, output)
        if head or name.startswith(f"{self.student.base_model_prefix}."):
            share = 1 / torch.bincount(chosen)[chosen].to(norm.weight)
            for parameter in norm.parameters(recurse=False):
                parameter.mul_(share)

    # -- maps ------------------------------------------------------------------------------------------------

    def _axis(
        self,
        roles: Sequence[str],
        side: str,
        place: str,
        pair: tuple[int, int],
        sizes: Mapping[str, tuple[int, int]],
    ) -> Axis:
        if roles[0] in (_SAME, _ROWS):
            both = torch.arange(min(pair))
            return Axis(both, both, is_width=False)
        targets, sources, scales, ends = [], [], [], [0, 0]
        for role in roles:
            mine, theirs = sizes[role]
            chosen = self._chosen(role, place, mine, theirs)
            targets.append(torch.arange(len(chosen)) + ends[0])
            sources.append(chosen + ends[1])
            if self.repeats and side == "in":
                scales.append(1 / torch.bincount(chosen, minlength=theirs)[chosen].double())
            ends = [ends[0] + mine, ends[1] + theirs]
        return Axis(torch.cat(targets), torch.cat(sources), scale=torch.cat(scales) if scales else None)

    def _chosen(self, role: str, place: str, mine: int, theirs: int) -> Tensor:
        """The teacher's unit for each of the student's that has one."""
        if not self.repeats:
            return torch.arange(min(mine, theirs))
        if role in (_QUERY, _KEY):
            return self._maps[f"{place} {role}"]
        return self._drawn(role if role in _OUTSIDE else f"{place} {role}", mine, theirs)

    def _map_heads(self, place: str, mine: LayerSizes, theirs: LayerSizes) -> None:
        """Whole heads, each with the keys that it shares."""
        width, group = mine.head_width, mine.heads // mine.key_heads
        keys = self._drawn(f"{place} heads", mine.key_heads, theirs.key_heads)
        queries = (keys[:, None] * group + torch.arange(group)).reshape(-1)
        for role, heads in ((_KEY, keys), (_QUERY, queries)):
            self._maps[f"{place} {role}"] = (heads[:, None] * width + torch.arange(width)).reshape(-1)

    def _drawn(self, name: str, mine: int, theirs: int) -> Tensor:
        """(mine,) numbers below `theirs`: itself where there is one, then rounds of all in random order."""
        if name not in self._maps:
            if mine < theirs:
                raise ModelError(
                    f"`function_preserving` widens, and the student has {mine} units where the teacher has {theirs}",
                    fix="use overlap or overlap_random for a narrower student",
                )
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + self.seed)
            rounds = [torch.arange(theirs)]
            while sum(map(len, rounds)) < mine:
                rounds.append(torch.randperm(theirs, generator=generator))
            self._maps[name] = torch.cat(rounds)[:mine]
        return self._maps[name]

    def _check_heads(self, mine: LayerSizes, theirs: LayerSizes) -> None:
        if mine.head_width != theirs.head_width:
            raise ModelError(
                f"a head of the student is {mine.head_width} wide and one of the teacher {theirs.head_width}",
                fix="change the number of heads with the width, so that a head keeps its own",
            )
        if self.repeats and mine.heads * theirs.key_heads != theirs.heads * mine.key_heads:
            raise ModelError(
                "the student's heads share keys in other groups than the teacher's",
                fix="give num_key_value_heads the teacher's share of num_attention_heads",
            )


def _unknown(name: str, own: Tensor, source: Tensor) -> ModelError:
    return ModelError(
        f"{name} is {tuple(own.shape)} in the student and {tuple(source.shape)} in the teacher, which is no change of "
        "a width that remapping knows",
        fix="initialise the student at random, or give it the teacher's width",
    )


def _sides(module: nn.Module, leaf: str, dims: int) -> tuple[str, ...]:
    """What each dimension of a module's parameter is: an input or output of a linear layer, the rows of a table, a unit
    of any other vector, or something else."""
    if isinstance(module, nn.Embedding):
        return ("rows", "unit")
    if dims == 1:
        return ("out",) if isinstance(module, nn.Linear | Conv1D) else ("unit",)
    if isinstance(module, nn.Linear) and leaf == "weight":
        return ("out", "in")
    return ("in", "out") if isinstance(module, Conv1D) else ("other",) * dims


def _known_roles(block: Block, path: str) -> dict[str, list[str]]:
    """Roles of the inputs and outputs of a layer's linear module, where its place tells them."""
    for attention in block.attentions.values():
        parts = sorted((p.start, role) for role, p in attention.projections.items() if p.path == path)
        if parts:
            return {"in": [_HIDDEN], "out": [_QUERY if role == "query" else _KEY for _, role in parts]}
    if path == block.attention_output:
        return {"in": [_QUERY], "out": [_HIDDEN]}
    return {"in": [_INNER], "out": [_HIDDEN]} if path == block.feed_forward_output else {}


def _roles_by_size(
    side: str, pair: tuple[int, int], sizes: Mapping[str, tuple[int, int]], *, inside: bool
) -> list[str] | None:
    if side == "rows":
        return [_ROWS]
    order = (_BY_SIDE.get(side, _OF_VECTORS) if inside else _OUTSIDE) if side != "other" else ()
    for role in order:
        if sizes[role] == pair:
            return [role]
        if role == _INNER and (2 * sizes[role][0], 2 * sizes[role][1]) == pair:
            return [role, role]
    return [_SAME] if pair[0] == pair[1] else None


def _norm_before(model: Any, output: Any) -> tuple[str, Any]:
    """The last module with one vector of weights that runs before the output layer, and its name.

    Raises:
        ModelError: there is none.
    """
    seen: list[str] = []
    reached = False

    def note(name: str) -> Any:
        def hook(module: nn.Module, *_: Any) -> None:
            nonlocal reached
            reached = reached or module is output
            weight = module._parameters.get("weight")
            if not reached and weight is not None and weight.ndim == 1:
                seen.append(name)

        return hook

    handles = [module.register_forward_pre_hook(note(name)) for name, module in model.named_modules() if name]
    training = model.training
    try:
        tokens = torch.zeros(1, 2, dtype=torch.long, device=output.weight.device)
        model.eval()(tokens, attention_mask=torch.ones_like(tokens))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    if not seen:
        raise ModelError("no norm runs before the output layer", fix="use overlap or overlap_random")
    return seen[-1], model.get_submodule(seen[-1])
