"""Unigram models: trained with SentencePiece on counted units, read and written as its protocol buffers.

Source of the model: Kudo, “Subword Regularization” (ACL 2018). Types of pieces: 1 normal, 2 unknown, 3 control,
4 user-defined, 6 byte.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from luthier.errors import DataError
from luthier.vocabulary.settings import TrainerSettings

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
_BATCH = 20_000
_TOGETHER = 20


def train_unigram(
    units: Iterable[tuple[str, int]], pieces: int, settings: TrainerSettings, *, named: str = "text", least: int = 0
) -> bytes:
    """A unigram model of counted words or sentences.

    Args:
        units: text and how often it occurs.
        pieces: of the vocabulary, `<unk>`, `<s>` and `</s>` among them; fewer where the text holds no more.
        settings: of the trainer.
        named: the text, for errors.
        least: candidates that training starts from at least.

    Returns:
        The serialised ModelProto.

    Raises:
        DataError: there is too little text, or it has more letters than pieces.
    """
    import sentencepiece

    out = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_rows(units, whole=settings.whole_words),
            input_format="tsv",
            model_writer=out,
            model_type="unigram",
            vocab_size=pieces,
            hard_vocab_limit=False,
            character_coverage=settings.character_coverage,
            max_sentencepiece_length=settings.longest_piece,
            byte_fallback=settings.byte_fallback,
            normalization_rule_name=settings.normaliser,
            split_by_unicode_script=settings.split_by_unicode_script,
            split_by_number=settings.split_by_number,
            split_digits=settings.split_digits,
            # Where it is not well above the vocabulary, training fails at its very end.
            seed_sentencepiece_size=max(settings.seed_pieces, least, round(1.2 * pieces) + 100),
            train_extremely_large_corpus=pieces > 500_000,
            max_sentence_length=1 << 16,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise _refused(error, pieces, named) from error
    return out.getvalue()


def _rows(units: Iterable[tuple[str, int]], *, whole: bool) -> Iterator[str]:
    """Lines of text and count, as the trainer reads them.

    Its candidates are what occurs in front of different letters. A counted word stands before a line's end alone, so
    that it is no candidate as a whole unless it begins another word; written once more among others, it is.
    """
    others: list[str] = []
    for unit, count in units:
        if not whole or count < 2:
            yield f"{unit}\t{count}"
            continue
        yield f"{unit}\t{count - 1}"
        others.append(unit)
        if len(others) == _TOGETHER:
            yield f"{' '.join(others)}\t1"
            others = []
    if others:
        yield f"{' '.join(others)}\t1"


def _refused(error: Exception, pieces: int, named: str) -> DataError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "required_chars" in reason or "too small" in reason.lower() or "smaller than" in reason:
        return DataError(
            f"{pieces:,} pieces are fewer than its letters", where=named, fix="give it more pieces, or lower coverage"
        )
    if "all_chars_count" in reason or "sentences_.empty" in reason:
        return DataError("there is no letter in it", where=named, fix="give other text")
    return DataError(f"no unigram model comes of it: {reason}", where=named, fix="give more text, or fewer pieces")


def parse_model(content: bytes) -> Any:
    """The ModelProto of a serialised model."""
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(content)


def pieces_of(content: bytes) -> dict[str, float]:
    """Normal pieces and their scores, in the model's order."""
    return {one.piece: one.score for one in parse_model(content).pieces if one.type == NORMAL}


class Segmenter:
    """Cuts text with SentencePiece's own encoder.

    Args:
        content: a serialised ModelProto.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content

    @cached_property
    def processor(self) -> Any:
        """SentencePiece's object."""
        import sentencepiece

        return sentencepiece.SentencePieceProcessor(model_proto=self.content)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of every text."""
        encoded: list[list[int]] = self.processor.encode(texts, num_threads=1)
        return encoded

    def pieces(self, texts: list[str]) -> list[list[str]]:
        """Pieces of every text."""
        encoded: list[list[str]] = self.processor.encode(texts, out_type=str, num_threads=1)
        return encoded

    def token_counts(self, units: Iterable[tuple[str, int]]) -> Counter[int]:
        """How often each id occurs in counted units, which are cut once each."""
        total: Counter[int] = Counter()
        for batch in batches(units, _BATCH):
            for (_, count), ids in zip(batch, self.encode([unit for unit, _ in batch]), strict=True):
                for token in ids:
                    total[token] += count
        return total


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of at most `size` items."""
    held: list[Any] = []
    for item in items:
        held.append(item)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held


def pruned_model(content: bytes, pieces: int) -> bytes:
    """The model with its likeliest pieces alone; single letters stay, so that nothing becomes unknown.

    Args:
        pieces: of the result, specials among them; more where the letters alone are more.
    """
    model = parse_model(content)
    kept = [one for one in model.pieces if one.type != NORMAL or len(one.piece) == 1]
    room = max(0, pieces - len(kept))
    longer = [one for one in model.pieces if one.type == NORMAL and len(one.piece) > 1]
    best = {one.piece for one in sorted(longer, key=lambda one: (-one.score, one.piece))[:room]}
    chosen = [one for one in model.pieces if one.type != NORMAL or len(one.piece) == 1 or one.piece in best]
    small = type(model)()
    small.CopyFrom(model)
    del small.pieces[:]
    small.pieces.extend(chosen)
    small.trainer_spec.vocab_size = len(chosen)
    result: bytes = small.SerializeToString()
    return result


def letters_needed(units: Iterable[tuple[str, int]], coverage: float) -> int:
    """Letters that a model of this coverage has pieces for: the most frequent ones that make up that share."""
    counts: Counter[str] = Counter()
    for unit, count in units:
        for letter in unit:
            counts[letter] += count
    counts.pop(" ", None)
    total, seen = sum(counts.values()), 0
    for needed, (_, count) in enumerate(counts.most_common()):
        if seen >= coverage * total:
            return needed
        seen += count
    return len(counts)
