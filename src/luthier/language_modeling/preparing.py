"""From settings to a training job: the stream, the held-out rows, the budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from luthier.data.batches.encoded_cache import tokenizer_json
from luthier.errors import ModelError, RecipeError
from luthier.language_modeling.budget import Budget, TokenCost, budget_of, token_cost
from luthier.language_modeling.context_parallel import own_group, own_slices, refuse_to_share_rows, row_groups
from luthier.language_modeling.documents import Corpus
from luthier.language_modeling.held_out import HeldOut, collate, held_out_rows
from luthier.language_modeling.masking import Masking
from luthier.language_modeling.packing import Frame, Packer
from luthier.language_modeling.part import LanguageModelingLoss
from luthier.language_modeling.row_slices import SlicedBatches
from luthier.language_modeling.row_updates import update_by_rows
from luthier.language_modeling.rows import check_head
from luthier.language_modeling.settings import ONLY_CAUSAL, LanguageTrainingSettings
from luthier.language_modeling.stream import PackedStream, Share, nothing_to_train_on, tokenized
from luthier.models.head_kinds import Head
from luthier.models.inspect import model_max_length
from luthier.objectives.part import Part
from luthier.progress import track
from luthier.storage.files import write_json
from luthier.storage.hashing import cache_directory
from luthier.storage.keys import digest_of
from luthier.tasks.base import task_named
from luthier.training.job import TrainingJob, TrainingRows, resolve_precision
from luthier.training.settings import TrainingSettings
from luthier.training.validation import Evaluation, Validation

# Raised when other tokens come out of the same text and tokenizer.
_COUNT_VERSION = 1


@dataclass(frozen=True)
class TextJob:
    """All that training on a text needs beside the model.

    Attributes:
        settings: as the recipe has them.
        tokenizer: of the model.
        corpus: the text to train on.
        frame: of its blocks.
        masking: of the blocks; None for a causal model.
        held_out: scores models; None where no text is held out.
        context_parallel_size: processes that share a row.
    """

    settings: LanguageTrainingSettings
    tokenizer: Any
    corpus: Corpus
    frame: Frame
    masking: Masking | None
    held_out: HeldOut | None
    context_parallel_size: int = 1

    @property
    def masked(self) -> bool:
        """Whether masked tokens are guessed, and not the next one."""
        return self.masking is not None

    @property
    def head(self) -> Head:
        """The head that the model needs."""
        return "masked_lm" if self.masked else "causal_lm"

    @property
    def share(self) -> Share:
        """The rows that this process reads, alone or with those that it shares them with."""
        size = self.context_parallel_size
        return Share(own_group(size), row_groups(size), self.settings.batch_size)

    @property
    def shifted(self) -> bool:
        """Whether a label stands behind the position that predicts it, as the tokens do, and not at it."""
        return not self.masked and self.context_parallel_size == 1

    def rows(self, stream: Any, collator: Callable[[list[Any]], dict[str, Any]]) -> TrainingRows:
        """What this process trains on: whole rows of its stream, or its slices of them.

        Args:
            collator: of whole rows.
        """
        size = self.context_parallel_size
        return TrainingRows(stream, None, collator if size == 1 else SlicedBatches(collator, own_slices(size)))

    def stream(self, seed: int, *, alone: bool = False) -> PackedStream:
        """The training rows of this process, or of a run of one process."""
        share = Share() if alone else self.share
        settings = self.settings.corpus
        return PackedStream(
            self.corpus,
            self.tokenizer,
            self.frame,
            masking=self.masking,
            seed=seed,
            window=settings.shuffle,
            held_out=settings.held_out_share,
            share=share,
            workers=self.settings.workers,
        )

    def cost(self, model: nn.Module) -> TokenCost:
        """Floating-point operations of a token in the model."""
        length = self.frame.length
        predicted = self.settings.masking.rate * self.frame.room / length if self.masked else (length - 1) / length
        return token_cost(model, length, predicted)

    def budget(self, model: nn.Module) -> Budget:
        """How long the model is trained. Where `epochs` is the budget, the text is counted."""
        settings = self.settings
        given = (settings.max_steps, settings.max_tokens, settings.max_flops, settings.max_minutes)
        blocks = None if any(one is not None for one in given) else self.tokens() // self.frame.room
        return budget_of(settings, self.cost(model), processes=row_groups(self.context_parallel_size), blocks=blocks)

    def tokens(self) -> int:
        """Tokens of one pass over the training text, separators among them, as counted once and remembered.

        Raises:
            DataError: a source can't be read, or none has text to train on.
        """
        found = self._remembered()
        if not found:
            raise nothing_to_train_on(self.corpus)
        return found

    def _remembered(self) -> int:
        settings = self.settings.corpus
        key = digest_of(
            {
                "version": _COUNT_VERSION,
                "text": self.corpus.fingerprint(),
                "settings": settings.model_dump(mode="json", exclude={"train", "validation", "held_out", "shuffle"}),
                "held_out": settings.held_out_share,
                "tokenizer": tokenizer_digest(self.tokenizer),
                "separator": self.frame.separator,
            }
        )
        note = cache_directory() / "corpora" / f"{key[:32]}.json"
        try:
            return int(json.loads(note.read_text(encoding="utf8"))["tokens"])
        except (OSError, ValueError, KeyError, TypeError):
            tokens = self._count()
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            write_json(note, {"tokens": tokens})
        except OSError:
            pass  # a cache that can't be written costs time, not correctness
        return tokens

    def _count(self) -> int:
        stream = self.stream(0, alone=True)
        packer, total = Packer(self.frame), 0
        with track("counting tokens") as bar:
            for texts in stream.texts():
                for ids, _ in tokenized(texts, self.tokenizer, words=False):
                    packer.add(ids)
                total += packer.waiting
                packer = Packer(self.frame)
                bar.update(0, f"{total:,}")
        return total


def tokenizer_digest(tokenizer: Any) -> str:
    """Hash of all that decides on the tokens of a text."""
    written = tokenizer_json(tokenizer)
    return digest_of(sorted(tokenizer.get_vocab().items()) if written is None else written)


def text_job(
    settings: LanguageTrainingSettings,
    tokenizer: Any,
    config: Any,
    *,
    masked: bool,
    seed: int,
    context_parallel_size: int = 1,
) -> TextJob:
    """Check the text and the tokenizer, and read the held-out rows.

    Args:
        settings: of the training.
        tokenizer: of the model.
        config: of the model; says how many positions it has.
        masked: whether masked tokens are guessed.
        seed: of the masks.
        context_parallel_size: processes that share a row.

    Raises:
        DataError: the text can't be read, or no held-out block comes of it.
        ModelError: the tokenizer is of an unfit kind.
        RecipeError: the blocks are longer than the model takes, or processes are to share rows with masks.
    """
    check_tokenizer(tokenizer)
    if context_parallel_size > 1 and masked:
        raise RecipeError(ONLY_CAUSAL, fix="leave `context_parallel_size` out")
    limit = model_max_length(config, tokenizer)
    if limit is not None and settings.length > limit:
        raise RecipeError(
            f"`length` is {settings.length}, and the model takes {limit} tokens", fix=f"set `length: {limit}` or less"
        )
    own = settings.masking.model_dump()
    masking = Masking.of(tokenizer, seed=seed, **own) if masked else None
    frame = Frame.of(tokenizer, settings.length, masked=masked)
    corpus = Corpus(settings.corpus.train, settings.corpus)
    rows = _held_out(settings, corpus, tokenizer, frame, masking)
    held_out = None
    if rows is not None:
        held_out = HeldOut(
            rows,
            shifted=not masked,
            mask_token=tokenizer.mask_token_id if masked else None,
            singles=settings.pseudo_perplexity_tokens if masked else 0,
            batch_size=settings.evaluation_batch_size,
            dtype=product_type(settings),
        )
    return TextJob(settings, tokenizer, corpus, frame, masking, held_out, context_parallel_size)


def check_tokenizer(tokenizer: Any) -> None:
    """Raises:
    ModelError: the tokenizer is too slow for large texts.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            "the tokenizer is not of the `tokenizers` library, and large texts need one that is",
            fix="put its tokenizer.json beside config.json",
        )


def _held_out(
    settings: LanguageTrainingSettings, corpus: Corpus, tokenizer: Any, frame: Frame, masking: Masking | None
) -> list[dict[str, Any]] | None:
    text, most = settings.corpus, settings.held_out_rows
    with track("reading held-out text"):
        if text.validation:
            other = Corpus(text.validation, text)
            return held_out_rows(other, tokenizer, frame, masking, share=None, most=most)
        if not text.held_out_share:
            return None
        return held_out_rows(corpus, tokenizer, frame, masking, share=text.held_out_share, most=most)


def training_job(
    job: TextJob,
    model: nn.Module,
    *,
    folder: Path,
    log: Path,
    seed: int,
    parts: Sequence[Part] | None = None,
    samples: int | None = None,
    row_updates: bool | None = None,
    description: str = "training",
    **more: Any,
) -> TrainingJob:
    """The job that trains a model on the text.

    Args:
        job: the text.
        model: with the head that the job needs.
        folder: of its checkpoints.
        log: the JSON-lines log.
        seed: of dropout and of the order.
        parts: of each step; default the plain loss.
        samples: tokens that the plain loss draws to normalise by; None takes the whole vocabulary.
        row_updates: whether embeddings are updated row by row; see `update_by_rows`.
        description: in front of the progress bar.
        more: further attributes of the job.

    Raises:
        ModelError: the loss can't be computed over chunks of the model's vocabulary, processes can't share its rows,
            or rows of embeddings can't be updated one by one.
        RecipeError: the budget is smaller than a step.
    """
    settings = job.settings
    check_head(model)
    refuse_to_share_rows(model, job.context_parallel_size, job.frame.length)
    if parts is None:
        update_by_rows(model, settings, samples, row_updates)
    budget = job.budget(model)
    rate = settings.learning_rate or LanguageTrainingSettings.model_fields["learning_rate"].default
    loss = LanguageModelingLoss(shifted=job.shifted, dtype=product_type(settings), samples=samples)
    return TrainingJob(
        model=model,
        task=task_named("plain_text"),
        shifted=job.shifted,
        data=job.rows(job.stream(seed), collate),
        settings=settings.model_copy(update={"max_steps": budget.steps}),
        groups=parameter_groups(model, rate, settings.weight_decay),
        folder=folder,
        log=log,
        seed=seed,
        validation=validation_of(job.held_out) if settings.evaluate_every != "never" else None,
        parts=[loss] if parts is None else parts,
        description=description,
        **more,
    )


def validation_of(held_out: HeldOut | None) -> Validation | None:
    """Evaluations on the held-out rows, the best being that of the lowest loss."""
    if held_out is None:
        return None

    def evaluate(model: nn.Module) -> Evaluation:
        return Evaluation({f"validation/{name}": value for name, value in held_out.scores(model).items()})

    return Validation(evaluate, "validation/loss", higher_is_better=False)


def parameter_groups(model: nn.Module, rate: float, decay: float) -> list[dict[str, Any]]:
    """Optimiser groups: decay on matrices, none on biases and norms."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "lr": rate, "weight_decay": decay},
        {"params": [p for p in trained if p.ndim < 2], "lr": rate, "weight_decay": 0.0},
    ]


def product_type(settings: TrainingSettings) -> torch.dtype | None:
    """What the product with the output embeddings is computed in; None is the type of the weights."""
    precision = resolve_precision(settings.precision)
    return None if precision == "float32" else getattr(torch, precision)
