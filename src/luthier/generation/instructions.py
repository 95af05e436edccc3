"""Ordinary prompts with responses, which keep what is trained helpful and are measured by; torch is not imported."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from luthier.data.loading import load_data
from luthier.data.settings import DataSettings
from luthier.errors import DataError
from luthier.generation.writing import seed_of

# Where ordinary prompts to measure by are looked for, in this order.
MEASURED_SPLITS = ("test", "validation", "train")


def instruction_rows(
    data: DataSettings | None,
    count: int,
    *parts: Any,
    may_train: Callable[[str], bool] = lambda prompt: True,
    conversations: bool = False,
) -> list[dict[str, Any]]:
    """Ordinary prompts with responses, drawn without replacement by a seed made of the parts; all, where there are no
    more.

    Args:
        data: where they are.
        count: how many are drawn.
        parts: of the seed.
        may_train: whether a prompt may be among them.
        conversations: as of `prompts_with_responses`.

    Raises:
        DataError: as `prompts_with_responses`, or none may be among them.
    """
    if data is None or count < 1:
        return []
    every = prompts_with_responses(data, "train", conversations=conversations)
    draw = random.Random(seed_of("instructions", *parts))
    order = draw.sample(range(len(every)), min(count, len(every)))
    kept = [i for i in order if may_train(every[i]["prompt"])]
    rest = sorted(set(range(len(every))) - set(order)) if len(kept) < len(order) else []
    for i in draw.sample(rest, len(rest)):
        if len(kept) == len(order):
            break
        if may_train(every[i]["prompt"]):
            kept.append(i)
    if not kept:
        raise DataError(
            "every prompt of the instructions is like one that is measured by, so that none may be trained on",
            where=str(data.train or data.source),
            fix="take other rows for training or for measuring",
        )
    return [every[i] for i in kept]


def prompts_with_responses(data: DataSettings, *splits: str, conversations: bool = False) -> list[dict[str, Any]]:
    """Rows of the first of some splits that is there: `prompt` and `response`.

    Args:
        data: where they are.
        splits: names of splits.
        conversations: whether messages may stand before a prompt, which rows have as `history` then, {role, content}.

    Raises:
        DataError: the data are of another task, have none of the splits, or messages before a prompt, of a system too,
            that would be dropped.
    """
    loaded = load_data(data, splits=splits)
    where = str(data.train or data.test or data.source)
    if loaded.schema.name != "prompt_response":
        raise DataError(
            f"prompts with responses are needed, and these are rows of {loaded.schema.name}",
            where=where,
            fix="name the columns with `prompt:` and `response:`",
        )
    for split in splits:
        if split in loaded.splits:
            rows = loaded.splits[split]
            found: list[dict[str, Any]] = [
                {"prompt": str(p), "response": str(r)} for p, r in zip(rows["prompt"], rows["response"], strict=True)
            ]
            if "history" in rows.column_names:
                for number, before in enumerate(rows["history"]):
                    if before and not conversations:
                        raise DataError(
                            f"row {rows[number]['row']} has messages before its prompt, and here a prompt stands alone",
                            where=where,
                            fix="take rows of one prompt and one response",
                        )
                    if conversations:
                        found[number]["history"] = list(before or ())
            return found
    raise DataError(f"there is no split {' or '.join(splits)}", fix="name a file for it")
