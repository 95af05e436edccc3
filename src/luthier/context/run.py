"""Runs a `lengthen` stage: frequencies, a look at two documents, training, the saved model and what is told of it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.context.preflight import as_trained, check_before_training
from luthier.context.reporting import flop_account, sections
from luthier.context.rope import Rope
from luthier.context.rope_config import rope_in, rope_overrides
from luthier.context.rows import CurriculumRows, collate_rows, packing_collator
from luthier.context.text import LongText, long_text
from luthier.language_modeling.budget import Budget
from luthier.language_modeling.preparing import training_job
from luthier.language_modeling.settings import LanguageTrainingSettings
from luthier.models.artifacts import load_model, save_artifact
from luthier.models.card import ModelCard, describe
from luthier.models.inspect import parameter_counts
from luthier.models.loading import load_config, load_tokenizer
from luthier.secrets import redact_values
from luthier.stages.base import StageOutputs, metrics_record
from luthier.storage.files import write_json
from luthier.storage.ranks import joined
from luthier.training.job import TrainingJob, TrainingResult, refuse_attention_without_gradient, train
from luthier.training.telling import training_cost

if TYPE_CHECKING:
    from luthier.context.stage import Lengthen
    from luthier.stages.base import StageInputs


@dataclass(frozen=True)
class Ready:
    """All that the stage trains.

    Attributes:
        tokenizer: of the model.
        before: the rotary embedding that the model came with.
        old_length: tokens that it was trained on.
        text: what it is trained on.
        budget: how long.
        job: how.
        looked_at: what was looked at before, and what was found.
    """

    tokenizer: Any
    before: Rope
    old_length: int
    text: LongText
    budget: Budget
    job: TrainingJob
    looked_at: dict[str, str]

    @property
    def model(self) -> Any:
        """The model that is trained."""
        return self.job.model

    @property
    def rows(self) -> CurriculumRows:
        """Its training rows."""
        rows: CurriculumRows = self.job.data.rows
        return rows

    def training(self) -> AbstractContextManager[None]:
        """What holds while it trains and is scored on packed documents."""
        settings = self.text.settings
        return as_trained(self.model, settings.document_attention, settings.context_parallel_size, settings.length)


def run_lengthening(stage: Lengthen, inputs: StageInputs, folder: Path) -> StageOutputs:
    """Train and save. See `luthier.training.job.train` for what stops it."""
    ready = ready_to_train(stage, inputs, folder)
    with joined("luthier.context.run:lengthen_along", sendable(stage), inputs, folder), ready.training():
        result = train(ready.job)
    ready.rows.count_to(result.steps * ready.rows.step_rows)
    for lane in ready.rows.mixture.lanes:
        lane.corpus.check_unchanged()
    artifact = save_artifact(ready.model, ready.tokenizer, folder / "model", card_of(stage, inputs, ready, result))
    told = context_record(stage, ready, result.steps)
    write_json(folder / "context.json", told)
    details = {
        "steps": result.steps,
        "best_step": result.best_step,
        **told,
        "sections": sections(stage, ready, result),
    }
    scores = dict(result.scores)
    primary = "validation/loss" if "validation/loss" in scores else next(iter(scores), None)
    cost = training_cost(parameter_counts(ready.model), result, artifact)
    return StageOutputs(
        metrics_record("lengthen", scores=scores, primary=primary, cost=cost, details=details), {"model": artifact}
    )


def lengthen_along(stage: Lengthen, inputs: StageInputs, folder: Path) -> None:
    """What another process of the run does while the main one is in `run_lengthening`: it leaves nothing on disk."""
    ready = ready_to_train(stage, inputs, folder)
    with ready.training():
        train(ready.job)


def ready_to_train(stage: Lengthen, inputs: StageInputs, folder: Path) -> Ready:
    """The model with its new frequencies, the text and the job, when two documents went through it as they should.

    Raises:
        DataError, ModelError, RecipeError: they do not fit one another.
    """
    tokenizer = load_tokenizer(inputs.model)
    config: Any = load_config(inputs.model)
    before = rope_in(config)
    old_length = stage.rope.old_length(before)
    overrides = rope_overrides(config, stage.rope, stage.length)
    model = load_model(inputs.model, "causal_lm", seed=inputs.seed, config_overrides=overrides)
    refuse_attention_without_gradient(model)
    looked_at = check_before_training(model, model.config, stage.document_mask, stage.document_attention)
    tokenizer.model_max_length = max(stage.length, min(tokenizer.model_max_length, before.positions))
    collate = packing_collator(model, stage.document_mask, collate_rows)
    text = long_text(stage, tokenizer, old_length, collate)
    budget = text.budget(model)
    text = replace(text, steps=budget.steps or text.steps)
    job = training_job(
        text,
        model,
        folder=folder / "checkpoints" / inputs.key[:16],
        log=folder / "log.jsonl",
        seed=inputs.seed,
        split_weights=stage.split_weights,
        description=f"lengthening seed {inputs.seed}",
    )
    job = replace(job, data=text.rows(job.data.rows, collate), validation=text.validation())
    return Ready(tokenizer, before, old_length, text, budget, job, looked_at)


def sendable(stage: Lengthen) -> Lengthen:
    """The settings as an instance of a class that can be imported, unlike that of a recipe's stage."""
    from luthier.context.stage import Lengthen

    return Lengthen.model_construct(
        _fields_set=set(stage.model_fields_set), **{name: getattr(stage, name) for name in Lengthen.model_fields}
    )


def context_record(stage: Lengthen, ready: Ready, steps: int) -> dict[str, Any]:
    """What `context.json` holds: positions before and after, lengths, the curriculum, tokens and operations."""
    after = rope_in(ready.model.config)
    account = flop_account(ready, steps)
    return {
        "rope": {"kind": stage.rope.kind, "before": dict(ready.before.parameters), "after": dict(after.parameters)},
        "length": {"before": ready.old_length, "after": stage.length},
        "document_mask": stage.document_mask,
        "curriculum": [
            {"length": length, "share": share, "from_step": start}
            for (length, share), start in zip(ready.rows.curriculum.stages, ready.rows.switches, strict=True)
        ],
        "tokens": steps * ready.budget.tokens_per_step,
        "flops": account.pop("all"),
        "flop_account": account,
        "text": {
            "tokens_by_domain": dict(ready.rows.report.tokens),
            "documents_by_domain": dict(ready.rows.report.documents),
            "left_context_shares": ready.rows.report.shares(),
            "passes": ready.rows.mixture.passes(),
        },
    }


def card_of(stage: Lengthen, inputs: StageInputs, ready: Ready, result: TrainingResult) -> ModelCard:
    """The card of the saved model."""
    own = {name for name in LanguageTrainingSettings.model_fields if name not in _UNTOLD}
    own |= {"rope", "document_mask", "document_attention", "curriculum"}
    told: dict[str, Any] = redact_values(stage.model_dump(mode="json", include=own))
    return describe(
        inputs.model,
        "causal_lm",
        schema="plain_text",
        max_length=stage.length,
        method={"name": "causal_lm", "stage": stage.name, **told},
        data=redact_values({"corpus": stage.corpus.model_dump(mode="json")}),
        columns={"text": stage.corpus.text},
        metrics=result.scores,
    )


_UNTOLD = ("corpus", "report_to", "log_every", "workers", "masking", "objective", "pseudo_perplexity_tokens")
