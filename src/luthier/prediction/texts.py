"""Labels new text with a model that Luthier saved."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.sources.base import check_there_and_filled
from luthier.data.texts import listed
from luthier.models.quiet import noise_logged
from luthier.models.settings import Danger
from luthier.prediction.loading import check_batch_size, check_run, load_predictor

if TYPE_CHECKING:
    from luthier.models.card import ModelCard


def predict(
    run: str | Path,
    texts: list[str] | str,
    pairs: list[str] | str | None = None,
    *,
    batch_size: int = 64,
    allow: Collection[Danger] = (),
) -> list[dict[str, Any]]:
    """Label texts. See `predict_texts`."""
    return predict_texts(run, texts, pairs, batch_size=batch_size, allow=allow)


def predict_texts(
    run: str | Path,
    texts: list[str] | str,
    pairs: list[str] | str | None = None,
    *,
    batch_size: int = 64,
    allow: Collection[Danger] = (),
) -> list[dict[str, Any]]:
    """Label texts with a tuned model.

    Args:
        run: a run, cell, stage or model directory.
        texts: N texts, for token labels of words parted by blanks; a single string is one text.
        pairs: the N second texts, for a model that was trained on two texts a row.
        batch_size: texts in one forward pass.
        allow: `pickle` or `remote_code`, where the base of an adapter is refused without; as in a recipe's model.

    Returns:
        For each text `{"text", "label", "probability", "probabilities": {label: p}}`; `{"text", "label", "response"}`
        where the label is read off what the model writes, null where that is none; `{"text", "score"}` for
        regression; `{"text", "tokens", "labels"}` for token labels, where blanks part the words and a word that the
        model does not see (`docs/data.md`) has the label None; `{"text", "response"}` for language models;
        `{"text", "heads": {name: {"label", "probability", "probabilities"}}}` for an encoder with many heads.

    Raises:
        ModelError: the directory holds no whole model.
        DataError: a batch size below 1; a model of pairs without second texts, or the other way round; a text without
            words where each word gets a label; or a model whose rows no text holds, such as one of multiple choice:
            `predict_file` takes those.
    """
    check_batch_size(batch_size)
    seconds = None if pairs is None else listed(pairs)
    with noise_logged():
        return load_predictor(run, allow).predict_texts(listed(texts), seconds, batch_size=batch_size)


def predict_file(
    run: str | Path, file: str | Path, *, batch_size: int = 64, allow: Collection[Danger] = ()
) -> list[dict[str, Any]]:
    """Label the rows of a file that has the columns the model was trained on, called as in the training file. What is
    to be predicted may be there or not.

    For an encoder with many heads the columns are `text`, and `text_pair` where every head reads pairs.

    Raises:
        DataError: the file can't be read, or lacks a column.
    """
    check_batch_size(batch_size)
    check_run(run)
    check_there_and_filled(str(file))
    with noise_logged():
        return load_predictor(run, allow).predict_file(file, batch_size=batch_size)


def answers_of(
    model: Any, tokenizer: Any, card: ModelCard, rows: list[dict[str, Any]], batch_size: int
) -> list[dict[str, Any]]:
    """What a model with the head of a task, or a language model, says of rows in the columns of its training."""
    from luthier.models.inspect import model_max_length
    from luthier.tasks.base import task_named

    longest = card.max_length or model_max_length(model.config, tokenizer) or 512
    numbered = [{**row, "row": row.get("row", i + 1)} for i, row in enumerate(rows)]
    task = task_named(str(card.schema), card.text_form)
    return task.answer_rows(model, tokenizer, card, numbered, longest=longest, batch_size=batch_size)
