"""The equations of SINET, its variants, SpERT and PFN's cell, a sentence and a span at a time: slow, plain, and apart
from the package's code. Only weights are taken from the model."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def attention(part: Any, query: Tensor, keys: Tensor, heads: int) -> Tensor:
    """(N, d) over (M, d): LN(q + Proj(Attn))."""
    d = query.shape[-1]
    parts = []
    for h in range(heads):
        own = slice(h * d // heads, (h + 1) * d // heads)
        q = query @ part.queries.weight[own].T
        k, v = keys @ part.keys.weight[own].T, keys @ part.values.weight[own].T
        parts.append(((q @ k.T) / (d / heads) ** 0.5).softmax(-1) @ v)
    out = query + torch.cat(parts, -1) @ part.merged.weight.T + part.merged.bias
    return F.layer_norm(out, (d,), part.norm.weight, part.norm.bias, part.norm.eps)


def partition(part: Any, H: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """PFN: entity and relation states and global vectors of (T, d)."""
    d = H.shape[1]
    c, h = torch.zeros(d, dtype=H.dtype), torch.zeros(d, dtype=H.dtype)
    ner, re, both = [], [], []
    for x in H:
        u = part.from_input.weight @ x + part.from_input.bias + part.from_hidden.weight @ h + part.from_hidden.bias
        new, eo, ro, en, rn = u[:d].tanh(), u[d : 2 * d], u[2 * d : 3 * d], u[3 * d : 4 * d], u[4 * d :]
        eo, en = 1 - eo.softmax(0).cumsum(0), 1 - en.softmax(0).cumsum(0)
        ro, rn = ro.softmax(0).cumsum(0), rn.softmax(0).cumsum(0)
        oo, on = eo * ro, en * rn
        shared = oo * c + on * new
        c_ner = (eo - oo) * c + (en - on) * new + shared
        c_re = (ro - oo) * c + (rn - on) * new + shared
        c = part.next_cell.weight @ torch.cat([c_re, c_ner, shared]) + part.next_cell.bias
        h = c.tanh()
        ner.append(c_ner.tanh()), re.append(c_re.tanh()), both.append(shared.tanh())
    E, R, S = torch.stack(ner), torch.stack(re), torch.stack(both)
    e = (torch.cat([S, E], 1) @ part.entity_global.weight.T + part.entity_global.bias).tanh().max(0).values
    r = (torch.cat([S, R], 1) @ part.relation_global.weight.T + part.relation_global.bias).tanh().max(0).values
    return E, R, e, r


def tasks(model: Any, H: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(T, d) -> entity and relation pieces, entity and relation sentence vectors."""
    o, part = model.options, model.interaction
    if o.interaction == "none":
        return H, H, H[0], H[0]
    if o.interaction == "partition":
        return partition(part.partition, H)
    E, R = H @ part.entity_projection.weight.T, H @ part.relation_projection.weight.T
    if o.projection_bias:
        E, R = E + part.entity_projection.bias, R + part.relation_projection.bias
    if o.projection_activation == "tanh":
        E, R = E.tanh(), R.tanh()
    m = o.attention_heads
    pairs = [
        (part.attention[k], (part.attention if o.share_attention else part.relation_attention)[k])
        for k in range(o.interaction_layers)
    ]
    if o.interaction == "token_cross":
        for into_e, into_r in pairs:
            E, R = attention(into_e, E, R, m), attention(into_r, R, E, m)
        return E, R, E[0], R[0]
    e, r = E[:1], R[:1]
    for into_e, into_r in pairs:
        ke, kr = (R[1:], E[1:]) if o.interaction == "cls_cross" else (E[1:], R[1:])
        if o.own_vector_in_keys:
            ke, kr = torch.cat([ke, e]), torch.cat([kr, r])
        new_e = attention(into_e, e, ke, m) if o.direction != "re_from_ner" else e
        new_r = attention(into_r, r, kr, m) if o.direction != "ner_from_re" else r
        e, r = new_e, new_r
    return E, R, e[0], r[0]


def pooled(model: Any, X: Tensor, start: int, end: int) -> Tensor:
    piece, kind = X[start:end], model.options.pooling
    if kind == "max":
        return piece.max(0).values
    if kind == "mean":
        return piece.mean(0)
    if kind == "endpoints":
        return torch.cat([piece[0], piece[-1]])
    score = piece @ model.span_pooling.piece_weight.weight[0]
    return score.softmax(0) @ piece


def logits(model: Any, H: Tensor, starts: list[int], ends: list[int], entities: list[tuple[int, int]]) -> Any:
    """Of one sentence: entity logits by span of words, and relation logits by pair of entities."""
    o = model.options
    E, R, e, r = tasks(model, H)
    z = (lambda n: [model.widths.table.weight[n]]) if o.width_embedding else (lambda n: [])
    head, rel = model.entity_head.linear, model.relation_head.linear
    spans = {}
    for i, n in itertools.product(range(len(starts)), range(1, o.max_span_size + 1)):
        if i + n <= len(starts):
            x = torch.cat([e, pooled(model, E, starts[i], ends[i + n - 1]), *z(n)])
            spans[i, i + n] = head.weight @ x + head.bias
    for i, j in entities:
        x = torch.cat([e, pooled(model, E, starts[i], ends[j - 1]), *z(j - i)])
        spans[i, j] = head.weight @ x + head.bias
    C = R if o.context_from == "relation" else H
    pairs = {}
    for a, b in itertools.permutations(entities, 2):
        first, second = sorted([(starts[a[0]], ends[a[1] - 1]), (starts[b[0]], ends[b[1] - 1])])
        inner = C[min(first[1], second[1]) : max(first[0], second[0])]
        c = inner.max(0).values if len(inner) else torch.zeros_like(C[0])
        ends_of = [pooled(model, R, starts[i], ends[j - 1]) for i, j in (a, b)]
        sentence = [r] if model.relation_head.sentence else []
        x = torch.cat([c, *sentence, *ends_of, *z(a[1] - a[0]), *z(b[1] - b[0])])
        pairs[a, b] = rel.weight @ x + rel.bias
    return spans, pairs


def spert(H: Tensor, W: Any, V: Any, z: Tensor, starts: Any, ends: Any, spans: Any, pairs: Any) -> Any:
    """SpERT: W [max of span; width; CLS] and V [context; head; tail; widths], over raw H."""
    top = lambda i, j: H[starts[i] : ends[j - 1]].max(0).values  # noqa: E731
    of_spans = [W.weight @ torch.cat([H[0], top(i, j), z[j - i]]) + W.bias for i, j in spans]
    of_pairs = []
    for (a, b), (c, d) in pairs:
        between = range(min(ends[b - 1], ends[d - 1]), max(starts[a], starts[c]))
        context = torch.stack([H[t] for t in between]).amax(0) if len(between) else 0 * H[0]
        of_pairs.append(V.weight @ torch.cat([context, top(a, b), top(c, d), z[b - a], z[d - c]]) + V.bias)
    return of_spans, of_pairs


def loss(spans: Any, pairs: Any, entities: Any, types: Any, related: Any) -> Tensor:
    """Of one sentence: mean CE over spans, and mean over pairs of the mean BCE over types."""
    known = dict(zip(entities, types, strict=True))
    ce = torch.stack([-x.log_softmax(0)[known.get(span, 0)] for span, x in spans.items()]).mean()
    if not pairs:
        return ce
    bce = []
    for (a, b), x in pairs.items():
        y = torch.tensor([float((entities.index(a), entities.index(b), q) in related) for q in range(len(x))])
        p = x.sigmoid()
        bce.append(-(y * p.log() + (1 - y) * (1 - p).log()).mean())
    return ce + torch.stack(bce).mean()


def table(part: Any, first: Tensor, second: Tensor, sentence: Tensor) -> Tensor:
    """PFN's cell: W2 ELU(LN(W1 [first; second; sentence]))."""
    W1 = torch.cat([part.first.weight, part.second.weight, part.sentence.weight], 1)
    x = W1 @ torch.cat([first, second, sentence]) + part.first.bias
    x = F.layer_norm(x, x.shape, part.norm.weight, part.norm.bias, part.norm.eps)
    return part.cells.weight @ F.elu(x) + part.cells.bias
