"""A new vocabulary for a trained model: its embeddings start from the old ones.

Sources: FOCUS, Dobler and de Melo (EMNLP 2023); WECHSEL, Minixhofer et al. (NAACL 2022); the normal distribution of
the old rows, Hewitt, “Initializing New Word Embeddings for Pretrained Language Models” (2021). Shapes: V_old and V_new
tokens, H width, B rows of a block. No matrix of V_new by V_old is ever made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from luthier.errors import ModelError
from luthier.models.inspect import first_position
from luthier.vocabulary.auxiliary import token_vectors
from luthier.vocabulary.piece_views import PieceView, id_count
from luthier.vocabulary.transplant_settings import Init

BLOCK_ROWS = 32_768
_SIMILARITIES = 1 << 25
_NEIGHBOURS, _TEMPERATURE = 10, 0.1


@dataclass(frozen=True)
class Transplanted:
    """Where the rows of a new vocabulary are from.

    Attributes:
        copied: new id -> old id, special tokens by their roles among them.
        composed: new ids that start from several old rows.
        drawn: new ids that start from none of their own: from the mean, or from a distribution.
        tied: whether input and output embeddings are one matrix.
    """

    copied: dict[int, int]
    composed: list[int]
    drawn: list[int]
    tied: bool


def transplant_embeddings(
    model: Any,
    old_tokenizer: Any,
    new_tokenizer: Any,
    *,
    init: Init = "subword_mean",
    weights: str = "uniform",
    rescale: bool | None = None,
    texts: Iterable[str] | None = None,
    seed: int = 0,
    block_rows: int = BLOCK_ROWS,
) -> Transplanted:
    """Give a model a new vocabulary, in place. Tied embeddings stay tied; the row of the padding token is zero.

    Tokens that both vocabularies have keep their rows and biases, special tokens by their roles. The others start by:

    - `copy`: there may be none;
    - `subword_mean`: mean of the old rows of the old tokens that they are made of;
    - `focus`: rows of tokens that both have, weighted by the sparsemax of cosine similarities of vectors learned on
      `texts`;
    - `wechsel`: those of the 10 nearest, weighted by softmax(similarity / 0.1);
    - `gaussian`: draws with mean and covariance of the old rows; `mean`: their mean; `random`: draws with the model's
    own
      deviation of new weights.

    A new bias is the mean of the biases that its row is made of, else the least one.

    Args:
        model: of transformers; its old vocabulary is that of `old_tokenizer`.
        old_tokenizer, new_tokenizer: fast tokenizers.
        weights: of old tokens under `subword_mean`: `uniform`, or `length` in letters.
        rescale: whether composed rows get the median length of the copied ones; None says yes for models without a
            language-model head. Means are shorter than what they are means of, but for what all rows share, which
            counts most when tokens are predicted by them: logits of all composed tokens would rise.
        texts: text in the new languages, for `focus` and `wechsel`.
        seed: of draws.
        block_rows: B.

    Raises:
        ModelError: the model has no embeddings of that vocabulary, its positions count from another padding id,
            nothing is there to compare by, or under `copy` a token is new.
    """
    old, new = PieceView(old_tokenizer), PieceView(new_tokenizer)
    source, target_size, known = _embedding(model), id_count(new_tokenizer), id_count(old_tokenizer)
    if source.weight.shape[0] < known:
        raise ModelError(
            f"the model embeds {source.weight.shape[0]} tokens, and its tokenizer has {known}",
            fix="take the tokenizer that the model was trained with",
        )
    _check_positions(model, new.roles.get("pad"))
    plan = _Plan.of(old, new, weights)
    if init == "copy" and plan.composed_ids:
        raise ModelError(
            f"{len(plan.composed_ids):,} tokens are not in the old vocabulary, such as "
            f"{new.pieces[plan.composed_ids[0]]!r}",
            fix="choose another `init`",
        )
    if init in ("focus", "wechsel"):
        if texts is None:
            raise ModelError(f"`init: {init}` compares tokens by text, and there is none", fix="give `text`")
        ids = (new_tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
        plan.vectors = token_vectors(ids, target_size, seed=seed)
    projection = model.get_output_embeddings()
    tied = projection is not None and projection.weight is source.weight
    # Rows behind those of the tokenizer are no token's: they fill the matrix up to a round number.
    old_rows = source.weight.detach()[:known].clone()
    old_out = None if tied or projection is None else projection.weight.detach()[:known].clone()
    bias = getattr(projection, "bias", None)
    old_bias = None if bias is None else bias.detach()[:known].clone()
    rescale = projection is None if rescale is None else rescale
    with torch.no_grad():
        model.resize_token_embeddings(target_size, mean_resizing=False)
        maker = _Rows(plan, init, rescale, seed, float(getattr(model.config, "initializer_range", 0.02)), block_rows)
        drawn = maker.write(old_rows, _embedding(model).weight)
        projection = model.get_output_embeddings()
        if old_out is not None:
            maker.write(old_out, projection.weight)
        if old_bias is not None:
            maker.write_bias(old_bias, _bias_of(projection, target_size))
        if tied:
            model.tie_weights()
        _settle_special(model, new, plan.copied)
    left = set(drawn)
    return Transplanted(plan.copied, [one for one in plan.composed_ids if one not in left], drawn, tied)


class _Plan:
    """Which old rows a new one is made of, as one long list with places where each begins."""

    def __init__(
        self, copied: dict[int, int], composed_ids: list[int], parts: list[list[int]], weights: list[list[float]]
    ):
        self.copied, self.composed_ids = copied, composed_ids
        self.parts, self.weights = parts, weights
        self.vectors: np.ndarray | None = None
        self.special: set[int] = set()

    @classmethod
    def of(cls, old: PieceView, new: PieceView, weights: str) -> _Plan:
        known = old.of_spellings()
        # Of the same kind, what is written alike means the same, also what occurs in no text.
        own = old.of_pieces() if old.kind == new.kind else {}
        copied: dict[int, int] = {}
        for role, number in new.roles.items():
            found = old.with_role(role)
            if found is not None:
                copied.setdefault(number, found)
        for name, number in new.added.items():
            if name in old.added:
                copied.setdefault(number, old.added[name])
        composed: list[int] = []
        parts: list[list[int]] = []
        for number, piece in enumerate(new.pieces):
            if number in copied:
                continue
            alike = [own[piece]] if piece in own else [known[one] for one in new.spellings(number) if one in known]
            if number not in new.special_ids and alike:
                # Of two spellings the first one: vocabularies begin with what is frequent.
                copied[number] = min(alike)
                continue
            composed.append(number)
            parts.append([] if number in new.special_ids else old.cut(piece))
        sizes = [[float(len(old.pieces[i].strip("▁")) or 1) if weights == "length" else 1.0 for i in p] for p in parts]
        plan = cls(copied, composed, parts, sizes)
        plan.special = new.special_ids
        return plan


class _Rows:
    """Writes new rows from old ones, a block at a time."""

    def __init__(self, plan: _Plan, init: str, rescale: bool, seed: int, deviation: float, block: int) -> None:
        self.plan, self.init, self.rescale, self.block, self.deviation = plan, init, rescale, block, deviation
        self.draw = torch.Generator().manual_seed(seed)

    def write(self, old: Tensor, target: Tensor) -> list[int]:
        """Fill `target` (V_new, H) from `old` (V_old, H); gives the ids that no old row of their own stands for."""
        new_ids, old_ids = self._copied()
        for start in range(0, len(new_ids), self.block):
            part = slice(start, start + self.block)
            target[new_ids[part].to(target.device)] = old[old_ids[part].to(old.device)]
        length = _median_norm(old, old_ids)
        compose, drawn = self._composer(old)
        for start in range(0, len(self.plan.composed_ids), self.block):
            rows = compose(start, min(len(self.plan.composed_ids), start + self.block))
            if self.rescale and length and self.init in ("subword_mean", "focus", "wechsel"):
                rows = rows * (length / rows.norm(dim=1, keepdim=True).clamp_min(1e-12))
            places = torch.tensor(self.plan.composed_ids[start : start + self.block], device=target.device)
            target[places] = rows.to(target.device, target.dtype)
        return drawn

    def write_bias(self, old: Tensor, target: Tensor) -> None:
        """Fill the bias (V_new,): copied, the mean of a token's parts, else the least."""
        least = old.min()
        target.fill_(least)
        new_ids, old_ids = self._copied()
        target[new_ids.to(target.device)] = old[old_ids.to(old.device)]
        if self.init in ("gaussian", "mean", "random"):
            return
        for start in range(0, len(self.plan.composed_ids), self.block):
            end = min(len(self.plan.composed_ids), start + self.block)
            places = torch.tensor(self.plan.composed_ids[start:end], device=target.device)
            target[places] = self._means(start, end, old[:, None], least[None]).flatten().to(target)

    def _copied(self) -> tuple[Tensor, Tensor]:
        """New and old ids of the rows that are taken over."""
        pairs = self.plan.copied
        return torch.tensor(list(pairs), dtype=torch.long), torch.tensor(list(pairs.values()), dtype=torch.long)

    def _composer(self, old: Tensor) -> tuple[Callable[[int, int], Tensor], list[int]]:
        mean, everyone = old.mean(dim=0), list(self.plan.composed_ids)
        if self.init == "mean":
            return (lambda start, end: mean.expand(end - start, -1)), everyone
        if self.init == "random":
            return (lambda start, end: self._normal(end - start, old) * self.deviation), everyone
        if self.init == "gaussian":
            spread = _root_of_covariance(old)
            return (lambda start, end: mean + self._normal(end - start, old) @ spread), everyone
        drawn = [one for one, parts in zip(self.plan.composed_ids, self.plan.parts, strict=True) if not parts]
        if self.init in ("focus", "wechsel"):
            near = _Nearest(self.plan, old, self.init)
            return (lambda start, end: near.rows(start, end, self._means(start, end, old, mean))), [
                one for one in drawn if not near.has(one)
            ]
        return (lambda start, end: self._means(start, end, old, mean)), drawn

    def _normal(self, count: int, like: Tensor) -> Tensor:
        return torch.randn(count, like.shape[1], generator=self.draw).to(like)

    def _means(self, start: int, end: int, old: Tensor, mean: Tensor) -> Tensor:
        """Weighted means of old rows; the mean of all where a token has no parts."""
        parts, weights = self.plan.parts[start:end], self.plan.weights[start:end]
        begins = np.cumsum([0, *map(len, parts[:-1])])
        flat = torch.tensor([i for p in parts for i in p], dtype=torch.long, device=old.device)
        shares = torch.tensor([w / sum(one) for one in weights for w in one], dtype=old.dtype, device=old.device)
        offsets = torch.tensor(begins, dtype=torch.long, device=old.device)
        rows = F.embedding_bag(flat, old, offsets, mode="sum", per_sample_weights=shares)
        empty = torch.tensor([not p for p in parts], device=old.device)
        return torch.where(empty[:, None], mean[None], rows)


class _Nearest:
    """Rows by similarity to tokens that both vocabularies have."""

    def __init__(self, plan: _Plan, old: Tensor, init: str) -> None:
        assert plan.vectors is not None
        vectors = torch.from_numpy(plan.vectors)
        seen = vectors.abs().sum(dim=1) > 0
        both = [new_id for new_id in plan.copied if bool(seen[new_id]) and new_id not in plan.special]
        if not both:
            raise ModelError(
                "no token of the old vocabulary occurs in the text", fix="give other text, or `subword_mean`"
            )
        self.plan, self.init, self.vectors, self.seen = plan, init, vectors, seen
        self.anchors = vectors[both]
        self.old = old[torch.tensor([plan.copied[one] for one in both], device=old.device)].float().cpu()

    def has(self, new_id: int) -> bool:
        return bool(self.seen[new_id])

    def rows(self, start: int, end: int, otherwise: Tensor) -> Tensor:
        ids = torch.tensor(self.plan.composed_ids[start:end])
        result, step = otherwise.clone(), max(1, _SIMILARITIES // len(self.anchors))
        places = torch.nonzero(self.seen[ids]).flatten()
        for part in places.split(step):
            similar = self.vectors[ids[part]] @ self.anchors.T
            result[part.to(result.device)] = (_shares(similar, self.init) @ self.old).to(result)
        return result


def _shares(similar: Tensor, init: str) -> Tensor:
    if init == "focus":
        return sparsemax(similar)
    top = similar.topk(min(_NEIGHBOURS, similar.shape[1]), dim=1)
    return torch.zeros_like(similar).scatter_(1, top.indices, (top.values / _TEMPERATURE).softmax(dim=1))


def sparsemax(scores: Tensor) -> Tensor:
    """The projection of each row onto the simplex, which is 0 for all but the largest scores (Martins and Astudillo,
    ICML 2016, algorithm 1). (N, K) in, (N, K) out."""
    ordered = scores.sort(dim=1, descending=True).values
    sums = ordered.cumsum(dim=1)
    number = torch.arange(1, scores.shape[1] + 1, dtype=scores.dtype, device=scores.device)
    support = (1 + number * ordered > sums).sum(dim=1, keepdim=True)
    threshold = (sums.gather(1, support - 1) - 1) / support
    return (scores - threshold).clamp_min(0)


def _embedding(model: Any) -> nn.Embedding:
    found = model.get_input_embeddings()
    if not isinstance(found, nn.Embedding):
        raise ModelError(f"{type(model).__name__} has no plain table of token embeddings", fix="take another model")
    return found


def _bias_of(projection: Any, size: int) -> Tensor:
    bias: Tensor = projection.bias
    if bias.shape != (size,):
        raise ModelError(f"the bias of {type(projection).__name__} can't be resized", fix="take another architecture")
    return bias


def _check_positions(model: Any, padding: int | None) -> None:
    """RoBERTa-like models number positions from behind the padding id, whose change would move all of them."""
    first = first_position(model.config)
    if first and padding != first - 1:
        raise ModelError(
            f"the model counts positions from its padding id, {first - 1}, and that of the new tokenizer is {padding}",
            fix="take a tokenizer with the same padding id, or a model such as bert",
        )


def _settle_special(model: Any, new: PieceView, copied: Mapping[int, int]) -> None:
    """Padding row, padding index and the ids that the configurations name."""
    embedding, padding = _embedding(model), new.roles.get("pad")
    others = {number for role, number in new.roles.items() if role != "pad"}
    embedding.padding_idx = padding if padding not in others else None
    if padding is not None and padding not in others:
        embedding.weight[padding] = 0
    moved = {old_id: new_id for new_id, old_id in reversed(list(copied.items()))}
    for config in filter(None, (model.config, getattr(model, "generation_config", None))):
        for name, ids in [(one, ids) for one, ids in vars(config).items() if one.endswith("_token_id")]:
            role = name.removesuffix("_token_id")
            named = new.with_role(role) if role in ("pad", "bos", "eos") else None
            if ids is not None or role == "pad":
                setattr(config, name, _moved(ids, moved, named))


def _moved(ids: int | list[int] | None, moved: Mapping[int, int], named: int | None) -> Any:
    """The new id of an old one, or of several: that of the role, else of the token that has the old one's row."""
    if not isinstance(ids, list):
        return moved.get(ids) if named is None and ids is not None else named
    found = [moved[one] for one in ids if one in moved]
    return found if named is None or named in found else [named, *found]


def _median_norm(old: Tensor, ids: Tensor) -> float:
    if not len(ids):
        return 0.0
    norms = old[ids.to(old.device)].float().norm(dim=1)
    return float(norms[norms > 0].median()) if bool((norms > 0).any()) else 0.0


def _root_of_covariance(old: Tensor) -> Tensor:
    """(H, H) S with S^T S the covariance of the rows."""
    values, vectors = torch.linalg.eigh(torch.cov(old.double().T))
    root: Tensor = (values.clamp_min(0).sqrt()[:, None] * vectors.T).to(old.dtype)
    return root
