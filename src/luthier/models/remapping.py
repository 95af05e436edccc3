"""Parameter remapping: a new model of other depth or width starts from the weights of a trained one.

Source: the student initialisation of "A Study on Knowledge Distillation from Weak Teacher for Scaling Up Pre-trained
Language Models" (Lee et al., Findings of ACL 2023), section 3, after FNA (Fang et al., 2020); `function_preserving`
after Net2Net (Chen et al., 2016) and bert2BERT (Chen et al., 2022).

    remap_parameters(student, teacher, depth="repeat_last", width="overlap")

Symbols: L_T, L_S layers and h_T, h_S widths of teacher and student.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from luthier.errors import ModelError, a_model
from luthier.models.depth_rules import depth_sources
from luthier.models.layers.blocks import Block, find_blocks
from luthier.models.settings import DepthRule, WidthRule
from luthier.models.width_maps import Axis, WidthMaps

_BODY, _PROBED_TOKENS = "body.", 8


@dataclass(frozen=True)
class Remapping:
    """What a student took from its teacher.

    Attributes:
        sources: stack of layers -> for each of the student's layers the number of the teacher's.
        copied: parameters of the student that are all the teacher's.
        widened: those that are wider, narrower or longer than the teacher's.
        own: those that stay as they were.
    """

    sources: Mapping[str, list[int]]
    copied: tuple[str, ...]
    widened: tuple[str, ...]
    own: tuple[str, ...]


def remap_parameters(
    student: Any,
    teacher: Any,
    *,
    depth: DepthRule | Sequence[int] = "repeat_last",
    width: WidthRule = "overlap",
    embeddings: bool = True,
    head: bool = True,
    seed: int = 0,
) -> Remapping:
    """Write a teacher's weights into a student of the same architecture, in place; tied weights stay tied.

    Args:
        student, teacher: transformers models, whose heads may differ; what only the student has stays its own.
        depth: where a student's layer j comes from: `repeat_last` is teacher layer min(j, L_T - 1), `uniform` spreads
            the teacher's layers from first to last, `first` and `last` take so many of its first or last ones; or the
            number of the teacher's layer for every layer of the student, from 0.
        width: what fills a wider student: `overlap` leaves zeros in matrices outside the teacher's, `overlap_random`
            the student's own values, and `function_preserving` repeats units so that the student computes what the
            teacher does, exactly where every unit is repeated equally often. Whole heads are copied, and the tails of
            vectors under both overlaps stay the student's own. A narrower student is cut, under either overlap.
        embeddings: whether token, position and type vectors are taken over; a tied output layer goes with them.
        head: whether what lies outside the body is taken over, as far as its outputs are the same.
        seed: of the random choice of repeated units.

    Raises:
        ModelError: the two are of different architectures, vocabularies or head sizes, or the rules don't fit them.
    """
    _check_alike(student, teacher, embeddings)
    student_blocks, teacher_blocks = _blocks(student), _blocks(teacher)
    sources = _depth_sources(student_blocks, teacher_blocks, depth)
    maps = WidthMaps(student, teacher, student_blocks, teacher_blocks, width, seed)
    copied: list[str] = []
    widened: list[str] = []
    kept: list[str] = []
    with torch.no_grad():
        for name, own, source, block, layer in _pairs(student, teacher, student_blocks, sources):
            wanted = {"embedding": embeddings, "head": head}.get(_kind(student, name, block), True)
            if source is None and block is not None:
                raise ModelError(f"the teacher's layers have no {name.removeprefix(f'{block.name}.')}", fix=_ALIKE)
            axes = maps.axes(name, own, source, block, layer) if wanted and source is not None else None
            if axes is None or source is None:
                kept.append(name)
                continue
            _write(own, source, axes, zeros=width == "overlap")
            (copied if own.shape == source.shape else widened).append(name)
        if maps.repeats and embeddings:
            maps.settle_tied_output(head=head)
    if maps.repeats and maps.exact and not kept and _same_layers(sources, teacher_blocks):
        _check_preserved(student, teacher)
    return Remapping(sources, tuple(copied), tuple(widened), tuple(kept))


_ALIKE = "take a teacher of the same architecture as the student"


def _check_alike(student: Any, teacher: Any, embeddings: bool) -> None:
    for who, model in (("student", student), ("teacher", teacher)):
        if hasattr(model, "peft_config"):
            raise ModelError(f"the {who} has adapters, which remapping can't place", fix="merge them into it first")
    kinds = student.config.model_type, teacher.config.model_type
    if kinds[0] != kinds[1]:
        raise ModelError(f"the student is {a_model(kinds[0])} and the teacher {a_model(kinds[1])}", fix=_ALIKE)
    sizes = [model.get_input_embeddings().num_embeddings for model in (student, teacher)]
    if embeddings and sizes[0] != sizes[1]:
        raise ModelError(
            f"the student's vocabulary has {sizes[0]:,} tokens and the teacher's {sizes[1]:,}",
            fix="build the student for the teacher's vocabulary, or leave the embeddings out",
        )


def _blocks(model: Any) -> list[Block]:
    try:
        return find_blocks(model)
    except ValueError as error:
        raise ModelError(str(error), fix="such a model can't be remapped; initialise the student at random") from error


def _stack(block: Block) -> str:
    """What the layers of one stack share, whatever head the model has."""
    return block.stack or "layers"


def _depth_sources(student: list[Block], teacher: list[Block], rule: DepthRule | Sequence[int]) -> dict[str, list[int]]:
    have = Counter(map(_stack, teacher))
    return {stack: depth_sources(rule, count, have[stack]) for stack, count in Counter(map(_stack, student)).items()}


def _same_layers(sources: dict[str, list[int]], teacher: list[Block]) -> bool:
    have = Counter(map(_stack, teacher))
    return all(layers == list(range(have[stack])) for stack, layers in sources.items())


def _canonical(model: Any) -> Callable[[str], str]:
    """Names of parameters as models with other heads have them too: those of the body begin with `body.`."""
    base = getattr(model, "base_model", model)
    prefix = "" if base is model else f"{model.base_model_prefix}."
    return lambda name: _BODY + name.removeprefix(prefix) if name.startswith(prefix) else name


def _pairs(
    student: Any, teacher: Any, blocks: list[Block], sources: dict[str, list[int]]
) -> Iterator[tuple[str, Tensor, Tensor | None, Block | None, int]]:
    """Every parameter of the student: name, tensor, the teacher's or None, its layer or None, the teacher's layer."""
    of_student, of_teacher = _canonical(student), _canonical(teacher)
    stored = {of_teacher(n): p for n, p in teacher.named_parameters(remove_duplicate=False)}
    for name, own in student.named_parameters():
        block, wanted, layer = next((b for b in blocks if name.startswith(f"{b.name}.")), None), name, -1
        if block is not None:
            layer = sources[_stack(block)][block.index]
            wanted = f"{block.name.rpartition('.')[0]}.{layer}{name.removeprefix(block.name)}"
        yield name, own, stored.get(of_student(wanted)), block, layer


def _kind(model: Any, name: str, block: Block | None) -> str:
    """Whether a parameter belongs to a layer, the embeddings, the head, or the rest of the body."""
    if block is not None:
        return "layer"
    if not _canonical(model)(name).startswith(_BODY):
        return "head"
    module = model.get_submodule(name.rpartition(".")[0])
    path = name.split(".")
    return "embedding" if isinstance(module, nn.Embedding) or "embeddings" in path else "body"


def _write(own: Tensor, source: Tensor, axes: list[Axis], *, zeros: bool) -> None:
    """U[targets] = W[sources], scaled; zeros in a matrix where a width has nothing to give."""
    if own.shape == source.shape:
        own.copy_(source)
        return
    if own.ndim >= 2 and zeros:
        own[_crossed([slice(None) if axis.is_width else axis.targets for axis in axes], own)] = 0
    value = source.to(own)
    for dim, axis in enumerate(axes):
        value = value.index_select(dim, axis.sources.to(value.device))
        if axis.scale is not None:
            shape = [-1 if d == dim else 1 for d in range(value.ndim)]
            value = value * axis.scale.to(value).reshape(shape)
    own[_crossed([axis.targets for axis in axes], own)] = value


def _crossed(rows: Sequence[Any], like: Tensor) -> Any:
    """An index of the cross product of what is taken along each dimension."""
    numbers = [
        torch.arange(size, device=like.device) if isinstance(r, slice) else r.to(like.device)
        for r, size in zip(rows, like.shape, strict=True)
    ]
    return tuple(n.reshape([-1 if d == i else 1 for d in range(len(numbers))]) for i, n in enumerate(numbers))


def _check_preserved(student: Any, teacher: Any) -> None:
    """Run both on a few tokens.

    Raises:
        ModelError: they compute different things: the architecture does something that remapping does not know of.
    """
    if type(student) is not type(teacher) or student.device.type == "meta":
        return
    results = []
    for model in (student, teacher):
        training, table = model.training, model.get_input_embeddings()
        tokens = torch.arange(_PROBED_TOKENS, device=table.weight.device)[None] % table.num_embeddings
        with torch.no_grad():
            out = model.eval()(tokens, attention_mask=torch.ones_like(tokens))
        model.train(training)
        results.append((out.logits if "logits" in out else out.last_hidden_state).float())
    found, wanted = results[0][..., : results[1].shape[-1]], results[1]
    if not torch.allclose(found, wanted, rtol=0, atol=1e-3 * float(wanted.abs().max())):
        raise ModelError(
            f"`function_preserving` does not preserve what {a_model(student.config.model_type)} computes",
            fix="use overlap or overlap_random",
        )
