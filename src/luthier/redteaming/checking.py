"""What can be wrong with a `redteam` stage, found before anything runs and without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.generation.instructions import MEASURED_SPLITS, prompts_with_responses
from luthier.redteaming.judges.fitness import check_judge
from luthier.redteaming.judges.labelled import read_labelled
from luthier.redteaming.judges.settings import RewardJudgeSettings
from luthier.redteaming.labels import read_labels
from luthier.redteaming.seeds import read_prompts

if TYPE_CHECKING:
    from luthier.redteaming.stage import Redteam


def check_redteaming(stage: Redteam) -> None:
    """Read every list of prompts, every set of answers and every label, and look at the models of judges.

    Raises:
        DataError: one can't be read.
        ModelError: a model was not trained to judge.
    """
    for judge in stage.every_judge():
        check_judge(judge)
        if isinstance(judge, RewardJudgeSettings) and judge.fit is not None:
            read_labelled(judge.fit)
    for source in stage.prompt_sources().values():
        read_prompts(source)
    read_labels(stage.labels)
    if stage.judges.labelled is not None:
        read_labelled(stage.judges.labelled)
    if stage.instructions is not None:
        prompts_with_responses(stage.instructions, "train")
    if stage.evaluation.helpful is not None:
        prompts_with_responses(stage.evaluation.helpful, *MEASURED_SPLITS)
