"""Tasks of EleutherAI's evaluation harness, by which language models are compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.data.schemas import LabelKind
from luthier.data.settings import DataSettings
from luthier.errors import LuthierError, RecipeError
from luthier.evaluation.subject import Subject, Suite, SuiteResult
from luthier.registry import SUITES
from luthier.settings import Paper


@SUITES.register
class StandardTasksSuite(Suite):
    """Short tasks with known prompts, as lm-evaluation-harness asks and scores them, so that the numbers are those that
    others report: whether a model that was lengthened, distilled or tuned still does what it could.

    Needs the extra `lm-eval`. The tasks' data come from the Hugging Face Hub, or from the files that task files of your
    own name; task files can name Python code, which is then run.
    """

    name: Literal["lm_eval"] = "lm_eval"
    summary: ClassVar[str] = "tasks of EleutherAI's lm-evaluation-harness, with intervals, beside the model before"
    paper: ClassVar[Paper | None] = Paper(
        title="Lessons from the Trenches on Reproducible Evaluation of Language Models",
        authors="Biderman, Schoelkopf, Sutawika, Gao, Tow and others",
        venue="arXiv 2405.14782",
        url="https://arxiv.org/abs/2405.14782",
    )
    label_kinds: ClassVar[tuple[LabelKind | None, ...] | None] = (None,)
    language_heads: ClassVar[tuple[str, ...] | None] = ("causal_lm",)
    path_fields: ClassVar[tuple[str, ...]] = ("folder",)

    tasks: list[str] = Field(min_length=1, description="Names of tasks, groups or tags: `hellaswag`, `arc_easy`.")
    folder: str | None = Field(None, description="A folder with task files (YAML) of your own.")
    shots: int | None = Field(None, ge=0, description="Solved examples before each question; null is each task's own.")
    limit: int | None = Field(None, gt=0, description="Questions of each task, the first ones; null asks all.")
    chat: bool = Field(False, description="Whether questions are put through the tokenizer's chat template.")
    seed: int = Field(0, ge=0, description="Of the solved examples: the same for every model, whatever the run's seed.")

    def extras(self) -> Mapping[str, str]:
        """The harness itself."""
        return {"lm-eval": "name"}

    def scored(self) -> list[str]:
        """Its tasks."""
        return [f"the task {task} of {self.name}" for task in self.tasks]

    def missing(self) -> Iterable[tuple[str, LuthierError]]:
        """The folder, where it isn't there."""
        if self.folder is not None and not Path(self.folder).is_dir():
            yield "folder", RecipeError(f"there is no folder {self.folder}", fix="name the folder of your task files")

    def external_inputs(self) -> dict[str, str]:
        """The files of the folder."""
        if self.folder is None:
            return {}
        from luthier.storage.one_version import file_fingerprint

        folder = Path(self.folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): file_fingerprint(path) for path in files}

    def planned(self, texts: Sequence[str], tokenizer: Any) -> dict[str, str]:
        """The tasks."""
        questions = "all questions" if self.limit is None else f"{self.limit:,} questions of each"
        return {self.name: f"{', '.join(self.tasks)}; {questions}"}

    def check(self, data: DataSettings) -> None:
        """Find out whether the harness knows the tasks.

        Raises:
            RecipeError: it does not.
        """
        from luthier.evaluation.standard_tasks import known_tasks

        known_tasks(self)

    def run(self, subject: Subject) -> SuiteResult:
        from luthier.evaluation.standard_tasks import standard_scores

        return standard_scores(self, subject)
