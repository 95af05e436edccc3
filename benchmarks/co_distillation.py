"""Co-training and co-distillation (Lee et al., Findings of EMNLP 2023): do two models of unlike size lift each other?

Models of 6 and 4 layers learn masked language modelling from random weights. Arms: both alone; one-way distillation
from the larger one, trained before and frozen, or trained along; reversed, from the smaller one, trained along or
frozen; and CTCD, both ways.

Claims, each as one number, in parts of what two layers bring (the loss of the smaller model alone less that of the
larger one alone): `lift`, how much lower the larger model's held-out loss is by CTCD than alone (the paper gives its
sign alone; that of the sister paper, by a frozen small teacher, is 1.44 / 2.23 = 0.65), and `margin`, how much lower
that of the smaller model by CTCD is than that of the larger one alone (+1.66 GLUE points, 1.66 / 2.23 = 0.74 of the
sister paper's distance).

These two are the main comparisons, at equal steps, by Holm's procedure. One holds where the interval, seeds and blocks
redrawn, is above 0; it does not hold where the 95 % interval is below half of the published value; else it is not told,
with the seeds that would tell. Beside each stands the same against the larger model alone at equal floating-point
operations, for which it is trained longer; and, exploratory, the smaller model by CTCD against one-way distillation,
and the fine-tuned score.

`--pilot` runs three seeds of the arms of the main comparisons; the page then tells the deviation of paired seeds.
"""

from __future__ import annotations

from typing import Any

import harness
from evidence import Claim, Differences, Finding, findings_of, hours_of
from language_arms import SCALES, Arms, arguments, claim_of, gain, lifeless, line, of_arm, power, spent
from tables import Cells, grouped, table

LARGE, SMALL = 6, 4
PUBLISHED = {"lift": 1.44 / 2.23, "margin": 1.66 / 2.23}
DOWN, UP = {"teacher": "large", "student": "small"}, {"teacher": "small", "student": "large"}
MAIN = ("alone_large", "alone_small", "ctcd", "alone_large_equal_flops")
MORE = ("one_way_fixed", "one_way_along", "reversed_along", "reversed_fixed")
EXPLORED = 3


def main() -> None:
    options = arguments(__doc__)
    scale, arms = SCALES[options.scale], Arms("co_distillation", options.scale)
    seeds = range(1, (min(EXPLORED, scale.seeds) if options.pilot else scale.seeds) + 1)
    cells = [{"arm": arm, "seed": seed} for seed in seeds for arm in MAIN]
    cells += [] if options.pilot else [{"arm": arm, "seed": s} for s in seeds if s <= EXPLORED for arm in MORE]
    settings = {"scale": vars(scale), "layers": [LARGE, SMALL]}
    harness.run_cells(
        claim_of("co_distillation", options.scale), settings, cells, lambda cell: measured(arms, **cell), options
    )


def measured(arms: Arms, arm: str, seed: int) -> dict[str, Any]:
    """The models of an arm on the held-out text."""
    times = factor(arms, arm)
    found = {role: arms.scored(folder, seed) for role, folder in trained(arms, arm, seed, times).items()}
    return {"models": found, "factor": times}


def trained(arms: Arms, arm: str, seed: int, times: float = 1.0) -> dict[str, Any]:
    """The folders of the models that an arm trains, by `large` and `small`."""
    large, small = arms.new(LARGE), arms.new(SMALL)
    if arm.startswith("alone_large"):
        return {"large": arms.alone(LARGE, seed, times)}
    if arm == "alone_small":
        return {"small": arms.alone(SMALL, seed)}
    if arm == "one_way_fixed":
        nodes = {"small": small, "large": frozen(arms, "alone_large", "large", seed)}
        return {"small": arms.trained(arm, seed, nodes, [DOWN], give="small") / "model"}
    if arm == "reversed_fixed":
        nodes = {"large": large, "small": frozen(arms, "alone_small", "small", seed)}
        return {"large": arms.trained(arm, seed, nodes, [UP], give="large") / "model"}
    edges = {"one_way_along": [DOWN], "reversed_along": [UP], "ctcd": [DOWN, UP]}[arm]
    folder = arms.trained(arm, seed, {"large": large, "small": small}, edges, give="large")
    return {"large": folder / "model", "small": folder / "small"}


def frozen(arms: Arms, arm: str, role: str, seed: int) -> dict[str, Any]:
    """A node that was trained alone."""
    return {"model": str(trained(arms, arm, seed)[role].resolve()), "frozen": True}


def factor(arms: Arms, arm: str) -> float:
    """Steps of an arm against the others': alone at equal operations has those of both models."""
    if arm != "alone_large_equal_flops":
        return 1.0
    return 1 + arms.operations(SMALL) / arms.operations(LARGE)


def gains(cells: Cells) -> tuple[float, dict[str, tuple[str, Differences | None]]]:
    """What two layers bring, and name -> which published value it is held against, and the comparison."""
    alone, longer = (of_arm(cells, arm, "large") for arm in ("alone_large", "alone_large_equal_flops"))
    depth = gain(alone, of_arm(cells, "alone_small", "small"))
    large, small = (of_arm(cells, "ctcd", role) for role in ("large", "small"))
    return (0.0 if depth is None else depth.mean), {
        "lift": ("lift", gain(large, alone)),
        "lift at equal operations": ("lift", gain(large, longer)),
        "margin": ("margin", gain(small, alone)),
        "margin at equal operations": ("margin", gain(small, longer)),
    }


CLAIMS = {
    "lift": "A larger model learns more when it is trained along with a smaller one and each learns from the other",
    "margin": "A smaller model that is trained so is better than the larger one alone",
}


def findings(cells: Cells) -> list[Finding]:
    layers, found = gains(cells)
    why = lifeless(of_arm(cells, "alone_large", "large"))
    why = why or ("" if layers > 0 else f"{LARGE} layers alone are no better than {SMALL}")
    measured = [
        (
            Claim(
                f"{CLAIMS[which]}{'' if name == which else ', at equal operations'}.",
                f"held-out loss in nats, large alone less {'large' if which == 'lift' else 'small'} by CTCD",
                PUBLISHED[which] * layers,
                f"{PUBLISHED[which]:.2f} of what two layers bring",
                "new ModernBERT",
                main=name == which,
            ),
            differences,
        )
        for name, (which, differences) in found.items()
    ]
    return findings_of(measured, hours_of(cells), why)


def page(cells: Cells) -> str:
    layers, found = gains(cells)
    alone = of_arm(cells, "alone_large", "large")
    rows = [
        [arm, role, *line(cells, arm, role, alone)]
        for arm in (*MAIN, *MORE)
        for role in ("large", "small")
        if of_arm(cells, arm, role)
    ]
    needed = [
        f"{name}: {power(differences, PUBLISHED[which] * layers / 2)} half of the published value."
        for name, (which, differences) in found.items()
        if differences is not None and differences.seeds > 1 and layers > 0
    ]
    one_way = gain(of_arm(cells, "ctcd", "small"), of_arm(cells, "one_way_fixed", "small"))
    told = [
        f"Masked language models of {LARGE} and {SMALL} layers; loss in nats on held-out text, "
        f"{len(grouped(cells, 'seed'))} seeds.",
        f"Two layers bring {layers:.4f} nats.",
        *([] if one_way is None else [f"Smaller model, CTCD lower than one-way distillation by {one_way}."]),
        *needed,
        spent(cells),
    ]
    about = f"## Co-training with co-distillation\n\n{' '.join(told)}\n"
    columns = ["arm", "model", "held-out loss", "lower than large alone by (95 %)", "fine-tuned", "seeds"]
    return about + "\n" + table(columns, rows)


if __name__ == "__main__":
    main()
