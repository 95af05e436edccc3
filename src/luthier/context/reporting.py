"""What the page shows of lengthening beside its scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.context.rope import decay, periods
from luthier.context.rope_config import rope_in
from luthier.context.rows import LENGTHS
from luthier.report.sections import Bars, Lines, Section, SectionTable, Value

if TYPE_CHECKING:
    from luthier.context.run import Ready
    from luthier.context.stage import Lengthen
    from luthier.training.job import TrainingResult


def sections(stage: Lengthen, ready: Ready, result: TrainingResult) -> list[Section]:
    """The frequencies before and after, the budget as it was spent, and the text that was read."""
    return [_positions(stage, ready), _budget(ready, result), _text(ready), _lengths(ready)]


def flop_account(ready: Ready, steps: int) -> dict[str, float]:
    """Operations of the steps that were trained: `all` of them, those that the paper counts, 72 tokens l h^2
    (1 + L / 6h), and what a curriculum saves of them."""
    config, whole = ready.model.config, ready.rows.curriculum
    lengths, tokens = whole.trained(ready.rows.steps, steps), steps * ready.budget.tokens_per_step
    sizes = int(config.num_hidden_layers), int(config.hidden_size)
    return {
        "all": tokens * ready.text.cost(ready.model, lengths).training,
        "paper": lengths.flops(tokens, *sizes),
        "paper_causal_half": lengths.flops(tokens, *sizes, causal_half=True),
        "saved": lengths.saving(*sizes, longest=whole.longest),
        "saved_causal_half": lengths.saving(*sizes, longest=whole.longest, causal_half=True),
    }


def _positions(stage: Lengthen, ready: Ready) -> Section:
    after = rope_in(ready.model.config)
    both = {"before": ready.before.frequencies(stage.length), "after": after.frequencies(stage.length)}
    step = max(1, stage.length // 200)
    distances = [1, *range(step, stage.length + 1, step)]
    curves = {
        name: [(float(n), float(y)) for n, y in zip(distances, decay(found, distances), strict=True)]
        for name, found in both.items()
    }
    facts: dict[str, Value] = {
        "kind": stage.rope.kind,
        "base": f"{ready.before.base:,.0f} before, {after.base:,.0f} after",
        "length": f"{ready.old_length:,} tokens before, {stage.length:,} after",
        "pairs slower than the length": ", ".join(
            f"{int((periods(found) > stage.length).sum())} {name}" for name, found in both.items()
        ),
        **{f"checked: {name}": found for name, found in ready.looked_at.items()},
    }
    plot = Lines(curves, x_label="distance in tokens", y_label="raw score of ones", log_x=True)
    return Section("Positions", facts=facts, plot=plot)


def _budget(ready: Ready, result: TrainingResult) -> Section:
    tokens = result.steps * ready.budget.tokens_per_step
    account = flop_account(ready, result.steps)
    lengths = ready.rows.curriculum
    facts: dict[str, Value] = {
        "tokens": f"{tokens:,}, {ready.budget.tokens_per_step:,} a step",
        "lengths": str(lengths),
        "floating-point operations": f"{account['all']:.3g}",
        "as the paper counts them": f"{account['paper']:.3g}; with the causal half of attention alone "
        f"{account['paper_causal_half']:.3g}",
    }
    if len(lengths.stages) > 1:
        facts["saved by shorter rows"] = (
            f"{account['saved']:.1%} of training at {lengths.longest:,} from the start; "
            f"{account['saved_causal_half']:.1%} with the causal half alone"
        )
    return Section("What was trained on", facts=facts)


def _text(ready: Ready) -> Section:
    report, passes = ready.rows.report, ready.rows.mixture.passes()
    rows: list[list[Value]] = [
        [name, tokens, f"{tokens / max(1, report.total):.1%}", report.documents[name], passes[name]]
        for name, tokens in report.tokens.items()
    ]
    columns = ["domain", "tokens", "share", "documents that ended", "passes finished"]
    facts: dict[str, Value] = {
        f"more than {least} tokens of left context": f"{share:.1%} of the tokens"
        for least, share in report.shares().items()
    }
    text = "Left context is what stands before a token in its own document and row."
    return Section("The text", text=text, facts=facts, table=SectionTable(columns, rows))


def _lengths(ready: Ready) -> Section:
    names = [f"up to {LENGTHS[0]:,}", *(f"to {end:,}" for end in LENGTHS[1:]), f"above {LENGTHS[-1]:,}"]
    totals = [sum(bins[n] for bins in ready.rows.report.lengths.values()) for n in range(len(names))]
    whole = max(1, sum(totals))
    values: Any = {name: count / whole for name, count in zip(names, totals, strict=True)}
    return Section("Tokens by the length of their document", plot=Bars(values, x_label="share of the tokens"))
