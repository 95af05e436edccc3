"""Long documents, and the parts of them that are asked about."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from luthier.context.instruction.settings import DocumentSettings
from luthier.context.sentence_ends import ALONE, BEFORE_BLANK
from luthier.generation.writing import seed_of, text_id
from luthier.language_modeling.documents import Corpus, is_held_out

# A part ends behind a sentence where one ends in its second half.
_SENTENCE_END = re.compile(rf"{BEFORE_BLANK}['\")\]]*(?=\s|$)|{ALONE}[\u300d\u300f\u201d\uff09]*")


@dataclass(frozen=True)
class LongDocument:
    """A document.

    Attributes:
        id: of its text.
        text: whole.
        held_out: whether its samples score the model.
    """

    id: str
    text: str
    held_out: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Chunk:
    """A part of a document.

    Attributes:
        id: of document and place.
        document: its id.
        start, end: characters of the document, [start, end).
        text: of the part.
        kind: `normal`, or `short` where the answer is to be a few words.
    """

    id: str
    document: str
    start: int
    end: int
    text: str
    kind: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def long_documents(settings: DocumentSettings) -> Iterator[LongDocument]:
    """The first documents of each split, each text once.

    Raises:
        DataError: a source can't be read.
        WorkspaceError: one was changed while it was read.
    """
    share, seen = settings.held_out_share, set[str]()
    for names, held in ((settings.train, False), (settings.validation, True)):
        corpus = Corpus(names, settings)
        texts = _joined(corpus, settings.join)
        for text in itertools.islice(texts, settings.most):
            name = text_id(text)
            if name not in seen:
                seen.add(name)
                yield LongDocument(name, text, held or is_held_out(text, share))
        corpus.check_unchanged()


def _joined(corpus: Corpus, count: int) -> Iterator[str]:
    texts = (one.text.strip() for one in corpus.documents())
    while some := list(itertools.islice(texts, count)):
        yield "\n".join(some)


def chunks_of(
    document: LongDocument,
    tokenizer: Any,
    *,
    tokens: int,
    room: int,
    count: int,
    short_share: float,
    seed: int,
) -> list[Chunk]:
    """Some parts of a document, drawn at random, in their order.

    Args:
        document: to cut.
        tokenizer: a fast one, of the model that is trained.
        tokens: of a part, at most.
        room: tokens of the document that a sample holds; no part reaches behind them.
        count: parts that are drawn; all, where there are no more.
        short_share: chance of a part to be asked for an answer of a few words.
        seed: of the draws, which depend on it and the document alone.
    """
    spans = list(_spans(document.text, _offsets(tokenizer, document.text)[:room], tokens))
    draw = random.Random(seed_of("chunks", seed, document.id))
    found = []
    for start, end in sorted(draw.sample(spans, min(count, len(spans)))):
        name = text_id(document.id, str(start), str(end))
        kind = "short" if random.Random(seed_of("kind", seed, name)).random() < short_share else "normal"
        found.append(Chunk(name, document.id, start, end, document.text[start:end], kind))
    return found


def _spans(text: str, offsets: Sequence[tuple[int, int]], tokens: int) -> Iterator[tuple[int, int]]:
    """[start, end) characters of parts that follow each other and end behind a sentence where they can."""
    first = 0
    while first < len(offsets):
        last = min(first + tokens, len(offsets))
        start, end = offsets[first][0], offsets[last - 1][1]
        if last < len(offsets):
            half = start + (end - start) // 2
            # Not behind the blank as well, which the next token begins with in most tokenizers.
            # The end is no end of the text, so that what stands behind it is looked at.
            ends = itertools.takewhile(end.__ge__, (found.end() for found in _SENTENCE_END.finditer(text, half)))
            end = max(ends, default=end)
        if text[start:end].strip():
            yield start, end
        following = next((n for n in range(first + 1, last) if offsets[n][0] >= end), last)
        first = following


def _offsets(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [(int(start), int(end)) for start, end in encoded["offset_mapping"]]
