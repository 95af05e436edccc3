"""Harder probes of a long text: one of several keys, and variables through chains of assignments.

After “RULER: What's the Real Context Size of Your Long-Context Language Models?” (Hsieh et al., COLM 2024), tasks
multi-key retrieval and variable tracking. One text is asked several times and read once.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from luthier.context.answering import Answer, Question
from luthier.context.probes import FILLER, Probe, ask, probe_of, token_ids
from luthier.errors import DataError

OPENING = "Some names have a number in the text. Keep them in mind.\n"
NEEDLE, ASKED = " The number of {name} is {number}.", "\nWhat is the number of {name}? The number of {name} is"
TRACKED = "Variables get values in the text, some of them from other variables. Keep them in mind.\n"
VALUE, COPY = " Variable {name} is {number}.", " Variable {name} is what {other} is."
WHICH = "\nWhich variables are {number}? The variables that are {number}:"
_SOME = "amber birch cedar coral ebony fern flint hazel heron iris ivory jade lark linen maple moss olive onyx otter"
NAMES = f"{_SOME} pearl plum raven robin ruby sage slate tulip violet willow wren".split()
_DIGITS, _CHAINS, _WRITTEN = 5, 2, 1.5


def multi_key_retrieval(
    model: Any,
    tokenizer: Any,
    lengths: Sequence[int],
    *,
    depths: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    samples: int = 5,
    batch_size: int = 8,
    seed: int = 0,
    reuse: bool = True,
) -> list[Probe]:
    """Hide a number for a name at every depth of a text, and ask for each of them.

    Args:
        model: a causal language model.
        tokenizer: of it.
        lengths: n, tokens of the whole prompt and the answer; no prompt is longer.
        depths: where the names stand, as shares of the filler; at least two.
        samples: texts of each length.
        batch_size: prompts in one pass, fewer where they are long.
        seed: of names and numbers.
        reuse: whether a text is read once for all of its questions. The answers are the same.

    Returns:
        A probe for every length and depth. Each number is the answer to one question and the rival of another of the
        same text, so that a model which finds numbers, and not whose they are, is at half.

    Raises:
        DataError: a length leaves no room for filler, or there are more depths than names.
    """
    if not 2 <= len(set(depths)) <= len(NAMES):
        raise DataError(f"{len(set(depths))} depths can't hold a name each", fix=f"give 2 to {len(NAMES)} depths")
    order = sorted(set(depths))
    found: list[Probe] = []
    for length in lengths:
        draw = np.random.default_rng([seed, length])
        asked: list[Question] = []
        for sample in range(samples):
            asked += [replace(one, group=sample) for one in _named(tokenizer, length, order, draw)]
        answers = ask(model, tokenizer, asked, length, batch_size, reuse=reuse)
        for depth in depths:
            found.append(probe_of(answers[order.index(depth) :: len(order)], length, depth, texts=range(samples)))
    return found


def variable_tracking(
    model: Any,
    tokenizer: Any,
    lengths: Sequence[int],
    *,
    hops: Sequence[int] = (1, 2, 4),
    samples: int = 5,
    batch_size: int = 8,
    seed: int = 0,
    generate: bool = True,
    reuse: bool = True,
) -> list[Probe]:
    """Give a number to a variable, that variable to another, and so on, and ask which ones have the number.

    Args:
        model: a causal language model.
        tokenizer: of it.
        lengths: n, tokens of the whole prompt and the answer; no prompt is longer.
        hops: h, how many variables get the value of the one before; a chain has h + 1 of them.
        samples: texts for each length and number of hops; each holds two chains and is asked for both.
        batch_size: prompts in one pass, fewer where they are long.
        seed: of names, numbers and places.
        generate: whether the model writes its answer, for the share of variables that it names.
        reuse: whether a text is read once for both questions. The answers are the same.

    Returns:
        A probe for every length and number of hops. The rival of a chain's variables are those of the other chain.

    Raises:
        DataError: a length leaves no room for filler.
    """
    found: list[Probe] = []
    for length in lengths:
        for count in hops:
            draw = np.random.default_rng([seed, length, count])
            asked: list[Question] = []
            wanted: list[list[str]] = []
            for sample in range(samples):
                questions, names = _tracked(tokenizer, length, count, draw)
                asked += [replace(one, group=sample, most=one.most if generate else 0) for one in questions]
                wanted += names
            answers = ask(model, tokenizer, asked, length, batch_size, reuse=reuse)
            more = _recalled(tokenizer, answers, wanted) if generate else {}
            texts = [one.group for one in asked]
            found.append(probe_of(answers, length, hops=count, texts=texts, **more))
    return found


def _named(tokenizer: Any, length: int, depths: Sequence[float], draw: np.random.Generator) -> list[Question]:
    """One text with a name at every depth, and the question for each."""
    names = [NAMES[n] for n in draw.permutation(len(NAMES))[: len(depths)]]
    numbers = _numbers(len(depths), draw)
    needles = [
        token_ids(tokenizer, NEEDLE.format(name=name, number=number), behind=".")
        for name, number in zip(names, numbers, strict=True)
    ]
    asked = [token_ids(tokenizer, ASKED.format(name=name), behind=".") for name in names]
    answers = [token_ids(tokenizer, f" {number}.", behind="is") for number in numbers]
    text = _text(tokenizer, OPENING, needles, depths, length - _longest(asked) - _longest(answers))
    rivals = [*answers[1:], answers[0]]
    return [
        Question([*text, *question], answer, rival)
        for question, answer, rival in zip(asked, answers, rivals, strict=True)
    ]


def _tracked(
    tokenizer: Any, length: int, hops: int, draw: np.random.Generator
) -> tuple[list[Question], list[list[str]]]:
    """One text with chains whose assignments are mixed, each chain in its order; the question for each, and the
    variables that it is about."""
    chains = _variables(_CHAINS, hops + 1, draw)
    numbers = _numbers(_CHAINS, draw)
    statements = [
        [
            VALUE.format(name=name, number=number) if place == 0 else COPY.format(name=name, other=chain[place - 1])
            for place, name in enumerate(chain)
        ]
        for chain, number in zip(chains, numbers, strict=True)
    ]
    order = draw.permutation(np.repeat(np.arange(_CHAINS), hops + 1)).tolist()
    waiting = [iter(some) for some in statements]
    needles = [token_ids(tokenizer, next(waiting[chain]), behind=".") for chain in order]
    asked = [token_ids(tokenizer, WHICH.format(number=number), behind=".") for number in numbers]
    answers = [token_ids(tokenizer, f" {', '.join(chain)}.", behind=":") for chain in chains]
    most = int(_WRITTEN * _longest(answers))
    text = _text(tokenizer, TRACKED, needles, np.sort(draw.random(len(needles))), length - _longest(asked) - most)
    rivals = [*answers[1:], answers[0]]
    questions = [
        Question([*text, *question], answer, rival, most)
        for question, answer, rival in zip(asked, answers, rivals, strict=True)
    ]
    return questions, chains


def _text(
    tokenizer: Any, opening: str, needles: Sequence[Sequence[int]], depths: Sequence[float] | Any, length: int
) -> list[int]:
    """`length` tokens: the opening, and filler with needles at their depths, which ascend.

    Raises:
        DataError: there is no room for filler.
    """
    start, filler = token_ids(tokenizer, opening), token_ids(tokenizer, FILLER)
    room = length - len(start) - sum(map(len, needles))
    if room < len(needles):
        raise DataError(
            f"prompts leave {max(0, room)} tokens for filler around {len(needles)} statements",
            fix="take longer lengths",
        )
    filler = (filler * (room // len(filler) + 1))[:room]
    found, done = list(start), 0
    for needle, depth in zip(needles, depths, strict=True):
        cut = round(float(depth) * room)
        found += [*filler[done:cut], *needle]
        done = cut
    return [*found, *filler[done:]]


def _numbers(count: int, draw: np.random.Generator) -> list[int]:
    low = 10 ** (_DIGITS - 1)
    return [int(n) for n in low + draw.choice(9 * low, size=count, replace=False)]


def _variables(chains: int, each: int, draw: np.random.Generator) -> list[list[str]]:
    """Names of three letters, none twice."""
    names: dict[str, None] = {}
    while len(names) < chains * each:
        names["".join(draw.choice(list(string.ascii_uppercase), size=3))] = None
    every = list(names)
    return [every[start : start + each] for start in range(0, len(every), each)]


def _recalled(tokenizer: Any, answers: Sequence[Answer], wanted: Sequence[Sequence[str]]) -> dict[str, Any]:
    texts = [tokenizer.decode(one.written, skip_special_tokens=True) for one in answers]
    shares = [sum(name in text for name in names) / len(names) for text, names in zip(texts, wanted, strict=True)]
    written = [
        {"wanted": ", ".join(names), "written": text.strip()} for text, names in zip(texts[:3], wanted, strict=False)
    ]
    return {"recall": np.array(shares), "written": written}


def _longest(many: Sequence[Sequence[int]]) -> int:
    return max(map(len, many))
