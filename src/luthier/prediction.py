"""Labels new text with a model that Luthier saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.embedding import is_shared_encoder, paired, shared_encoder, texts_of_file
from luthier.errors import DataError

if TYPE_CHECKING:
    from luthier.evaluation.prediction import Predictions
    from luthier.models.card import ModelCard
    from luthier.tuning.task_prefix.shared_encoder import SharedEncoder


def predict(
    run: str | Path, texts: list[str], pairs: list[str] | None = None, *, batch_size: int = 64
) -> list[dict[str, Any]]:
    """Label texts. See `predict_texts`."""
    return predict_texts(run, texts, pairs, batch_size=batch_size)


def predict_texts(
    run: str | Path, texts: list[str], pairs: list[str] | None = None, *, batch_size: int = 64
) -> list[dict[str, Any]]:
    """Label texts with a tuned model.

    Args:
        run: a run, cell, stage or model directory.
        texts: N texts.
        pairs: the N second texts, for a model of text pairs.
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
            word gets a label.
    """
    from luthier.models.artifacts import load_artifact

    if is_shared_encoder(run):
        return _many_heads(shared_encoder(run), paired(texts, pairs), batch_size)
    model, tokenizer, card = load_artifact(run)
    if (card.schema == "pair" or _had_pairs(card)) != (pairs is not None):
        wanted = "pairs of texts" if pairs is None else "single texts"
        raise DataError(
            f"the model was trained on {wanted}",
            where=str(run),
            fix="give --pair for every --text" if pairs is None else "leave --pair out",
        )
    rows = [
        {"text": one} if isinstance(one, str) else {"text": one[0], "text_pair": one[1]} for one in paired(texts, pairs)
    ]
    if card.schema == "token_labels":
        rows = _with_words(rows)
    return _predict(model, tokenizer, card, rows, batch_size)


def predict_file(run: str | Path, file: str | Path, *, batch_size: int = 64) -> list[dict[str, Any]]:
    """Label the rows of a file that has the text columns the model was trained on; a label column is not needed.

    For an encoder with many heads the columns are `text`, and `text_pair` where every head reads pairs.

    Raises:
        DataError: the file can't be read, or lacks a column.
    """
    from luthier.data.loading import load_data
    from luthier.data.settings import DataSettings
    from luthier.models.artifacts import load_artifact

    if is_shared_encoder(run):
        encoder = shared_encoder(run)
        in_pairs = bool(encoder.heads) and all(head.pairs for head in encoder.heads.values())
        return _many_heads(encoder, texts_of_file(file, text_pair="text_pair" if in_pairs else None), batch_size)
    model, tokenizer, card = load_artifact(run)
    data = card.data or {}
    kept = (
        "text",
        "text_pair",
        "tokens",
        "context",
        "question",
        "choices",
        "prompt",
        "delimiter",
        "column_names",
        "encoding",
    )
    columns = {key: data[key] for key in kept if data.get(key) is not None}
    settings = DataSettings(test=str(file), task=card.schema, labelled=False, **columns)
    loaded = load_data(settings, splits=("test",)).splits["test"]
    return _predict(model, tokenizer, card, list(loaded), batch_size)


def _many_heads(encoder: SharedEncoder, texts: Any, batch_size: int) -> list[dict[str, Any]]:
    found = encoder.predict(texts, batch_size=batch_size)
    rows: list[dict[str, Any]] = [
        {"text": one} if isinstance(one, str) else {"text": one[0], "text_pair": one[1]} for one in texts
    ]
    for number, row in enumerate(rows):
        row["heads"] = {}
        for name, head in found.items():
            chances = dict(zip(encoder.heads[name].labels, map(float, head.probabilities[number]), strict=True))
            label = head.labels[number]
            row["heads"][name] = {"label": label, "probability": chances[label], "probabilities": chances}
    return rows


def _had_pairs(card: ModelCard) -> bool:
    return bool(card.schema == "regression" and (card.data or {}).get("text_pair"))


def _predict(
    model: Any, tokenizer: Any, card: ModelCard, rows: list[dict[str, Any]], batch_size: int
) -> list[dict[str, Any]]:
    if card.schema in ("prompt_response", "plain_text"):
        return [_generate(model, tokenizer, card, row) for row in rows]
    from luthier.data.encoding import encode_rows, make_collator
    from luthier.evaluation.label_scoring import predict_labels
    from luthier.evaluation.prediction import predict_rows
    from luthier.models.inspect import is_encoder_decoder, model_max_length
    from luthier.progress import track

    longest = card.max_length or model_max_length(model.config, tokenizer) or 512
    numbered = [{**row, "row": row.get("row", i + 1)} for i, row in enumerate(rows)]
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


def _with_words(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for number, row in enumerate(rows, start=1):
        if not row["text"].split():
            raise DataError(f"text {number} holds no words", fix="give at least one word to label")
    return [row | {"tokens": row["text"].split()} for row in rows]


def _generate(model: Any, tokenizer: Any, card: ModelCard, row: dict[str, Any]) -> dict[str, Any]:
    import torch

    prompt = row.get("prompt") or row.get("text") or ""
    if getattr(tokenizer, "chat_template", None) and card.schema == "prompt_response":
        message = [{"role": "user", "content": prompt}]
        inputs = tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    else:
        inputs = tokenizer(prompt, return_tensors="pt")
    room = max(16, (card.max_length or 512) - inputs["input_ids"].shape[1] - card.reserved_tokens)
    with torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=min(256, room), do_sample=False)
    start = 0 if getattr(model.config, "is_encoder_decoder", False) else inputs["input_ids"].shape[1]
    return {"text": prompt, "response": tokenizer.decode(out[0][start:], skip_special_tokens=True)}


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {k: row[k] for k in ("text", "text_pair", "question", "context", "choices") if row.get(k) is not None}
