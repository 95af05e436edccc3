"""How a set that is known by name is laid out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CLASSES = ("accuracy", "macro_f1")
SENTIMENT = ("negative", "positive")
NLI = ("entailment", "neutral", "contradiction")
TEXT_AND_LABEL = {"text": "text", "label": "label"}
PREMISE_AND_HYPOTHESIS = {"text": "premise", "text_pair": "hypothesis", "label": "label"}
TRUTH = ("False", "True")
ENTAILMENT = ("entailment", "not_entailment")
NEWS = ("World", "Sports", "Business", "Sci/Tech")
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


@dataclass(frozen=True)
class Files:
    """The file or files of one split, relative to the set's folder.

    Attributes:
        paths: read one after another; rows are numbered through.
        layout: name of the reader in `layouts`, or None for a usual format.
        format: where the file's name does not tell it.
        columns: names of the columns of a file without a header line.
        argument: passed to the layout.
    """

    paths: tuple[str, ...]
    layout: str | None = None
    format: str | None = None
    columns: tuple[str, ...] | None = None
    argument: str | None = None


@dataclass(frozen=True)
class KnownSet:
    """A set that a user can name without saying anything about its columns.

    Attributes:
        name: `glue/...`, `superglue/...` or `data/...`.
        task: name of its schema.
        columns: canonical column -> column in the file.
        splits: split -> files, for a set on this machine, or -> split on the Hub.
        labels: every label in the order of its id; None: sorted values of the training split, or what the layout gives.
        label_map: value in the file -> label.
        metrics: names, the primary one first.
        folder: under the data folder; None for a set on the Hub.
        hub: (id, configuration) on the Hub.
        derive: name of a function in `layouts` that shapes the rows after reading.
        cut: split that has to be cut, as there is no official one, and the shares of its parts.
        evaluation_only: training on it is refused.
        skips_unusable: the set as published has rows without text; they are left out, and the number is told.
        note: what a user should know, shown with the data.
    """

    name: str
    task: str
    columns: Mapping[str, str]
    splits: Mapping[str, Files | str]
    labels: tuple[str, ...] | None = None
    label_map: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[str, ...] = CLASSES
    folder: str | None = None
    hub: tuple[str, str] | None = None
    derive: str | None = None
    cut: Mapping[str, float] | None = None
    evaluation_only: bool = False
    skips_unusable: bool = False
    note: str = ""

    @property
    def scored_by_group(self) -> bool:
        """Whether a score is of all rows of a question together, so that no draw may part them."""
        return "question_exact_match" in self.metrics or "candidate" in self.columns


def numbered(labels: tuple[str, ...]) -> dict[str, str]:
    """Label map of a file that holds ids: "0" -> first label, and so on."""
    return {str(i): label for i, label in enumerate(labels)}


def public_set(
    name: str, task: str, columns: Mapping[str, str], splits: Mapping[str, str | Files], **more: Any
) -> KnownSet:
    """A set in a folder under `LUTHIER_DATA`, the first part of its name unless `folder` says otherwise."""
    files = {split: Files((f,)) if isinstance(f, str) else f for split, f in splits.items()}
    folder = more.pop("folder", name.partition("/")[0])
    return KnownSet(f"data/{name}", task, columns, files, folder=folder, **more)


def three_files(prefix: str = "", validation: str = "dev", suffix: str = ".tsv") -> dict[str, str]:
    """Files of the three usual splits."""
    return {
        "train": f"{prefix}train{suffix}",
        "validation": f"{prefix}{validation}{suffix}",
        "test": f"{prefix}test{suffix}",
    }


def laid_out(layout: str, *paths: str, argument: str | None = None) -> Files:
    """Files that a function of `layouts` reads."""
    return Files(paths, layout, argument=argument)
