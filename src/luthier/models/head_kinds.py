"""Which heads a model can have. A room brings one of its own by registering it where its task is defined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from luthier.errors import ModelError, nearest

# The name of a registered head.
Head = str


@dataclass(frozen=True)
class HeadKind:
    """One head.

    Attributes:
        name: as tasks and cards call it.
        made_by: the class that loads and builds models with it: an Auto class of transformers, or `module:Class` for
            one with `from_pretrained` and `from_config` like theirs and, in `_model_mapping`, the classes of the
            configurations that it takes.
        peft_task_type: PEFT's task type of models with it; empty where tuning methods are not put on them.
        has_labels: whether its outputs are named labels.
        model_type: what config.json calls models of the head's own class, where it has one that transformers lacks.

    A class that `made_by` names may have `head_config(config)`, which gives the configuration of a model with the head
    on a body with that configuration.
    """

    name: str
    made_by: str
    peft_task_type: str = ""
    has_labels: bool = False
    model_type: str = ""


class _Heads:
    """Heads by name, in the order in which they were registered."""

    def __init__(self) -> None:
        self._kinds: dict[str, HeadKind] = {}

    def add(self, kind: HeadKind) -> HeadKind:
        if self._kinds.setdefault(kind.name, kind) != kind:
            raise ValueError(f"the head {kind.name!r} is registered twice, as {self._kinds[kind.name]} and {kind}")
        return kind

    def __getitem__(self, name: str) -> HeadKind:
        """The head of that name.

        Raises:
            ModelError: there is none; names the nearest one.
        """
        if name not in self:
            guess = nearest(name, list(self))
            raise ModelError(
                f"there is no head {name!r}",
                fix=(f"did you mean {guess!r}? " if guess else "") + f"known: {', '.join(self)}",
            )
        return self._kinds[name]

    def __contains__(self, name: object) -> bool:
        if name not in self._kinds:
            _discover()
        return name in self._kinds

    def __iter__(self) -> Iterator[str]:
        _discover()
        return iter(list(self._kinds))


HEAD_KINDS = _Heads()


def register_head(
    name: str, made_by: str, *, peft_task_type: str = "", has_labels: bool = False, model_type: str = ""
) -> HeadKind:
    """Make a head known; see `HeadKind`.

    Raises:
        ValueError: the name is that of another head.
    """
    return HEAD_KINDS.add(HeadKind(name, made_by, peft_task_type, has_labels, model_type))


def known_head(name: str) -> str:
    """The name, where there is such a head; raises ValueError otherwise, for fields of files."""
    if name not in HEAD_KINDS:
        raise ValueError(
            f"nothing that is installed has a head called {name!r}; known are {', '.join(HEAD_KINDS)}. Install the "
            "package that brings it, or a newer luthier"
        )
    return name


def peft_task_type(name: str) -> str:
    """PEFT's task type of models with a head.

    Raises:
        ModelError: there is no such head, or tuning methods are not put on models with it.
    """
    kind = HEAD_KINDS[name]
    if not kind.peft_task_type:
        raise ModelError(f"tuning methods are not put on models with the head {name}", fix="train every parameter")
    return kind.peft_task_type


def _discover() -> None:
    from luthier.registry import discover

    discover()


register_head(
    "sequence_classification", "AutoModelForSequenceClassification", peft_task_type="SEQ_CLS", has_labels=True
)
register_head("token_classification", "AutoModelForTokenClassification", peft_task_type="TOKEN_CLS", has_labels=True)
register_head("question_answering", "AutoModelForQuestionAnswering", peft_task_type="QUESTION_ANS")
register_head("multiple_choice", "AutoModelForMultipleChoice", peft_task_type="SEQ_CLS")
register_head("causal_lm", "AutoModelForCausalLM", peft_task_type="CAUSAL_LM")
register_head("seq2seq_lm", "AutoModelForSeq2SeqLM", peft_task_type="SEQ_2_SEQ_LM")
register_head("masked_lm", "AutoModelForMaskedLM")
register_head("encoder", "AutoModel")
