"""Fixed representations from task prefixes against multi-task tuning and no source tasks at all.

Prefixes are learned on three source tasks, each alone with the model frozen, then combined; a logistic regression on
the representation is fitted for each of four target tasks that no prefix has seen. The claims: above multi-task tuning
on the targets, and a new source task costs the training of one prefix. Pairs are encoded together.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import harness
from bert_tiny import bert_tiny
from evidence import Claim, Differences, Finding, findings_of, hours_of
from tables import Cells, grouped, pick, spread, table

SOURCES = ("sst2", "agnews", "sick")
TARGETS = ("subj", "trec", "mrpc", "uci_sentiment/yelp")
SEEDS = (1, 2, 3)
STEPS, BATCH, LENGTH = 150, 8, 5
SOURCE = {"examples": 800, "max_length": 64, "too_long": "truncate", "evaluation_limit": 150}
TARGET = {"examples": 300, "evaluation_limit": 200}
SETTINGS = {
    "sources": SOURCES,
    "targets": TARGETS,
    "steps": STEPS,
    "batch": BATCH,
    "prefix_length": LENGTH,
    "source": SOURCE,
    "target": TARGET,
    "model": harness.MINILM,
}
# The default rate of task prefixes is what their own task likes best; does a lower one leave more to others?
SLOWER = 1e-2
ARMS = ("prefixes", "multi_task", "fine_tuning", "prefixes, slower")
# A cell without a backbone is MiniLM's, which was trained to give sentence vectors; BERT-tiny was not. Whole models are
# tuned at these rates, as in `roast.py`.
BACKBONES: dict[str, dict[str, Any]] = {"MiniLM": {}, "BERT-tiny": {"learning_rate": 3e-4}}


def main() -> None:
    benches: dict[str, harness.Bench] = {}
    measures = {
        "prefixes": prefixes,
        "prefixes, slower": prefixes,
        "multi_task": multi_task,
        "fine_tuning": fine_tuning,
    }

    def measure(cell: dict[str, Any]) -> dict[str, Any]:
        backbone = cell.get("backbone", "MiniLM")
        if backbone not in benches:
            benches[backbone] = harness.Bench(bert_tiny() if backbone == "BERT-tiny" else harness.MINILM)
        own = {"prefixes": {}, "prefixes, slower": {"learning_rate": SLOWER}}
        rate = own.get(cell["arm"], BACKBONES[backbone])
        return measures[cell["arm"]](benches[backbone], rate, cell["seed"])

    cells = [
        ({} if backbone == "MiniLM" else {"backbone": backbone}) | {"arm": arm, "seed": seed}
        for backbone in BACKBONES
        for seed in SEEDS
        for arm in ARMS
    ]
    harness.run_cells("task_prefixes", SETTINGS, cells, measure, harness.arguments(__doc__))


def prefixes(bench: harness.Bench, rate: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train the prefixes, and read the targets from every combination of them."""
    trained = {name: prefix_of(bench, rate, name, seed) for name in SOURCES}
    untrained = {name: prefix_of(bench, rate, name, seed, trained=False)["model"] for name in SOURCES}
    models = {name: one["model"] for name, one in trained.items()}
    made = partial(encoder_of, bench)
    encoders = {
        "frozen model, first": made({}),
        "frozen model, mean": made({}, pooling="mean"),
        **{f"prefix of {name} alone": made({name: models[name]}) for name in SOURCES},
        **{f"prefixes, {combine}": made(models, combine=combine) for combine in ("joint", "mean", "concat")},
        "prefixes, joint, mean": made(models, pooling="mean"),
        "untrained prefixes, concat": made(untrained, combine="concat"),
    }
    return {
        "scores": {title: on_targets(encoder, seed) for title, encoder in encoders.items()},
        "widths": {title: encoder.width for title, encoder in encoders.items()},
        "passes": {title: encoder.passes for title, encoder in encoders.items()},
        "source_scores": {name: one["validation_accuracy"] for name, one in trained.items()},
        "update_seconds": statistics.fmean(one["seconds"] for one in trained.values()),
        "update_parameters": sum(p.numel() for p in prefix_parameters(models[SOURCES[0]])),
    }


def prefix_of(
    bench: harness.Bench, rate: dict[str, Any], name: str, seed: int, *, trained: bool = True
) -> dict[str, Any]:
    """A model with one prefix, trained or as it starts."""
    tune: dict[str, Any] = rate | {
        "method": {"name": "task_prefix", "prefix_length": LENGTH},
        "data": source(name, seed),
        "max_steps": STEPS,
        "batch_size": BATCH,
        "evaluate_every": STEPS,
    }
    if not trained:
        from luthier.training.supervised import apply_method

        stage, _, prepared, base = bench.ready(tune, seed)
        return {"model": apply_method(stage, base, prepared, seed)}
    return bench.tune(tune, seed, test=None, judge=lambda model, _: {"model": model})


def source(name: str, seed: int, settings: dict[str, Any] = SOURCE) -> dict[str, Any]:
    """The data of a source task; one without a validation split gets one cut from its training rows."""
    cut = {"validation_fraction": 0.1} if name == "agnews" else {}
    return {"source": f"data:{name}", **settings, "subset_seed": seed} | cut


def prefix_parameters(model: Any) -> list[Any]:
    return [p for n, p in model.named_parameters() if p.requires_grad and "task_prefix" in n]


def encoder_of(bench: harness.Bench, models: dict[str, Any], *, combine: str = "joint", pooling: str = "first") -> Any:
    """A shared encoder with the prefixes of these models."""
    from luthier.tuning import SharedEncoder

    encoder = SharedEncoder(bench.model, combine=combine, pooling=pooling, max_length=64)  # type: ignore[arg-type]
    for name, model in models.items():
        encoder.add(name, model)
    return encoder


def multi_task(bench: harness.Bench, rate: dict[str, Any], seed: int) -> dict[str, Any]:
    """Fine-tune the whole model on all sources at once, freeze it, and read the targets from it.

    Batches are drawn from the sources in equal parts; each source has a linear head on the first token.
    """
    from luthier.tuning import SharedEncoder

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        train_together(bench, rate, seed, folder)
        seconds = time.perf_counter() - started
        scores = {}
        for pooling in ("first", "mean"):
            encoder = SharedEncoder(folder, pooling=pooling, max_length=64)  # type: ignore[arg-type]
            scores[f"multi-task model, {pooling}"] = on_targets(encoder, seed)
    return {"scores": scores, "update_seconds": seconds}


def train_together(bench: harness.Bench, rate: dict[str, Any], seed: int, folder: str) -> None:
    """Train one model on all sources and save it."""
    from luthier.registry import METHODS

    data = {name: source(name, seed) for name in SOURCES}
    peak = rate.get("learning_rate", METHODS.get("full").default_learning_rate)
    for model, tokenizer in trained_together(bench.model, data, peak, seed, steps=STEPS, batch=BATCH):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def trained_together(
    reference: str | dict[str, Any],
    data: dict[str, dict[str, Any]],
    peak: float,
    seed: int,
    *,
    steps: int,
    batch: int,
    parts: int = 1,
) -> Iterator[tuple[Any, Any]]:
    """Train one model on several sources, a batch of each in turn, with a linear head for each on the first token.

    Args:
        reference: the model.
        data: source -> its settings.
        peak: learning rate of the model; heads have ten times that.
        steps: for each source.
        batch: rows of a step.
        parts: how often the model is given, with its tokenizer: after each of so many equal parts of the steps.
    """
    import torch
    from torch.nn import functional as F
    from transformers import get_linear_schedule_with_warmup

    from luthier.models.artifacts import load

    torch.manual_seed(seed)
    model, tokenizer = load(reference)
    model = model.base_model  # without the head of a language model
    sources = {name: labelled(settings) for name, settings in data.items()}
    heads = {name: torch.nn.Linear(model.config.hidden_size, max(ids) + 1) for name, (_, ids) in sources.items()}
    own = [p for head in heads.values() for p in head.parameters()]
    optimiser = torch.optim.AdamW([{"params": model.parameters(), "lr": peak}, {"params": own, "lr": 10 * peak}])
    names, whole, draw = list(sources), steps * len(sources), random.Random(seed)
    schedule = get_linear_schedule_with_warmup(optimiser, round(0.06 * whole), whole)
    ends = {whole * part // parts for part in range(1, parts + 1)}
    model.train()
    for step in range(whole):
        name = names[step % len(names)]
        texts, ids = sources[name]
        picked = draw.sample(range(len(texts)), batch)
        columns = list(zip(*(texts[i] for i in picked), strict=True))
        inputs = tokenizer(*map(list, columns), truncation=True, max_length=64, padding=True, return_tensors="pt")
        logits = heads[name](model(**inputs).last_hidden_state[:, 0])
        F.cross_entropy(logits, torch.tensor([ids[i] for i in picked])).backward()
        torch.nn.utils.clip_grad_norm_([*model.parameters(), *own], 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        if step + 1 in ends:
            yield model.eval(), tokenizer
            model.train()


def labelled(settings: dict[str, Any], split: str = "train") -> tuple[list[tuple[str, ...]], list[int]]:
    """Texts, alone or in pairs, and label ids of a source's rows."""
    from luthier.data.loading import load_data
    from luthier.data.settings import DataSettings

    rows = load_data(DataSettings(**settings), splits=(split,)).splits[split]
    columns = [rows[c] for c in ("text", "text_pair") if c in rows.column_names]
    return list(zip(*columns, strict=True)), list(rows["label"])


def fine_tuning(bench: harness.Bench, rate: dict[str, Any], seed: int) -> dict[str, Any]:
    """Fine-tune the whole model on each target's own rows: one model and one pass for every task."""
    scores = {}
    for name in TARGETS:
        tune = rate | {
            "method": "full",
            "data": {
                "source": f"data:{name}",
                **TARGET,
                "max_length": 64,
                "too_long": "truncate",
                "subset_seed": seed,
            },
            "max_steps": STEPS,
            "batch_size": BATCH,
            "evaluate_every": "never",
        }
        scores[name] = bench.tune(tune, seed)["test_accuracy"]
    return {"scores": {"a fine-tuned model for every target": scores}}


def on_targets(encoder: Any, seed: int) -> dict[str, float]:
    """Accuracy of a logistic regression on each target's test rows."""
    from luthier.representing.heads import LinearHead

    found = {}
    for name in TARGETS:
        (texts, labels), (test_texts, test_labels) = target(name, seed)
        vectors = encoder.encode(texts, batch_size=32)
        head = LinearHead.fit(vectors, labels, representation=encoder.representation)
        predicted = head.predict(encoder.encode(test_texts, batch_size=32)).labels
        found[name] = statistics.fmean(a == b for a, b in zip(predicted, test_labels, strict=True))
    return found


@cache
def target(name: str, seed: int) -> tuple[tuple[list[Any], list[str]], tuple[list[Any], list[str]]]:
    """Training and test texts (or pairs) with their labels."""
    from luthier.data.loading import load_data
    from luthier.data.settings import DataSettings

    task = load_data(DataSettings(source=f"data:{name}", subset_seed=seed, **TARGET), splits=("train", "test"))
    both = []
    for split in ("train", "test"):
        rows = task.splits[split]
        columns = [list(rows[c]) for c in ("text", "text_pair") if c in rows.column_names]
        texts = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
        both.append((texts, [task.labels[i] for i in rows["label"]]))
    return both[0], both[1]


def page(cells: Cells) -> str:
    """Every way of making a representation, and what a new source task costs, for each backbone."""
    intro = (
        "## Task prefixes: fixed representations for unseen tasks\n\nSource tasks sst2, agnews and sick (800 "
        "rows each, 150 steps of 8 a task); accuracy of a logistic regression fitted on 300 rows of each target, on "
        "200 test rows; mean ± sample standard deviation over seeds. `first` and `mean`: the pooling of the tokens, "
        "the first one where nothing is said.\n"
    )
    parts = [part for (other,), found in grouped(cells, "backbone").items() for part in _backbone(found, other)]
    return "\n".join([intro, *parts])


def findings(cells: Cells) -> list[Finding]:
    """On each backbone: prefixes against multi-task tuning, both as their authors read them and both at their best."""
    measured = []
    for (other,), found in grouped(cells, "backbone").items():
        for pooling in ("mean", "first"):
            claim = Claim(
                "Representations from prefixes serve unseen tasks better than multi-task tuning.",
                f"accuracy on target tasks, prefixes (concat, first) less multi-task model ({pooling})",
                None,
                "",
                other or "MiniLM",
                main=pooling == "mean",
            )
            measured.append((claim, between(found, "prefixes, concat", f"multi-task model, {pooling}")))
    return findings_of(measured, hours_of(cells))


def between(cells: Cells, first: str, second: str) -> Differences | None:
    """The difference of two representations, by target."""
    sides: list[dict[Any, Any]] = []
    for title in (first, second):
        entries = [e for e in cells if title in e["scores"] and e["cell"]["arm"] != "prefixes, slower"]
        sides.append({e["cell"]["seed"]: e["scores"][title] for e in entries})
    return Differences.paired(
        {target: tuple({s: scores[target] for s, scores in side.items()} for side in sides) for target in TARGETS}
    )


def answers(cells: Cells) -> list[tuple[str, str]]:
    """The cost of an update."""
    seconds = []
    for (other,), found in grouped(cells, "backbone").items():
        cost = update_seconds(found)
        seconds.append(f"{other or 'MiniLM'}: {cost['prefixes']:.0f} s against {cost['multi_task']:.0f} s")
    return [("One more source task costs less than multi-task tuning again.", f"{'; '.join(seconds)}.")]


def _mean(scores: dict[str, list[float]]) -> float:
    return statistics.fmean(statistics.fmean(values) for values in scores.values())


def update_seconds(cells: Cells) -> dict[str, float]:
    """Arm -> mean seconds of an update by one source task."""
    updated = grouped([e for e in cells if "update_seconds" in e], "arm")
    return {arm: statistics.fmean(e["update_seconds"] for e in own) for (arm,), own in updated.items()}


def scores_of(cells: Cells) -> tuple[dict[str, dict[str, list[float]]], dict[str, tuple[Any, Any]]]:
    """Representation -> target -> score of every seed, and representation -> (width, passes)."""
    scores: dict[str, dict[str, list[float]]] = {}
    about: dict[str, tuple[Any, Any]] = {}
    for entry in cells:
        slower = entry["cell"]["arm"] == "prefixes, slower"
        for title, found in entry["scores"].items():
            if slower and title.startswith(("frozen", "untrained")):
                continue
            widths = (entry.get("widths", {}).get(title, ""), entry.get("passes", {}).get(title, ""))
            title = f"{title}, rate {SLOWER:g}" if slower else title
            about[title] = widths
            for name, score in found.items():
                scores.setdefault(title, {}).setdefault(name, []).append(score)
    return scores, about


def _backbone(cells: Cells, other: str | None) -> list[str]:
    (scores, about), rows = scores_of(cells), []
    for title, found in scores.items():
        shown = [spread(found[name]) if name in found else "" for name in TARGETS]
        rows.append([title, *map(str, about[title]), *shown, f"{_mean(found):.3f}"])
    updates = [[arm, f"{seconds:.0f} s"] for arm, seconds in update_seconds(cells).items()]
    first = pick(cells, arm="prefixes")
    parameters = f"{first[0]['update_parameters']:,}" if first else "?"
    return [
        f"### {other or 'MiniLM'}\n",
        table(["representation", "width", "passes", *TARGETS, "mean"], rows),
        f"A new source task trains {parameters} numbers under prefixes, and the whole model again, on all sources, "
        "under multi-task tuning. Seconds of an update:\n",
        table(["way", "one more source task"], updates),
    ]


if __name__ == "__main__":
    main()
