"""Documents with questions, and short instructions, as rows that a model is trained on.

Shapes: B rows, L tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier.context.instruction.documents import Chunk, LongDocument
from luthier.context.instruction.wording import learned_prompt
from luthier.data.batches.encoders import Columns, Encoder, encode_replies
from luthier.data.schemas import IGNORED
from luthier.generation.writing import seed_of

Row = dict[str, Any]
LONG, SHORT = "long", "short"


@dataclass(frozen=True)
class Sample:
    """A document with a question about a part of it.

    Attributes:
        id: that of the part.
        document: id of the document.
        start, end: characters of the part in the document.
        depth: where the part's middle stands in what is left of the document, from 0, its start, to 1.
        kind: `normal` or `short`.
        question, answer: as they were written.
        prompt, response: as they are learned, the document cut so that all of it fits.
        tokens: of prompt and response as the model reads them.
        held_out: whether it scores the model.
    """

    id: str
    document: str
    start: int
    end: int
    depth: float
    kind: str
    question: str
    answer: str
    prompt: str
    response: str
    tokens: int
    held_out: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def sample_of(
    document: LongDocument, chunk: Chunk, question: str, answer: str, tokenizer: Any, length: int
) -> Sample | None:
    """The document, cut at its end to what fits, with the question; None where the part does not stay inside."""

    def tokens_of(text: str) -> int:
        return _tokens(tokenizer, learned_prompt(text, question, chunk.kind), answer)

    text = document.text
    if (tokens := tokens_of(text)) > length:
        ends = [int(end) for _, end in _offsets(tokenizer, text)]
        room = length - tokens_of("")
        # A cut can make the last word more tokens than it was, so that the first try may be a little too long.
        while room > 0 and (tokens := tokens_of(text := document.text[: ends[min(room, len(ends)) - 1]])) > length:
            room -= max(1, tokens - length)
        if room <= 0:
            return None
    if chunk.end > len(text):
        return None
    depth = (chunk.start + chunk.end) / 2 / len(text)
    return Sample(
        id=chunk.id,
        document=document.id,
        start=chunk.start,
        end=chunk.end,
        depth=round(depth, 4),
        kind=chunk.kind,
        question=question,
        answer=answer,
        prompt=learned_prompt(text, question, chunk.kind),
        response=answer,
        tokens=tokens,
        held_out=document.held_out,
    )


def tokens_around(tokenizer: Any, kind: str) -> int:
    """Tokens of a sample beside document, question and answer: the wording, and what a chat template adds."""
    return _tokens(tokenizer, learned_prompt("", "", kind), "")


def _tokens(tokenizer: Any, prompt: str, response: str) -> int:
    columns: Columns = {"prompt": [prompt], "response": [response], "row": [0]}
    return int(encode_replies(columns, Encoder(tokenizer, 1 << 40))["length"][0])


def long_rows(samples: Sequence[Sample], tokenizer: Any, length: int, input_weight: float) -> list[Row]:
    """One row a sample, neither packed nor cut: `input_ids`, `labels`, `loss_weights`, `position_ids`, and `answered`,
    which tokens are the answer's, all (L,).

    Every token is a label: those of the answer weigh 1, all before it `input_weight`; where that is 0 they are no
    labels.
    """
    if not samples:
        return []
    columns: Columns = {
        "prompt": [one.prompt for one in samples],
        "response": [one.response for one in samples],
        "row": list(range(len(samples))),
    }
    encoded = encode_replies(columns, Encoder(tokenizer, length))
    rows = []
    for number, (ids, labels) in enumerate(zip(encoded["input_ids"], encoded["labels"], strict=True)):
        tokens, answered = np.array(ids), np.array(labels) != IGNORED
        rows.append(
            {
                "input_ids": tokens,
                "labels": tokens if input_weight else np.where(answered, tokens, IGNORED),
                "loss_weights": np.where(answered, 1.0, input_weight).astype(np.float32),
                "answered": answered,
                "position_ids": np.arange(len(tokens)),
                "row": number,
                "length": len(tokens),
            }
        )
    return rows


def short_rows(
    instructions: Sequence[Mapping[str, Any]], tokenizer: Any, length: int, seed: int, first: int
) -> list[Row]:
    """Short instructions one behind another in rows of at most `length` tokens; each sees itself alone, since its
    positions begin at 0, and of each what the assistant says is learned. One that is longer than a row is cut as `tune`
    cuts it.

    Args:
        instructions: with `prompt` and `response`, and the messages before them as `history` where there are some.
        tokenizer: of the model.
        length: L.
        seed: of their order.
        first: number of the first row.

    Raises:
        DataError: there are messages before a prompt, and no chat template to write them with.
    """
    if not instructions:
        return []
    order = random.Random(seed_of("short", seed)).sample(range(len(instructions)), len(instructions))
    columns: dict[str, list[Any]] = {
        name: [instructions[n][name] for n in order] for name in ("prompt", "response")
    } | {"history": [instructions[n].get("history", []) for n in order], "row": order}
    encoded = encode_replies(columns, Encoder(tokenizer, length, too_long="truncate", where="short"))
    both = zip(encoded["input_ids"], encoded["labels"], strict=True)
    return [_packed(some, first + n) for n, some in enumerate(_filled(both, length))]


def _filled(texts: Any, length: int) -> Iterator[list[tuple[list[int], list[int]]]]:
    held: list[tuple[list[int], list[int]]] = []
    for one in texts:
        if held and sum(len(ids) for ids, _ in held) + len(one[0]) > length:
            yield held
            held = []
        held.append(one)
    if held:
        yield held


def _packed(texts: list[tuple[list[int], list[int]]], number: int) -> Row:
    ids = np.concatenate([np.array(ids) for ids, _ in texts])
    # The first token of a text follows none of its own, so that it is no label.
    labels = np.concatenate([np.array([IGNORED, *labels[1:]]) for _, labels in texts])
    return {
        "input_ids": ids,
        "labels": labels,
        "loss_weights": (labels != IGNORED).astype(np.float32),
        "position_ids": np.concatenate([np.arange(len(one)) for one, _ in texts]),
        "row": number,
        "length": len(ids),
    }


def collate_samples(rows: Sequence[Row], pad: int = 0) -> dict[str, Tensor]:
    """Rows padded on the right to a batch of (B, L) tensors, without an attention mask: padding is behind all that
    counts, and its positions go on, so that a row of one text stays one text to transformers."""
    width = max(len(row["input_ids"]) for row in rows)

    def filled(name: str, value: float) -> Tensor:
        return torch.as_tensor(
            np.stack([np.pad(row[name], (0, width - len(row[name])), constant_values=value) for row in rows])
        )

    positions = [
        np.concatenate([row["position_ids"], row["position_ids"][-1] + 1 + np.arange(width - len(row["position_ids"]))])
        for row in rows
    ]
    return {
        "input_ids": filled("input_ids", pad),
        "labels": filled("labels", IGNORED),
        "loss_weights": filled("loss_weights", 0.0),
        "position_ids": torch.as_tensor(np.stack(positions)),
        "row": torch.tensor([row["row"] for row in rows]),
    }


def _offsets(tokenizer: Any, text: str) -> Any:
    return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
