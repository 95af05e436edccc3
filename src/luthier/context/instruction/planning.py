"""What can be told of an `instruct` stage before it runs: whether its text is there, and what would be written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.context.instruction.documents import long_documents
from luthier.generation.instructions import prompts_with_responses
from luthier.language_modeling.documents import check_corpora
from luthier.stages.base import StagePlan

if TYPE_CHECKING:
    from luthier.context.instruction.stage import Instruct
    from luthier.stages.base import StageInputs


def check_instruction(stage: Instruct) -> None:
    """Look at the first document, and at the short instructions.

    Raises:
        DataError: there is no document, or one of them can't be read.
    """
    check_corpora(stage.documents)
    if stage.short is not None:
        prompts_with_responses(stage.short, "train", conversations=True)


def plan_instruction(stage: Instruct, inputs: StageInputs) -> StagePlan:
    """Count documents and questions, and what a sample takes at the most."""
    from luthier.context.memory import training_memory
    from luthier.models.inspect import model_max_length, parameter_counts
    from luthier.models.loading import empty_model
    from luthier.training.estimates import operations_per_second

    w, documents = stage.writing, list(long_documents(stage.documents))
    most = len(documents) * w.chunks
    facts = {
        "documents": f"{len(documents):,}, {sum(one.held_out for one in documents):,} of them held out",
        "questions to write": f"at most {most:,}, of at most {w.max_new_tokens} tokens"
        + (", each looked at again" if w.verify else ""),
        "loss": f"a token of the input weighs {stage.input_loss_weight:g}, one of the answer 1",
    }
    if stage.short is not None:
        rows = len(prompts_with_responses(stage.short, "train", conversations=True))
        facts["short instructions"] = f"{min(rows, stage.short_rows or rows):,} of {rows:,}"
    if inputs.stands_in:
        return StagePlan(facts)
    model = empty_model(inputs.model, "causal_lm")
    total = parameter_counts(model)[1]
    length = stage.length or model_max_length(model.config) or 0
    facts["length"] = f"{length:,} tokens of a sample"
    memory = training_memory(
        model.config,
        total,
        stage.batch_size * length,
        length,
        checkpointing=stage.gradient_checkpointing,
        masked=stage.short is not None,
    )
    # Reading a part and writing about it, twice with the verdict; then passes over samples at full length.
    read = most * (1 + w.verify) * (w.chunk_tokens + w.max_new_tokens)
    seconds = (2 * read + 6 * stage.epochs * most * length) * total / operations_per_second()
    return StagePlan(facts, seconds, memory.total)
