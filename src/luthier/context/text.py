"""The text side of a `lengthen` stage: mixture, rows, held-out text, budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from luthier.context.corpus_settings import DomainSettings
from luthier.context.curriculum import LengthCurriculum
from luthier.context.mixture import mixture_of
from luthier.context.rows import Collator, CurriculumRows, Row, collate_rows, rows_of_block
from luthier.language_modeling.budget import TokenCost, token_cost
from luthier.language_modeling.documents import Corpus
from luthier.language_modeling.held_out import HeldOut, held_out_rows
from luthier.language_modeling.packing import Block, Frame
from luthier.language_modeling.preparing import TextJob, check_tokenizer, product_type
from luthier.progress import track
from luthier.training.job import UNBOUNDED
from luthier.training.validation import Evaluation, Validation

if TYPE_CHECKING:
    from luthier.context.stage import Lengthen


@dataclass(frozen=True)
class LongText(TextJob):
    """All that lengthening needs beside the model.

    Attributes:
        settings: of the stage.
        others: held-out text by name: that of other domains, and `short`, the main one in rows of the old length.
        steps: of the whole training, once that is known.
    """

    settings: Lengthen
    others: dict[str, HeldOut] = field(default_factory=dict)
    steps: int = UNBOUNDED

    def stream(self, seed: int, *, alone: bool = False) -> Any:
        """The training rows of this process; the plain stream of the main text where it is only counted."""
        if alone:
            return super().stream(seed, alone=True)
        s = self.settings
        return CurriculumRows(
            mixture_of(s.corpus, self.tokenizer, seed),
            self.frame,
            s.lengths(),
            steps=self.steps,
            step_rows=s.batch_size * s.accumulation * self.share.processes,
            mask=s.document_mask,
            share=self.share,
        )

    def cost(self, model: nn.Module, lengths: LengthCurriculum | None = None) -> TokenCost:
        """Floating-point operations of a token, as the mean over the tokens of all lengths: those of the stage, or
        others."""

        def part(name: str) -> Callable[[int], float]:
            return lambda length: float(getattr(token_cost(model, length, (length - 1) / length), name))

        lengths = lengths or self.settings.lengths()
        return TokenCost(*(lengths.mean(part(name)) for name in ("body", "attention", "head")))

    def validation(self) -> Validation | None:
        """Evaluations on all held-out text, the best being that of the lowest loss on the main one."""
        main, others = self.held_out, self.others
        if main is None or self.settings.evaluate_every == "never":
            return None

        def evaluate(model: nn.Module) -> Evaluation:
            scores = {f"validation/{name}": value for name, value in main.scores(model).items()}
            for name, one in others.items():
                scores[f"validation/{name}_loss"] = one.loss(model)
            return Evaluation(scores)

        return Validation(evaluate, "validation/loss", higher_is_better=False)


def long_text(stage: Lengthen, tokenizer: Any, old_length: int, collate: Collator = collate_rows) -> LongText:
    """Check the tokenizer, and read the held-out text.

    Args:
        old_length: tokens that the model was trained on; rows of that length show what becomes of short text.
        collate: rows -> batch, of held-out text.

    Raises:
        DataError: a text can't be read, or no held-out row comes of it.
        ModelError: the tokenizer is of an unfit kind.
    """
    check_tokenizer(tokenizer)
    frame = Frame.of(tokenizer, stage.length, masked=False)
    found: dict[str, HeldOut] = {}
    with track("reading held-out text"):
        for name, one in stage.corpus.by_name.items():
            rows = _rows(one, stage, tokenizer, frame, stage.length)
            if rows:
                found[name] = _held_out(stage, rows, collate)
        if "main" in found and stage.length % old_length == 0 and old_length < stage.length:
            found["short"] = _held_out(stage, _rows(stage.corpus, stage, tokenizer, frame, old_length), collate)
    main = found.pop("main", None)
    corpus = Corpus(stage.corpus.train, stage.corpus)
    return LongText(stage, tokenizer, corpus, frame, None, main, stage.context_parallel_size, others=found)


def _rows(domain: DomainSettings, stage: Lengthen, tokenizer: Any, frame: Frame, length: int) -> list[Row]:
    def encode(block: Block, number: int) -> Row:
        return rows_of_block(block, number, length, stage.document_mask)

    given = partial(
        held_out_rows, tokenizer=tokenizer, frame=frame, masking=None, most=stage.held_out_rows, encode=encode
    )
    if domain.validation:
        return given(Corpus(domain.validation, domain), share=None)
    share = domain.held_out_share
    return given(Corpus(domain.train, domain), share=share) if share else []


def _held_out(stage: Lengthen, rows: list[Row], collate: Collator) -> HeldOut:
    """Rows in passes of at most `evaluation_batch_size`, and at most the tokens of a training step's pass."""
    most = max(1, min(stage.evaluation_batch_size, stage.batch_size))
    return HeldOut(rows, shifted=True, batch_size=most, dtype=product_type(stage), collator=collate)
