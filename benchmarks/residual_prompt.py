"""Residual Prompt Tuning against prompt tuning.

The paper's claims, at the scale of a 22.7 M sentence encoder on a laptop's processor:
a higher score; far less spread over learning rates; prompts ten times shorter at no loss; better in few-shot.

- rates: four data sets, 20 examples a class, prompt length 10, five rates over two decades, three seeds;
- lengths: 2, 10 and 100 on two of the sets, at the rate that validation chose at length 10;
- shots: 5, 20 and 100 examples a class on two sets, at that rate.

Both methods get the same number of steps, the same data and the same rate for the task head. Checkpoint and rate are
chosen on validation rows alone; the test rows are only scored.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import harness
from evidence import Claim, Differences, Finding, compared, findings_of, hours_of, plot
from tables import Cells, gap, grouped, pick, plot_file, spread, table, test_score, test_scores

SETS: dict[str, dict[str, Any]] = {
    "trec": {"source": "data:trec"},
    "subj": {"source": "data:subj"},
    "agnews": {"source": "data:agnews"},
    "sst2": {"source": "data:sst2"},
}
COMMON = {"too_long": "truncate", "evaluation_limit": 200}
# Of a text, whatever the prompt takes beside it.
TEXT_TOKENS = 54
# As in the paper, the network learns at the prompt's own rate; the task head's rate is the same for both methods.
METHOD_SETTINGS: dict[str, dict[str, Any]] = {
    "prompt": {"name": "prompt", "init": "vocabulary", "head_learning_rate": 5e-3},
    "residual_prompt": {
        "name": "residual_prompt",
        "init": "vocabulary",
        "head_learning_rate": 5e-3,
        "network_learning_rate": None,
    },
}
METHODS = tuple(METHOD_SETTINGS)
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SEEDS = (1, 2, 3)
STEPS, BATCH = 100, 8
SETTINGS = {
    "methods": METHOD_SETTINGS,
    "sets": SETS,
    "common": COMMON,
    "text_tokens": TEXT_TOKENS,
    "steps": STEPS,
    "batch": BATCH,
}


def tune_block(cell: dict[str, Any]) -> dict[str, Any]:
    """The recipe block of a cell."""
    size = {"per_class": cell["shots"], "subset_seed": cell["seed"], "max_length": TEXT_TOKENS + cell["length"]}
    data = SETS[cell["set"]] | COMMON | size
    return {
        "method": METHOD_SETTINGS[cell["method"]] | {"length": cell["length"]},
        "data": with_validation(data, cell),
        "max_steps": STEPS,
        "batch_size": BATCH,
        "learning_rate": cell["rate"],
        "evaluate_every": STEPS // 2,
    }


def with_validation(data: dict[str, Any], cell: dict[str, Any]) -> dict[str, Any]:
    """Sets without a validation split get one cut from their training rows."""
    cut = {"validation_fraction": 0.1} if cell["set"] in ("trec", "agnews") else {}
    return data | cut


def main() -> None:
    options = harness.arguments(__doc__)
    bench = harness.Bench()

    def measure(cell: dict[str, Any]) -> dict[str, Any]:
        return bench.tune(tune_block(cell), cell["seed"])

    done = harness.run_cells("residual_prompt", SETTINGS, rate_cells(), measure, options)
    if all(harness.cell_name(cell) in done["cells"] for cell in rate_cells()):
        chosen = best_rates(done["cells"].values())
        harness.run_cells("residual_prompt", SETTINGS, length_and_shot_cells(chosen), measure, options)


def rate_cells() -> list[dict[str, Any]]:
    return [
        {"set": s, "method": m, "length": 10, "shots": 20, "rate": r, "seed": seed}
        for seed in SEEDS
        for s in SETS
        for r in RATES
        for m in METHODS
    ]


def best_rates(measured: Any) -> dict[tuple[str, str], float]:
    """(set, method) -> the rate with the best mean validation accuracy at length 10."""
    found: dict[tuple[str, str], dict[float, list[float]]] = {}
    for entry in measured:
        cell = entry["cell"]
        if cell["length"] == 10 and cell["shots"] == 20:
            rates = found.setdefault((cell["set"], cell["method"]), {})
            rates.setdefault(cell["rate"], []).append(entry["validation_accuracy"])
    return {key: max(rates, key=lambda r: statistics.mean(rates[r])) for key, rates in found.items()}


def length_and_shot_cells(chosen: dict[tuple[str, str], float]) -> list[dict[str, Any]]:
    # The rarest label of TREC has fewer than 100 rows.
    variants = {
        (2, 20): ("trec", "agnews"),
        (100, 20): ("trec", "agnews"),
        (10, 5): ("trec", "agnews"),
        (10, 100): ("subj", "agnews"),
    }
    return [
        {"set": s, "method": m, "length": length, "shots": shots, "rate": chosen[s, m], "seed": seed}
        for seed in SEEDS
        for (length, shots), sets in variants.items()
        for s in sets
        for m in METHODS
    ]


# -- the page ------------------------------------------------------------------------------------------------


def page(cells: Cells) -> str:
    """Rates, lengths and shots."""
    rates = pick(cells, length=10, shots=20)
    parts = [
        "## Residual Prompt Tuning against prompt tuning\n",
        "Test accuracy on 200 rows a set, mean ± sample standard deviation over seeds. The paper's claims: a higher "
        "score, less spread over learning rates, shorter prompts at no loss.\n",
        *(plot(found, f"residual-prompt-{n}", plot_file) for n, found in enumerate(findings(cells))),
        "",
        "### Learning rates (prompt length 10, 20 examples a class)\n",
        rate_table(rates),
        rate_plot(rates),
        "### Score at the rate that validation chose, and spread over rates\n",
        chosen_table(rates),
    ]
    for title, key, fixed in (
        ("Prompt length", "length", {"shots": 20}),
        ("Examples a class", "shots", {"length": 10}),
    ):
        found = variant_table(cells, key, fixed)
        if found:
            parts += [f"### {title}\n", found]
    return "\n".join(parts)


CLAIMS = {
    "score": Claim(
        "Residual Prompt Tuning scores above prompt tuning.",
        "test accuracy at the rate that validation chose, residual prompt less prompt",
        0.07,
        "about 7 points on SuperGLUE with T5-Base",
        "MiniLM",
    ),
    "spread": Claim(
        "Residual Prompt Tuning is less sensitive to the learning rate.",
        "standard deviation of test accuracy over rates, prompt less residual prompt",
        None,
        "",
        "MiniLM",
    ),
}


def findings(cells: Cells) -> list[Finding]:
    rates = pick(cells, length=10, shots=20)
    return findings_of([(CLAIMS["score"], score(rates)), (CLAIMS["spread"], spreads(rates))], hours_of(cells))


def score(cells: Cells) -> Differences | None:
    """By set, each method at its chosen rate."""
    chosen = chosen_by_validation(cells)
    return compared(
        {
            name: tuple(pick(cells, set=name, method=m, rate=both[m].rate) for m in ("residual_prompt", "prompt"))
            for name, both in chosen.items()
        }
    )


def spreads(cells: Cells) -> Differences | None:
    """By set; every seed has its own deviation over the rates that all of them have."""
    units = {}
    for (name,), found in grouped(cells, "set").items():
        rates = {r[0] for r in grouped(found, "rate")}
        sides = []
        for method in ("prompt", "residual_prompt"):
            seeds = grouped(pick(found, method=method), "seed").items()
            sides.append({s: statistics.stdev(map(test_score, own)) for (s,), own in seeds if len(own) == len(rates)})
        units[name] = tuple(sides)
    return Differences.paired(units)


def rate_table(cells: Cells) -> str:
    rates = sorted({e["cell"]["rate"] for e in cells})
    rows = []
    for (name, method), entries in grouped(cells, "set", "method").items():
        by_rate = [test_scores(pick(entries, rate=r)) for r in rates]
        rows.append([name, method, *(spread(scores) if scores else "" for scores in by_rate)])
    return table(["set", "method", *(f"{r:g}" for r in rates)], sorted(rows))


def rate_plot(cells: Cells) -> str:
    from luthier.report.plots import plot_lines

    links = []
    for (name,), entries in grouped(cells, "set").items():
        series = {}
        for (method,), found in grouped(entries, "method").items():
            seeds = grouped(found, "seed").values()
            series[method] = [sorted((e["cell"]["rate"], e["test_accuracy"]) for e in seed) for seed in seeds]
        svg = plot_lines(
            series, title=f"{name}: test accuracy over rates", x_label="learning rate", y_label="accuracy", log_x=True
        )
        links.append(plot_file(f"rates-{name}", svg))
    return "\n".join(links) + "\n"


@dataclass(frozen=True)
class Chosen:
    """A method on a set, at the rate that validation chose.

    Attributes:
        rate: the rate.
        scores: seed -> test score.
        range: of the mean test scores over all rates.
    """

    rate: float
    scores: dict[int, float]
    range: float


def chosen_by_validation(cells: Cells) -> dict[str, dict[str, Chosen]]:
    """Set -> method -> what validation chose, of sets that have both methods."""
    found: dict[str, dict[str, Chosen]] = {}
    for (name, method), entries in grouped(cells, "set", "method").items():
        by_rate = {r[0]: some for r, some in grouped(entries, "rate").items()}
        best = max(by_rate, key=lambda r: statistics.fmean(e["validation_accuracy"] for e in by_rate[r]))
        means = [statistics.fmean(test_scores(some)) for some in by_rate.values()]
        scores = {e["cell"]["seed"]: e["test_accuracy"] for e in by_rate[best]}
        found.setdefault(name, {})[method] = Chosen(best, scores, max(means) - min(means))
    return {name: methods for name, methods in found.items() if len(methods) == len(METHODS)}


def chosen_table(cells: Cells) -> str:
    """Scores at the chosen rates."""
    chosen, rows = chosen_by_validation(cells), []
    for name, methods in chosen.items():
        shown = [[spread(list(m.scores.values())), f"{m.rate:g}", f"{m.range:.3f}"] for m in methods.values()]
        rows.append([name, *shown[0], *shown[1], gap(methods["prompt"].scores, methods["residual_prompt"].scores)])
    columns = ["set", *(c for m in METHODS for c in (m, "rate", "range over rates")), "difference (95 %)"]
    return table(columns, rows)


def variant_table(cells: Cells, key: str, fixed: dict[str, Any]) -> str:
    """Scores over one key, at the rates that the cells of another value of it were run with."""
    others = [e for e in pick(cells, **fixed) if e["cell"][key] != {"length": 10, "shots": 20}[key]]
    rows = []
    for (name, method, rate), entries in sorted(grouped(others, "set", "method", "rate").items()):
        base = pick(cells, set=name, method=method, rate=rate, length=10, shots=20)
        values = sorted({e["cell"][key] for e in [*entries, *base]})
        found = [test_scores([e for e in [*entries, *base] if e["cell"][key] == v]) for v in values]
        rows.append([name, method, f"{rate:g}", *(f"{v}: {spread(s)}" for v, s in zip(values, found, strict=True))])
    if not rows:
        return ""
    most = max(len(row) for row in rows) - 3
    return table(["set", "method", "rate", *[key] * most], [row + [""] * (most + 3 - len(row)) for row in rows])


if __name__ == "__main__":
    main()
