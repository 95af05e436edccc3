"""Fine-tuning of one side on the rows of a round, through the one supervised training of the library.

Source: Ge et al. 2024, section 3: L = -mean log p(response | prompt), over the tokens of the response.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.data.loading import load_data
from luthier.data.settings import DataSettings
from luthier.errors import DataError
from luthier.models.adapters import is_adapter
from luthier.models.references import resolve
from luthier.models.settings import ModelSettings
from luthier.redteaming.records import Record, write_records
from luthier.redteaming.settings import MartSettings, Side
from luthier.redteaming.writing import seed_of
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


def instruction_rows(data: DataSettings | None, count: int, *parts: Any) -> list[dict[str, str]]:
    """Ordinary prompts with responses, drawn without replacement by a seed made of the parts; all, where there are no
    more.

    Raises:
        DataError: the data have no prompts with responses.
    """
    if data is None or count < 1:
        return []
    every = prompts_with_responses(data, "train")
    kept = random.Random(seed_of("instructions", *parts)).sample(range(len(every)), min(count, len(every)))
    return [every[i] for i in kept]


def prompts_with_responses(data: DataSettings, *splits: str) -> list[dict[str, str]]:
    """Rows of the first of some splits that is there.

    Raises:
        DataError: the data are of another task, or have none of the splits.
    """
    loaded = load_data(data, splits=splits)
    if loaded.schema.name != "prompt_response":
        raise DataError(
            f"prompts with responses are needed, and these are rows of {loaded.schema.name}",
            where=str(data.train or data.test or data.source),
            fix="name the columns with `prompt:` and `response:`",
        )
    for split in splits:
        if split in loaded.splits:
            rows = loaded.splits[split]
            return [
                {"prompt": str(p), "response": str(r)} for p, r in zip(rows["prompt"], rows["response"], strict=True)
            ]
    raise DataError(f"there is no split {' or '.join(splits)}", fix="name a file for it")


def mixed(rows: Sequence[Mapping[str, Any]], more: Sequence[Mapping[str, Any]]) -> list[Record]:
    """Rows of a round and what keeps a model helpful, as training reads them."""
    return [{"prompt": one["prompt"], "response": one["response"]} for one in (*rows, *more)]
