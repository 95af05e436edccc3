"""Fine-tuning of one side on the rows of a round, through the one supervised training of the library.

Source: Ge et al. 2024, section 3: L = -mean log p(response | prompt), over the tokens of the response.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.data.settings import DataSettings
from luthier.generation.records import Record, write_records
from luthier.models.adapters import is_adapter
from luthier.models.references import resolve
from luthier.models.settings import ModelSettings
from luthier.redteaming.settings import MartSettings, Side
from luthier.stages.artifacts import Artifact
from luthier.stages.base import MODEL, StageInputs
from luthier.storage.steps import Workspace
from luthier.training.settings import TrainingSettings
from luthier.training.supervised import train_supervised
from luthier.training.supervised_settings import SupervisedSettings

TRAIN = "train.jsonl"


def train_side(
    side: Side,
    settings: MartSettings,
    model: ModelSettings,
    rows: Sequence[Record],
    work: Workspace,
    seed: int,
) -> dict[str, Any]:
    """Train on from a model, inside `work.folder`: the rows lie in `train.jsonl`, what was trained in `model`.

    Args:
        side: how.
        settings: of the loop.
        model: what it goes on from: a whole model, on which the side's method starts, or the adapter of the round
            before, which is trained on.
        rows: with `prompt` and `response`, in the order that is written.
        work: of the step.
        seed: of the training.

    Returns:
        Rows, steps and costs.
    """
    write_records(work.folder / TRAIN, rows)
    data = DataSettings(
        train=str(work.folder / TRAIN),
        task="prompt_response",
        prompt="prompt",
        response="response",
        max_length=settings.max_length,
        too_long="truncate",
    )
    shared = {name: getattr(side, name) for name in TrainingSettings.model_fields}
    source = resolve(model)
    again = source.kind == "artifact" and source.path is not None and _made_by(source.path, side)
    stage = SupervisedSettings(**shared, data=data, method=side.method, continue_adapter=again)
    inputs = StageInputs({MODEL: Artifact("pretrained", model)}, seed, key=work.key, workspace=work)
    metrics = train_supervised(stage, inputs, work.folder).metrics
    return {"rows": len(rows), "steps": metrics["details"]["steps"], "cost": metrics["cost"], "continued": again}


def _made_by(folder: Path, side: Side) -> bool:
    """Whether a folder holds an adapter of an earlier round, and not one that a stage before the loop made."""
    return is_adapter(folder) and (folder.parent / TRAIN).is_file()


def mixed(rows: Sequence[Mapping[str, Any]], more: Sequence[Mapping[str, Any]]) -> list[Record]:
    """Rows of a round and what keeps a model helpful, as training reads them."""
    return [{"prompt": one["prompt"], "response": one["response"]} for one in (*rows, *more)]
