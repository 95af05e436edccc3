"""Claims about models that teach one another, from cells as the scripts write them."""

from importlib import import_module

import numpy as np
import pytest


def cells(script: str, losses: dict[tuple[str, str], float], seeds: int = 4) -> list[dict]:
    """Of every arm and model with its mean loss; 40 blocks of 10 masked tokens."""
    found: dict[tuple[str, int], dict] = {}
    for (arm, role), loss in losses.items():
        for seed in range(seeds):
            nll = 10 * (loss + 0.02 * np.random.default_rng(seed).normal(size=40))
            entry = found.setdefault(
                (arm, seed), {"cell": {"arm": arm, "seed": seed}, "models": {}, "factor": 1.4, "wall_seconds": 3600}
            )
            entry["models"][role] = {"loss": loss, "nll": nll.tolist(), "items": [10] * 40, "tuned": 0.7}
    return list(found.values())


WEAK = {("alone", "model"): 4.0, ("teacher_weak", "model"): 4.2, ("alone_equal_flops", "model"): 3.95}
BOTH = {("alone_large", "large"): 4.0, ("alone_small", "small"): 4.2, ("alone_large_equal_flops", "large"): 3.95}


@pytest.mark.parametrize(
    ("taught", "steps", "operations"), [(3.8, "holds", "holds"), (4.0, "does not hold", "does not hold")]
)
def test_weak_teacher(taught, steps, operations):
    script = import_module("weak_teacher")
    some = cells("weak_teacher", {**WEAK, ("weak", "model"): taught})
    findings = script.findings(some)
    assert [f.verdict for f in findings] == [steps, operations]
    assert findings[0].claim.published == pytest.approx(0.2 * script.PUBLISHED, abs=1e-6)
    assert findings[0].differences.mean == pytest.approx(4.0 - taught, abs=1e-6)
    assert findings[0].hours == 16
    assert "Two layers bring 0.2000 nats" in script.page(some)


def test_depth_that_brings_nothing_makes_claims_untestable():
    script = import_module("weak_teacher")
    some = cells("weak_teacher", {**WEAK, ("teacher_weak", "model"): 3.9, ("weak", "model"): 3.8})
    assert {f.verdict for f in script.findings(some)} == {"not testable here: 6 layers alone are no better than 4"}


@pytest.mark.parametrize(("script", "losses"), [("weak_teacher", WEAK), ("co_distillation", BOTH)])
def test_models_that_only_know_the_shares_of_tokens_test_nothing(script, losses):
    taught = {("weak", "model"): 3.8, ("ctcd", "large"): 3.8, ("ctcd", "small"): 3.8}
    some = cells(script, {**losses, **taught})
    for entry in some:
        for model in entry["models"].values():
            model["shares"] = 4.1
    assert all("0.10 nats better than the shares" in f.verdict for f in import_module(script).findings(some))
    for entry in some:
        for model in entry["models"].values():
            model["shares"] = 6.0
    assert import_module(script).findings(some)[0].verdict == "holds"


def test_co_distillation():
    script = import_module("co_distillation")
    some = cells("co_distillation", {**BOTH, ("ctcd", "large"): 3.8, ("ctcd", "small"): 4.1})
    lift, equal, margin, margin_equal = script.findings(some)
    assert [f.claim.main for f in (lift, equal, margin, margin_equal)] == [True, False, True, False]
    assert lift.verdict == "holds"
    assert margin.verdict == "does not hold"
    assert "Two layers bring 0.2000 nats" in script.page(some)
