"""Distillation from a weak teacher (Lee et al., Findings of ACL 2023): does a larger model learn from a smaller one?

A student of 6 layers learns masked language modelling from random weights, alone or with a frozen teacher of 4, 2 or 1
layers that was trained alone in as many steps (weak, very weak, extremely weak).

Claim, as one number: the gain, how much lower the held-out loss is with the weak teacher (weights 1 : 1) than alone, in
parts of what two layers bring, the loss of 4 layers alone less that of 6. The paper's GLUE scores, 77.66, 79.89 and
81.33, make it 1.44 / 2.23 = 0.65.

Main comparisons, by Holm's procedure: the weak teacher against alone at equal steps, and at equal floating-point
operations of the student's training, for which alone is trained longer. A comparison holds where the interval of the
gain, seeds and blocks redrawn, is above 0; it does not hold where the 95 % interval is below half of the published
gain; else it is not told, with the seeds that would tell.

Exploratory: the order of the paper's table, weak > alone > very weak > extremely weak; soft weight 4, and 4 that falls
to 1; remapping on and off (`repeat_last`), with and without the teacher; the fine-tuned score. Rates and lengths are
the same in all arms.

`--pilot` runs three seeds of the main arms; the page then tells the deviation of paired seeds and the seeds needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
from evidence import Claim, Differences, Finding, findings_of, hours_of
from language_arms import SCALES, Arms, arguments, claim_of, gain, lifeless, line, of_arm, power, spent
from tables import Cells, grouped, pick, table

STUDENT, TEACHERS = 6, {"weak": 4, "very_weak": 2, "extremely_weak": 1}
PUBLISHED = 1.44 / 2.23
FALLING = {"kind": "linear", "start": 4, "end": 1}
MAIN = ("teacher_weak", "alone", "weak", "alone_equal_flops")
MORE = ("teacher_very_weak", "teacher_extremely_weak", "very_weak", "extremely_weak", "strong", "decay")
MORE += ("remapped", "remapped_alone")
ARMS = (*MAIN, *MORE)
EXPLORED = 3  # seeds of the exploratory arms


def main() -> None:
    options = arguments(__doc__)
    scale, arms = SCALES[options.scale], Arms("weak_teacher", options.scale)
    seeds = range(1, (min(EXPLORED, scale.seeds) if options.pilot else scale.seeds) + 1)
    cells = [{"arm": arm, "seed": seed} for seed in seeds for arm in MAIN]
    cells += [] if options.pilot else [{"arm": arm, "seed": s} for s in seeds if s <= EXPLORED for arm in MORE]
    settings = {"scale": vars(scale), "student": STUDENT, "teachers": TEACHERS}
    harness.run_cells(
        claim_of("weak_teacher", options.scale), settings, cells, lambda cell: measured(arms, **cell), options
    )


def measured(arms: Arms, arm: str, seed: int) -> dict[str, Any]:
    """One arm's model on the held-out text."""
    if arm.startswith("teacher_"):
        model = arms.alone(TEACHERS[arm.removeprefix("teacher_")], seed)
    elif arm.startswith("alone"):
        model = arms.alone(STUDENT, seed, factor(arms, arm))
    else:
        model = student(arms, arm, seed)
    return {"models": {"model": arms.scored(model, seed)}, "factor": factor(arms, arm)}


def student(arms: Arms, arm: str, seed: int) -> Path:
    """The student of an arm that has a teacher, or starts from one."""
    teacher, new = str(arms.alone(TEACHERS.get(arm, TEACHERS["weak"]), seed).resolve()), arms.new(STUDENT)
    if arm.startswith("remapped"):
        new |= {"model": teacher, "init": "remap", "remap": {"depth": "repeat_last"}}
    if arm == "remapped_alone":
        return arms.trained(arm, seed, {"student": new}, give="student") / "model"
    weight: Any = {"strong": 4, "decay": FALLING}.get(arm, 1)
    nodes = {"student": new, "teacher": {"model": teacher, "frozen": True}}
    edges = [{"teacher": "teacher", "student": "student", "weight": weight}]
    return arms.trained(arm, seed, nodes, edges, give="student") / "model"


def factor(arms: Arms, arm: str) -> float:
    """Steps of an arm against the others': alone at equal operations has what the teacher's forward passes take."""
    if arm != "alone_equal_flops":
        return 1.0
    return 1 + arms.operations(TEACHERS["weak"]) / (3 * arms.operations(STUDENT))


BESIDE = {"steps": "alone", "operations": "alone_equal_flops"}
SOURCE = f"{PUBLISHED:.2f} of what two layers bring"


def gains(cells: Cells) -> tuple[float, dict[str, Differences | None]]:
    """What two layers bring, in nats, and the main comparisons."""
    own = {arm: of_arm(cells, arm, "model") for arm in ARMS}
    depth = gain(own["alone"], own["teacher_weak"])
    found = {f"at equal {name}": gain(own["weak"], own[arm]) for name, arm in BESIDE.items()}
    return (0.0 if depth is None else depth.mean), found


def findings(cells: Cells) -> list[Finding]:
    layers, found = gains(cells)
    why = lifeless(of_arm(cells, "alone", "model"))
    why = why or ("" if layers > 0 else f"{STUDENT} layers alone are no better than {TEACHERS['weak']}")
    measured = [
        (
            Claim(
                f"A student learns more with a weaker, smaller teacher than alone, {name}.",
                "held-out loss in nats, alone less taught",
                PUBLISHED * layers,
                SOURCE,
                "new ModernBERT",
            ),
            differences,
        )
        for name, differences in found.items()
    ]
    return findings_of(measured, hours_of(cells), why)


def page(cells: Cells) -> str:
    layers, found = gains(cells)
    alone = of_arm(cells, "alone", "model")
    rows = [[arm, *line(cells, arm, "model", alone)] for arm in ARMS if pick(cells, arm=arm)]
    needed = [
        f"{name}: {power(differences, PUBLISHED * layers / 2)} half of the published gain"
        for name, differences in found.items()
        if differences is not None and differences.seeds > 1 and layers > 0
    ]
    factors = sorted({f"{e['factor']:.2f}" for e in pick(cells, arm="alone_equal_flops")})
    told = [
        f"Masked language models of {STUDENT} layers, alone or taught by a frozen one of 4, 2 or 1; loss in nats on "
        f"held-out text, {len(grouped(cells, 'seed'))} seeds.",
        f"Two layers bring {layers:.4f} nats.",
        *[f"Alone at equal operations has {one} times the steps." for one in factors],
        *[f"The weak teacher lowers its loss {name} by {one}." for name, one in found.items() if one is not None],
        *[f"{one}." for one in needed],
        spent(cells),
    ]
    about = f"## A weak teacher\n\n{' '.join(told)}\n"
    columns = ["arm", "held-out loss", "lower than alone by (95 %)", "fine-tuned", "seeds"]
    return about + "\n" + table(columns, rows)


if __name__ == "__main__":
    main()
