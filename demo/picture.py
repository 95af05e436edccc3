"""Makes the README's picture from what `make demo` left: `docs/demo.json` has the numbers, `docs/demo.svg` draws them.

    python demo/picture.py runs/quickstart     # numbers from the run, and the picture
    python demo/picture.py                     # the picture alone, from the numbers that are there

A test draws the picture anew from the numbers and compares.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

from luthier.report.choice import recommend
from luthier.report.plots import plot_bars
from luthier.report.results import read_run

DOCS = Path(__file__).parent.parent / "docs"
NUMBERS, PICTURE = DOCS / "demo.json", DOCS / "demo.svg"
DIGITS = 4
GROUND = 'style="background:#fff" width="760"'


def main(folders: list[str]) -> None:
    if folders:
        numbers = numbers_of(Path(folders[0]))
        NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf8")
    numbers = json.loads(NUMBERS.read_text(encoding="utf8"))
    PICTURE.write_text(picture(numbers), encoding="utf8")


def numbers_of(folder: Path) -> dict[str, Any]:
    """What the demo came to: every method's validation scores and interval, its distance to the best, and its cost."""
    run = read_run(folder)
    choice = recommend(run)
    if choice is None or choice.chosen is None:
        raise SystemExit(f"{folder} recommends nothing: run `make demo` to its end first")
    split = choice.chosen_by_split()
    return {
        "recipe": "recipes/local/quickstart.yaml",
        "score": choice.score_name,
        "recommended": choice.chosen.label,
        "reasons": choice.reasons,
        "methods": {
            contender.row.label: {
                "seeds": {str(seed): round(score, DIGITS) for seed, score in contender.row.scores.items()},
                "interval": rounded(contender.row.interval),
                "best_minus_this": rounded(contender.gap.interval) if contender.gap else None,
                "told_apart": not contender.level,
                "trained_parameters": contender.row.mean_cost("trainable_parameters"),
            }
            for contender in choice.contenders
        },
        "recommended_by_split": [[text for text, _ in row] for row in split["rows"]] if split else [],
        "matplotlib": matplotlib.__version__,
        "environment": {key: run.environment.get(key) for key in ("luthier", "libraries", "processor", "cores")},
    }


def rounded(pair: tuple[float, float] | None) -> list[float] | None:
    return [round(end, DIGITS) for end in pair] if pair else None


def picture(numbers: dict[str, Any]) -> str:
    """The numbers as an SVG file of its own, on a light ground."""
    names = {
        method: f"{method}{' (recommended)' if method == numbers['recommended'] else ''}"
        for method in numbers["methods"]
    }
    svg = plot_bars(
        {names[method]: list(one["seeds"].values()) for method, one in numbers["methods"].items()},
        title="The recommendation of the demo",
        x_label=f"{numbers['score']}, 95 % interval",
        intervals={names[method]: one["interval"] for method, one in numbers["methods"].items()},
    )
    return svg.replace("<svg", f"<svg {GROUND}", 1) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
