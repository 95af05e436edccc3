"""Runs a `pretrain` stage: tokenizer, model, training, the saved model and what is told of it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.language_modeling.context_parallel import sharing_rows
from luthier.language_modeling.documents import Corpus
from luthier.language_modeling.preparing import TextJob, training_job
from luthier.language_modeling.settings import LanguageTrainingSettings
from luthier.models.artifacts import save_artifact
from luthier.models.card import ModelCard, describe
from luthier.models.inspect import parameter_counts
from luthier.pretraining.cloze import ClozeScore, cloze_scores
from luthier.pretraining.reporting import sections
from luthier.pretraining.sentences import read_sentences
from luthier.pretraining.start import Start, start_of
from luthier.pretraining.tokenizers import new_tokenizer
from luthier.progress import track
from luthier.secrets import redact_values
from luthier.stages.base import StageOutputs, metrics_record
from luthier.storage.ranks import joined
from luthier.training.checkpoints import of_key
from luthier.training.job import TrainingJob, TrainingResult, train
from luthier.training.telling import training_cost

if TYPE_CHECKING:
    from luthier.pretraining.stage import Pretrain
    from luthier.stages.base import StageInputs
    from luthier.storage.steps import Workspace


@dataclass(frozen=True)
class Ready:
    """All that the stage trains.

    Attributes:
        start: what it starts from.
        text: what it trains on.
        job: how.
    """

    start: Start
    text: TextJob
    job: TrainingJob

    @property
    def model(self) -> Any:
        """The model that is trained."""
        return self.job.model

    def training(self) -> AbstractContextManager[None]:
        """What holds while it trains."""
        return sharing_rows(self.model, self.text.context_parallel_size, self.text.frame.length)


def run_pretraining(stage: Pretrain, inputs: StageInputs, folder: Path) -> StageOutputs:
    """Train and save. See `luthier.training.job.train` for what stops it."""
    tokenizer_folder = trained_tokenizer(stage, inputs)
    ready = ready_to_train(stage, inputs, folder, tokenizer_folder)
    before = guesses(stage, ready)
    arguments = (sendable(stage), inputs, folder, tokenizer_folder)
    with joined("luthier.pretraining.run:pretrain_along", *arguments), ready.training():
        result = train(ready.job)
    ready.text.corpus.check_unchanged()
    after = guesses(stage, ready)
    artifact = save_artifact(
        ready.model, ready.start.tokenizer, folder / "model", card_of(stage, inputs, ready, result)
    )
    scores = dict(result.scores) | ({} if after is None else {f"cloze/top{after.top}": after.share})
    details = {
        "steps": result.steps,
        "best_step": result.best_step,
        **spent(ready, result.steps),
        "sections": sections(ready, result, before, after),
    }
    primary = "validation/loss" if "validation/loss" in scores else next(iter(scores), None)
    cost = training_cost(parameter_counts(ready.model), result, artifact)
    return StageOutputs(
        metrics_record("pretrain", scores=scores, primary=primary, cost=cost, details=details), {"model": artifact}
    )


def pretrain_along(stage: Pretrain, inputs: StageInputs, folder: Path, tokenizer_folder: Path | None) -> None:
    """What another process of the run does while the main one is in `run_pretraining`: it leaves nothing on disk."""
    ready = ready_to_train(stage, inputs, folder, tokenizer_folder)
    with ready.training():
        train(ready.job)


def ready_to_train(stage: Pretrain, inputs: StageInputs, folder: Path, tokenizer_folder: Path | None) -> Ready:
    """The text, the model and the job.

    Raises:
        DataError, ModelError, RecipeError: they do not fit one another.
    """
    start = start_of(stage, inputs, tokenizer_folder)
    text = start.text()
    job = training_job(
        text,
        start.model(),
        folder=of_key(folder, inputs.key),
        log=folder / "log.jsonl",
        seed=inputs.seed,
        samples=stage.sampled_softmax,
        split_weights=stage.split_weights,
        row_updates=stage.row_updates,
        description=f"pretraining seed {inputs.seed}",
    )
    return Ready(start, text, job)


def trained_tokenizer(stage: Pretrain, inputs: StageInputs) -> Path | None:
    """The folder of the new tokenizer, which is trained now unless it has been before; None where the model's own is
    taken."""
    settings = stage.tokenizer
    if settings is None or inputs.workspace is None:
        return None
    corpus = Corpus(stage.corpus.train, stage.corpus)

    def trained(work: Workspace) -> dict[str, Any]:
        with track("training the tokenizer"):
            texts = (one.text for one in islice(corpus.documents(), settings.documents))
            tokenizer = new_tokenizer(texts, settings)
        tokenizer.save_pretrained(work.folder / "tokenizer")
        return {"tokens": len(tokenizer)}

    read = stage.corpus.model_dump(mode="json", exclude={"train", "validation", "shuffle", "held_out"})
    made_from = {"settings": settings, "read": read, "text": corpus.fingerprint()}
    return inputs.workspace.step("tokenizer", made_from, trained, shared=True).folder / "tokenizer"


def sendable(stage: Pretrain) -> Pretrain:
    """The settings as an instance of a class that can be imported, unlike that of a recipe's stage."""
    from luthier.pretraining.stage import Pretrain

    return Pretrain.model_construct(
        _fields_set=set(stage.model_fields_set), **{name: getattr(stage, name) for name in Pretrain.model_fields}
    )


def guesses(stage: Pretrain, ready: Ready) -> ClozeScore | None:
    """How the model completes the stage's sentences as it is now; None where there are none."""
    if stage.cloze is None:
        return None
    sentences = read_sentences(stage.cloze_file())
    return cloze_scores(ready.model, ready.start.tokenizer, sentences, masked=ready.start.masked, top=stage.cloze_top)


def spent(ready: Ready, steps: int) -> dict[str, float]:
    """Tokens and floating-point operations of that many steps."""
    budget = ready.text.budget(ready.model)
    tokens = steps * budget.tokens_per_step
    return {"tokens": tokens, "flops": tokens * budget.cost.training}


def card_of(stage: Pretrain, inputs: StageInputs, ready: Ready, result: TrainingResult) -> ModelCard:
    """The card of the saved model."""
    details: dict[str, Any] = {
        "schema": "plain_text",
        "max_length": stage.length,
        "method": {"name": ready.start.head, "stage": stage.name, **told_settings(stage)},
        "data": redact_values({"corpus": stage.corpus.model_dump(mode="json")}),
        "columns": {"text": stage.corpus.text},
        "metrics": result.scores,
    }
    if stage.takes() and inputs.artifacts:
        return describe(stage.start(inputs).model, ready.start.head, **details)
    return ModelCard(base="", base_fingerprint="", head=ready.start.head, **details)


def told_settings(stage: Pretrain) -> dict[str, Any]:
    """What a card says of how the model was trained."""
    left_out = {"corpus", "report_to", "log_every"} | LanguageTrainingSettings.without_effect_on_results
    own = set(LanguageTrainingSettings.model_fields) - left_out | {"architecture", "tokenizer", "remap"}
    kept: dict[str, Any] = redact_values(stage.model_dump(mode="json", include=own))
    return kept
