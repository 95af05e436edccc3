"""A step of training on a million tokens, or fewer: through all rows of the embeddings, or through those that it reads.

Questions: what a whole step of masked-language-model training with a sampled softmax takes, from the batch to the
updated weights, where AdamW goes through all rows, and where rows that no step reads are updated when they are next
read; whether both end with the same weights; and what it takes to bring all rows up to date, as every evaluation does.

The batch has 16 rows of 128 tokens, drawn log-uniformly as the 8,192 tokens of the normaliser are: text by falling
frequency. Late rows are as late as after a hundred thousand such steps: the step of a row's last reading is drawn from
its distribution. Two layers, so that the embeddings are most of the step; more layers add the same to both. Seconds
are of the processor, since the machine is shared, on one core; every cell is a process of its own. Bringing rows up to
date before they are read is part of the passes, and so is making the gradient where it is a matrix of all rows.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from typing import Any

import harness
from tables import pick, table

from luthier.errors import DataError

TOKENS, SAMPLES, TEXTS, LENGTH, MASKED = 1_000_000, 8192, 16, 128, 307
STEPS_BEFORE, BETWEEN = 100_000, 500
WIDTHS, ROUNDS, EQUAL_STEPS = (128, 256), 2, 20
FEWER = (100_000, 250_000)
KINDS = ("all rows", "rows that are read")
SETTINGS = {
    "tokens": TOKENS,
    "samples": SAMPLES,
    "texts": TEXTS,
    "length": LENGTH,
    "masked": MASKED,
    "steps_before": STEPS_BEFORE,
    "between": BETWEEN,
    "equal_steps": EQUAL_STEPS,
}
RATE, DECAY = 6e-4, 0.01


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--measure":
        harness.single_core()
        print(json.dumps(MEASURES[(cell := json.loads(sys.argv[2]))["part"]](cell)))
        return
    options = harness.arguments(__doc__)

    def measure(cell: dict[str, Any]) -> dict[str, Any]:
        command = [sys.executable, __file__, "--measure", json.dumps(cell)]
        return harness.answer_of(command, failure=DataError)

    cells: list[dict[str, Any]] = [
        {"part": "step", "width": width, "kind": kind, "round": number}
        for number in range(ROUNDS)
        for width in WIDTHS
        for kind in KINDS
    ]
    cells += [{"part": "fewer", "tokens": n, "width": WIDTHS[1], "kind": kind} for n in FEWER for kind in KINDS]
    cells += [{"part": "equal", "width": WIDTHS[0]}]
    cells += [{"part": "all up to date", "width": width} for width in WIDTHS]
    harness.run_cells("row_updates", SETTINGS, cells, measure, options)


class Run:
    """A model and its optimiser.

    Args:
        width: of the embeddings.
        kind: which rows an update goes through.
        tokens: rows of the embeddings.
    """

    def __init__(self, width: int, kind: str, tokens: int = TOKENS) -> None:
        import torch
        from transformers import BertConfig, BertForMaskedLM, TrainingArguments

        from luthier.language_modeling.preparing import parameter_groups
        from luthier.training.optimizer import adamw
        from luthier.training.row_gradient import collect_by_rows

        torch.manual_seed(0)
        self.tokens = tokens
        sizes = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 4 * width}
        dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        self.model = BertForMaskedLM(BertConfig(vocab_size=tokens, **sizes, **dropout))
        self.table = self.model.get_input_embeddings().weight
        if kind == KINDS[1]:
            collect_by_rows(self.table)
        self.optimizer: Any = adamw(
            parameter_groups(self.model, RATE, DECAY), TrainingArguments(use_cpu=True), scaled=False
        )

    def step(self, number: int) -> dict[str, float]:
        """Seconds of the passes, of clipping and of the update."""
        import torch

        from luthier.language_modeling.rows import prediction_rows
        from luthier.training.row_gradient import holders_of_gradients

        batch = batch_of(number, self.tokens)
        marks = [time.process_time()]
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        rows = prediction_rows(self.model, batch["labels"], shifted=False, inputs=inputs, in_place=True)
        rows.sampled_losses(SAMPLES).mean().backward()
        marks.append(time.process_time())
        torch.nn.utils.clip_grad_norm_(holders_of_gradients(self.model.parameters()), 1.0)
        marks.append(time.process_time())
        self.optimizer.step()
        self.model.zero_grad()
        marks.append(time.process_time())
        names = ("passes", "clipping", "update")
        return {name: b - a for name, a, b in zip(names, marks, marks[1:], strict=False)}

    def pretend(self, most_late: int) -> None:
        """Make rows as late as they are after many steps, where all were up to date `most_late` steps ago."""
        import torch

        state, places = self.optimizer.state[self.table], torch.arange(self.tokens, dtype=torch.float64)
        chance = ((places + 2) / (places + 1)).log() / math.log(self.tokens + 1)
        read = 1 - (1 - chance) ** (SAMPLES + TEXTS * LENGTH)
        ago = (
            (torch.rand(self.tokens, dtype=torch.float64).log() / torch.log1p(-read)).clamp(max=STEPS_BEFORE - 1).long()
        )
        state["step"].fill_(float(STEPS_BEFORE))
        state["moved"].copy_(STEPS_BEFORE - ago)
        state["reached"].copy_(STEPS_BEFORE - ago.clamp(max=most_late))
        history = torch.zeros(2 * STEPS_BEFORE, 3, dtype=torch.float64)
        history[1 : STEPS_BEFORE + 1] = torch.tensor([0.0, RATE, 1e-8], dtype=torch.float64)
        history[:, 0] = math.log1p(-RATE * DECAY) * torch.arange(len(history))
        state["history"] = history
        state["exp_avg"].normal_(0, 1e-4)
        state["exp_avg_sq"].uniform_(1e-9, 1e-8)


def batch_of(number: int, tokens: int) -> dict[str, Any]:
    import torch

    from luthier.language_modeling.sampled_loss import log_uniform

    torch.manual_seed(number)
    ids = log_uniform(TEXTS * LENGTH, tokens, torch.device("cpu")).view(TEXTS, LENGTH)
    labels = torch.full_like(ids, -100)
    chosen = torch.randperm(ids.numel())[:MASKED]
    labels.view(-1)[chosen] = ids.view(-1)[chosen]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def step(cell: dict[str, Any]) -> dict[str, Any]:
    from luthier.evaluation.meters import peak_memory

    run = Run(cell["width"], cell["kind"], cell.get("tokens", TOKENS))
    run.step(0)
    if cell["kind"] == KINDS[1]:
        run.pretend(STEPS_BEFORE)
    taken = [run.step(number) for number in range(1, 8)][1:]
    found = {name: statistics.median(one[name] for one in taken) for name in taken[0]}
    whole = statistics.median(sum(one.values()) for one in taken)
    return {**found, "processor_seconds": whole, "peak_memory_bytes": peak_memory()}


def equal(cell: dict[str, Any]) -> dict[str, Any]:
    import torch

    from luthier.training.row_gradient import bring_up_to_date

    weights: list[dict[str, Any]] = []
    for kind in KINDS:
        run = Run(cell["width"], kind)
        start = run.table.detach().clone()
        for number in range(EQUAL_STEPS):
            run.step(number)
        bring_up_to_date(run.model.parameters())
        weights.append({name: p.detach() for name, p in run.model.named_parameters()})
    difference = max(float((weights[0][name] - value).abs().max()) for name, value in weights[1].items())
    moved = float((weights[0][next(n for n in weights[0] if "word_embeddings" in n)] - start).abs().max())
    return {"largest_difference": difference, "largest_move": moved, "threads": torch.get_num_threads()}


def all_up_to_date(cell: dict[str, Any]) -> dict[str, Any]:
    from luthier.training.row_gradient import bring_up_to_date

    run = Run(cell["width"], KINDS[1])
    run.step(0)
    run.pretend(BETWEEN)
    started = time.process_time()
    bring_up_to_date(run.model.parameters())
    return {"processor_seconds": time.process_time() - started}


MEASURES = {"step": step, "fewer": step, "equal": equal, "all up to date": all_up_to_date}


def medians(cells: list[dict[str, Any]], **wanted: Any) -> dict[str, float]:
    own = pick(cells, **wanted)
    names = ("passes", "clipping", "update", "processor_seconds", "peak_memory_bytes")
    return {name: statistics.median(one[name] for one in own) for name in names} if own else {}


def answers(cells: list[dict[str, Any]]) -> list[list[str]]:
    found = []
    for width in WIDTHS:
        every, read = (medians(cells, part="step", width=width, kind=kind) for kind in KINDS)
        if every and read:
            ratio = every["processor_seconds"] / read["processor_seconds"]
            claim = f"a step on {TOKENS:,} tokens of width {width} by rows that are read, beside one through all rows"
            found.append([claim, f"{ratio:.1f} times as quick"])
    return found


def page(cells: list[dict[str, Any]]) -> str:
    parts = [f"## Steps on {TOKENS:,} tokens through the rows that they read\n"]
    rows = []
    sizes = [{"part": "step", "width": width} for width in WIDTHS]
    sizes += [{"part": "fewer", "tokens": tokens, "width": WIDTHS[1]} for tokens in FEWER]
    for size in sizes:
        for kind in KINDS:
            if one := medians(cells, **size, kind=kind):
                seconds = [f"{one[name]:.2f}" for name in ("passes", "clipping", "update", "processor_seconds")]
                memory = f"{one['peak_memory_bytes'] / 1e9:.1f}"
                rows.append([f"{size.get('tokens', TOKENS):,}", str(size["width"]), kind, *seconds, memory])
    columns = ["tokens", "width", "AdamW goes through", "passes", "clipping", "update", "whole step, processor seconds"]
    parts.append(table([*columns, "highest GB of the process"], rows))
    for one in pick(cells, part="equal"):
        parts.append(
            f"After {EQUAL_STEPS} steps the weights of both differ by at most {one['largest_difference']:.1e}; the "
            f"embeddings moved by up to {one['largest_move']:.1e}.\n"
        )
    rows = [[str(c["cell"]["width"]), f"{c['processor_seconds']:.1f}"] for c in pick(cells, part="all up to date")]
    if rows:
        parts.append(
            table(
                ["width", f"processor seconds to bring all rows up to date, {BETWEEN} steps after the last time"], rows
            )
        )
    return "\n".join(parts)


if __name__ == "__main__":
    main()
