"""Whether a saved model can be the judge that it is named as, by what its card says; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.errors import ModelError
from luthier.models.card import ModelCard, read_card
from luthier.models.references import resolve
from luthier.redteaming.judges.settings import (
    ClassifierJudgeSettings,
    GuardJudgeSettings,
    RewardJudgeSettings,
    leaves,
)

HEADS = {"classifier": "sequence_classification", "reward": "sequence_classification", "guard": "causal_lm"}
PAIRS = ("pair", "regression")
_ANSWERS = ("response", "answer", "output", "completion", "reply")


def check_judge(settings: Any) -> None:
    """Look at the models of a judge, those in an ensemble too. Models of earlier stages are looked at when they are
    there.

    Raises:
        ModelError: a model was not trained to judge, or not what it is named for.
    """
    for one in leaves(settings):
        model = getattr(one, "model", None)
        if model is None or model.reference.startswith("stages."):
            continue
        source = resolve(model)
        if source.kind == "artifact" and source.path is not None:
            check_card(read_card(source.path), one)


def check_card(card: ModelCard, settings: ClassifierJudgeSettings | RewardJudgeSettings | GuardJudgeSettings) -> None:
    """Look at the card of a model that Luthier saved.

    Raises:
        ModelError: it has another head, reads other columns, or lacks a class.
    """
    where, head = settings.model.reference, HEADS[settings.kind]
    if card.head != head:
        raise ModelError(
            f"the judge has the head {card.head}, and this kind of judge needs {head}",
            where=where,
            fix="name a model that was trained to judge, or another `kind` of judge",
        )
    if isinstance(settings, GuardJudgeSettings):
        return
    columns = card.columns or {}
    if card.schema is not None and (card.schema not in PAIRS or (columns and "text_pair" not in columns)):
        raise ModelError(
            f"the judge was trained on rows of {card.schema} with {', '.join(columns) or 'one text'}, and here it "
            "reads a prompt with its answer",
            where=where,
            fix="train it with `task: pair`, `text:` the prompt and `text_pair:` the answer",
        )
    if columns.get("text") in _ANSWERS:
        raise ModelError(
            f"the judge was trained with {columns['text']} as first text and {columns.get('text_pair')} as second, and "
            "reads the prompt first here",
            where=where,
            fix="train it with `text:` the prompt and `text_pair:` the answer",
        )
    if isinstance(settings, ClassifierJudgeSettings):
        check_classes(card.labels, settings)


def check_classes(names: Sequence[str] | None, settings: ClassifierJudgeSettings) -> None:
    """Look for the classes that a judge is asked by.

    Raises:
        ModelError: there is none of a name, or the model has one output, which is no class.
    """
    where = settings.model.reference
    if names is None or len(names) < 2:
        raise ModelError("the judge has one output and no classes", where=where, fix="use it with `kind: reward`")
    for name in settings.bad or settings.good or ():
        if name not in names:
            raise ModelError(
                f"the judge has no class {name!r}; its classes are {', '.join(names)}",
                where=where,
                fix="name its classes under `bad` or `good`",
            )
