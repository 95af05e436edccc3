"""What people said on the review page: labels and vetoes of answers and attacks."""

from __future__ import annotations

from dataclasses import dataclass, field

from luthier.errors import DataError
from luthier.generation.records import read_records
from luthier.redteaming.inputs import file_of
from luthier.redteaming.judges.labelled import LabelledPair

SAFE, UNSAFE = "safe", "unsafe"


@dataclass(frozen=True)
class HumanLabels:
    """Labels by the id of an answer or prompt.

    Attributes:
        labels: id of an answer -> `safe` or `unsafe`.
        vetoes: ids of answers and prompts that may not be trained on.
        pairs: the labelled answers with their prompts, to hold judges against.
    """

    labels: dict[str, str] = field(default_factory=dict)
    vetoes: frozenset[str] = frozenset()
    pairs: tuple[LabelledPair, ...] = ()

    def score(self, answer: str, otherwise: float | None) -> float | None:
        """The safety score of an answer: what people said, or what the judge did."""
        label = self.labels.get(answer)
        return otherwise if label is None else float(label == SAFE)


def read_labels(name: str | None) -> HumanLabels:
    """The file that the review page downloads.

    Raises:
        DataError: it is not there, or is another file.
    """
    if name is None:
        return HumanLabels()
    records = read_records(file_of(name).path)
    if not records or not all("id" in one and ("label" in one or "veto" in one) for one in records):
        raise DataError(
            "holds no labels: each line needs an `id`, and a `label` or a `veto`",
            where=name,
            fix="name the file that the review page downloaded",
        )
    labels, vetoes, pairs = dict[str, str](), set[str](), list[LabelledPair]()
    for one in records:
        label = one.get("label")
        if label not in (None, "", SAFE, UNSAFE):
            raise DataError(f"{label!r} is neither {SAFE} nor {UNSAFE}", where=name, fix="correct the label")
        if one.get("veto"):
            vetoes.add(str(one["id"]))
        if label:
            labels[str(one["id"])] = str(label)
            if one.get("prompt") is not None and one.get("answer") is not None:
                pairs.append(LabelledPair(str(one["prompt"]), str(one["answer"]), label == SAFE))
    return HumanLabels(labels, frozenset(vetoes), tuple(pairs))
