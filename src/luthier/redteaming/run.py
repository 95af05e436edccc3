"""Runs a `redteam` stage: the loop, the target that goes on, and what is told of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.evaluation.meters import CostMeter
from luthier.models.artifacts import load_artifact, load_model, save_artifact
from luthier.models.card import describe
from luthier.models.inspect import bytes_on_disk, parameter_counts
from luthier.models.loading import load_tokenizer
from luthier.redteaming.chat_server import write_targets
from luthier.redteaming.loop import MartLoop
from luthier.redteaming.reporting import about, intervals_of, scores_of, sections
from luthier.redteaming.result import MartResult
from luthier.stages.base import MODEL, StageOutputs, metrics_record
from luthier.storage.files import write_text

if TYPE_CHECKING:
    from luthier.redteaming.stage import Redteam
    from luthier.stages.base import StageInputs

NOTICE = """\
This folder was made by a red-teaming stage of Luthier, to make a language model refuse harmful requests.

It holds prompts that were written to make a model misbehave, answers to them, and, in the folders called `adversary`
and `warm-up`, models that were trained to write such prompts. Use them to test and protect models that are yours, or
whose owner lets you. Don't publish the adversary, and don't show its texts to people who did not ask to see them.
"""


def run_redteaming(stage: Redteam, inputs: StageInputs, folder: Path) -> StageOutputs:
    """Run the loop and save the last target. See `luthier.redteaming.loop.MartLoop.run` for what stops it."""
    from luthier.redteaming.stage import ADVERSARY

    stage, twin = stage.with_judges(inputs), inputs.artifacts.get(ADVERSARY)
    write_text(folder / "NOTICE.txt", NOTICE)
    with CostMeter() as meter:
        loop = MartLoop(
            stage, inputs.model, folder, adversary=twin.model if twin else None, seed=inputs.seed, key=inputs.key
        )
        result = loop.run()
    artifact, counts = save_target(result, inputs, folder)
    write_targets(folder, loop.start, artifact.resolve())
    loop.check.release()
    scores = scores_of(result)
    cost = {
        "trainable_parameters": counts[0],
        "total_parameters": counts[1],
        "bytes_on_disk": bytes_on_disk(artifact),
        "seconds": meter.seconds,
        "peak_memory_bytes": meter.peak_memory_bytes,
    }
    details: dict[str, Any] = {
        "seeds": result.seeds,
        "judges": result.judges,
        "rounds": [done.facts for done in result.rounds],
        "stopped": result.stopped,
        "measured": {str(number): one for number, one in result.measured.items()},
        "final": result.final,
        "transfer": {str(k): {str(t): v for t, v in row.items()} for k, row in result.transfer.items()},
        "sections": sections(stage, result),
    }
    marks = [*result.marks, *([_UNTRAINED] if stage.target.train and stage.rounds and not result.trained else [])]
    record = metrics_record(
        stage.name,
        scores=scores,
        intervals=intervals_of(result),
        marks=marks,
        about=about(result),
        primary="held_out/violation" if "held_out/violation" in scores else next(iter(scores), None),
        cost=cost,
        details=details,
    )
    return StageOutputs(record, {MODEL: artifact})


_UNTRAINED = (
    "The target learned nothing: no answer was both safe and helpful enough. Look at the thresholds of `selection`, at "
    "the judges, and at answers that were cut off"
)


def save_target(result: MartResult, inputs: StageInputs, folder: Path) -> tuple[Path, tuple[int, int]]:
    """The last target as the stage's model, with its trained and all of its parameters."""
    first = describe(inputs.model, "causal_lm", schema="prompt_response", method={"name": "redteam"})
    if not result.trained:
        model: Any = load_model(inputs.model, "causal_lm")
        place = save_artifact(model, load_tokenizer(inputs.model), folder / "model", first)
        return place, (0, parameter_counts(model)[1])
    model, tokenizer, card = load_artifact(result.target.reference, trainable=True, settings=inputs.model)
    # The rounds started from a copy of the model that came in, or from one another: what counts is that model.
    card = dataclasses.replace(
        card, base=first.base, base_fingerprint=first.base_fingerprint, base_gguf_file=first.base_gguf_file
    )
    return save_artifact(model, tokenizer, folder / "model", card), parameter_counts(model)
