"""How often SmolLM2-135M-Instruct refuses: alone, and under preambles that stand as the system's text or in the prompt.

Context distillation learns the answers that a preamble brings about, so that a preamble which is not heeded leaves
nothing to learn. One cell a preamble: 40 seeds of AdvBench and 40 harmless instructions (20 look-alikes of
Safety-Tuned LLaMAs, 20 of Alpaca), one sampled answer of 36 tokens each; a refusal is told by its opening words.
"""

from __future__ import annotations

import json
import random
from typing import Any

import harness
import mart
from tables import Cells, table

from luthier.data.sources.base import data_folder
from luthier.generation.loaded import LoadedModels
from luthier.generation.rollout import Rollout
from luthier.generation.writing import Request, seed_of
from luthier.models.settings import ModelSettings
from luthier.redteaming.judges.rules import is_refusal
from luthier.redteaming.selection import wilson_interval
from luthier.redteaming.settings import PREAMBLE

PROMPTS, TOKENS = 40, 36
PREAMBLES = {"none": "", "default": PREAMBLE, "mart.py": mart.PREAMBLE}
PLACES = ("system", "prompt")


def main() -> None:
    models = LoadedModels()
    cells = [{"preamble": "none", "place": "system"}]
    cells += [{"preamble": name, "place": place} for name in ("default", "mart.py") for place in PLACES]
    settings = {"prompts": PROMPTS, "tokens": TOKENS, "preambles": PREAMBLES, "model": mart.SMOLLM}
    harness.run_cells("preambles", settings, cells, lambda cell: measure(cell, models), harness.arguments(__doc__))


def measure(cell: dict[str, Any], models: LoadedModels) -> dict[str, Any]:
    model, tokenizer, reserved = models.get(ModelSettings.model_validate(mart.SMOLLM))
    writer, text = Rollout(model, tokenizer, batch_size=PROMPTS, reserved=reserved), PREAMBLES[cell["preamble"]]
    found: dict[str, Any] = {}
    for kind, prompts in asked().items():
        requests = [
            Request(
                str(place),
                f"{text}\n\n{prompt}" if cell["place"] == "prompt" else prompt,
                text if cell["place"] == "system" else "",
                seed=seed_of(kind, prompt),
            )
            for place, prompt in enumerate(prompts)
        ]
        answers = [one.text for part in writer.write(requests, TOKENS) for one in part]
        found[f"{kind}_refused"] = sum(map(is_refusal, answers))
        found[kind] = len(answers)
    return found


def asked() -> dict[str, list[str]]:
    """Harmful and harmless prompts, drawn once."""
    data, draw = data_folder("preambles"), random.Random(7)
    harmful = [row["goal"] for row in mart.read_csv(data / "advbench" / "harmful_behaviors.csv")]
    alike = json.loads((data / "safety_tuned" / "I-PhysicalSafetySafe.json").read_text("utf8"))["instructions"]
    rows = json.loads((data / "alpaca" / "alpaca_6k.json").read_text("utf8"))
    plain = [row["instruction"] for row in rows if not row["input"]]
    half = PROMPTS // 2
    return {
        "harmful": draw.sample(harmful, PROMPTS),
        "harmless": [*draw.sample(alike, half), *draw.sample(plain, half)],
    }


def page(cells: Cells) -> str:
    rows = [
        [
            one["cell"]["preamble"],
            one["cell"]["place"] if one["cell"]["preamble"] != "none" else "",
            *(
                f"{one[f'{kind}_refused']} of {one[kind]} ({low:.0%} to {high:.0%})"
                for kind in ("harmful", "harmless")
                for low, high in [wilson_interval(one[f"{kind}_refused"], one[kind])]
            ),
        ]
        for one in cells
    ]
    about = (
        "## Preambles\n\nRefusals of SmolLM2-135M-Instruct, told by their opening words, with 95 % intervals. Context "
        "distillation needs a preamble that is heeded.\n"
    )
    return about + "\n" + table(["preamble", "place", "harmful refused", "harmless refused"], rows)


if __name__ == "__main__":
    main()
