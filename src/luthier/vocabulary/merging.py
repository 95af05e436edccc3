"""S7: one unigram model from those of the clusters.

Source: section 3.3 of XLM-V for the union; it is silent on scores. `mixture` is p(u) = sum_c w_c exp(score_c(u)).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.errors import DataError
from luthier.models.native_encoder import LEADING, MASK
from luthier.vocabulary.settings import MergeRule
from luthier.vocabulary.unigram import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Segmenter, parse_model

SPECIALS = (("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL))
# Of the tokenizer, which finds them in a text before it is cut.
_SPECIAL_NAMES = frozenset((*LEADING, MASK))
_SAME = ("precompiled_charsmap", "add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces")


@dataclass(frozen=True)
class MergedVocabulary:
    """A merged model, and where its pieces are from.

    Attributes:
        content: the serialised ModelProto: `<unk>`, `<s>`, `</s>`, then pieces by falling score, then by themselves.
        origins: piece -> {cluster number: its score there}, in the model's order.
        duplicates: pieces that a cluster has and one before it has, too.
        mass: sum of exp(score), 1 for a distribution.
    """

    content: bytes
    origins: dict[str, dict[int, float]]
    duplicates: int
    mass: float


def merge_vocabularies(
    models: Sequence[bytes],
    *,
    rule: MergeRule = "first",
    weights: Sequence[float] | None = None,
    score_step: float = 2.0**-10,
    units: Iterable[tuple[str, int]] = (),
    passes: int = 3,
) -> MergedVocabulary:
    """Unite unigram models.

    Args:
        models: serialised ModelProtos of the clusters, in order.
        rule: where a piece's score comes from: `first` and `max` of the models that have it; `mixture` the log of the
            weighted sum of its probabilities; `refit` the log of its share among the tokens of `units`, cut anew in
            each of `passes` from the scores of `first`.
        weights: of the models under `mixture`, made to sum to 1; default all the same.
        score_step: scores are rounded to a multiple of it. With 2^-10 the sum of any 1,500 tokens' scores is exact in
            float32, so that encoders in single and double precision cut alike; 0 leaves scores as they are.
        units: counted text, for `refit`, which is read once a pass and only held if it is an iterator.

    Raises:
        DataError: there is no model, one is no unigram model, has pieces that its user defined or normalises text in
            another way than the first; or a weight is not above 0.
    """
    parsed = [parse_model(content) for content in models]
    if not parsed:
        raise DataError("there is no model to merge")
    _check_alike(parsed)
    origins: dict[str, dict[int, float]] = {}
    for number, model in enumerate(parsed):
        for one in model.pieces:
            if one.type == NORMAL and one.piece not in _SPECIAL_NAMES:
                origins.setdefault(one.piece, {})[number] = one.score
    shares = _shares(weights, len(models))
    scores = {piece: _score(rule, found, shares) for piece, found in origins.items()}
    merged = _proto(parsed, _rounded(scores, score_step))
    if rule == "refit":
        counted = list(units) if isinstance(units, Iterator) else units
        for _ in range(passes):
            scores = _refitted(merged, counted, scores)
            merged = _proto(parsed, _rounded(scores, score_step))
    final = parse_model(merged)
    order = [one.piece for one in final.pieces if one.type == NORMAL]
    mass = math.fsum(math.exp(one.score) for one in final.pieces if one.type == NORMAL)
    return MergedVocabulary(
        merged, {piece: origins[piece] for piece in order}, sum(len(v) - 1 for v in origins.values()), mass
    )


def _check_alike(parsed: Sequence[Any]) -> None:
    first = parsed[0].normalizer_spec
    for number, model in enumerate(parsed, 1):
        if model.trainer_spec.model_type != model.trainer_spec.UNIGRAM:
            raise DataError(f"model {number} is no unigram model", fix="train it with `model_type: unigram`")
        if (own := next((one.piece for one in model.pieces if one.type == USER_DEFINED), None)) is not None:
            raise DataError(
                f"model {number} has pieces that its user defined, such as {own!r}, which win over all others",
                fix="train it without `user_defined_symbols`, and add them to the tokenizer with `add_tokens`",
            )
        if model.trainer_spec.byte_fallback != parsed[0].trainer_spec.byte_fallback:
            raise DataError(
                f"model {number} and the first differ in what they do to unknown letters",
                fix="train all of them with one `trainer.byte_fallback`",
            )
        for name in _SAME:
            if getattr(model.normalizer_spec, name) != getattr(first, name):
                raise DataError(
                    f"model {number} normalises text in another way than the first (`{name}`)",
                    fix="train all of them with one `trainer.normaliser`",
                )


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    given = [1.0] * count if weights is None else list(weights)
    if not min(given) > 0:
        raise DataError(f"a weight is {min(given)}, and has to be above 0")
    return [weight / sum(given) for weight in given]


def _score(rule: MergeRule, found: Mapping[int, float], shares: Sequence[float]) -> float:
    if rule == "max":
        return max(found.values())
    if rule == "mixture":
        return math.log(math.fsum(shares[number] * math.exp(score) for number, score in found.items()))
    return next(iter(found.values()))


def _rounded(scores: Mapping[str, float], step: float) -> dict[str, float]:
    return {piece: round(score / step) * step for piece, score in scores.items()} if step else dict(scores)


def _refitted(content: bytes, units: Iterable[tuple[str, int]], scores: Mapping[str, float]) -> dict[str, float]:
    """Log shares of the pieces among the tokens that the model cuts text into; half an occurrence for what is never
    used, so that it stays the last choice."""
    segmenter = Segmenter(content)
    counts: Counter[str] = Counter()
    for token, count in segmenter.token_counts(units).items():
        counts[segmenter.processor.id_to_piece(token)] += count
    total = math.log(sum(max(0.5, counts[piece]) for piece in scores))
    return {piece: math.log(max(0.5, counts[piece])) - total for piece in scores}


def _proto(parsed: Sequence[Any], scores: Mapping[str, float]) -> bytes:
    first = parsed[0]
    merged = type(first)()
    merged.trainer_spec.CopyFrom(first.trainer_spec)
    merged.normalizer_spec.CopyFrom(first.normalizer_spec)
    for piece, kind in SPECIALS:
        merged.pieces.add(piece=piece, score=0.0, type=kind)
    for one in first.pieces:
        if one.type == BYTE:
            merged.pieces.add(piece=one.piece, score=one.score, type=BYTE)
    for piece, score in sorted(scores.items(), key=lambda one: (-one[1], one[0])):
        merged.pieces.add(piece=piece, score=score, type=NORMAL)
    spec = merged.trainer_spec
    spec.vocab_size, spec.unk_id, spec.bos_id, spec.eos_id, spec.pad_id = len(merged.pieces), 0, 1, 2, -1
    for name in ("input", "model_prefix"):
        merged.trainer_spec.ClearField(name)
    content: bytes = merged.SerializeToString(deterministic=True)
    return content


def segmentation_drift(merged: bytes, own: bytes, texts: list[str]) -> dict[str, float]:
    """How a merged model cuts the texts of a cluster, held against the cluster's own model.

    Returns:
        `same`, the share of texts with equal pieces, and `tokens`, the change of the number of tokens as a fraction.
    """
    ours, theirs = Segmenter(merged).pieces(texts), Segmenter(own).pieces(texts)
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    before = sum(map(len, theirs))
    return {"same": same / max(1, len(texts)), "tokens": (sum(map(len, ours)) - before) / max(1, before)}
