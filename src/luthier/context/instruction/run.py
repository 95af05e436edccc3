"""Runs an `instruct` stage: questions and answers, samples, training on them, and what is told of all that."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from luthier.context.instruction.loss import WeightedLoss, WeightedText
from luthier.context.instruction.reporting import sections
from luthier.context.instruction.samples import Row, Sample, collate_samples, long_rows, short_rows
from luthier.context.instruction.synthesis import Synthesis, Synthesising
from luthier.context.preflight import check_before_training, without_cache
from luthier.context.rows import DocumentMask, packing_collator
from luthier.data.batches.sampling import LengthBucketSampler
from luthier.data.batches.sharing import SharedRows, collating_fillers
from luthier.data.schemas import IGNORED
from luthier.errors import ModelError, RecipeError
from luthier.generation.instructions import instruction_rows
from luthier.generation.records import read_records
from luthier.language_modeling.held_out import HeldOut
from luthier.language_modeling.preparing import product_type
from luthier.language_modeling.rows import check_head
from luthier.methods.base import MethodContext
from luthier.models.artifacts import load_model, save_artifact
from luthier.models.card import ModelCard, describe
from luthier.models.head_kinds import peft_task_type
from luthier.models.inspect import model_max_length, parameter_counts
from luthier.models.loading import load_config, load_tokenizer
from luthier.models.references import fingerprint, resolve
from luthier.secrets import redact_values
from luthier.stages.base import MODEL, StageOutputs, metrics_record
from luthier.stages.parts import modules_of
from luthier.storage.code import code_digest
from luthier.storage.keys import digest_of
from luthier.storage.one_version import check_file_unchanged
from luthier.storage.ranks import joined, rank, world_size
from luthier.training.checkpoints import of_key
from luthier.training.job import TrainingJob, TrainingResult, TrainingRows, train
from luthier.training.telling import training_cost
from luthier.training.validation import Evaluation, Validation

if TYPE_CHECKING:
    from luthier.context.instruction.settings import InstructionSettings
    from luthier.context.instruction.stage import Instruct
    from luthier.stages.base import StageInputs

SAMPLES = "samples.jsonl"


@dataclass(frozen=True)
class Learned:
    """What a model is trained on.

    Attributes:
        tokenizer: of the model.
        length: tokens of the longest row.
        rows: that are trained on, long ones first.
        held_out: samples that score the model.
        short: how many short instructions are among the rows.
        tokens: of long rows and of short ones.
    """

    tokenizer: Any
    length: int
    rows: list[Row]
    held_out: list[Row]
    short: int
    tokens: Mapping[str, int]


def run_instruction(stage: Instruct, inputs: StageInputs, folder: Path) -> StageOutputs:
    """Write, train, save. See `luthier.training.job.train` for what stops it."""
    from luthier.context.instruction.stage import GENERATOR

    assert inputs.workspace is not None
    tokenizer = load_tokenizer(inputs.model)
    length = sample_length(stage, inputs, tokenizer)
    generator = inputs.artifacts.get(GENERATOR, inputs.artifacts[MODEL]).model
    found = Synthesising(
        stage.documents,
        stage.writing,
        generator,
        tokenizer,
        length,
        workspace=inputs.workspace,
        key=digest_of(written_inputs(stage, inputs, length)),
        seed=inputs.seed,
    ).run()
    shutil.copyfile(found.folder / SAMPLES, folder / SAMPLES)
    learned = what_is_learned(stage, inputs, folder, tokenizer)
    job, looked_at = training_job(stage, inputs, learned, folder)
    settings = sendable(stage)
    with joined("luthier.context.instruction.run:instruct_along", settings, inputs, folder), without_cache(job.model):
        result = train(job)
    artifact = save_artifact(job.model, tokenizer, folder / "model", card_of(stage, inputs, result, length))
    scores = dict(result.scores)
    cost = training_cost(parameter_counts(job.model), result, artifact)
    details = {
        "steps": result.steps,
        "best_step": result.best_step,
        "synthesis": dict(found.counts),
        "tokens": dict(learned.tokens),
        "input_loss_weight": stage.input_loss_weight,
        "sections": sections(stage, found, learned, looked_at),
    }
    primary = "validation/answer_loss" if "validation/answer_loss" in scores else None
    record = metrics_record(
        stage.name, scores=scores, primary=primary, cost=cost, details=details, marks=marks_of(found, learned)
    )
    return StageOutputs(record, {MODEL: artifact})


def written_inputs(stage: Instruct, inputs: StageInputs, length: int) -> dict[str, Any]:
    """All that questions, verdicts and samples depend on: nothing of how the model is trained on them."""
    from luthier.context.instruction.stage import GENERATOR

    generator = inputs.artifacts.get(GENERATOR, inputs.artifacts[MODEL]).model
    return {
        "documents": stage.documents_read(),
        "settings": [stage.documents, stage.writing],
        "models": [[fingerprint(resolve(one)), one.loaded_as()] for one in (generator, inputs.model)],
        "length": length,
        "seed": inputs.seed,
        "code": code_digest({Synthesising.__module__, *modules_of([stage.documents, stage.writing])}),
    }


def instruct_along(stage: InstructionSettings, inputs: StageInputs, folder: Path) -> None:
    """What another process of the run does while the main one trains: it reads the samples that were written."""
    learned = what_is_learned(stage, inputs, folder, load_tokenizer(inputs.model))
    job, _ = training_job(stage, inputs, learned, folder)
    with without_cache(job.model):
        train(job)


def sample_length(stage: InstructionSettings, inputs: StageInputs, tokenizer: Any) -> int:
    """Tokens of a sample.

    Raises:
        ModelError: the tokenizer does not tell where tokens stand in a text.
        RecipeError: the model has fewer positions, or does not tell how many it has.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            "the tokenizer is not of the `tokenizers` library, which tells where tokens stand in a text",
            fix="put its tokenizer.json beside config.json",
        )
    limit = model_max_length(load_config(inputs.model), tokenizer)
    length = stage.length or limit
    if length is None:
        raise RecipeError("the model does not tell how many positions it has", fix="give `length`")
    if limit is not None and length > limit:
        raise RecipeError(
            f"`length` is {length:,}, and the model takes {limit:,} tokens",
            fix=f"set `length: {limit}` or less, or lengthen the model first with the stage `lengthen`",
        )
    return length


def what_is_learned(stage: InstructionSettings, inputs: StageInputs, folder: Path, tokenizer: Any) -> Learned:
    """Rows of the samples in the stage's folder, and of short instructions."""
    length = sample_length(stage, inputs, tokenizer)
    samples = [Sample(**one) for one in read_records(folder / SAMPLES)]
    learned, held = ([one for one in samples if one.held_out is which] for which in (False, True))
    rows = long_rows(learned, tokenizer, length, stage.input_loss_weight)
    instructions = instruction_rows(stage.short, stage.short_rows or 1 << 40, inputs.seed, conversations=True)
    short = short_rows(instructions, tokenizer, length, inputs.seed, len(rows))
    tokens = {name: sum(row["length"] for row in some) for name, some in (("long", rows), ("short", short))}
    held_out = long_rows(held, tokenizer, length, 1.0)
    return Learned(tokenizer, length, [*rows, *short], held_out, len(instructions), tokens)


def training_job(
    stage: InstructionSettings, inputs: StageInputs, learned: Learned, folder: Path
) -> tuple[TrainingJob, dict[str, str]]:
    """The job, and what was looked at before: two documents went through the model as they should.

    Raises:
        ModelError: they did not, or the loss can't be computed over chunks of the model's vocabulary.
    """
    model: Any = load_model(inputs.model, "causal_lm", seed=inputs.seed)
    mask: DocumentMask = "block" if learned.short else "none"
    looked_at = check_before_training(model, model.config, mask)
    collate = packing_collator(model, mask, partial(collate_samples, pad=learned.tokenizer.pad_token_id or 0))
    model = with_method(stage, model, learned.tokenizer, inputs.seed)
    check_head(model)
    sampler = LengthBucketSampler(
        [row["length"] for row in learned.rows],
        batch_size=stage.batch_size,
        accumulation=stage.accumulation,
        seed=inputs.seed,
        processes=world_size(),
        process=rank(),
    )
    several = world_size() > 1
    rows: Any = SharedRows(learned.rows) if several else learned.rows
    dtype = product_type(stage)
    job = TrainingJob(
        model=model,
        task=WeightedText(),
        shifted=True,
        data=TrainingRows(rows, sampler, collating_fillers(collate) if several else collate),
        settings=stage,
        groups=stage.method.parameter_groups(model, stage.rate(), stage.weight_decay),
        folder=of_key(folder, inputs.key),
        log=folder / "log.jsonl",
        seed=inputs.seed,
        validation=validation_of(stage, learned, collate),
        parts=[WeightedLoss(dtype)],
        description=f"instructing seed {inputs.seed}",
    )
    return job, looked_at


def with_method(stage: InstructionSettings, model: Any, tokenizer: Any, seed: int) -> Any:
    """The model as the tuning method changes it; its new parameters depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tuned = stage.method.applied(model, MethodContext(peft_task_type("causal_lm"), seed, tokenizer))
    for path in stage.method.files():
        check_file_unchanged(path)
    return tuned


def validation_of(
    stage: InstructionSettings, learned: Learned, collate: Callable[[Sequence[Row]], dict[str, Any]]
) -> Validation | None:
    """Mean losses of the held-out samples: of answers, by which the best weights are chosen, and of what is before
    them."""
    if not learned.held_out or stage.evaluate_every == "never":
        return None
    size, dtype = stage.evaluation_batch_size, product_type(stage)

    def only(answers: bool) -> list[Row]:
        return [
            {**row, "labels": np.where(row["answered"] == answers, row["input_ids"], IGNORED)}
            for row in learned.held_out
        ]

    def bare(rows: Sequence[Row]) -> dict[str, Any]:
        return {name: value for name, value in collate(rows).items() if name != "loss_weights"}

    answers, inputs = (
        HeldOut(only(which), shifted=True, batch_size=size, dtype=dtype, collator=bare) for which in (True, False)
    )

    def evaluate(model: nn.Module) -> Evaluation:
        return Evaluation({"validation/answer_loss": answers.loss(model), "validation/input_loss": inputs.loss(model)})

    return Validation(evaluate, "validation/answer_loss", higher_is_better=False)


def marks_of(found: Synthesis, learned: Learned) -> list[str]:
    """What a reader must not miss."""
    marks = []
    if found.counts["samples"] < found.counts["parts"] / 4:
        marks.append(
            f"{found.counts['samples']:,} samples came of {found.counts['parts']:,} parts: read what was dropped"
        )
    if not learned.held_out:
        marks.append("no sample is held out, so that nothing says whether the model learned more than these")
    return marks


def sendable(stage: Instruct) -> InstructionSettings:
    """The settings as an instance of a class that can be imported, unlike that of a recipe's stage."""
    from luthier.context.instruction.settings import InstructionSettings

    fields = {name: getattr(stage, name) for name in InstructionSettings.model_fields}
    return InstructionSettings.model_construct(**fields)


def card_of(stage: Instruct, inputs: StageInputs, result: TrainingResult, length: int) -> ModelCard:
    """The card of the saved model."""
    told: dict[str, Any] = redact_values(stage.method.model_dump(mode="json"))
    return describe(
        inputs.model,
        "causal_lm",
        schema="prompt_response",
        max_length=length,
        method={**told, "stage": stage.name, "input_loss_weight": stage.input_loss_weight},
        data=redact_values({"documents": stage.documents.model_dump(mode="json")}),
        columns={"prompt": "prompt", "response": "response"},
        metrics=result.scores,
    )
