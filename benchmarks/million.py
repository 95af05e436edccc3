"""A vocabulary of about 900,000 pieces: building, loading, encoding, and one step of training on it.

Questions, each against a named peer in one run: how long every step of the build takes and what it holds; how long the
tokenizer takes to load and what it holds, and how many MB a second one core cuts, for SentencePiece's own processor
without anything around it, for the tokenizer that `AutoTokenizer` makes of the folder (ids, attention mask), for the
folder's tokenizer.json in the `tokenizers` library, and for the pipeline that transformers makes of the same model;
whether a step of masked-language-model training on it needs at most a tenth of the memory of dense logits, with equal
gradients; and what an optimiser's step costs that goes through all rows, beside SparseAdam's, which forgets that all
others move too (`row_updates.py` has a step that does not).

The model of real text (`tatoeba` and `udhr2`, all languages as one) is trained; those of four made-up languages, in
four scripts of 230,000 different words each, have their words for pieces, with the scores of their frequencies, since
a trainer would need hours of a core for as many pieces and shows nothing new. They are merged as any others. Rates are
by processor time, since the machine is shared. Memory is what a process holds on top of what it held before. Every
measurement is a process of its own.
"""

from __future__ import annotations

import json
import math
import random
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
from tables import pick, table

from luthier.data.sources.base import data_folder
from luthier.errors import DataError

SCRIPTS = {"xa": 0x61, "xb": 0x3B1, "xc": 0x430, "xd": 0x10D0}
WORDS, REAL, SIZE, ROUNDS = 230_000, 30_000, 930_000, 3
ROWS, WIDTH, LENGTH = 307, 256, 128
KINDS = {
    "sentencepiece": "SentencePiece's processor, nothing around it",
    "ours": "`AutoTokenizer`, with SentencePiece underneath",
    "json": "`AutoTokenizer` on tokenizer.json alone",
    "stock": "XLMRobertaTokenizer",
}
STEPS = ("dense", "chunked", "in place", "sampled")
SAMPLES = 8192
SETTINGS = {
    "words": WORDS,
    "real": REAL,
    "size": SIZE,
    "rounds": ROUNDS,
    "rows": ROWS,
    "width": WIDTH,
    "samples": SAMPLES,
}
WORK = Path(tempfile.gettempdir()) / "luthier-million"


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--measure":
        harness.single_core()
        print(json.dumps(MEASURES[(cell := json.loads(sys.argv[2]))["part"]](cell)))
        return
    options = harness.arguments(__doc__)

    def measure(cell: dict[str, Any]) -> dict[str, Any]:
        command = [sys.executable, __file__, "--measure", json.dumps(cell)]
        return harness.answer_of(command, failure=DataError)

    cells: list[dict[str, Any]] = [{"part": "build"}]
    quick, slow = list(KINDS)[:2], list(KINDS)[2:]
    cells += [{"part": "encode", "kind": kind, "round": number} for number in range(ROUNDS) for kind in quick]
    cells += [{"part": "step", "kind": kind} for kind in STEPS] + [{"part": "gradients"}]
    cells += [{"part": "update", "kind": kind} for kind in ("all rows", "rows that moved")]
    cells += [{"part": "encode", "kind": kind, "round": 0} for kind in slow]
    harness.run_cells("million", SETTINGS, cells, measure, options)


def real_units() -> list[tuple[str, int]]:
    """Counted words of all languages of both sets, those that occur twice."""
    from luthier.vocabulary.text import clean

    counts: Counter[str] = Counter()
    for path in sorted((data_folder("tatoeba") / "tatoeba").glob("*.tsv")):
        counts.update(clean(path.read_text(encoding="utf8").replace("\n", " ")).split())
    for path in sorted((data_folder("udhr2") / "udhr2").glob("*.txt")):
        counts.update(clean(path.read_text(encoding="utf8", errors="replace").replace("\n", " ")).split())
    return [(word, count) for word, count in counts.most_common() if count > 1]


def made_up(name: str, like: bytes) -> tuple[bytes, list[str]]:
    """A model whose pieces are the words of a language and its letters, and lines of that language."""
    from luthier.vocabulary.unigram import NORMAL, parse_model

    draw = random.Random(name)
    letters = [chr(SCRIPTS[name] + n) for n in range(22)]
    weights = [1 / (n + 2) for n in range(22)]
    words: dict[str, None] = {}
    while len(words) < WORDS:
        words["".join(draw.choices(letters, weights, k=draw.randint(3, 11)))] = None
    known = list(words)
    mass = math.log(sum(1 / (rank + 3) for rank in range(WORDS)))
    model = parse_model(like)
    del model.pieces[3:]
    for rank, word in enumerate(known):
        model.pieces.add(piece=f"▁{word}", score=-math.log(rank + 3) - mass, type=NORMAL)
    for letter in ["▁", *letters]:
        model.pieces.add(piece=letter, score=-20.0, type=NORMAL)
    # Frequent words, and some that the model does not have as a whole.
    chosen = [known[int(WORDS ** draw.random()) - 1] for _ in range(110_000)]
    tokens = [word if draw.random() < 0.8 else word + draw.choice(known)[:3] for word in chosen]
    return model.SerializeToString(), [" ".join(tokens[n : n + 12]) for n in range(0, len(tokens), 12)]


def build(_cell: dict[str, Any]) -> dict[str, Any]:
    from luthier.vocabulary import merge_vocabularies
    from luthier.vocabulary.settings import TrainerSettings
    from luthier.vocabulary.tokenizer_files import save_tokenizer
    from luthier.vocabulary.unigram import train_unigram

    steps: dict[str, dict[str, float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.process_time()
        result = work()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        steps[name] = {"processor_seconds": time.process_time() - started, "peak_memory_bytes": peak}
        return result

    units = timed("counting words", real_units)
    real = timed("training on real text", lambda: train_unigram(units, REAL, TrainerSettings()))
    others = [made_up(name, real) for name in SCRIPTS]
    merged = timed("merging", lambda: merge_vocabularies([real, *(model for model, _ in others)]))
    timed("writing the tokenizer", lambda: save_tokenizer(WORK / "tokenizer", merged.content))
    lines = [line for _, found in others for line in found]
    draw = random.Random(0)
    words = [word for word, _ in units[:60_000]]
    lines += [" ".join(draw.choices(words, k=12)) for _ in range(len(lines) // 4)]
    (WORK / "lines.txt").write_text("\n".join(lines), encoding="utf8")
    size = sum(path.stat().st_size for path in (WORK / "tokenizer").iterdir())
    return {"pieces": len(merged.origins), "steps": steps, "bytes_on_disk": size}


def lines_to_cut() -> list[str]:
    """Text in all five, a fifth of it real words."""
    return (WORK / "lines.txt").read_text(encoding="utf8").splitlines()


def encode(cell: dict[str, Any]) -> dict[str, Any]:
    import psutil
    import sentencepiece  # noqa: F401
    import tokenizers  # noqa: F401
    import transformers  # noqa: F401

    lines, process = lines_to_cut(), psutil.Process()
    megabytes = sum(len(line.encode()) for line in lines) / 1e6
    before, started, spent = process.memory_info().rss, time.perf_counter(), time.process_time()
    cut = loaded(cell["kind"])
    first = cut(lines[:1])
    load_wall, load_spent = time.perf_counter() - started, time.process_time() - spent
    held = process.memory_info().rss - before
    spent, tokens = time.process_time(), len(first[0])
    for start in range(0, len(lines), 1000):
        tokens += sum(map(len, cut(lines[start : start + 1000])))
    seconds = time.process_time() - spent
    return {
        "load_seconds": load_wall,
        "load_processor_seconds": load_spent,
        "held_bytes": held,
        "megabytes_a_second": megabytes / seconds,
        "tokens": tokens,
    }


def loaded(kind: str) -> Any:
    """Cuts a list of texts into ids."""
    folder = WORK / "tokenizer"
    if kind == "sentencepiece":
        from sentencepiece import SentencePieceProcessor

        processor = SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
        return lambda texts: processor.encode(texts, num_threads=1)
    if kind == "stock":
        made = stock(folder)
    elif kind == "ours":
        from transformers import AutoTokenizer

        from luthier.vocabulary import NativeTokenizer

        made = AutoTokenizer.from_pretrained(folder)
        assert type(made) is NativeTokenizer
    else:
        from transformers import PreTrainedTokenizerFast

        made = PreTrainedTokenizerFast.from_pretrained(folder)
    return lambda texts: made(texts, add_special_tokens=False)["input_ids"]


def stock(folder: Path) -> Any:
    """What transformers makes of the model of SentencePiece."""
    from transformers import XLMRobertaTokenizer

    from luthier.vocabulary.unigram import parse_model

    proto = parse_model((folder / "sentencepiece.bpe.model").read_bytes())
    special = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces = [*special, *((one.piece, one.score) for one in proto.pieces[3:]), ("<mask>", 0.0)]
    charsmap = proto.normalizer_spec.precompiled_charsmap
    return XLMRobertaTokenizer(vocab=pieces, _spm_precompiled_charsmap=charsmap)


def model_and_batch() -> tuple[Any, dict[str, Any]]:
    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 1024}
    model = BertForMaskedLM(
        BertConfig(vocab_size=SIZE, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **sizes)
    )
    ids = torch.randint(5, SIZE, (ROWS * 20 // 3 // LENGTH, LENGTH))
    labels = torch.full_like(ids, -100)
    chosen = torch.randperm(ids.numel())[:ROWS]
    labels.view(-1)[chosen] = ids.view(-1)[chosen]
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def loss_of(kind: str, model: Any, batch: dict[str, Any]) -> Any:
    import torch
    from torch.nn import functional as F

    from luthier.language_modeling import masked_lm_loss
    from luthier.language_modeling.rows import prediction_rows

    if kind in ("chunked", "in place"):
        return masked_lm_loss(model, batch, in_place=kind == "in place")
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    rows = prediction_rows(model, batch["labels"], shifted=False, inputs=inputs, in_place=kind == "sampled")
    if kind == "sampled":
        torch.manual_seed(0)
        return rows.sampled_losses(SAMPLES).mean()
    return F.cross_entropy(rows.logits(), rows.targets)


def step(cell: dict[str, Any]) -> dict[str, Any]:
    import torch

    from luthier.evaluation.meters import CostMeter, peak_memory

    model, batch = model_and_batch()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with CostMeter():
        pass
    before, spent = peak_memory(), time.process_time()
    loss = loss_of(cell["kind"], model, batch)
    loss.backward()
    return {
        "memory_bytes": peak_memory() - before,
        "processor_seconds": time.process_time() - spent,
        "loss": float(loss),
        "dense_logits_bytes": 4 * SIZE * ROWS,
        "dense_logits_of_all_positions_bytes": 4 * SIZE * batch["input_ids"].numel(),
    }


def gradients(_cell: dict[str, Any]) -> dict[str, Any]:
    import torch

    found = []
    for kind in ("dense", "in place"):
        model, batch = model_and_batch()
        loss = loss_of(kind, model, batch)
        loss.backward()
        found.append((loss.detach(), {name: p.grad for name, p in model.named_parameters()}))
    (a, first), (b, second) = found
    # Gradients that are zero but for rounding, as those of the biases of keys, are held against the largest of all.
    floor = 1e-5 * max(float(one.abs().max()) for one in first.values())
    largest = max(float((first[n] - second[n]).abs().max() / first[n].abs().max().clamp_min(floor)) for n in first)
    return {
        "loss_difference": float((a - b).abs() / a.abs()),
        "largest_relative_difference": largest,
        "tensors": len(first),
    } | {"finite": bool(all(torch.isfinite(g).all() for g in second.values()))}


def update(cell: dict[str, Any]) -> dict[str, Any]:
    """One step on the embeddings: AdamW through all rows, or SparseAdam through those of a batch and of drawn tokens,
    without decay and without what the averages of the others still move."""
    import torch

    from luthier.language_modeling.sampled_loss import log_uniform

    torch.manual_seed(0)
    table = torch.nn.Parameter(torch.zeros(SIZE, WIDTH))
    moved = torch.cat([torch.randint(5, SIZE, (ROWS * 20 // 3,)), log_uniform(SAMPLES, SIZE, table.device)]).unique()
    if cell["kind"] == "all rows":
        optimizer: Any = torch.optim.AdamW([table], fused=True)
        table.grad = torch.zeros_like(table)
        table.grad[moved] = 1e-3
    else:
        optimizer = torch.optim.SparseAdam([table])
        size = (SIZE, WIDTH)
        table.grad = torch.sparse_coo_tensor(
            moved[None], torch.full((len(moved), WIDTH), 1e-3), size, is_coalesced=True
        )
    spent = []
    for _ in range(4):
        started = time.process_time()
        optimizer.step()
        spent.append(time.process_time() - started)
    return {"processor_seconds": statistics.median(spent[1:]), "moved": len(moved)}


MEASURES = {"build": build, "encode": encode, "step": step, "gradients": gradients, "update": update}


def answers(cells: list[dict[str, Any]]) -> list[list[str]]:
    found = []
    steps = {c["cell"]["kind"]: c for c in pick(cells, part="step")}
    if set(STEPS) <= steps.keys():
        whole = steps["dense"]["dense_logits_of_all_positions_bytes"]
        told = ", ".join(f"{kind} {steps[kind]['memory_bytes'] / whole:.3f}" for kind in STEPS)
        found.append(
            [
                f"a masked-language-model step on {SIZE:,} tokens in at most a tenth of the memory of the logits of "
                "all positions (beside the model and the kept gradient of its embeddings, 0.95 GB)",
                told,
            ]
        )
    encoded = {kind: pick(cells, part="encode", kind=kind) for kind in KINDS}
    if all(encoded.values()):
        rate = {k: statistics.median(c["megabytes_a_second"] for c in own) for k, own in encoded.items()}
        told = ", ".join(f"{kind} {value:.1f}" for kind, value in rate.items())
        found.append([f"encoding with about {SIZE:,} pieces, MB a second of one core", told])
    return found


def page(cells: list[dict[str, Any]]) -> str:
    parts = ["## A vocabulary of 900,000 pieces\n"]
    for one in pick(cells, part="build"):
        parts.append(f"{one['pieces']:,} pieces, {one['bytes_on_disk'] / 1e6:.0f} MB on disk.\n")
        rows = [
            [name, f"{step['processor_seconds']:.1f}", f"{step['peak_memory_bytes'] / 1e9:.2f}"]
            for name, step in one["steps"].items()
        ]
        parts.append(table(["step", "processor seconds", "highest GB of the process until its end"], rows))
    rows = []
    for kind, name in KINDS.items():
        own = pick(cells, part="encode", kind=kind)
        if own:
            middle = {k: statistics.median(c[k] for c in own) for k in own[0] if k not in ("cell",)}
            rows.append(
                [
                    name,
                    f"{middle['load_processor_seconds']:.1f}",
                    f"{middle['held_bytes'] / 1e9:.2f}",
                    f"{middle['megabytes_a_second']:.2f}",
                    f"{middle['tokens']:,.0f}",
                ]
            )
    parts.append(table(["encoder", "seconds to load", "GB held", "MB a second", "tokens"], rows))
    rows = [
        [
            c["cell"]["kind"],
            f"{c['memory_bytes'] / 1e9:.2f}",
            f"{c['memory_bytes'] / c['dense_logits_of_all_positions_bytes']:.3f}",
            f"{c['processor_seconds']:.1f}",
            f"{c['loss']:.5f}",
        ]
        for c in cells
        if c["cell"]["part"] == "step"
    ]
    columns = [f"loss of {ROWS} masked rows", "GB of the step", "of the logits of all positions"]
    parts.append(table([*columns, "processor seconds", "loss"], rows))
    rows = [[c["cell"]["kind"], f"{c['moved']:,}", f"{c['processor_seconds']:.3f}"] for c in pick(cells, part="update")]
    parts.append(
        table(["step on the embeddings, AdamW and SparseAdam", "rows with a gradient", "processor seconds"], rows)
    )
    for one in pick(cells, part="gradients"):
        parts.append(
            f"Loss and gradients of both differ by {one['loss_difference']:.1e} and at most "
            f"{one['largest_relative_difference']:.1e} of each tensor's largest entry, or of 1e-5 of the largest of "
            "all.\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    main()
