"""Asks a causal model about long documents, and scores what it writes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.context.scoring import interval_of_mean
from luthier.context.text_scores import rouge_geo, scores_of_texts
from luthier.errors import RecipeError
from luthier.evaluation.subject import Subject, SuiteResult
from luthier.generation.rollout import Rollout, as_it_stands, opened
from luthier.generation.writing import Request
from luthier.models.inspect import model_max_length
from luthier.report.sections import Section, SectionTable, Value, cut

if TYPE_CHECKING:
    from luthier.context.long_answers import LongAnswersSuite

_LONGEST, _FALLBACK, _TOKENS_TOGETHER = 800, 512, 65_536
_SPANS = (0, 1024, 4096, 16_384)


def long_answer_scores(suite: LongAnswersSuite, subject: Subject) -> SuiteResult:
    """F1, exact match and ROUGE of all answers, with intervals over rows.

    Raises:
        RecipeError: the data are no prompts with responses, the model has fewer positions, or no room is left for a
            prompt.
    """
    if subject.schema != "prompt_response":
        raise RecipeError(
            f"the suite `{suite.name}` asks prompts with responses, and these are rows of {subject.schema}",
            fix="give it data of the task `prompt_response`",
        )
    rows: Any = subject.task.splits[subject.split]
    places = list(range(len(rows)))
    if suite.rows is not None and suite.rows < len(rows):
        places = sorted(random.Random(suite.seed).sample(places, suite.rows))
    asked = [rows[place] for place in places]
    limit = model_max_length(subject.model.config, subject.tokenizer)
    length = suite.length or subject.card.max_length or limit or _FALLBACK
    if limit is not None and length > limit:
        raise RecipeError(
            f"`length` is {length:,}, and the model takes {limit:,} tokens",
            fix=f"set `length: {limit}` or less, or lengthen the model first with the stage `lengthen`",
        )
    room = length - suite.tokens
    if room < suite.tokens:
        raise RecipeError(
            f"{length:,} tokens leave {max(0, room):,} for a prompt beside an answer of {suite.tokens}",
            fix="lower `tokens` of the suite, or raise `length`",
        )
    requests = [request_of(str(number), row) for number, row in enumerate(asked)]
    fitted = [fitting(subject.tokenizer, request, room) for request in requests]
    written = _written(suite, subject, [request for request, _ in fitted], length)
    wanted = [str(row["response"]) for row in asked]
    scores = scores_of_texts(written, wanted)
    result = SuiteResult(scores={name: float(values.mean()) for name, values in scores.items()})
    result.scores["rouge_geo"] = rouge_geo(scores)
    for name, values in scores.items():
        ends = interval_of_mean(values, subject.seed, (0.0, 1.0))
        if ends is not None:
            result.intervals[name] = ends
    tokens = np.array([tokens for _, tokens in fitted])
    cut = int((tokens > room).sum())
    if cut:
        result.marks.append(f"{cut:,} of {len(asked):,} prompts are longer than {room:,} tokens, and were cut")
    result.sections += _sections(suite, subject, asked, written, scores, tokens, room)
    result.details = {suite.name: {"rows": len(asked), "cut": cut, "length": length}}
    return result


def request_of(name: str, row: Mapping[str, Any]) -> Request:
    """A prompt with the messages before it, to be answered by what is likeliest."""
    before = [(str(one["role"]), str(one["content"])) for one in row.get("history") or ()]
    system = before.pop(0)[1] if before and before[0][0] == "system" else ""
    return Request(name, str(row["prompt"]), system=system, temperature=0.0, turns=tuple(before))


def fitting(tokenizer: Any, asked: Request, room: int) -> tuple[Request, int]:
    """The request with a prompt that leaves at most `room` tokens with the messages before it and all that a chat
    template adds, and the tokens that the whole one has.

    With a chat template the middle of the prompt goes; else its start.

    Raises:
        RecipeError: nothing is left of the prompt.
    """
    chats, prompt = getattr(tokenizer, "chat_template", None) is not None, asked.prompt

    def tokens_of(request: Request) -> int:
        written = opened(tokenizer, request) if chats else as_it_stands(request)
        return len(tokenizer(written, add_special_tokens=not chats, verbose=False)["input_ids"])

    whole = tokens = tokens_of(asked)
    if tokens <= room:
        return asked, whole
    offsets = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    kept = len(offsets) - (whole - room)
    while kept > 0:
        start, end = ((kept + 1) // 2, len(offsets) - kept // 2) if chats else (0, len(offsets) - kept)
        head = prompt[: offsets[start - 1][1]] if start else ""
        tail = prompt[offsets[end][0] :] if end < len(offsets) else ""
        shorter = replace(asked, prompt=f"{head} … {tail}" if head and tail else head + tail)
        tokens = tokens_of(shorter)
        if tokens <= room:
            return shorter, whole
        kept -= tokens - room
    raise RecipeError(f"{room} tokens leave no room for a prompt", fix="raise `length` of the suite")


def _written(suite: LongAnswersSuite, subject: Subject, requests: list[Request], length: int) -> list[str]:
    together = max(1, min(subject.batch_size, _TOKENS_TOGETHER // length))
    rollout = Rollout(
        subject.model,
        subject.tokenizer,
        batch_size=together,
        reserved=subject.card.reserved_tokens,
        description="long answers",
    )
    found = {one.id: one.text for part in rollout.write(requests, suite.tokens) for one in part}
    texts = [found[one.id].strip() for one in requests]
    return [text.partition("\n")[0].strip() for text in texts] if suite.first_line else texts


def _sections(
    suite: LongAnswersSuite,
    subject: Subject,
    asked: list[Any],
    written: list[str],
    scores: dict[str, np.ndarray],
    tokens: np.ndarray,
    room: int,
) -> list[Section]:
    table: list[list[Value]] = []
    for least, most in zip(_SPANS, (*_SPANS[1:], None), strict=True):
        some = (tokens > least) & (tokens <= (most or tokens.max()))
        if some.any():
            name = f"{least + 1:,} to {most:,}" if most else f"more than {least:,}"
            means: list[Value] = [f"{100 * values[some].mean():.1f}" for values in scores.values()]
            table.append([name, int(some.sum()), *means])
    text = f"Scores x 100 by the tokens of the whole prompt; {room:,} tokens of a prompt are read."
    columns = ["tokens", "rows", *(name.replace("_", " ") for name in scores)]
    found = [Section("Long answers by the length of the prompt", text=text, table=SectionTable(columns, table))]
    samples = [
        _before(row)
        | {
            "the prompt ends": cut(str(row["prompt"])[-_LONGEST // 2 :], _LONGEST),
            "the model writes": cut(text, _LONGEST),
            "in the data": cut(str(row["response"]), _LONGEST),
            "row": str(row["row"]),
        }
        for row, text in list(zip(asked, written, strict=True))[: suite.samples]
    ]
    if samples:
        found.append(Section("Long answers as written", samples=samples))
    return found


def _before(row: Mapping[str, Any]) -> dict[str, str]:
    earlier = [f"{one['role']}: {one['content']}" for one in row.get("history") or ()]
    return {"before": cut("\n".join(earlier), _LONGEST)} if earlier else {}
