"""Extraction at inference: this library's SINET against the same model with a mask for every span, and spaCy's NER.

The straightforward implementation, as the released code of SINET and SpERT has it, expands the encoder's output to
sentences x spans x pieces x width, masks it and takes the maximum, does the same for the words between every two
entities, and joins what a classifier reads into one vector a span and a pair, pairs in chunks of 1,000. Here maxima of
ranges are looked up, and a classifier's matrix is multiplied part by part. Both have the same weights, and have to give
the same logits to 1e-4 before anything is timed.

Claim: with 400 candidate spans a sentence the heads, all that stands on the encoder's output, are at least 5 times as
fast. Two sizes, MiniLM's and BERT's in its base size with random weights, one sentence of 45 words a pass; a model that
tells 12 entities a sentence, and a confused one that tells 64, the limit. The whole pass, encoder included, stands
beside it. Memory is what the process takes on top of the loaded model. Each measurement is a process of its own on one
core, kinds in turn; times are processor time.

spaCy's NER, a blank pipeline that was trained on three sentences, reads the same sentences where `--spacy` names a
Python that has spaCy: a point of reference, not the same task.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
from tables import Cells, grouped, median_and_range, pick, table

ROUNDS, WARM_UP, SENTENCES = 3, 1, 6
WORDS, LONGEST = 45, 10  # 405 candidate spans
SIZES = {"minilm": (384, 6, 12), "base": (768, 12, 12)}
ENTITIES = (12, 64)
KINDS = ("ranges", "masks")
SETTINGS = {"rounds": ROUNDS, "sentences": SENTENCES, "words": WORDS, "longest": LONGEST, "sizes": SIZES}
TYPES = [*(f"entity:{i}" for i in range(4)), *(f"relation:{i}" for i in range(5))]
LIMIT = 1e-4


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        harness.single_core()
        print(json.dumps(measured(sys.argv[2], sys.argv[3])))
        return
    options = harness.arguments(__doc__, spacy={"metavar": "PYTHON", "help": "of an environment with spaCy"})

    def measure(cell: dict[str, Any]) -> dict[str, Any]:
        if cell["kind"] == "spacy":
            worker = Path(__file__).with_name("spacy_worker.py")
            command = [options.spacy, str(worker), str(WORDS), str(SENTENCES)]
        else:
            command = [sys.executable, __file__, "--measure", cell["kind"], cell["size"]]
        return harness.answer_of(command)

    cells = [
        {"size": size, "kind": kind, "round": number} for number in range(ROUNDS) for size in SIZES for kind in KINDS
    ]
    cells += [{"size": "spacy", "kind": "spacy", "round": n} for n in range(ROUNDS)] if options.spacy else []
    harness.run_cells("extraction_speed", SETTINGS, cells, measure, options)


def measured(kind: str, size: str) -> dict[str, Any]:
    """Of every number of entities processor seconds of a sentence, of its encoder alone, and the memory on top of the
    model."""
    import torch

    from luthier.evaluation.meters import CostMeter, peak_memory

    model = model_of(size)
    forward: Callable[..., Any] = model if kind == "ranges" else Masks(model)
    batches = [sentence(number) for number in range(SENTENCES)]
    found: dict[str, Any] = {}
    with torch.inference_mode():
        encoder = [time_of(lambda b=one: model.encoder(b["input_ids"], b["attention_mask"])) for one in batches]
        before = peak_memory()
        for entities in ENTITIES:
            whole, told = [], []
            with CostMeter() as meter:
                for batch in batches:
                    told.append(let_tell(model, batch, entities))
                    whole.append(time_of(lambda b=batch: forward(**b)))
            found[str(entities)] = {
                "seconds": statistics.fmean(whole),
                "encoder_seconds": statistics.fmean(encoder),
                "added_bytes": meter.peak_memory_bytes - before,
                "told": statistics.fmean(told),
            }
        check_agreement(model, batches[-1])
    return {"by_entities": found}


def time_of(run: Callable[[], Any]) -> float:
    for _ in range(WARM_UP):
        run()
    started = time.process_time()
    run()
    return time.process_time() - started


def model_of(size: str) -> Any:
    """A model with random weights and a head of the paper's kind."""
    import torch
    from transformers import BertConfig

    from luthier.extraction import AutoModelForJointExtraction

    width, layers, heads = SIZES[size]
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    encoder = BertConfig(**sizes, intermediate_size=4 * width, id2label=dict(enumerate(TYPES)))
    config = AutoModelForJointExtraction.head_config(encoder)
    config.max_span_size = LONGEST
    return AutoModelForJointExtraction.from_config(config).eval()


def sentence(number: int) -> dict[str, Any]:
    """One sentence; every third word is two pieces."""
    import torch

    pieces = [1 + (word % 3 == 0) for word in range(WORDS)]
    ends = torch.tensor(pieces).cumsum(0) + 1
    draw = torch.Generator().manual_seed(number)
    ids = torch.randint(1000, 20000, (1, int(ends[-1]) + 1), generator=draw)
    starts = ends - torch.tensor(pieces)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "word_start": starts[None],
        "word_end": ends[None],
    }


def let_tell(model: Any, batch: dict[str, Any], entities: int) -> int:
    """Shift the score of `none` until that many entities of a sentence are told; how many are."""
    out = model(**batch)
    logits = out.entity_logits[0][out.span_valid[0]]
    lead = (logits[:, 1:].amax(1) - logits[:, 0]).sort(descending=True).values
    model.entity_head.linear.bias[0] += lead[entities - 1 : entities + 1].mean()
    return int((model(**batch).found_types > 0).sum())


class Masks:
    """The same model with masks over all pieces, for one sentence."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, **batch: Any) -> dict[str, Any]:
        import torch

        model = self.model
        states = model.encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
        text = batch["attention_mask"].bool()
        tasks = model.interaction(states, model._sentence(text, batch["word_start"]))
        words = torch.tensor(
            [(i, i + n) for i in range(WORDS) for n in range(1, LONGEST + 1) if i + n <= WORDS], device=text.device
        )
        start, end = batch["word_start"][0, words[:, 0]], batch["word_end"][0, words[:, 1] - 1]
        masks = masks_of(start, end, states.shape[1])
        widths = model.widths(words[:, 1] - words[:, 0])
        pooled = pool(tasks.entity[0], masks)
        joined = torch.cat([tasks.entity_sentence.expand(len(words), -1), pooled, widths], dim=1)
        logits = model.entity_head.linear(joined)
        scores, types = logits.softmax(-1).max(-1)
        kept = (types > 0).nonzero()[:, 0]
        best = kept[scores[kept].argsort(descending=True, stable=True)[: model.options.max_entities]]
        return {
            "words": words,
            "entity_logits": logits,
            "told": words[best],
            "pairs": self._pairs(states[0], tasks, best, (start, end, masks, widths)),
        }

    def _pairs(self, states: Any, tasks: Any, best: Any, spans: Any) -> Any:
        """(P, P, Q) probabilities."""
        import torch

        start, end, masks, widths = spans
        relation = pool(tasks.relation[0], masks)
        count = len(best)
        places = [(i, j) for i in range(count) for j in range(count) if i != j]
        found = states.new_zeros(count, count, self.model.relation_head.linear.out_features)
        for first in range(0, len(places), self.model.options.pair_chunk):
            head, tail = torch.tensor(places[first : first + self.model.options.pair_chunk]).T
            one, other = best[head], best[tail]
            ends = torch.minimum(end[one], end[other]), torch.maximum(start[one], start[other])
            between = masks_of(*ends, len(states))
            context = pool(states, between) * between.any(1, keepdim=True)
            sentence = tasks.relation_sentence.expand(len(one), -1)
            joined = [context, sentence, relation[one], relation[other], widths[one], widths[other]]
            found[head, tail] = self.model.relation_head.linear(torch.cat(joined, dim=1)).sigmoid()
        return found


def masks_of(start: Any, end: Any, pieces: int) -> Any:
    """(N,) starts and ends -> (N, T)."""
    import torch

    place = torch.arange(pieces)
    return (place >= start[:, None]) & (place < end[:, None])


def pool(states: Any, masks: Any) -> Any:
    """(T, d) under (N, T) -> (N, d), by way of (N, T, d)."""
    return ((~masks)[..., None] * -1e30 + states[None]).max(dim=1).values


def check_agreement(model: Any, batch: dict[str, Any]) -> None:
    """Both implementations tell the same."""
    import torch

    ours, plain = model(**batch), Masks(model)(**batch)
    there = ours.span_valid[0]
    assert torch.equal(ours.span_words[0][there], plain["words"])
    torch.testing.assert_close(ours.entity_logits[0][there], plain["entity_logits"], rtol=LIMIT, atol=LIMIT)
    # The surest come first; which of two that are equally sure does is chance.
    ranked = [(words[:, 0] * WORDS + words[:, 1]).argsort() for words in (ours.found_words[0], plain["told"])]
    assert torch.equal(ours.found_words[0][ranked[0]], plain["told"][ranked[1]])
    pairs = [found[order][:, order] for found, order in zip((ours.found_pairs[0], plain["pairs"]), ranked, strict=True)]
    torch.testing.assert_close(*pairs, rtol=LIMIT, atol=LIMIT)


# -- the page ----------------------------------------------------------------------------------------------------------


def apart(cells: Cells) -> Cells:
    """An entry for every number of entities."""
    found = []
    for entry in cells:
        parts = entry.get("by_entities", {"0": entry})
        found += [{**part, "cell": entry["cell"] | {"entities": int(n)}} for n, part in parts.items()]
    return found


def ratios(cells: Cells, size: str, entities: int) -> dict[str, list[float]]:
    """How many times as long, or as much, masks take, of every round: heads, whole passes, memory."""
    own = pick(cells, size=size, entities=entities)
    ours, masks = ({e["cell"]["round"]: e for e in pick(own, kind=kind)} for kind in KINDS)
    pairs = [(masks[n], ours[n]) for n in sorted(ours.keys() & masks.keys())]

    def heads(entry: dict[str, Any]) -> float:
        return float(max(entry["seconds"] - entry["encoder_seconds"], 1e-6))

    return {
        "heads": [heads(m) / heads(o) for m, o in pairs],
        "whole": [m["seconds"] / o["seconds"] for m, o in pairs],
        "memory": [m["added_bytes"] / max(1, o["added_bytes"]) for m, o in pairs],
    }


def answers(cells: Cells) -> list[list[str]]:
    """The claim about the heads, and what is left of it where the encoder counts too."""
    parts: dict[str, list[tuple[float, str]]] = {"heads": [], "whole": []}
    for size in SIZES:
        for entities in ENTITIES:
            for part, found in ratios(apart(cells), size, entities).items():
                if part in parts and found:
                    parts[part].append((statistics.median(found), f"{size}, {entities} entities"))
    claims = {
        "heads": "Heads by range maxima are at least 5 times as fast as with a mask for each of 400 candidate spans",
        "whole": "So are whole passes, with the encoder",
    }
    return [[claims[part], told_of(found)] for part, found in parts.items() if found]


def told_of(found: list[tuple[float, str]]) -> str:
    """Where a ratio of 5 is reached."""
    reached = [value >= 5 for value, _ in found]
    verdict = "holds" if all(reached) else "holds in part" if any(reached) else "does not hold"
    return f"{verdict}: " + ", ".join(f"{value:.1f} ({where})" for value, where in found)


def page(cells: Cells) -> str:
    rows = []
    for (size, entities, kind), entries in grouped(apart(cells), "size", "entities", "kind").items():
        found = ratios(apart(cells), size, entities) if kind == "masks" else {}
        rows.append(
            [
                size,
                "" if kind == "spacy" else f"{statistics.fmean(e['told'] for e in entries):.0f}",
                {"ranges": "range maxima", "masks": "masks", "spacy": "its NER"}[kind],
                f"{1 / statistics.median(e['seconds'] for e in entries):.1f}",
                f"{statistics.median(e['added_bytes'] for e in entries) / 1e6:,.0f} MB",
                *(median_and_range(found[part], 1) if found else "" for part in ("heads", "whole", "memory")),
            ]
        )
    columns = ["encoder", "entities told", "by", "sentences/s", "added memory", "heads take", "passes take", "memory"]
    about = (
        f"## Speed of extraction\n\nOne sentence of {WORDS} words a pass, {WORDS * LONGEST - 45} candidate spans, "
        "float32 on one core, processor time. The last three columns: how many times that of range maxima masks take, "
        "median and range of rounds. spaCy's NER is a blank English pipeline; it reads the same number of words, "
        "tells no relations, and is here for reference.\n"
    )
    return about + "\n" + table(columns, rows)


if __name__ == "__main__":
    main()
