"""Training tokens a second and peak memory on documents of uneven length: packed rows, padded ones, and TRL's packing.

The same decoder with random weights learns the same documents in processes of their own, one after another, each with
transformers' Trainer below it: `block` and `none` are `luthier.context` rows of one length with documents apart and as
one text, `padded` is a document a row, padded to the longest of its batch, `trl` is TRL's SFTTrainer with
`packing=True`, where TRL can be imported (`--trl FOLDER` names where it lies). Counted are tokens of documents, not
padding, over the steps behind the first two; memory is the process's VmHWM, libraries included. Before that, packed and
padded losses of the same documents have to be equal (1e-5).

Claim: packed rows train more tokens a second than padded ones, and at least as many as TRL's.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
from tables import Cells, pick, table

SIZES = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 384}
VOCABULARY, LENGTH, ROWS, STEPS, SKIPPED, REPEATS = 2048, 512, 4, 8, 2, 3
SETTINGS = {"sizes": SIZES, "vocabulary": VOCABULARY, "length": LENGTH, "rows": ROWS, "steps": STEPS}
ARMS = ("block", "none", "padded", "trl")


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--measure":
        print(json.dumps(measure(json.loads(sys.argv[2]))))
        return
    options = harness.arguments(__doc__, trl={"help": "folder that TRL was installed into"})
    cells = [{"repeat": repeat, "arm": arm} for repeat in range(REPEATS) for arm in ARMS]
    if not options.trl:
        cells = [cell for cell in cells if cell["arm"] != "trl"]
    harness.run_cells("context_packing", SETTINGS, cells, lambda cell: in_a_process(cell, options.trl), options)


def in_a_process(cell: dict[str, Any], trl: str | None) -> dict[str, Any]:
    """What an arm measures, alone in a process."""
    paths = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), trl]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, __file__, "--measure", json.dumps(cell)]
    return harness.answer_of(command, environment)


def documents(seed: int = 0) -> list[list[int]]:
    """Token ids of documents, most of them short: lengths are spread evenly in their logarithm, from 16 to `LENGTH`."""
    draw = random.Random(seed)
    lengths = [round(16 * (LENGTH / 16) ** draw.random()) for _ in range(8 * ROWS * STEPS)]
    return [[draw.randrange(2, VOCABULARY) for _ in range(length - 1)] + [1] for length in lengths]


def decoder() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=LENGTH, eos_token_id=1, pad_token_id=0, use_cache=False, **SIZES
    )
    return LlamaForCausalLM(config)


def measure(cell: dict[str, Any]) -> dict[str, Any]:
    """Tokens a second behind the first steps, and the peak of this process."""
    texts, model = documents(cell["repeat"]), decoder()
    check_equal_losses(model, texts[:6])
    times: list[float] = []
    if cell["arm"] == "trl":
        trainer, tokens = with_trl(model, texts)
    else:
        trainer, tokens = with_rows(model, texts, cell["arm"])
    trainer.add_callback(clock(times))
    trainer.train()
    spent = times[-1] - times[SKIPPED - 1]
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    counted = sum(tokens[SKIPPED : len(times)])
    return {"tokens_per_second": counted / spent, "peak": int(peak.split()[1]) * 1024, "steps": len(times)}


def clock(times: list[float]) -> Any:
    """Notes when each step ends."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    return Clock()


def packed(texts: list[list[int]], mask: Any) -> list[dict[str, Any]]:
    """All documents in rows of `LENGTH`, as the `lengthen` stage makes them."""
    from luthier.context.rows import rows_of_block
    from luthier.language_modeling.packing import Frame, Packer

    packer = Packer(Frame(length=LENGTH, separator=None))
    for ids in texts:
        packer.add(ids)
    return [rows_of_block(block, n, LENGTH, mask) for n, block in enumerate(packer.blocks())]


def padded(texts: list[list[int]]) -> dict[str, Any]:
    """A batch with a document a row."""
    import torch

    width = max(map(len, texts))
    ids = torch.tensor([one + [0] * (width - len(one)) for one in texts])
    mask = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in texts])
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def check_equal_losses(model: Any, texts: list[list[int]]) -> None:
    """Packed and padded, the same documents have to have the same loss."""
    import numpy as np
    import torch

    from luthier.context.rows import collate_rows, rows_of_block
    from luthier.language_modeling.losses import causal_lm_loss
    from luthier.language_modeling.packing import Block

    ids = np.concatenate([np.array(one) for one in texts])
    owners = np.repeat(np.arange(len(texts)), [len(one) for one in texts])
    batch = collate_rows([rows_of_block(Block(ids, None, owners), 0, len(ids), "block")])
    batch.pop("row")
    with torch.no_grad():
        one, other = causal_lm_loss(model, batch), causal_lm_loss(model, padded(texts))
    assert abs(float(one) - float(other)) < 1e-5, (one, other)


def arguments(folder: str, kind: Any = None, **more: Any) -> Any:
    from transformers import TrainingArguments

    return (kind or TrainingArguments)(
        output_dir=folder,
        max_steps=STEPS,
        per_device_train_batch_size=ROWS,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **more,
    )


def with_rows(model: Any, texts: list[list[int]], arm: str) -> tuple[Any, list[int]]:
    """transformers' Trainer with the chunked loss, and the tokens of documents in every step."""
    from transformers import Trainer

    from luthier.context.rows import collate_rows
    from luthier.language_modeling.losses import causal_lm_loss

    class Chunked(Trainer):
        def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
            return causal_lm_loss(model, inputs)

    if arm == "padded":
        rows: list[Any] = [{"ids": ids} for ids in texts]
        tokens = [sum(map(len, texts[n * ROWS : (n + 1) * ROWS])) for n in range(STEPS)]

        def collate(some: Any) -> Any:
            return padded([one["ids"] for one in some])

    else:
        rows, tokens = packed(texts, arm), [ROWS * LENGTH] * STEPS

        def collate(some: Any) -> Any:
            return {name: value for name, value in collate_rows(some).items() if name != "row"}

    class InOrder(Chunked):
        def _get_train_sampler(self, *_: Any) -> Any:
            from torch.utils.data import SequentialSampler

            return SequentialSampler(rows)

    options = arguments(tempfile.mkdtemp(), remove_unused_columns=False)
    return InOrder(model=model, args=options, train_dataset=rows, data_collator=collate), tokens


def with_trl(model: Any, texts: list[list[int]]) -> tuple[Any, list[int]]:
    """TRL's own packing and loss."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    inner = Tokenizer(models.WordLevel({str(n): n for n in range(VOCABULARY)}, "0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="1", pad_token="0")
    options = arguments(
        tempfile.mkdtemp(), SFTConfig, packing=True, max_length=LENGTH, gradient_checkpointing=False, bf16=False
    )
    data = Dataset.from_dict({"input_ids": texts})
    trainer = SFTTrainer(model=model, args=options, train_dataset=data, processing_class=tokenizer)
    tokens: list[int] = []
    step = trainer.training_step

    def counting(model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        ids = inputs["input_ids"]
        mask = inputs.get("attention_mask")
        tokens.append(int(mask.sum()) if mask is not None else int((ids != 0).sum()))
        return step(model, inputs, *rest, **more)

    trainer.training_step = counting
    return trainer, tokens


def page(cells: Cells) -> str:
    """The part of RESULTS.md."""
    rows = []
    for arm in ARMS:
        some = pick(cells, arm=arm)
        if some:
            speeds = sorted(one["tokens_per_second"] for one in some)
            memory = statistics.median(one["peak"] for one in some)
            spread = f"{speeds[0]:,.0f} to {speeds[-1]:,.0f}"
            rows.append([arm, f"{statistics.median(speeds):,.0f}", spread, f"{memory / 1e6:,.0f}"])
    about = (
        f"A decoder of {SIZES['num_hidden_layers']} layers on documents of 16 to {LENGTH} tokens, {ROWS} rows a step, "
        "one thread: tokens of documents a second, without padding, and the peak of the process. Packed and padded "
        "losses were equal.\n"
    )
    names = ["rows", "tokens/s, median", "of", "peak MB"]
    return "## Packed rows of longer contexts\n\n" + about + "\n" + table(names, rows)


def answers(cells: Cells) -> list[tuple[str, str]]:
    """Ratios of medians."""
    speed = {
        arm: statistics.median([one["tokens_per_second"] for one in some])
        for arm in ARMS
        if (some := pick(cells, arm=arm))
    }
    told = [f"{speed['block'] / speed[arm]:.2f} times {arm}" for arm in ("padded", "none", "trl") if arm in speed]
    return [("What does packing with documents apart gain?", "; ".join(told))] if "block" in speed else []


if __name__ == "__main__":
    main()
