"""Red-teaming of a user's own model: MART, an adversary and a target that learn in turn until the attacks fail."""

from __future__ import annotations

from luthier._lazy import lazy_names

_HOMES = {
    "Judge": "luthier.redteaming.judges.base",
    "Judgement": "luthier.redteaming.judges.base",
    "MartLoop": "luthier.redteaming.loop",
    "MartSettings": "luthier.redteaming.settings",
    "judge_report": "luthier.redteaming.judges.report",
    "load_judge": "luthier.redteaming.judges.loading",
    "read_prompts": "luthier.redteaming.seeds",
    "select_round": "luthier.redteaming.selection",
    "write_garak": "luthier.redteaming.exchange",
    "write_pyrit": "luthier.redteaming.exchange",
    "write_review": "luthier.redteaming.review",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
