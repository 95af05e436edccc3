"""Scores a masked language model on text, for the suite `pseudo_perplexity`."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.evaluation.scoring import scored_details, task_result
from luthier.evaluation.subject import Subject, SuiteResult
from luthier.evaluation.unigram import predicted_tokens
from luthier.language_modeling.masked_text import (
    likelihoods,
    rows_by_share,
    rows_by_token,
    scored_tokens,
    text_blocks,
)
from luthier.language_modeling.masking import Masking
from luthier.language_modeling.packing import Block
from luthier.models.inspect import model_max_length
from luthier.progress import track
from luthier.tasks.running.predicting import Predictions

if TYPE_CHECKING:
    from luthier.pretraining.suite import PseudoPerplexitySuite

_LENGTH = 512


def pseudo_perplexity(suite: PseudoPerplexitySuite, subject: Subject) -> SuiteResult:
    """The suite's scores with intervals over blocks, and what the shares of tokens in the training text come to.

    Raises:
        ModelError: the tokenizer has no mask token.
    """
    length = subject.card.max_length or model_max_length(subject.model.config, subject.tokenizer) or _LENGTH
    blocks = list(text_blocks(subject.task.splits[subject.split]["text"], subject.tokenizer, length))
    masking = suite_masking(suite, subject.tokenizer)
    rows = rows_by_token(blocks, masking) if suite.exact else rows_by_share(blocks, masking)
    passes = sum(len(scored_tokens(block, masking)) for block in blocks) if suite.exact else len(blocks)
    started = time.perf_counter()
    with track(f"{suite.name} on {subject.split}", passes) as bar:
        nll, items = likelihoods(subject.model, rows, len(blocks), batch_size=subject.batch_size, on_batch=bar.update)
    seconds = time.perf_counter() - started
    found = Predictions("plain_text", [], [], np.arange(len(blocks)), nll, items)
    unigram = _by_shares(suite, subject, blocks, masking, found)
    result = task_result(found, subject.task, subject.split, None, unigram=unigram)
    names = {"perplexity": suite.score, "loss": suite.score.replace("perplexity", "loss")}
    renamed = replace(result, drawn={names[name]: values for name, values in result.drawn.items()})
    spent = {"passes": passes, "blocks": len(blocks), "tokens": int(items.sum()), "seconds": round(seconds, 3)}
    return SuiteResult(
        scores={own: result.scores[name] for name, own in names.items()},
        intervals={names[name]: ends for name, ends in result.intervals.items()},
        baselines={names[name]: one for name, one in result.baselines.items()},
        marks=result.marks,
        about={suite.score: "every token masked alone" if suite.exact else f"{suite.rate:.0%} of the tokens masked"},
        details={suite.name: spent, **scored_details(subject.task, subject.split, renamed)},
    )


def suite_masking(suite: PseudoPerplexitySuite, tokenizer: Any) -> Masking:
    """Masks of a suite. Unknown words are guessed as well, which training leaves out: they are tokens of the text, as
    in what `luthier predict` tells of one."""
    masking = Masking.of(tokenizer, rate=suite.rate, masked=1.0, random=0.0, seed=suite.seed)
    return replace(masking, never=masking.never - {tokenizer.unk_token_id})


def _by_shares(
    suite: PseudoPerplexitySuite, subject: Subject, blocks: list[Block], masking: Masking, found: Predictions
) -> Predictions | None:
    """What the shares of tokens in the training text give for the same tokens, where there is such text."""
    shares = subject.token_shares()
    if shares is None:
        return None
    if suite.exact:
        return replace(found, nll=np.array([-shares[scored_tokens(block, masking)].sum() for block in blocks]))
    labels = [row["labels"] for row in rows_by_share(blocks, masking)]
    return predicted_tokens(shares, {"labels": labels}, found, shifted=False)
