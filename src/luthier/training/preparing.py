"""What supervised training starts from: checked data, encoded for one model, and the facts about that model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.data.batches.encoding import encode
from luthier.data.loading import load_data
from luthier.data.task_data import TaskData
from luthier.errors import DataError, RecipeError
from luthier.evaluation.metrics import check_metrics
from luthier.models.head_kinds import Head
from luthier.models.inspect import is_decoder, is_encoder_decoder, model_max_length
from luthier.models.loading import load_config, load_tokenizer
from luthier.models.stated import answers_need_a_writer
from luthier.progress import track
from luthier.stages.base import StageInputs
from luthier.tasks.base import task_of

if TYPE_CHECKING:
    from luthier.training.supervised_settings import SupervisedSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Data, tokenizer and the facts about the model that both the dry run and the run need."""

    task: TaskData
    rows: dict[str, Any]
    tokenizer: Any
    head: Head
    max_length: int
    shifted: bool

    @property
    def schema(self) -> str:
        """The schema of the encoded rows."""
        return self.task.encoded_schema

    @property
    def regression(self) -> bool:
        """Whether the model's head gives one number."""
        return bool(label_arguments(self.task).get("regression"))


def prepare(
    stage: SupervisedSettings,
    inputs: StageInputs,
    encoding: Callable[..., dict[str, Any]] = encode,
    most: int | None = None,
) -> Prepared:
    """Read, check and encode the data.

    Args:
        stage: with the data settings.
        inputs: with the model.
        encoding: what encodes them: `luthier.data.batches.encoding.encode`, or a sample of them for a dry run.
        most: tokens that other models can be shown which read the same rows; None where nothing limits it.

    Raises:
        DataError: a row can't be used, or a row is too long and may not be cut.
        RecipeError: the method leaves no room for text, the objective does not fit the data, or the task has a metric
            that there is not.
    """
    tokenizer, config = load_tokenizer(inputs.model), load_config(inputs.model)
    task = checked_rows(stage)
    if task.form is not None:
        check_answers_in_text(stage, config)
    reserved = stage.method.reserved_tokens()
    wanted = stage.data.max_length
    longest = min(x for x in (wanted or 512, model_max_length(config, tokenizer), most) if x)
    if wanted is not None and longest < wanted:
        logger.warning("data.max_length is %d, and %d tokens are all that can be read at once", wanted, longest)
    if longest - reserved < 8:
        raise RecipeError(
            f"the method fills {reserved} of the {longest} positions, which leaves no room for text",
            fix="shorten the prompt or raise data.max_length",
        )
    with track("encoding text"):
        rows = encoding(
            task,
            tokenizer,
            max_length=longest,
            reserved=reserved,
            too_long=stage.data.too_long,
            encoder_decoder=is_encoder_decoder(config),
        )
    if task.form is not None and task.form.ranks_candidates:
        rows["train"] = rows["train"].select([i for i, answer in enumerate(rows["train"]["answer"][:]) if answer >= 0])
    if stage.objective is not None:
        stage.objective.check(
            schema=task.encoded_schema,
            classes=len(task.labels),
            validation=_has_rows(rows.get("validation")),
            streamed=stage.data.streaming,
        )
    kind = task_of(task)
    return Prepared(task, rows, tokenizer, kind.head_on(config), longest, kind.predicts_next_token(config))


def checked_rows(stage: SupervisedSettings) -> TaskData:
    """Read and check the rows to train on, as far as that needs no model.

    Raises:
        DataError: a row can't be used, or there are none to train on.
        RecipeError: the task has a metric that there is not, or a stream is to be read in epochs.
    """
    task = load_data(stage.data, splits=("train", "validation"))
    if not task_of(task).language:
        check_metrics(task.metrics, task_of(task).own_metrics())
    if "train" not in task.splits or (not stage.data.streaming and not len(task.splits["train"])):
        raise DataError("there are no training rows", fix="give data.train or data.source")
    if stage.data.streaming and stage.max_steps is None and stage.max_minutes is None:
        raise RecipeError("a stream has no end that epochs could count", fix="give tune.max_steps or tune.max_minutes")
    return task


def _has_rows(split: Any) -> bool:
    return split is not None and (not hasattr(split, "__len__") or len(split) > 0)


def check_answers_in_text(stage: SupervisedSettings, config: Any) -> None:
    """Refuse what needs a classification head where the task is posed as text.

    Raises:
        RecipeError: the model does not write text, or the objective changes the head.
    """
    if not (is_decoder(config) or is_encoder_decoder(config)):
        raise answers_need_a_writer(config.model_type)
    if stage.objective is not None and stage.objective.needs_validation_logits:
        raise RecipeError(
            f"the objective {stage.objective.name} changes a classification head, which `as_text` does without",
            fix="leave one of them out",
        )


def label_arguments(task: TaskData) -> dict[str, Any]:
    """What a new head has to know; a language model's own head needs nothing."""
    return task_of(task).head_arguments(task.labels)


def new_head(stage: SupervisedSettings, task: TaskData) -> dict[str, Any]:
    """What a new head has to know, and its settings, as arguments of `luthier.models.artifacts.load_model`.

    Raises:
        RecipeError: the task's head has no such settings.
    """
    chosen = task_of(task).settings_of_head(stage.head) if stage.head else None
    return label_arguments(task) | ({"config_overrides": chosen} if chosen else {})


def row_counts(prepared: Prepared) -> dict[str, int | None]:
    """Encoded rows of every split; None for a stream."""
    return {split: len(rows) if hasattr(rows, "__len__") else None for split, rows in prepared.rows.items()}


def described_task(task: TaskData) -> str:
    """The task in a few words."""
    labels = f", {len(task.labels)} labels" if task.labels else ""
    read = f" on {' and '.join(task.columns)}" if task.schema.optional else ""
    return f"{task.schema.name}{read}{labels}" + (f', as text: "{task.form.template}"' if task.form else "")
