"""What distillation costs on top of the passes that it is made of.

Claims: a step of DWT (a frozen teacher of 4 layers, a student of 6) takes at most 1.05 times the processor time of a
bare masked-language-model step of the student and a bare forward pass of the teacher; a step of CTCD (6 and 4 layers,
both trained) at most 1.05 times that of two bare steps; a step with stored teacher outputs no more than one with a live
teacher; and what the soft loss adds to the peak memory is under a third of what it adds with logits of all positions.
At a width of 128 nearly all of a step is the projection onto the vocabulary, whose softmaxes a soft loss works on
again; at 384, MiniLM's, it is what models of use are like. The claims are those at 384.

Bare steps are written here in plain torch: AdamW, clipping, and the loss in chunks with the head on the masked
positions alone, as distillation has it too, so that what is told is the cost of the graph. Both sides have the same
models, rows, masks and precision. Each round measures every kind once, in turn, in a process of its own on one core;
numbers are medians of rounds. Before anything is timed the losses have to agree with those of whole logits.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import torch
from tables import Cells, median_and_range, pick, table
from torch.nn import functional as F

from luthier.evaluation.meters import CostMeter, peak_memory
from luthier.language_modeling import masked_lm_loss, prediction_rows

ROUNDS, WARM_UP, STEPS = 5, 2, 6
ROWS, LENGTH, RATE = 16, 128, 0.15
VOCABULARY, WIDTHS, HEAD, LARGE, SMALL = 30_522, (384, 128), 32, 6, 4
TOP = 64
KINDS = ("bare_large", "bare_small", "bare_teacher", "dwt", "dwt_full_logits", "stored", "ctcd")
SETTINGS = {"rounds": ROUNDS, "steps": STEPS, "rows": ROWS, "length": LENGTH, "top": TOP}
SETTINGS |= {"vocabulary": VOCABULARY, "head": HEAD, "layers": [LARGE, SMALL], "rate": RATE}


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[1] == "--measure":
        harness.single_core()
        print(json.dumps(measured(sys.argv[2], int(sys.argv[3]))))
        return
    options = harness.arguments(
        __doc__, quick={"action": "store_true", "help": "one round, to see that the script works"}
    )

    def measure(cell: dict[str, Any]) -> dict[str, Any]:
        command = [sys.executable, __file__, "--measure", cell["kind"], str(cell["width"])]
        return harness.answer_of(command)

    check_agreement()  # here, since whole logits would hide what a measured process adds to its memory
    rounds = range(1 if options.quick else ROUNDS)
    cells = [{"kind": kind, "width": width, "round": n} for n in rounds for width in WIDTHS for kind in KINDS]
    name = "distillation_cost-quick" if options.quick else "distillation_cost"
    harness.run_cells(name, SETTINGS, cells, measure, options)


def model(layers: int, seed: int, width: int) -> Any:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_attention_heads=width // HEAD,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForMaskedLM(config)


def batch(number: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(number)
    ids = torch.randint(1000, VOCABULARY, (ROWS, LENGTH), generator=draw)
    labels = torch.where(torch.rand(ids.shape, generator=draw) < RATE, ids, -100)
    seen = torch.where(labels >= 0, 103, ids)
    return {"input_ids": seen, "attention_mask": torch.ones_like(ids), "labels": labels}


def bare_step(one: Any) -> Callable[[dict[str, torch.Tensor]], float]:
    """A training step in plain torch."""
    optimiser = torch.optim.AdamW(one.train().parameters(), lr=1e-4)

    def step(rows: dict[str, torch.Tensor]) -> float:
        loss = masked_lm_loss(one, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(one.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return float(loss)

    return step


def bare_pass(one: Any) -> Callable[[dict[str, torch.Tensor]], float]:
    """A teacher's forward pass in plain torch."""
    one.eval()

    def step(rows: dict[str, torch.Tensor]) -> float:
        with torch.no_grad():
            inputs = {k: rows[k] for k in ("input_ids", "attention_mask")}
            return float(prediction_rows(one, rows["labels"], shifted=False, inputs=inputs).losses().sum())

    return step


def full_logits_step(student: Any, teacher: Any) -> Callable[[dict[str, torch.Tensor]], float]:
    """DWT in plain torch, with the logits of all positions of both models."""
    optimiser = torch.optim.AdamW(student.train().parameters(), lr=1e-4)
    teacher.eval()

    def step(rows: dict[str, torch.Tensor]) -> float:
        inputs, counted = {k: rows[k] for k in ("input_ids", "attention_mask")}, rows["labels"] >= 0
        with torch.no_grad():
            wanted = teacher(**inputs).logits
        logits = student(**inputs).logits
        hard = F.cross_entropy(logits[counted], rows["labels"][counted])
        soft = F.kl_div(
            logits[counted].log_softmax(-1), wanted[counted].log_softmax(-1), reduction="batchmean", log_target=True
        )
        (hard + soft).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return float(hard + soft)

    return step


def distilled(kind: str, width: int) -> Any:
    """The trainer of a kind."""
    from transformers import TrainingArguments

    from luthier.distillation import DistillationTrainer, Edge
    from luthier.distillation.language import LanguageHardLoss, LanguageLosses, Passes, StoredLanguageLoss
    from luthier.objectives.step import MAIN

    models = {"large": model(LARGE, 1, width), "small": model(SMALL, 2, width)}
    edges = [Edge(teacher="small", student="large")]
    if kind == "ctcd":
        edges.append(Edge(teacher="large", student="small"))
    else:
        models["small"].requires_grad_(False)
    teacher = models.pop("small") if kind == "stored" else None
    folder, passes = tempfile.mkdtemp(prefix="luthier-benchmark-"), Passes(shifted=False)
    from_disk = (
        [
            LanguageLosses(
                passes,
                [
                    LanguageHardLoss("large", MAIN, None, edges),
                    StoredLanguageLoss(stored_of(teacher, folder), edges[0], {"large": MAIN}),
                ],
            )
        ]
        if teacher is not None
        else []
    )
    args = TrainingArguments(
        folder,
        max_steps=WARM_UP + STEPS,
        per_device_train_batch_size=ROWS,
        learning_rate=1e-4,
        weight_decay=0.01,
        lr_scheduler_type="constant",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = DistillationTrainer(
        models,
        [] if teacher is not None else edges,
        args=args,
        train_dataset=[row for number in range(WARM_UP + STEPS) for row in rows_of(batch(number))],
        data_collator=collate,
        main="large",
        task="masked_lm",
        main_parts=from_disk,
    )
    return trainer


def stored_of(teacher: Any, folder: str) -> Any:
    """The teacher's outputs on all rows, as the stage stores them."""
    from luthier.distillation.store import Kept, stored_outputs

    kept = Kept("benchmark", TOP, 1.0, everywhere=False, shifted=False, language=True)
    batches = [batch(number) for number in range(WARM_UP + STEPS)]
    return stored_outputs(kept, batches, lambda: teacher.eval(), most_bytes=10**9, where=Path(folder))


def rows_of(whole: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    return [{name: value[i] for name, value in whole.items()} for i in range(ROWS)]


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def measured(kind: str, width: int) -> dict[str, Any]:
    """Median processor seconds of a step, and what it adds to the memory."""
    with CostMeter() as meter:
        before = peak_memory()
        seconds = (trainer_seconds if kind in ("dwt", "ctcd", "stored") else plain_seconds)(kind, width)
    return {"step_seconds": statistics.median(seconds), "added_bytes": meter.peak_memory_bytes - before}


def plain_seconds(kind: str, width: int) -> list[float]:
    steps: dict[str, Callable[[], Callable[[Any], float]]] = {
        "bare_large": lambda: bare_step(model(LARGE, 1, width)),
        "bare_small": lambda: bare_step(model(SMALL, 2, width)),
        "bare_teacher": lambda: bare_pass(model(SMALL, 2, width)),
        "dwt_full_logits": lambda: full_logits_step(model(LARGE, 1, width), model(SMALL, 2, width)),
    }
    step, found = steps[kind](), []
    for number in range(WARM_UP + STEPS):
        rows = batch(number)
        started = time.process_time()
        step(rows)
        found.append(time.process_time() - started)
    return found[WARM_UP:]


def trainer_seconds(kind: str, width: int) -> list[float]:
    """From the end of a step to that of the next, loading of rows and the trainer's own work included."""
    from transformers import TrainerCallback

    ends = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.process_time())

    trainer = distilled(kind, width)
    trainer.add_callback(Clock())
    trainer.train()
    return [later - earlier for earlier, later in itertools.pairwise(ends)][WARM_UP - 1 :]


def check_agreement() -> None:
    """Hard and soft loss in chunks, and with the logits of all positions."""
    from luthier.distillation.divergences import divergence_of_predictions

    rows, student, teacher = batch(0), model(1, 1, 128).eval(), model(1, 2, 128).eval()
    inputs, counted = {k: rows[k] for k in ("input_ids", "attention_mask")}, rows["labels"] >= 0
    with torch.no_grad():
        logits, wanted = (one(**inputs).logits[counted].log_softmax(-1) for one in (student, teacher))
        own, other = (prediction_rows(one, rows["labels"], shifted=False, inputs=inputs) for one in (student, teacher))
        soft = divergence_of_predictions(own, other)
    torch.testing.assert_close(own.losses().mean(), F.nll_loss(logits, rows["labels"][counted]), rtol=1e-5, atol=1e-5)
    full = F.kl_div(logits, wanted, reduction="sum", log_target=True)
    torch.testing.assert_close(soft, full, rtol=1e-4, atol=1e-5)


# -- what the cells say ----------------------------------------------------------------------------------------------


def ratios(cells: Cells, width: int) -> dict[str, list[float]]:
    """Every claim's ratio at a width, round by round."""
    rounds = sorted({e["cell"]["round"] for e in cells})
    found: dict[str, list[float]] = {"dwt": [], "ctcd": [], "stored": [], "memory": []}
    for number in rounds:
        own = {e["cell"]["kind"]: e for e in pick(cells, round=number, width=width)}
        if len(own) < len(KINDS):
            continue
        seconds = {kind: e["step_seconds"] for kind, e in own.items()}
        memory = {kind: e["added_bytes"] for kind, e in own.items()}
        found["dwt"].append(seconds["dwt"] / (seconds["bare_large"] + seconds["bare_teacher"]))
        found["ctcd"].append(seconds["ctcd"] / (seconds["bare_large"] + seconds["bare_small"]))
        found["stored"].append(seconds["stored"] / seconds["dwt"])
        full = max(1, memory["dwt_full_logits"] - memory["bare_large"])
        found["memory"].append((memory["dwt"] - memory["bare_large"]) / full)
    return found


CLAIMS = {
    "dwt": ("A DWT step takes at most 1.05 times its bare parts", 1.05),
    "ctcd": ("A CTCD step takes at most 1.05 times two bare steps", 1.05),
    "stored": ("A step with stored outputs takes no longer than one with a live teacher", 1.0),
    "memory": ("What distillation adds in memory is under a third of that with logits of all positions", 1 / 3),
}


def answers(cells: Cells) -> list[list[str]]:
    told, (width, *_) = [], WIDTHS
    for name, values in ratios(cells, width).items():
        if values:
            claim, most = CLAIMS[name]
            verdict = "holds" if statistics.median(values) <= most else "does not hold"
            told.append([f"{claim}, {width} wide", f"{verdict}: {median_and_range(values)}"])
    return told


def page(cells: Cells) -> str:
    rows, told = [], []
    for width in WIDTHS:
        for kind in KINDS:
            own = pick(cells, kind=kind, width=width)
            if own:
                seconds = [e["step_seconds"] for e in own]
                added = statistics.median(e["added_bytes"] for e in own) / 1e6
                rows.append([kind, str(width), median_and_range(seconds, 3), f"{added:,.0f} MB", str(len(own))])
        found = [f"{name} {median_and_range(values)}" for name, values in ratios(cells, width).items() if values]
        told += [f"{width} wide: {'; '.join(found)}"] if found else []
    about = (
        f"## What distillation costs\n\nModels of {LARGE} and {SMALL} layers, {VOCABULARY:,} tokens; {ROWS} rows of "
        f"{LENGTH} tokens, float32, one core; processor seconds of a step and the memory that it adds. Bare steps are "
        f"plain torch with the head on the masked positions alone. Ratios, {'. '.join(told)}.\n"
    )
    return about + "\n" + table(["kind", "width", "seconds a step", "added memory", "rounds"], rows)


if __name__ == "__main__":
    main()
