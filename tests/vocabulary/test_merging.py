"""The union of unigram models: every rule against a reference, what loads, what is refused."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import pytest
import sentencepiece

from luthier.errors import DataError
from luthier.vocabulary import merge_vocabularies
from luthier.vocabulary.merging import segmentation_drift
from luthier.vocabulary.settings import TrainerSettings
from luthier.vocabulary.tokenizer_files import fast_tokenizer
from luthier.vocabulary.unigram import (
    NORMAL,
    USER_DEFINED,
    Segmenter,
    parse_model,
    pieces_of,
    pruned_model,
    train_unigram,
)
from tests.vocabulary.texts import lines_of

TRAINER = TrainerSettings(seed_pieces=10_000)


def units(*languages: str) -> list[tuple[str, int]]:
    return [(word, 1) for name in languages for line in lines_of(name, 200) for word in line.split()]


@pytest.fixture(scope="module")
def models() -> list[bytes]:
    return [train_unigram(units(name), 120, TRAINER) for name in ("la", "lb", "ka")]


@pytest.mark.parametrize("rule", ["first", "max", "mixture", "refit"])
def test_scores_follow_the_rule(models: list[bytes], rule: str):
    weights = [0.5, 0.3, 0.2]
    text = units("la", "ka")
    merged = merge_vocabularies(models, rule=rule, weights=weights, score_step=0, units=text, passes=1)
    found = pieces_of(merged.content)
    own = [pieces_of(one) for one in models]
    if rule == "refit":
        first = merge_vocabularies(models, rule="first", score_step=0).content
        counts: dict[str, int] = {}
        for pieces in Segmenter(first).pieces([word for word, _ in text]):
            for piece in pieces:
                counts[piece] = counts.get(piece, 0) + 1
        mass = sum(max(0.5, counts.get(piece, 0)) for piece in found)
        wanted = {piece: math.log(max(0.5, counts.get(piece, 0)) / mass) for piece in found}
    else:
        having = {p: [(w, one[p]) for w, one in zip(weights, own, strict=True) if p in one] for p in set().union(*own)}
        wanted = {
            piece: {
                "first": scores[0][1],
                "max": max(s for _, s in scores),
                "mixture": math.log(sum(w * math.exp(s) for w, s in scores)),
            }[rule]
            for piece, scores in having.items()
        }
    assert found.keys() == wanted.keys()
    assert all(found[piece] == pytest.approx(score, abs=2e-5) for piece, score in wanted.items())
    assert merged.mass == pytest.approx(sum(math.exp(s) for s in found.values()), rel=1e-9)


def test_it_loads_with_its_pieces_once_in_a_fixed_order(models: list[bytes]):
    merged = merge_vocabularies(models)
    processor = sentencepiece.SentencePieceProcessor(model_proto=merged.content)
    assert [processor.id_to_piece(n) for n in range(3)] == ["<unk>", "<s>", "</s>"]
    pieces = [one for one in parse_model(merged.content).pieces if one.type == 1]
    assert len({one.piece for one in pieces}) == len(pieces) == processor.get_piece_size() - 3
    assert sum(len(pieces_of(one)) for one in models) == len(pieces) + merged.duplicates
    assert merged.duplicates > 0
    order = [(-one.score, one.piece) for one in pieces]
    assert order == sorted(order)
    assert all((one.score * 1024).is_integer() for one in pieces)
    assert list(merged.origins) == [one.piece for one in pieces]
    assert merge_vocabularies(models).content == merged.content


def test_one_model_comes_back_as_it_was(models: list[bytes]):
    alone = merge_vocabularies(models[:1], score_step=0)
    assert pieces_of(alone.content) == pytest.approx(pieces_of(models[0]))
    lines = lines_of("la", 50, 9)
    assert segmentation_drift(alone.content, models[0], lines) == {"same": 1.0, "tokens": 0.0}
    drift = segmentation_drift(merge_vocabularies(models).content, models[2], lines_of("ka", 50, 9))
    assert 0 < drift["same"] <= 1


def test_models_that_normalise_in_other_ways_are_refused(models: list[bytes]):
    other = train_unigram(units("lb"), 120, TRAINER.model_copy(update={"normaliser": "identity"}))
    with pytest.raises(DataError, match="precompiled_charsmap"):
        merge_vocabularies([models[0], other])
    with pytest.raises(DataError, match="no model"):
        merge_vocabularies([])


def test_a_pruned_model_keeps_letters_and_the_likeliest_pieces(models: list[bytes]):
    small = pruned_model(models[0], 60)
    kept, whole = pieces_of(small), pieces_of(models[0])
    assert len(parse_model(small).pieces) == 60
    assert all(piece in kept for piece in whole if len(piece) == 1)
    left = [score for piece, score in whole.items() if piece not in kept]
    assert max(left) <= min(score for piece, score in kept.items() if len(piece) > 1)


def test_too_few_pieces_or_too_little_text_is_told():
    with pytest.raises(DataError, match="fewer than its letters"):
        train_unigram(units("la"), 8, TRAINER, named="la.txt")
    with pytest.raises(DataError, match=r"nothing\.txt"):
        train_unigram([], 100, TRAINER, named="nothing.txt")


def test_counted_words_give_the_model_of_the_words_themselves_or_one_of_whole_words():
    words = [word for line in lines_of("la", 400) for word in line.split()]
    counts = Counter(words)
    plain = TRAINER.model_copy(update={"whole_words": False})
    counted = pieces_of(train_unigram(counts.items(), 100, plain))
    written = pieces_of(train_unigram([(word, 1) for word in words], 100, plain))
    assert len(counted.keys() & written.keys()) >= 0.9 * len(written)
    better = train_unigram(counts.items(), 100, TRAINER)
    text = lines_of("la", 100, 7)
    tokens = [sum(map(len, Segmenter(one).encode(text))) for one in (train_unigram(counts.items(), 100, plain), better)]
    assert tokens[1] < 0.9 * tokens[0]
    frequent = f"▁{counts.most_common(1)[0][0]}"
    assert frequent in pieces_of(better)


def test_text_is_read_once_a_pass_and_never_held(models: list[bytes]):
    class Text:
        read = 0

        def __iter__(self) -> Iterator[tuple[str, int]]:
            self.read += 1
            return iter(units("la"))

    text = Text()
    merged = merge_vocabularies(models, rule="refit", units=text, passes=3)
    assert text.read == 3
    assert merge_vocabularies(models, rule="refit", units=iter(units("la")), passes=3).content == merged.content


def changed(model: bytes, **kinds: int) -> bytes:
    """The model with further pieces of some kinds."""
    proto = parse_model(model)
    for piece, kind in kinds.items():
        proto.pieces.add(piece=piece, score=-1.0, type=kind)
    content: bytes = proto.SerializeToString()
    return content


def test_names_of_special_tokens_are_no_pieces(models: list[bytes]):
    merged = merge_vocabularies([changed(models[0], **{"<mask>": NORMAL, "<pad>": NORMAL})])
    assert merged.origins.keys() == merge_vocabularies(models[:1]).origins.keys()
    assert fast_tokenizer(merged.content).tokenize("la<mask>") == ["▁la", "<mask>"]


def test_models_that_would_lose_something_are_refused(models: list[bytes]):
    with pytest.raises(DataError, match="model 2 has pieces that its user defined, such as '<x>'"):
        merge_vocabularies([models[0], changed(models[1], **{"<x>": USER_DEFINED})])
    proto = parse_model(models[1])
    proto.trainer_spec.byte_fallback = True
    with pytest.raises(DataError, match="model 2 and the first differ in what they do to unknown letters"):
        merge_vocabularies([models[0], proto.SerializeToString()])
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    with pytest.raises(DataError, match="model 1 is no unigram model"):
        merge_vocabularies([proto.SerializeToString()])
    with pytest.raises(DataError, match="a weight is 0"):
        merge_vocabularies(models, rule="mixture", weights=[1.0, 0.0, 1.0])


def test_a_text_without_letters_is_told_as_such():
    with pytest.raises(DataError, match="there is no letter in it"):
        train_unigram([("\u200b", 3)], 100, TRAINER)
