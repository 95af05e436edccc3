"""Labels new text with a model that Luthier saved."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import DataError
from luthier.prediction.loading import load_predictor

if TYPE_CHECKING:
    from luthier.evaluation.prediction import Predictions
    from luthier.models.card import ModelCard

_LEAST_WRITTEN, _MOST_WRITTEN = 16, 256
logger = logging.getLogger(__name__)


def predict(
    run: str | Path, texts: list[str] | str, pairs: list[str] | str | None = None, *, batch_size: int = 64
) -> list[dict[str, Any]]:
    """Label texts. See `predict_texts`."""
    return predict_texts(run, texts, pairs, batch_size=batch_size)


def predict_texts(
    run: str | Path, texts: list[str] | str, pairs: list[str] | str | None = None, *, batch_size: int = 64
) -> list[dict[str, Any]]:
    """Label texts with a tuned model.

    Args:
        run: a run, cell, stage or model directory.
        texts: N texts, for token labels of words parted by blanks; a single string is one text.
        pairs: the N second texts, for a model that was trained on two texts a row.
        batch_size: texts in one forward pass.

    Returns:
        For each text `{"text", "label", "probability", "probabilities": {label: p}}`; `{"text", "label", "response"}`
        where the label is read off what the model writes, null where that is none; `{"text", "score"}` for
        regression; `{"text", "tokens", "labels"}` for token labels, where blanks part the words and a word that the
        model does not see (`docs/data.md`) has the label None; `{"text", "response"}` for language models;
        `{"text", "heads": {name: {"label", "probability", "probabilities"}}}` for an encoder with many heads.

    Raises:
        ModelError: the directory holds no whole model.
        DataError: a model of pairs without second texts, or the other way round; a text without words where each
            word gets a label; or a model whose rows no text holds, such as one of multiple choice: `predict_file`
            takes those.
    """
    return load_predictor(run).predict_texts(texts, pairs, batch_size=batch_size)


def predict_file(run: str | Path, file: str | Path, *, batch_size: int = 64) -> list[dict[str, Any]]:
    """Label the rows of a file that has the columns the model was trained on, called as in the training file. What is
    to be predicted may be there or not.

    For an encoder with many heads the columns are `text`, and `text_pair` where every head reads pairs.

    Raises:
        DataError: the file can't be read, or lacks a column.
    """
    return load_predictor(run).predict_file(file, batch_size=batch_size)


def answers_of(
    model: Any, tokenizer: Any, card: ModelCard, rows: list[dict[str, Any]], batch_size: int
) -> list[dict[str, Any]]:
    """What a model with the head of a task, or a language model, says of rows in the columns of its training."""
    from luthier.data.batches.encoding import encode_rows, make_collator
    from luthier.evaluation.label_scoring import predict_labels
    from luthier.evaluation.prediction import predict_rows
    from luthier.models.inspect import is_encoder_decoder, model_max_length
    from luthier.progress import track

    longest = card.max_length or model_max_length(model.config, tokenizer) or 512
    numbered = [{**row, "row": row.get("row", i + 1)} for i, row in enumerate(rows)]
    if card.schema in ("prompt_response", "plain_text"):
        return _continued(model, tokenizer, card, numbered, longest)
    encoded = encode_rows(
        numbered,
        str(card.schema),
        tokenizer,
        max_length=longest,
        reserved=card.reserved_tokens,
        too_long="truncate",
        encoder_decoder=is_encoder_decoder(model.config),
        form=card.text_form,
    )
    schema = str(card.schema)
    with track("predicting", len(encoded)) as bar:
        if card.text_form is not None:
            found = predict_labels(
                model, encoded, card.text_form, schema, tokenizer, batch_size=batch_size, on_batch=bar.update
            )
        else:
            collator = make_collator(schema, tokenizer)
            found = predict_rows(model, encoded, collator, schema, batch_size=batch_size, on_batch=bar.update)
    return _describe(found, numbered, encoded, card)


def _describe(found: Predictions, rows: list[dict[str, Any]], encoded: Any, card: ModelCard) -> list[dict[str, Any]]:
    if card.schema == "regression":
        return [_shown(row) | {"score": float(x[0])} for row, x in zip(rows, found.logits, strict=True)]
    if card.schema == "token_labels":
        return [
            _tagged(row, logits, encoded[i], card)
            for i, (row, logits) in enumerate(zip(rows, found.logits, strict=True))
        ]
    if card.schema == "extractive_qa":
        from luthier.evaluation.answers import best_answers

        examples = [{**row, "answers": {"text": []}} for row in rows]
        _, answers = best_answers(found, examples, encoded)
        return [_shown(row) | {"answer": answer} for row, answer in zip(rows, answers, strict=True)]
    if found.guesses is not None:
        return [
            _shown(row) | {"label": _name(card, guess), "response": text}
            for row, guess, text in zip(rows, found.guesses, found.extras["texts"], strict=True)
        ]
    names = card.labels or [str(i) for i in range(found.logits.shape[1])]
    return [_shown(row) | _classified(p, names) for row, p in zip(rows, found.probabilities, strict=True)]


def _name(card: ModelCard, guess: Any) -> str | None:
    labels = card.text_form.labels if card.text_form else ()
    return labels[int(guess)] if labels and int(guess) >= 0 else None


def _classified(probabilities: Any, names: list[str]) -> dict[str, Any]:
    best = int(probabilities.argmax())
    shares = {name: round(float(p), 6) for name, p in zip(names, probabilities, strict=False)}
    return {
        "label": names[best],
        "probability": round(float(probabilities[best]), 6),
        "probabilities": shares,
    }


def _tagged(row: dict[str, Any], logits: Any, encoded: dict[str, Any], card: ModelCard) -> dict[str, Any]:
    names = card.labels or []
    labels = [names[int(logits[start].argmax())] if start >= 0 else None for start in encoded["word_starts"]]
    return _shown(row) | {"tokens": row["tokens"], "labels": labels}


def _continued(
    model: Any, tokenizer: Any, card: ModelCard, rows: list[dict[str, Any]], longest: int
) -> list[dict[str, Any]]:
    """What a language model writes after each row, greedily."""
    from luthier.data.batches.encoders import Encoder, opening_tokens
    from luthier.models.inspect import is_encoder_decoder
    from luthier.progress import track

    if not rows:
        raise DataError("there are no rows to predict")
    two_sided = is_encoder_decoder(model.config)
    encoder = Encoder(tokenizer, longest, card.reserved_tokens, "truncate", two_sided, "rows")
    openings = opening_tokens(rows, encoder, _LEAST_WRITTEN)
    if encoder.cut:
        logger.warning("%d of %d rows were cut, so that a response finds room", len(encoder.cut), len(rows))
    written = []
    with track("predicting", len(rows)) as bar:
        for done, (row, ids) in enumerate(zip(rows, openings, strict=True), 1):
            room = longest - card.reserved_tokens - (0 if two_sided else len(ids))
            response = _written(model, tokenizer, ids, min(_MOST_WRITTEN, max(_LEAST_WRITTEN, room)), two_sided)
            written.append({"text": row.get("prompt", row.get("text")), "response": response})
            bar.update(done)
    return written


def _written(model: Any, tokenizer: Any, ids: list[int], most: int, two_sided: bool) -> str:
    import torch

    inputs = torch.tensor([ids], device=next(model.parameters()).device)
    with torch.inference_mode():
        out = model.generate(
            input_ids=inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=most, do_sample=False
        )
    text: str = tokenizer.decode(out[0][0 if two_sided else len(ids) :], skip_special_tokens=True)
    return text


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {k: row[k] for k in ("text", "text_pair", "question", "context", "choices") if row.get(k) is not None}
