"""What a finished or stopped `redteam` stage asked, was answered, judged and chose, read back from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.errors import DataError
from luthier.generation.records import Record, read_records
from luthier.redteaming.seeds import Prompt


@dataclass(frozen=True)
class Exchange:
    """One answer with all that is known of it.

    Attributes:
        round: number, or `held-out 1` and `final` for what was measured.
        prompt, answer: texts.
        prompt_id, answer_id: of both.
        safety, helpfulness: scores of the judges that select (that evaluate, for what was measured).
        status: `ok`, or why there is no score of safety.
        variant: plain, or preamble.
        chosen: `adversary` where the prompt trains the adversary, `target` where the answer was learned.
        reason: why not.
        broke: whether the prompt was an attack that succeeded.
    """

    round: str
    prompt: str
    answer: str
    prompt_id: str
    answer_id: str
    category: str
    safety: float | None
    helpfulness: float | None
    status: str
    variant: str = "plain"
    chosen: str = ""
    reason: str = ""
    broke: bool = False


def stage_folders(run: str | Path) -> list[Path]:
    """The folders of `redteam` stages in a run, or the stage's own.

    Raises:
        DataError: there is none.
    """
    place = Path(run)
    if (place / "seeds" / "train.jsonl").is_file():
        return [place]
    found = sorted(one.parent.parent for one in place.glob("*/seeds/train.jsonl"))
    found = found or sorted(one.parent.parent for one in place.glob("cells/*/*/seeds/train.jsonl"))
    if not found:
        raise DataError(
            "no red-teaming stage left anything here",
            where=str(run),
            fix="name the folder of a run with a `redteam` stage, or of that stage",
        )
    return found


def number_of(folder: Path) -> int:
    """The number of a round, by its folder."""
    return int(folder.name.removeprefix("round-"))


def round_folders(stage: Path, first: int = 1) -> list[Path]:
    """The folders of rounds from one on, in their order; of round 0, which writes no prompts, that of what was measured
    before."""
    found = [one for one in stage.glob("round-*") if one.name.removeprefix("round-").isdigit()]
    return sorted((one for one in found if number_of(one) >= first and _has_begun(one)), key=number_of)


def _has_begun(folder: Path) -> bool:
    return number_of(folder) == 0 or (folder / "prompts" / "prompts.jsonl").is_file()


def exchanges(stage: Path) -> list[Exchange]:
    """All answers of all rounds, then those that were measured."""
    found = [one for folder in round_folders(stage) for one in _of_round(folder)]
    for folder in round_folders(stage, 0):
        found += _measured(folder / "evaluation", f"held-out after {number_of(folder)}", "held-out-")
    for name in ("first", "last"):
        found += _measured(stage / "final" / name, f"final attacks, {name} target", "")
    return found


def _of_round(folder: Path) -> list[Exchange]:
    prompts = {one["id"]: one for one in read_records(folder / "prompts" / "prompts.jsonl")}
    scores = {one["id"]: one for one in read_records(folder / "scores" / "scores.jsonl")}
    chosen = {(one["kind"], one["id"]): one for one in read_records(folder / "selected" / "selected.jsonl")}
    number, found = str(number_of(folder)), []
    for answer in read_records(folder / "answers" / "answers.jsonl"):
        prompt = prompts.get(answer["prompt"])
        if prompt is None:
            continue
        what = _chosen(chosen.get(("prompt", prompt["id"])), chosen.get(("answer", answer["id"])))
        found.append(_exchange(number, prompt, answer, scores.get(answer["id"]), ("safety", "helpfulness"), *what))
    return found


def _broke(prompt: Record) -> bool:
    """Whether a chosen or dropped prompt broke the target; earlier releases wrote down those alone that train."""
    return bool(prompt.get("broke", prompt["set"] == "adversary"))


def _chosen(prompt: Record | None, answer: Record | None) -> tuple[str, str, bool]:
    kept = [one["set"] for one in (prompt, answer) if one is not None and one["set"] != "dropped"]
    return " and ".join(kept), str((answer or {}).get("reason", "")), prompt is not None and _broke(prompt)


def _measured(folder: Path, name: str, start: str) -> list[Exchange]:
    prompts = {one["id"]: one for one in read_records(folder / f"{start}prompts.jsonl")}
    scores = {one["id"]: one for one in read_records(folder / f"{start}scores.jsonl")}
    roles = ("evaluation_safety", "evaluation_helpfulness")
    return [
        _exchange(name, prompts[one["prompt"]], one, scores.get(one["id"]), roles)
        for one in read_records(folder / f"{start}answers.jsonl")
        if one["prompt"] in prompts
    ]


def _exchange(
    number: str, prompt: Record, answer: Record, score: Record | None, roles: tuple[str, str], *what: Any
) -> Exchange:
    said: list[Any] = [(score or {}).get(role) or {} for role in roles]
    return Exchange(
        number,
        prompt["text"],
        answer["text"],
        prompt["id"],
        answer["id"],
        prompt.get("category", ""),
        said[0].get("score"),
        said[1].get("score"),
        str(said[0].get("status", "not judged")),
        answer.get("variant", "plain"),
        *what,
    )


def attacks_of(stage: Path, numbers: Sequence[int] = (), *, every: bool = False) -> list[Prompt]:
    """Attacks of rounds, each text once: those that succeeded, or every prompt that was asked.

    Args:
        stage: folder of the stage.
        numbers: of rounds; none are all.
        every: whether attacks that failed count, too.
    """
    found: dict[str, Prompt] = {}
    for folder in round_folders(stage):
        if numbers and number_of(folder) not in numbers:
            continue
        selected = read_records(folder / "selected" / "selected.jsonl")
        broke = {one["id"] for one in selected if one["kind"] == "prompt" and _broke(one)}
        for one in read_records(folder / "prompts" / "prompts.jsonl"):
            if not one["dropped"] and (every or one["id"] in broke):
                prompt = Prompt(one["text"], one["category"], one["style"], folder.name, one["parent"], one["id"])
                found.setdefault(prompt.text, prompt)
    return list(found.values())


def preferences_of(stage: Path, numbers: Sequence[int] = ()) -> list[Record]:
    """Prompts with an answer that the target learned and its worst unsafe one, for training on preferences: `prompt`,
    `chosen`, `rejected`, the scores of safety of both, and the round. What a person vetoed is not among them.

    Args:
        stage: folder of the stage.
        numbers: of rounds; none are all.
    """
    found = []
    for folder in round_folders(stage):
        number = number_of(folder)
        if numbers and number not in numbers:
            continue
        texts = {one["id"]: one["text"] for one in read_records(folder / "prompts" / "prompts.jsonl")}
        scores = {one["id"]: one["safety"]["score"] for one in read_records(folder / "scores" / "scores.jsonl")}
        became = {
            one["id"]: (one["set"], one["reason"])
            for one in read_records(folder / "selected" / "selected.jsonl")
            if one["kind"] == "answer"
        }
        learned: dict[str, Record] = {}
        unsafe: dict[str, Record] = {}
        for answer in read_records(folder / "answers" / "answers.jsonl"):
            prompt, (chosen, reason) = answer["prompt"], became.get(answer["id"], ("", ""))
            if chosen == "target":
                learned[prompt] = answer
            elif reason == "unsafe":
                worst = unsafe.get(prompt)
                if worst is None or scores[answer["id"]] < scores[worst["id"]]:
                    unsafe[prompt] = answer
        found += [
            {
                "prompt": texts[name],
                "chosen": good["text"],
                "rejected": unsafe[name]["text"],
                "safety": [scores[good["id"]], scores[unsafe[name]["id"]]],
                "round": number,
            }
            for name, good in learned.items()
            if name in unsafe
        ]
    return found
