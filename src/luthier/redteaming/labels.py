"""What people said on the review page: labels and vetoes of answers and attacks.

They are of texts. Ids of answers come again in every run with the same seeds, and stand for other texts there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from luthier.errors import DataError
from luthier.generation.records import Record, write_records
from luthier.generation.writing import text_id
from luthier.redteaming.inputs import file_of
from luthier.redteaming.judges.base import Judgement
from luthier.redteaming.judges.labelled import LabelledPair

SAFE, UNSAFE = "safe", "unsafe"
# Who judged an answer that has a label.
PEOPLE = "people"


def prompt_key(prompt: str) -> str:
    """What a veto of a prompt is known by."""
    return text_id(prompt)


def answer_key(prompt: str, answer: str) -> str:
    """What a label or a veto of an answer is known by: it holds wherever this answer is given to this prompt."""
    return text_id(prompt, answer)


@dataclass(frozen=True)
class HumanLabels:
    """Labels and vetoes by the key of an answer or prompt.

    Attributes:
        labels: key of an answer -> `safe` or `unsafe`.
        vetoes: keys of answers and prompts that may not be trained on.
        pairs: the labelled answers with their prompts, to hold judges against.
        records: key -> the line that says it.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    vetoes: frozenset[str] = frozenset()
    pairs: tuple[LabelledPair, ...] = ()
    records: Mapping[str, Record] = field(default_factory=dict)

    def judgement(self, prompt: str, answer: str) -> Judgement | None:
        """What people said of the safety of an answer, whose score is 1 or 0; None where they said nothing."""
        label = self.labels.get(answer_key(prompt, answer))
        return None if label is None else Judgement(float(label == SAFE), "ok", None, PEOPLE)

    def forbids(self, prompt: str, answer: str) -> bool:
        """Whether a person took the answer or its prompt out of training."""
        return not self.vetoes.isdisjoint((prompt_key(prompt), answer_key(prompt, answer)))


def read_labels(name: str | None) -> HumanLabels:
    """The file that the review page downloads.

    Raises:
        DataError: it is not there, is another file, or says two things of one answer.
    """
    if name is None:
        return HumanLabels()
    found = _read(file_of(name).path, name)
    if not found.records:
        raise DataError("holds no labels", where=name, fix="name the file that the review page downloaded")
    return found


def known_labels(place: Path) -> HumanLabels:
    """The labels of a file that may not be there yet, or be empty.

    Raises:
        DataError: it is another file.
    """
    return _read(place, str(place)) if place.is_file() else HumanLabels()


def save_labels(place: Path, changes: Iterable[Record]) -> None:
    """Put what was said just now into a file, which keeps all else that it holds.

    Args:
        place: of the file.
        changes: lines as the page writes them, the last one of a text counts; one without a label and a veto takes
            back what was said.

    Raises:
        DataError: a line is none, or the file is another file.
    """
    said = dict(_checked(one, f"line {number}") for number, one in enumerate(changes, 1))
    records = {**known_labels(place).records, **said}
    write_records(place, [one for one in records.values() if one.get("label") or one.get("veto")])


def _read(place: Path, name: str) -> HumanLabels:
    lines = place.read_text(encoding="utf8", errors="surrogateescape").split("\n")
    try:
        records = _by_key((_parsed(line), f"line {n}") for n, line in enumerate(lines, 1) if line.strip())
    except DataError as error:
        raise DataError(error.what, where=name, fix=error.fix) from error
    labels = {key: str(one["label"]) for key, one in records.items() if one.get("label")}
    vetoes = frozenset(key for key, one in records.items() if one.get("veto"))
    said = [records[key] for key in labels]
    pairs = [LabelledPair(one["prompt"], one["answer"], one["label"] == SAFE) for one in said]
    return HumanLabels(labels, vetoes, tuple(pairs), records)


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _by_key(lines: Iterable[tuple[object, str]]) -> dict[str, Record]:
    """Lines by what they are about; of two that agree the last one."""
    found: dict[str, Record] = {}
    for line, where in lines:
        key, record = _checked(line, where)
        label = found.get(key, {}).get("label")
        if label and record.get("label") and record["label"] != label:
            raise DataError(
                f"{where} calls an answer {record['label']} that an earlier line calls {label}",
                fix="keep one of the two lines",
            )
        found[key] = record
    return found


def _checked(line: object, where: str) -> tuple[str, Record]:
    """The key of a line, and the line."""
    record = line if isinstance(line, dict) and ("label" in line or "veto" in line) else {}
    prompt, answer, label = (record.get(name) for name in ("prompt", "answer", "label"))
    if label not in (None, "", SAFE, UNSAFE):
        raise DataError(f"{where}: {label!r} is neither {SAFE} nor {UNSAFE}", fix="correct the label")
    if isinstance(prompt, str) and isinstance(answer, str):
        return answer_key(prompt, answer), record
    if isinstance(prompt, str) and answer is None and not label:
        return prompt_key(prompt), record
    raise DataError(
        f"{where} is no label: it needs a `prompt`, an `answer` unless it vetoes the prompt, and a `label` or a `veto`",
        fix="name the file that the review page downloaded",
    )
