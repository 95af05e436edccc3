"""How a causal model continues prompts of one length: likelihoods of given answers, and what it writes itself.

A prompt is read once: its keys and values serve the right answer, the wrong one, and what the model writes; and what
the prompts of a group begin with is read once for all of them, and for the groups behind it that begin so.
Shapes: B prompts, A tokens of the longest answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luthier.context.beginnings import Beginnings


@dataclass(frozen=True)
class Question:
    """A prompt, its answer, and another one that would be right elsewhere.

    Attributes:
        prompt: token ids; all that are asked together have one length.
        answer, rival: token ids.
        most: tokens that the model may write.
        group: prompts of one group begin alike, and share no pass with others.
    """

    prompt: Sequence[int]
    answer: Sequence[int]
    rival: Sequence[int]
    most: int = 0
    group: int = 0


@dataclass(frozen=True)
class Answer:
    """What a model makes of a question.

    Attributes:
        exact: whether the likeliest token is the answer's, at each of its places: greedy decoding writes it.
        margin: mean log-likelihood of a token of the answer, less that of the rival, in nats.
        written: token ids that the model writes greedily; empty where it was not asked to.
    """

    exact: bool
    margin: float
    written: list[int]


def answers(
    model: Any,
    questions: Sequence[Question],
    *,
    batch_size: int,
    stop: frozenset[int],
    beginnings: Beginnings | None = None,
) -> list[Answer]:
    """Ask a model; the order is that of the questions.

    Args:
        model: a causal language model.
        questions: of any lengths; those of one group and length are asked together, the groups by their numbers.
        batch_size: prompts in one pass.
        stop: token ids behind which it writes no more.
        beginnings: keeps what was read; default keeps it for these questions.
    """
    found: dict[int, Answer] = {}
    alike: dict[tuple[int, int], list[int]] = {}
    for number, one in sorted(enumerate(questions), key=lambda pair: pair[1].group):
        alike.setdefault((one.group, len(one.prompt)), []).append(number)
    kept = beginnings or Beginnings(model)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for numbers in alike.values():
                for start in range(0, len(numbers), batch_size):
                    some = numbers[start : start + batch_size]
                    found |= dict(zip(some, _asked(model, [questions[n] for n in some], stop, kept), strict=True))
    finally:
        model.train(was_training)
    return [found[number] for number in range(len(questions))]


def _asked(model: Any, questions: list[Question], stop: frozenset[int], beginnings: Beginnings) -> list[Answer]:
    device = next(model.parameters()).device
    prompts = torch.tensor([list(one.prompt) for one in questions], device=device)
    # The last token is read with each answer, so that every pass gives the logits of all of the answer's tokens.
    cache = beginnings.read_prompts([one.prompt[:-1] for one in questions])

    def scored(many: list[Sequence[int]]) -> tuple[list[float], list[bool]]:
        logits, targets = _continued(model, prompts[:, -1:], many, cache)
        cache.crop(-targets.shape[1])
        return _judged(logits, targets)

    right, exact = scored([one.answer for one in questions])
    wrong, _ = scored([one.rival for one in questions])
    most = max(one.most for one in questions)
    written = _written(model, prompts[:, -1:], cache, most, stop) if most else [[] for _ in questions]
    return [
        Answer(exact[n], right[n] - wrong[n], _until(written[n][: one.most], stop)) for n, one in enumerate(questions)
    ]


def _continued(model: Any, last: Tensor, many: list[Sequence[int]], cache: Any) -> tuple[Tensor, Tensor]:
    """Logits (B, A, V) of the tokens of each answer, and the tokens (B, A), -1 behind a shorter one."""
    longest = max(map(len, many))
    targets = torch.full((len(many), longest), -1, device=last.device)
    for row, ids in enumerate(many):
        targets[row, : len(ids)] = torch.tensor(list(ids), device=last.device)
    inputs = torch.cat([last, targets[:, :-1].clamp(min=0)], dim=1)
    return model(input_ids=inputs, past_key_values=cache, use_cache=True).logits.float(), targets


def _judged(logits: Tensor, targets: Tensor) -> tuple[list[float], list[bool]]:
    counted = targets.ge(0)
    likely = logits.log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
    means = (likely * counted).sum(1) / counted.sum(1)
    hits = logits.argmax(-1).eq(targets) | ~counted
    return means.tolist(), hits.all(1).tolist()


def _written(model: Any, last: Tensor, cache: Any, most: int, stop: frozenset[int]) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(len(last))]
    for _ in range(most):
        last = model(input_ids=last, past_key_values=cache, use_cache=True).logits[:, -1].argmax(-1, keepdim=True)
        for row, token in enumerate(last[:, 0].tolist()):
            found[row].append(token)
        if all(stop & set(row) for row in found):
            break
    return found


def _until(ids: list[int], stop: frozenset[int]) -> list[int]:
    for place, token in enumerate(ids):
        if token in stop:
            return ids[:place]
    return ids
