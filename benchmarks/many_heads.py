"""Sentences a second for 1, 4, 16 and 64 tasks: many heads on one shared pass against a model for every task.

MiniLM, sentences of SST-2, one pinned core, a fresh process for every measurement, the two ways in turn. The shared
encoder carries three prefixes side by side. N passes of one classifier stand for N tuned models of its size, which
would also need N times its memory.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import harness
from tables import Cells, grouped, median_and_range, pick, table

TASKS, ROUNDS, SENTENCES, BATCH, PREFIXES = (1, 4, 16, 64), 3, 64, 32, 3
SETTINGS = {"tasks": TASKS, "rounds": ROUNDS, "sentences": SENTENCES, "batch": BATCH, "prefixes": PREFIXES}


def main() -> None:
    if len(sys.argv) > 2 and sys.argv[1] == "--measure":
        print(json.dumps(measure_here(json.loads(sys.argv[2]))))
        return
    cells = [
        {"tasks": tasks, "way": way, "round": number}
        for number in range(ROUNDS)
        for tasks in TASKS
        for way in ("shared", "separate")
    ]
    harness.run_cells("many_heads", SETTINGS, cells, measure_apart, harness.arguments(__doc__))


def measure_apart(cell: dict[str, Any]) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--measure", json.dumps(cell)]
    return harness.answer_of(command)


def measure_here(cell: dict[str, Any]) -> dict[str, Any]:
    """Sentences a second, each with the answers of all tasks."""
    harness.single_core()
    from luthier.data.loading import load_data
    from luthier.data.settings import DataSettings

    data = load_data(DataSettings(source="data:sst2", limit=SENTENCES), splits=("validation",))
    texts = list(data.splits["validation"]["text"])
    answer = shared(texts, cell["tasks"]) if cell["way"] == "shared" else separate(cell["tasks"])
    answer(texts[:BATCH])
    started = time.perf_counter()
    answer(texts)
    return {"sentences_per_second": len(texts) / (time.perf_counter() - started)}


def shared(texts: list[str], tasks: int) -> Any:
    """One encoder with as many heads."""
    from peft import get_peft_model

    from luthier.models.artifacts import load
    from luthier.tuning import SharedEncoder, TaskPrefixConfig

    encoder = SharedEncoder(harness.MINILM)
    for number in range(PREFIXES):
        encoder.add(f"source-{number}", get_peft_model(load(harness.MINILM)[0], TaskPrefixConfig(prefix_length=5)))
    for number in range(tasks):
        encoder.fit_head(f"task-{number}", texts[:8], ["yes", "no"] * 4, batch_size=BATCH)
    return lambda some: encoder.predict(some, batch_size=BATCH)


def separate(tasks: int) -> Any:
    """As many passes of a classifier."""
    from luthier.models.artifacts import load_model
    from luthier.models.loading import load_tokenizer
    from luthier.models.settings import ModelSettings
    from luthier.robustness.scoring import Scorer

    model = load_model(harness.MINILM, "sequence_classification", labels=["yes", "no"])
    scorer = Scorer(model, load_tokenizer(ModelSettings(reference=harness.MINILM)), batch_size=BATCH)
    return lambda some: [scorer(some) for _ in range(tasks)]


def page(cells: Cells) -> str:
    rows = []
    for (tasks,), found in grouped(cells, "tasks").items():
        speeds = speeds_of(found)
        if ratios := ratios_of(speeds):
            shown = [f"{statistics.median(speeds[way].values()):,.1f}" for way in speeds]
            rows.append([str(tasks), *shown, median_and_range(ratios, 1)])
    about = (
        "## Many tasks from one text\n\nMiniLM, sentences of SST-2, one pinned core; sentences a second, each with the "
        "answers of all tasks. Shared: three prefixes side by side and one linear head a task; separate: a pass of a "
        "classifier for every task.\n"
    )
    return about + "\n" + table(["tasks", "shared", "separate", "ratio (range of rounds)"], rows)


def answers(cells: Cells) -> list[tuple[str, str]]:
    most = max(TASKS)
    said = median_and_range(ratios_of(speeds_of(pick(cells, tasks=most))), 0)
    return [(f"How much faster are {most} heads on one shared pass than {most} models?", f"{said} times.")]


def speeds_of(cells: Cells) -> dict[str, dict[int, float]]:
    """Way -> round -> sentences a second."""
    return {
        way: {e["cell"]["round"]: e["sentences_per_second"] for e in pick(cells, way=way)}
        for way in ("shared", "separate")
    }


def ratios_of(speeds: dict[str, dict[int, float]]) -> list[float]:
    return [speeds["shared"][r] / speeds["separate"][r] for r in speeds["shared"] if r in speeds["separate"]]


if __name__ == "__main__":
    main()
