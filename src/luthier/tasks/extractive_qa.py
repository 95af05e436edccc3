"""Questions that a span of their context answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.data.rows.canonical import BadCellError, as_text, json_cell
from luthier.data.schemas import LabelKind
from luthier.data.table import shorten
from luthier.registry import TASKS
from luthier.tasks.base import Row, Task

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.data.batches.collating import Padding
    from luthier.data.batches.encoders import Encoded, Encoder
    from luthier.data.task_data import TaskData
    from luthier.models.card import ModelCard
    from luthier.models.head_kinds import Head
    from luthier.tasks.running.judged import Judged
    from luthier.tasks.running.predicting import Predictions


@TASKS.register
class ExtractiveQA(Task):
    """Finds answers: a pair of (B, T) logits, for where the answer starts and ends."""

    name: ClassVar[str] = "extractive_qa"
    summary: ClassVar[str] = "questions, each answered by a span of its context"
    columns: ClassVar[tuple[str, ...]] = ("question", "context")
    label_column: ClassVar[str | None] = "answers"
    label_kind: ClassVar[LabelKind | None] = "own"
    metrics: ClassVar[tuple[str, ...]] = ("squad_f1", "exact_match")
    guess_rank: ClassVar[int | None] = 20
    head: ClassVar[Head | None] = "question_answering"
    targets: ClassVar[tuple[str, ...]] = ("start_positions", "end_positions")
    one_pass: ClassVar[bool] = False
    one_output: ClassVar[bool] = False

    def cells(self) -> Mapping[str, Callable[[Any], Any]]:
        return {"answers": _as_answers}

    def check_row(self, row: Mapping[str, Any]) -> list[tuple[str, str]]:
        answers = row.get("answers", {"text": [], "answer_start": []})
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            if row["context"][start : start + len(text)] != text:
                return [("answers", f"the answer {shorten(text)} is not at character {start} of the context")]
        return []

    def arrow_types(self) -> Mapping[str, Any]:
        import pyarrow

        texts, starts = pyarrow.list_(pyarrow.string()), pyarrow.list_(pyarrow.int64())
        return {"answers": pyarrow.struct([("text", texts), ("answer_start", starts)])}

    def encode(self, columns: Mapping[str, Sequence[Any]], encoder: Encoder) -> Encoded:
        from luthier.data.batches.encoders import encode_questions

        return encode_questions(columns, encoder)

    def collate(self, rows: Sequence[Mapping[str, Any]], padding: Padding) -> dict[str, Tensor]:
        import torch

        from luthier.data.batches.collating import padded_inputs

        batch = padded_inputs(rows, padding)
        width = batch["input_ids"].shape[1]
        shift = [width - len(row["input_ids"]) if padding.left else 0 for row in rows]
        for name in (name for name in self.targets if name in rows[0]):
            places = [row[name] + moved for row, moved in zip(rows, shift, strict=True)]
            batch[name] = torch.tensor(places, dtype=torch.int64)
        return batch

    def items(self, batch: Mapping[str, Any], *, shifted: bool = False) -> int:
        return len(batch["start_positions"])

    def logits(self, outputs: Any) -> Any:
        return outputs.start_logits, outputs.end_logits

    def loss(self, logits: Any, batch: Mapping[str, Any], *, items: float, shifted: bool = False) -> Tensor:
        from luthier.tasks.running.losses import summed_cross_entropy

        start, end = (_of_tokens(some, batch) for some in logits)
        starts, ends = batch["start_positions"], batch["end_positions"]
        return (summed_cross_entropy(start, starts) + summed_cross_entropy(end, ends)) / (2 * items)

    def outputs(self, out: Any, batch: Mapping[str, Any], *, shifted: bool) -> Iterator[dict[str, Any]]:
        from torch.nn import functional as F

        start, end = _of_tokens(out.start_logits, batch), _of_tokens(out.end_logits, batch)
        known = "start_positions" in batch
        for i, kept in enumerate(batch["attention_mask"].bool()):
            nll = 0.0
            if known:
                pairs = ((start, batch["start_positions"]), (end, batch["end_positions"]))
                nll = sum(F.cross_entropy(s[i : i + 1], p[i : i + 1]).item() for s, p in pairs) / 2
            logits = (start[i][kept].cpu().numpy(), end[i][kept].cpu().numpy())
            yield {"logits": logits, "label": None, "nll": nll, "items": 1}

    def judge(self, predictions: Predictions, data: TaskData, examples: Any, rows: Any) -> Judged | None:
        from luthier.tasks.running.answers import best_answers
        from luthier.tasks.running.judged import Judged

        none = any(not one["text"] for one in examples["answers"])
        return Judged(*best_answers(predictions, examples, rows, none=none))

    def prior(self, data: TaskData) -> dict[str, Any]:
        from luthier.tasks.running.priors import training_labels

        answers = training_labels(data.splits, "answers")
        unanswered = sum(not one["text"] for one in answers)
        return {"rows": len(answers), "unanswered": unanswered / len(answers)} if unanswered else {}

    def by_prior(self, prior: Mapping[str, Any], predictions: Predictions, data: TaskData) -> Predictions | None:
        from luthier.tasks.running.answers import without_answers

        return without_answers(predictions) if "unanswered" in prior else None

    def told_prior(self, prior: Mapping[str, Any]) -> str:
        return "never an answer"

    def describe(self, predictions: Predictions, rows: Sequence[Row], encoded: Any, card: ModelCard) -> list[Row]:
        from luthier.tasks.running.answers import best_answers

        examples = [{**row, "answers": {"text": []}} for row in rows]
        none = "unanswered" in (card.prior or {})
        _, answers = best_answers(predictions, examples, encoded, none=none)
        return [self.shown(row) | {"answer": answer} for row, answer in zip(rows, answers, strict=True)]


def _of_tokens(logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Of (B, P + T) logits with P prompt positions in front those of the T tokens; no answer is at a padded one."""
    mask = batch["attention_mask"]
    logits = logits.float()[:, -mask.shape[1] :]
    return logits.masked_fill(mask == 0, float("-inf"))


def _as_answers(value: Any) -> dict[str, list[Any]]:
    if isinstance(value, str):
        value = json_cell(value)
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        starts = [one.get("answer_start", one.get("start")) for one in value]
        value = {"text": [one.get("text") for one in value], "answer_start": starts}
    if not isinstance(value, dict) or not isinstance(value.get("text"), list):
        raise BadCellError("does not hold {text: [...], answer_start: [...]}")
    texts: list[Any] = value["text"]
    places: Any = value.get("answer_start")
    if not isinstance(places, list) or len(places) != len(texts):
        raise BadCellError("needs one `answer_start` for every `text`")
    if not all(isinstance(start, int) and start >= 0 for start in places):
        raise BadCellError("holds an `answer_start` that is no position in the context")
    return {"text": [as_text(text) for text in texts], "answer_start": [int(start) for start in places]}
