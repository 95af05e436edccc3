"""Extraction in the manner of transformers' pipelines: texts in, entities and relations out.

    import luthier.extraction.pipeline
    tell = transformers.pipeline("joint-extraction", model=folder)

where `folder` holds a `SinetForJointExtraction`; `load_pipeline(run)` takes what a recipe's run holds, adapters too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from luthier.data.batches.collating import make_collator
from luthier.data.batches.encoding import encode_rows
from luthier.errors import DataError, ModelError
from luthier.extraction.documents import Document, with_places
from luthier.extraction.model import SinetForJointExtraction
from luthier.extraction.telling import found_by_row, kept_outputs
from luthier.extraction.tokens import find_words, joined, tokenise
from luthier.models.artifacts import load_artifact
from luthier.models.card import ModelCard
from luthier.models.inspect import model_max_length

TASK = "joint-extraction"
_LONGEST = 512


class JointExtractionPipeline(Pipeline):
    """Tells entities and relations of texts.

    Args:
        model: a `SinetForJointExtraction`, or one under an adapter.
        tokenizer: of the model.
        max_length: pieces that the model is shown at once; None is what it can read. Longer texts are read in windows.
        reserved: positions that an adapter puts in front.
        device, ...: as of every pipeline.
    """

    def __init__(self, model: Any, *args: Any, max_length: int | None = None, reserved: int = 0, **more: Any) -> None:
        super().__init__(model, *args, **more)
        self.max_length = max_length or model_max_length(model.config, self.tokenizer) or _LONGEST
        self.reserved = reserved
        self.types = model.config.types

    def __call__(
        self, inputs: str | Document | Sequence[str | Document], *, batch_size: int = 8, tokeniser: str = "words"
    ) -> Any:
        """Args:
            inputs: a text, or a document of `tokens`, `text` or both, with or without `offsets`; or several. Where the
                `tokens` don't make up the `text`, they stand for it, parted by blanks.
            batch_size: windows in one forward pass.
            tokeniser: what parts texts without `tokens` into words; see `luthier.extraction.tokens`.

        Returns:
            For each text `{"text", "tokens", "offsets", "entities", "relations"}`: entities `{type, text, start, end,
            start_char, end_char, score}`, the first two places in words, ends exclusive; relations `{type, head, tail,
            score}`, whose ends are places in the list of entities.

        Raises:
            DataError: a text holds no words.
        """
        several = not isinstance(inputs, str | Mapping)
        documents = list(inputs) if several else [inputs]
        if not documents:
            return []
        found = self.run_single(documents, {"batch_size": batch_size, "tokeniser": tokeniser}, {}, {})
        return found if several else found[0]

    def _sanitize_parameters(self, **unknown: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown:
            raise TypeError(f"a pipeline of joint extraction has no {', '.join(unknown)}")
        return {}, {}, {}

    def preprocess(self, inputs: Sequence[Any], batch_size: int, tokeniser: str) -> dict[str, Any]:
        """Documents, and batches of their windows, those of like length together."""
        documents = [_document(one, number, tokeniser) for number, one in enumerate(inputs, 1)]
        rows = encode_rows(
            [{"tokens": one["tokens"]} for one in documents],
            "joint_extraction",
            self.tokenizer,
            max_length=self.max_length,
            reserved=self.reserved,
        )
        order = sorted(range(len(rows)), key=lambda i: rows[i]["length"])
        collate, windows = make_collator("joint_extraction", self.tokenizer), [rows[i] for i in order]
        batches = [collate(windows[i : i + batch_size]) for i in range(0, len(windows), batch_size)]
        for batch in batches:
            batch.pop("row", None)
        return {
            "documents": documents,
            "batches": batches,
            "rows": [one["row"] for one in windows],
            "first_word": [one["first_word"] for one in windows],
        }

    def _forward(self, input_tensors: dict[str, Any]) -> dict[str, Any]:
        kept = [one for batch in input_tensors["batches"] for one in kept_outputs(self._told(batch))]
        return {**{name: value for name, value in input_tensors.items() if name != "batches"}, "kept": kept}

    def _told(self, batch: dict[str, Tensor]) -> Any:
        return self.model.eval()(**batch)

    def postprocess(self, model_outputs: dict[str, Any]) -> list[Document]:
        """What is told of each document."""
        kept = model_outputs["kept"]
        found = found_by_row(kept, model_outputs["rows"], model_outputs["first_word"], self.types)
        told = []
        for number, document in enumerate(model_outputs["documents"], 1):
            threshold = kept[0]["threshold"]
            told.append(with_places(document | found[number].document(self.types, threshold)))
        return told


def load_pipeline(run: str | Path, *, device: int | str | torch.device | None = None) -> JointExtractionPipeline:
    """The pipeline of what a recipe's run holds.

    Args:
        run: a run, cell, stage or model directory.
        device: to run on; None is the accelerator, where there is one.

    Raises:
        ModelError: it holds no whole model, or one of another task.
    """
    model, tokenizer, card = load_artifact(run)
    check_task(card, str(run))
    return JointExtractionPipeline(
        model, tokenizer=tokenizer, device=device, max_length=card.max_length, reserved=card.reserved_tokens
    )


def check_task(card: ModelCard | None, where: str) -> ModelCard:
    """The card of a model for joint extraction.

    Raises:
        ModelError: the model was trained for something else.
    """
    if card is None or card.schema != "joint_extraction":
        trained = f"the task {card.schema}" if card is not None else "something else"
        raise ModelError(
            f"the model was trained for {trained}, and not for joint_extraction",
            where=where,
            fix="name a run that was tuned with `task: joint_extraction`; `luthier predict` asks other models",
        )
    return card


def _document(given: Any, number: int, tokeniser: str) -> Document:
    """What the user gave as a document without annotations."""
    kept = {"text": given} if isinstance(given, str) else given
    made: Document = {name: kept[name] for name in ("id", "text", "tokens", "offsets") if kept.get(name) is not None}
    if "tokens" not in made:
        made["offsets"] = tokenise(made.get("text", ""), tokeniser)
        made["tokens"] = [made["text"][start:end] for start, end in made["offsets"]]
    made["tokens"] = list(made["tokens"])
    if not {"text", "offsets"} <= made.keys():
        made["offsets"] = find_words(made.get("text", ""), made["tokens"])
        if made["offsets"] is None:
            made["text"], made["offsets"] = joined(made["tokens"])
    if not made["tokens"]:
        raise DataError(f"text {number} holds no words", fix="leave it out")
    return made


PIPELINE_REGISTRY.register_pipeline(TASK, JointExtractionPipeline, pt_model=SinetForJointExtraction, type="text")
