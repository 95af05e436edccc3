"""What the page of a `represent` stage shows beside its scores: source tasks, heads, and the attention of prefixes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from luthier.evaluation.run import told_of_rows
from luthier.models.inspect import parameter_counts
from luthier.report.sections import Lines, Section, SectionTable
from luthier.training.job import resolve_precision
from luthier.training.telling import told_of_model, told_of_settings

if TYPE_CHECKING:
    from luthier.representing.run import Target
    from luthier.representing.shared_encoder import SharedEncoder
    from luthier.representing.stage import Represent
    from luthier.stages.base import StageInputs

_PROBED = 64


def told_of_stage(
    stage: Represent,
    inputs: StageInputs,
    encoder: SharedEncoder,
    targets: dict[str, Target],
    learned: dict[str, dict[str, Any]],
    rows: dict[str, str],
) -> dict[str, Any]:
    """What was run, as `luthier.report.ran` reads it: the model, the prefixes, how they are trained, and all rows;
    `rows` are the fingerprints of those that heads are scored on."""
    card, size = encoder.base.card, parameter_counts(encoder.base.model)[1]
    prefix = told_of_settings(stage.prefix) if stage.tasks else {"name": "heads alone"}
    combined = {"combine": stage.combine, "pooling": encoder.representation.pooling}
    rate = stage.filled_in().learning_rate
    training = {
        "learning_rate": rate,
        "rate_from": "recipe" if stage.learning_rate is not None else "method",
        "schedule": stage.schedule,
        "warmup_ratio": stage.warmup_ratio,
        "precision": resolve_precision(stage.precision),
    }
    data = {f"{name}, {split}": told for name, one in learned.items() for split, told in one.get("data", {}).items()}
    uses = {"train": "a prefix", "validation": "choosing its weights"}
    data = {key: told | {"for": uses.get(key.rpartition(", ")[2], "")} for key, told in data.items()}
    for name, one in targets.items():
        for split, use in (("train", "fitting a head"), (one.split, "scoring it")):
            told = told_of_rows(split, one.task)
            digest = {"fingerprint": rows[name]} if split == one.split else {}
            data[f"{name}, {split}"] = told | {"for": use} | digest
    return {
        "model": told_of_model(inputs, card, size),
        "method": prefix | combined,
        "longest": encoder.max_length,
        "training": (training if stage.tasks else {}) | {"seed": inputs.seed},
        "data": data,
    }


def nothing_learned(metrics: dict[str, Any]) -> str:
    """Why a source task's prefix can't be told from one that learned nothing, in words; empty where it can, or where
    its main score is no accuracy. A model that always gives the commonest label is the measure."""
    name, data = metrics["primary"], metrics["details"].get("ran", {}).get("data", {}).get("validation", {})
    counts = data.get("labels") or {}
    if name != "validation/accuracy" or not counts:
        return ""
    rows, most = sum(counts.values()), max(counts.values())
    share = most / rows
    if metrics["scores"][name] >= share + 1.645 * math.sqrt(share * (1 - share) / rows):
        return ""
    return f"accuracy {metrics['scores'][name]:.3f}; always the commonest label gives {share:.3f} of {rows} rows"


def sections(
    stage: Represent,
    encoder: SharedEncoder,
    targets: dict[str, Target],
    learned: dict[str, dict[str, Any]],
    scores: dict[str, float],
    plain: dict[str, float],
) -> list[Section]:
    """What the report shows beside the scores; `plain` are those of heads without prefixes."""
    found: list[Section] = []
    if learned:
        columns = ["task", "weight", "columns", "numbers", "validation score", "learned", "steps", "seconds", "trained"]
        rows = [task_row(encoder, name, one) for name, one in learned.items()]
        idle = [f"{name}: {one['nothing_learned']}." for name, one in learned.items() if one.get("nothing_learned")]
        text = f"Learned nothing that its validation rows could show: {' '.join(idle)}" if idle else ""
        found.append(Section("Source tasks and their prefixes", text=text, table=SectionTable(columns, rows)))
    if targets:
        columns = ["head", "kind", "classes", "numbers", "rows", "split", "metric", "score"]
        columns += ["without prefixes"] if plain else []
        rows = [head_row(stage, encoder, name, one, scores, plain) for name, one in targets.items()]
        passes = "one pass" if encoder.passes == 1 else f"{encoder.passes} passes"
        text = f"All heads read one vector of {encoder.width} numbers a text, made by {passes} through the model."
        found.append(Section("Heads", text=text, table=SectionTable(columns, rows)))
    if targets and encoder.representation.prefixes:
        first = next(iter(targets.values()))
        mass = encoder.prefix_mass(first.texts("train")[:_PROBED])
        series = {name: [(layer, float(x)) for layer, x in enumerate(share)] for name, share in mass.items()}
        text = (
            "Prefixes that are trained apart compete when they stand side by side: a weight below 1 makes one quieter. "
            f"Mean over {min(_PROBED, len(first.texts('train')))} texts of the first head, all heads of attention."
        )
        plot = Lines(series, x_label="layer", y_label="share of attention")
        found.append(Section("Attention that each prefix takes", text=text, plot=plot))
    return found


def task_row(encoder: SharedEncoder, name: str, one: dict[str, Any]) -> list[Any]:
    prefix, score = encoder.prefixes[name], next(iter(one["scores"].values()), None)
    trained = one.get("from") or ("before" if one["kept"] else "now")
    return [
        name,
        encoder.weights[name],
        prefix.length,
        prefix.size,
        score,
        _learned(one),
        one.get("steps"),
        one["seconds"],
        trained,
    ]


def _learned(one: dict[str, Any]) -> str:
    if "nothing_learned" not in one:
        return ""
    return "nothing" if one["nothing_learned"] else "yes"


def head_row(
    stage: Represent,
    encoder: SharedEncoder,
    name: str,
    one: Target,
    scores: dict[str, float],
    plain: dict[str, float],
) -> list[Any]:
    head, metric = encoder.heads[name], one.task.metrics[0]
    score = scores[f"{one.split}/{name}/{metric}"]
    rows = len(one.task.splits["train"])
    beside = [plain[f"{one.split}/{name}/{metric}"]] if plain else []
    return [name, stage.heads[name].kind, len(head.labels), head.parameters, rows, one.split, metric, score, *beside]
