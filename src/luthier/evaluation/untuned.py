"""What the language model that a tuned one was made from scores on the same rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from luthier.errors import ModelError
from luthier.metric_names import higher_is_better
from luthier.models.artifacts import load_model
from luthier.models.placing import on_accelerator
from luthier.models.references import fingerprint, resolve
from luthier.registry import METHODS
from luthier.tasks.heads import LANGUAGE_HEADS

if TYPE_CHECKING:
    from luthier.evaluation.subject import Subject

UNTUNED = "untuned"
_SPEAKING = (*LANGUAGE_HEADS.values(), "masked_lm")


@contextmanager
def untuned_model(subject: Subject) -> Iterator[Any]:
    """The model that the judged one was made from, for the length of a block: an adapter is switched off, any other
    model is loaded beside the judged one.

    It is None where nobody asked for it, where no tuning method made the judged model, or a method that gave it a head
    or tokens of its own, and where the base is no longer what it was.
    """
    card, model = subject.card, subject.model
    tuned = card.head in _SPEAKING and (card.method or {}).get("name") in METHODS.names()
    if subject.untuned is None or not tuned:
        yield None
    elif hasattr(model, "disable_adapter"):
        with model.disable_adapter():
            yield _speaking(model.get_base_model(), subject)
    else:
        yield _speaking(_loaded(subject), subject)


def _loaded(subject: Subject) -> Any:
    assert subject.untuned is not None
    try:
        if fingerprint(resolve(subject.untuned)) != subject.card.base_fingerprint:
            return None
        return on_accelerator(load_model(subject.untuned, subject.card.head))
    except ModelError:
        return None


def _speaking(base: Any, subject: Subject) -> Any:
    """The base, unless its head was drawn at random, or it lacks tokens."""
    drawn = getattr(base, "luthier_new_parameters", ())
    if base is None or drawn:
        return None
    return base if len(subject.tokenizer) <= base.get_input_embeddings().weight.shape[0] else None


def untuned_scores(subject: Subject, names: Collection[str]) -> dict[str, float]:
    """The named scores of the model before it was tuned; none where there was none, see `untuned_model`."""
    from luthier.evaluation.prediction import predict_task
    from luthier.evaluation.scoring import plain_scores
    from luthier.progress import track

    if not {*subject.task.metrics, "loss", "perplexity"} & {*names}:  # what a pass over the rows can tell
        return {}
    with untuned_model(subject) as model:
        if model is None:
            return {}
        rows = subject.rows
        with track("evaluating the model before tuning", len(rows)) as bar:
            found = predict_task(
                model, rows, subject.task, subject.tokenizer, batch_size=subject.batch_size, on_batch=bar.update
            )
    scores = plain_scores(found, subject.task, subject.split, rows)
    return {name: value for name, value in scores.items() if name in names}


def worse_than_untuned(scores: Mapping[str, float], untuned: Mapping[str, float]) -> list[str]:
    """The mark of a model that tuning made worse by one of the scores, or more."""
    worse = [
        name
        for name, before in untuned.items()
        if (scores[name] < before if higher_is_better(name) else scores[name] > before)
    ]
    return [f"worse than before tuning by {', '.join(worse)}"] if worse else []
