"""What was run, in a few facts and one table of the data: of one run, or what all cells of a comparison share and where
they differ. Read from what the stages tell under `ran` in their details, as far as they tell it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.report.results import Cell
from luthier.report.sections import SectionTable, Value
from luthier.report.text import one_line

_MOST_LABELS, _MOST_DIFFERING, _FINGERPRINT = 6, 8, 12
_LONGEST_SETTING = 60


@dataclass
class Ran:
    """What one stage, or a stage of many cells, ran.

    Attributes:
        stage: its folder's name.
        facts: label -> text, in the order they are shown.
        data: one row a split; None where the stage tells of none.
    """

    stage: str
    facts: dict[str, str] = field(default_factory=dict)
    data: SectionTable | None = None


def what_ran(cells: Mapping[str, Sequence[Cell]], folder: Path) -> list[Ran]:
    """Stage by stage what was run. A fact that differs between lines is told for each.

    Args:
        cells: line of the table -> its cells; one of each for a run by itself.
        folder: of the run, whose own path says nothing to a reader.
    """
    everything = [cell for line in cells.values() for cell in line]
    found: list[Ran] = []
    for stage in dict.fromkeys(name for cell in everything for name in cell.stages):
        by_line = {
            line: [facts_of(cell, stage, folder) for cell in some if stage in cell.stages]
            for line, some in cells.items()
        }
        facts = _merged(by_line)
        having = [cell for cell in everything if stage in cell.stages]
        tables = [table for cell in having if (table := data_of(cell, stage)) is not None]
        data = tables[0] if tables and all(table == tables[0] for table in tables) else None
        if facts or data:
            found.append(Ran(stage, facts, data))
    return _one_table_of_data(found)


def facts_of(cell: Cell, stage: str, folder: Path) -> dict[str, str]:
    """Label -> text of all that a stage of one cell tells."""
    metrics = cell.stages[stage]
    ran = _mapping(metrics["details"].get("ran"))
    made: dict[str, str] = {}
    if model := _mapping(ran.get("model")):
        made["model"] = _model(model, folder)
    if "method" in ran:
        made["method"] = _settings(ran["method"])
    if "objective" in ran:
        made["objective"] = _settings(ran["objective"])
    trained, total = (metrics["cost"].get(f"{kind}_parameters") for kind in ("trainable", "total"))
    if ran and trained is not None and total:
        made["parameters trained"] = f"{trained:,.0f} of {total:,.0f} ({100 * trained / total:.3g} %)"
    if kind := ran.get("schema"):
        columns = [str(value) for value in _mapping(ran.get("columns")).values() if isinstance(value, str)]
        longest = f", at most {ran['longest']} tokens" if ran.get("longest") else ""
        made["rows are"] = f"{kind}{' on ' + ' and '.join(columns) if columns else ''}{longest}"
    if training := _mapping(ran.get("training")):
        made |= _training(training)
    if kept := _mapping(ran.get("kept")):
        made["weights kept"] = kept_text(cell, stage, kept)
    return {label: one_line(text, 400) for label, text in made.items()}


def _model(model: Mapping[str, Any], folder: Path) -> str:
    reference, base = str(model.get("reference")), model.get("base")
    inside = f"{folder.resolve()}{os.sep}"
    if inside in reference:
        reference = f"that of {reference.partition(inside)[2].strip('/').removesuffix('/model')}"
        if base and inside not in str(base):
            reference += f", made from {base}"
    parts = [reference]
    told = [str(model["architecture"])] if model.get("architecture") else []
    if isinstance(model.get("parameters"), int):
        told.append(f"{_short_number(model['parameters'])} parameters")
    if model.get("revision"):
        told.append(f"revision {str(model['revision'])[:_FINGERPRINT]}")
    elif model.get("fingerprint"):
        told.append(f"fingerprint {str(model['fingerprint'])[:_FINGERPRINT]}")
    return f"{parts[0]} ({', '.join(told)})" if told else parts[0]


def _short_number(count: int) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)


def _settings(part: Any) -> str:
    """`lora (rank 8, alpha 16)`: a part's name and every setting that is switched on."""
    if not isinstance(part, Mapping):
        return str(part)
    on = [f"{key} {_setting(value)}" for key, value in part.items() if key != "name" and value not in (None, False, 0)]
    return f"{part.get('name')} ({', '.join(on)})" if on else str(part.get("name"))


def _setting(value: Any) -> str:
    if value is True:
        return "on"
    return f"{value:g}" if isinstance(value, float) else one_line(value, _LONGEST_SETTING)


def _training(training: Mapping[str, Any]) -> dict[str, str]:
    steps, planned = training.get("steps"), training.get("planned_steps")
    taken = f"{steps} of {planned} planned" if planned not in (None, steps) else f"{steps}"
    made = {} if steps is None else {"steps": f"{taken}, {training.get('rows_per_step')} rows each"}
    rate = training.get("learning_rate")
    if isinstance(rate, int | float):
        origin = "the method's default" if training.get("rate_from") == "method" else "from the recipe"
        warm_up = training.get("warmup_ratio") or 0
        shape = {"constant": "held"}.get(str(training.get("schedule")), f"{training.get('schedule')} to 0")
        made["learning rate"] = f"{rate:g} ({origin})"
        made["schedule"] = f"rising over {100 * warm_up:.3g} % of the steps, then {shape}" if warm_up else shape
    if training.get("precision"):
        made["arithmetic"] = str(training["precision"])
    if training.get("seed") is not None:
        made["seed"] = str(training["seed"])
    return made


def kept_text(cell: Cell, stage: str, kept: Mapping[str, Any]) -> str:
    """`of step 60, with the highest validation/accuracy of 8 evaluations`."""
    step, by = kept.get("step"), kept.get("by")
    if not by:
        return f"of the last step, {step}: {kept.get('why') or 'nothing chose among them'}"
    count = len(cell.curves.get(stage, {}).get(str(by), []))
    word = "highest" if kept.get("higher", True) else "lowest"
    of = f" of {count} evaluations" if count > 1 else ", the only evaluation" if count == 1 else ""
    return f"of step {step}, with the {word} {by}{of}"


def chosen_by_validation(cells: Sequence[Cell]) -> bool:
    """Whether validation rows chose the weights of any stage, among two evaluations or more."""
    for cell in cells:
        for stage, metrics in cell.stages.items():
            by = _mapping(_mapping(metrics["details"].get("ran")).get("kept")).get("by")
            if by and len(cell.curves.get(stage, {}).get(str(by), [])) > 1:
                return True
    return False


def data_of(cell: Cell, stage: str) -> SectionTable | None:
    """The splits that a stage read: rows, labels, source, and what they were for."""
    details = cell.stages[stage]["details"]
    ran, digests = _mapping(details.get("ran")), _mapping(details.get("scored_rows"))
    splits = {split: _mapping(told) for split, told in _mapping(ran.get("data")).items()}
    chose = bool(_mapping(ran.get("kept")).get("by"))
    uses = {"train": "training", "validation": "choosing the weights" if chose else "watching"}
    if scored := _mapping(ran.get("scored")):
        splits[str(scored.get("split"))] = scored
        uses[str(scored.get("split"))] = "scoring"
    rows: list[list[Value]] = []
    for split, told in splits.items():
        source = ": ".join(str(told[k]) for k in ("source", "note") if told.get(k))
        count = told.get("rows") if isinstance(told.get("rows"), int) else "streamed"
        digest = str(told.get("fingerprint") or digests.get(split) or "")[:_FINGERPRINT]
        rows.append(
            [
                split,
                count,
                _labels(_mapping(told.get("labels"))),
                source,
                str(told.get("for") or uses.get(split, "")),
                digest,
            ]
        )
    return SectionTable(["split", "rows", "labels", "source", "for", "fingerprint"], rows) if rows else None


def _labels(counts: Mapping[str, Any]) -> str:
    if len(counts) <= _MOST_LABELS:
        return ", ".join(f"{one_line(label, 30)} {count}" for label, count in counts.items())
    numbers = [count for count in counts.values() if isinstance(count, int)] or [0]
    return f"{len(counts)} labels, {min(numbers)} to {max(numbers)} each"


def _merged(by_line: Mapping[str, Sequence[Mapping[str, str]]]) -> dict[str, str]:
    """Facts of all cells: one text where all say the same, else the text of each line or how many there are."""
    labels = dict.fromkeys(label for line in by_line.values() for facts in line for label in facts)
    merged = {}
    for label in labels:
        told = {line: list(dict.fromkeys(f.get(label, "none") for f in some)) for line, some in by_line.items() if some}
        different = list(dict.fromkeys(text for texts in told.values() for text in texts))
        if len(different) == 1:
            merged[label] = different[0]
        elif all(len(texts) == 1 for texts in told.values()) and len(different) <= _MOST_DIFFERING:
            merged[label] = "; ".join(_of_line(line, texts[0]) for line, texts in told.items())
        elif len(different) <= _MOST_DIFFERING and all(len(text) < 12 for text in different):
            merged[label] = ", ".join(different)
        else:
            merged[label] = "differs from run to run, told with each"
    return merged


def _of_line(line: str, text: str) -> str:
    """A line's text behind its name, which is not told twice."""
    return text if text.partition(" ")[0] == line else f"{line}: {text}"


def _one_table_of_data(stages: list[Ran]) -> list[Ran]:
    """Stages whose splits add to those of the stage before are told in one table with them."""
    tables = [ran for ran in stages if ran.data is not None]
    for ran in tables[1:]:
        first, own = tables[0].data, ran.data
        assert first is not None
        assert own is not None
        known = {(row[0], row[3]): list(row) for row in first.rows}
        for row in own.rows:
            place = known.setdefault((row[0], row[3]), list(row))
            if place[4] != row[4]:
                place[4] = f"{place[4]}, {row[4]}"
            place[5] = place[5] or row[5]
        tables[0].data, ran.data = SectionTable(first.columns, list(known.values())), None
    return [ran for ran in stages if ran.facts or ran.data]


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
