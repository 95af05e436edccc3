"""MART: rounds of writing attacks, answering, judging, selecting, and training both sides.

Source: Ge et al., "MART: Improving LLM Safety with Multi-round Automatic Red-Teaming", NAACL 2024, algorithm 1.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.generation.instructions import MEASURED_SPLITS, instruction_rows, prompts_with_responses
from luthier.generation.records import Record, read_records, write_records
from luthier.generation.writing import Request, Writer, seed_of
from luthier.models.artifacts import load_model, save_artifact
from luthier.models.card import describe
from luthier.models.loading import load_tokenizer
from luthier.models.references import fingerprint, resolve
from luthier.models.settings import ModelSettings
from luthier.redteaming import rounds
from luthier.redteaming.asking import Asking, judged
from luthier.redteaming.checks import JudgeCheck
from luthier.redteaming.diversity import Diversity, diversity
from luthier.redteaming.duplicates import NearDuplicates
from luthier.redteaming.inputs import fingerprints
from luthier.redteaming.labels import read_labels
from luthier.redteaming.marks import marks_of
from luthier.redteaming.measuring import answers_to, measure, safety_summary
from luthier.redteaming.reading import round_folders
from luthier.redteaming.result import HELD_OUT, HELPFUL, LOOK_ALIKES, MartResult, Round
from luthier.redteaming.seeds import Prompt, SeedSplit, read_prompts, split_seeds
from luthier.redteaming.selection import should_stop
from luthier.redteaming.settings import MartSettings, Side
from luthier.redteaming.training import mixed, train_side
from luthier.storage.keys import digest_of
from luthier.storage.steps import REPLACED, Step, Workspace, make_way

logger = logging.getLogger(__name__)
TARGET, ADVERSARY = "target", "adversary"


class MartLoop:
    """Runs MART on one target. Each phase of each round is a step that is kept: a loop that was stopped anywhere goes
    on, and leaves the same files as one that never was.

    Args:
        settings: of the loop, from a recipe's `redteam` stage or `MartLoop.settings_of({...})`.
        model: the target.
        folder: where everything is kept.
        adversary: what the adversary starts from; None is the target's twin.
        seed: of all sampling.
        key: of what the loop is made from; empty takes the settings, the models, the seed, and all files that are read.
    """

    def __init__(
        self,
        settings: MartSettings,
        model: ModelSettings | str,
        folder: str | Path,
        *,
        adversary: ModelSettings | str | None = None,
        seed: int = 0,
        key: str = "",
    ) -> None:
        self.settings, self.seed = settings, seed
        self.start = ModelSettings.model_validate(model)
        self.twin = ModelSettings.model_validate(self.start if adversary is None else adversary)
        self.folder = Path(folder)
        self.key = key or digest_of(
            {
                "settings": settings,
                "read": fingerprints(settings),
                "models": [_identity(one) for one in (self.start, self.twin)],
                "seed": seed,
            }
        )
        self.labels = read_labels(settings.labels)
        self.check = JudgeCheck(settings, self.labels)
        self.asking = Asking(settings, self.folder, seed, self.check.release)
        self.measured = NearDuplicates(settings.near_duplicate)
        self._done: dict[str, Step] = {}

    @staticmethod
    def settings_of(content: Mapping[str, Any]) -> MartSettings:
        """Checked settings, as a recipe writes them."""
        checked: MartSettings = MartSettings.with_methods("MartSettings", __name__).model_validate(dict(content))
        return checked

    def run(self) -> MartResult:
        """All phases of all rounds.

        Raises:
            DataError, ModelError: seeds, data, models or judges can't be used.
            WorkspaceError: a cap on volume or spending is reached, or the folder can't be written.
        """
        split, same = self._seeds(), self.twin == self.start
        self.start = self._unpacked("start", self.start)
        self.twin = self.start if same else self._unpacked("start-adversary", self.twin)
        result = MartResult(self.start, self.twin, seeds=self._done["seeds"].result)
        result.judges = self._step("judges", lambda work: self.check.run(work.folder)).result
        sets, references = self._sets(split)
        for one in (*split.held_out, *(prompt for prompts in sets.values() for prompt in prompts)):
            self.measured.add(one.id, one.text)
        adversary = self._warm_up(split.train)
        target, parents = self.start, split.train
        self._measure(0, target, sets, references, result)
        for number in range(1, self.settings.rounds + 1):
            done = self._round(number, parents, split, target, adversary, result)
            result.rounds.append(done)
            result.trained = result.trained or done.target != target
            target, adversary = done.target, done.adversary
            result.stopped = should_stop(
                done.facts["attack_rate"],
                done.facts["broken"],
                below_rate=self.settings.stop_below_rate,
                below_attacks=self.settings.stop_below_attacks,
            )
            last = number == self.settings.rounds or bool(result.stopped)
            if last or self.settings.evaluation.every_round:
                self._measure(number, target, sets, references, result)
            parents = done.attacks or parents
            if result.stopped:
                break
        result.target, result.adversary = target, adversary
        result.marks = marks_of(
            result.judges["warnings"],
            {number: one[HELD_OUT] for number, one in result.measured.items()},
            result.seeds["diversity"],
            [done.facts for done in result.rounds],
        )
        self._finish(result, split, parents)
        self._put_others_aside(result)
        self.asking.models.release()
        return result

    def _put_others_aside(self, result: MartResult) -> None:
        """What a loop of other settings left here is none of this one's rounds."""
        steps = [step for one in round_folders(self.folder, len(result.rounds) + 1) for step in one.iterdir()]
        if result.final is None:
            steps += (self.folder / "final").glob("*")
        for step in steps:
            if step.name != REPLACED:
                make_way(step, self.key)

    # -- before the rounds ---------------------------------------------------------------------------------------

    def _step(self, name: str, work: Callable[[Workspace], dict[str, Any]]) -> Step:
        """A step of the loop, which `_done` then knows."""
        done = Workspace(self.folder).step(name, {"loop": self.key, "step": name}, work)
        self._done[name] = done
        return done

    def _seeds(self) -> SeedSplit:
        s = self.settings

        def split(work: Workspace) -> dict[str, Any]:
            held = None if s.held_out is None else read_prompts(s.held_out)
            found = split_seeds(
                read_prompts(s.seeds), held, share=s.held_out_share, similar=s.near_duplicate, seed=self.seed
            )
            write_records(work.folder / "train.jsonl", [one.to_json() for one in found.train])
            write_records(work.folder / "held_out.jsonl", [one.to_json() for one in found.held_out])
            write_records(
                work.folder / "dropped.jsonl", [{"id": one, "like": like} for one, like in found.dropped.items()]
            )
            return {
                "seeds": len(found.train),
                "held_out": len(found.held_out),
                "near_duplicates": len(found.dropped),
                "categories": len({one.category for one in found.train}),
                "diversity": self._variety([one.to_json() for one in found.train]).to_json(),
            }

        folder = self._step("seeds", split).folder
        train, held_out = (
            [Prompt(**one) for one in read_records(folder / f"{name}.jsonl")] for name in ("train", "held_out")
        )
        dropped = {one["id"]: one["like"] for one in read_records(folder / "dropped.jsonl")}
        return SeedSplit(train, held_out, dropped)

    def _variety(self, prompts: Sequence[Record]) -> Diversity:
        texts, categories = ([one[key] for one in prompts] for key in ("text", "category"))
        return diversity(texts, categories, self.seed, self.settings.evaluation.embedder)

    def _unpacked(self, name: str, model: ModelSettings) -> ModelSettings:
        """A model whose weights are packed, as GGUF files are, as one that loads at once; any other one as it is."""
        if resolve(model).gguf_file is None or not self.settings.rounds:
            return model

        def unpack(work: Workspace) -> dict[str, Any]:
            card = describe(model, "causal_lm")
            save_artifact(load_model(model, "causal_lm"), load_tokenizer(model), work.folder / "model", card)
            return {}

        return _inside(self._step(name, unpack), model)

    def _sets(self, split: SeedSplit) -> tuple[dict[str, list[Prompt]], list[dict[str, str]]]:
        """What every target is asked, and ordinary prompts with responses."""
        evaluation = self.settings.evaluation
        sets, references = {HELD_OUT: split.held_out[: evaluation.limit]}, list[dict[str, str]]()
        if evaluation.helpful is not None:
            references = prompts_with_responses(evaluation.helpful, *MEASURED_SPLITS)[: evaluation.limit]
            sets[HELPFUL] = list({one.id: one for one in (Prompt(row["prompt"]) for row in references)}.values())
        if evaluation.look_alikes is not None:
            sets[LOOK_ALIKES] = read_prompts(evaluation.look_alikes)[: evaluation.limit]
        return sets, references

    def _warm_up(self, seeds: Sequence[Prompt]) -> ModelSettings:
        s = self.settings
        if not s.attacks.warm_up or ADVERSARY not in s.learning_sides():
            return self.twin
        rows = rounds.warm_up_rows(seeds, s.attacks.warm_up_pairs)
        if not rows:
            logger.warning("no two seeds share category and style, so that the adversary starts without a warm-up")
            return self.twin
        return self._trained("warm-up", s.adversary, self.twin, rows, ADVERSARY, 0)

    def _trained(
        self, name: str, side: Side, model: ModelSettings, rows: Sequence[Record], who: str, number: int
    ) -> ModelSettings:
        """The model after training on rows, or as it was where there are none."""
        if not rows or not side.train:
            return model
        ratio = side.instruction_ratio

        def train(work: Workspace) -> dict[str, Any]:
            more = instruction_rows(
                self.settings.instructions,
                round(ratio * len(rows)),
                self.seed,
                who,
                number,
                may_train=lambda prompt: self.measured.like(prompt) is None,
            )
            self.asking.models.release()
            self.check.release()
            seed = seed_of(self.seed, who, number) % (1 << 31)
            return train_side(side, self.settings, model, mixed(rows, more), work, seed)

        return _inside(self._step(name, train), model)

    # -- a round -------------------------------------------------------------------------------------------------

    def _round(
        self,
        number: int,
        parents: Sequence[Prompt],
        split: SeedSplit,
        target: ModelSettings,
        adversary: ModelSettings,
        result: MartResult,
    ) -> Round:
        place, s = f"round-{number:02d}", self.settings
        earlier = [one for done in result.rounds for one in done.attacks]
        parents = rounds.parents_of(s, parents, earlier, split.train, number)
        known = [*(one.text for one in split.train), *self._written_before(number)]
        prompts = self._prompts(f"{place}/prompts", number, parents, adversary, known)
        asked = rounds.asked_prompts(prompts)
        answers = self._answers(f"{place}/answers", number, asked, target)
        scores = self._scores(f"{place}/scores", asked, answers)
        found = rounds.selected(s, asked, answers, scores, self.labels, self.seed)

        def select(work: Workspace) -> dict[str, Any]:
            write_records(work.folder / "selected.jsonl", rounds.selection_records(asked, answers, found))
            write_records(work.folder / "adversary.jsonl", rounds.adversary_rows(asked, found))
            write_records(work.folder / "target.jsonl", rounds.target_rows(asked, answers, found))
            variety = self._variety(asked)
            return rounds.facts(number, parents, prompts, asked, answers, scores, found, variety, self.labels)

        chosen = self._step(f"{place}/selected", select)
        rows = {who: self._rows(number, who, s_side) for who, s_side in ((ADVERSARY, s.adversary), (TARGET, s.target))}
        new_adversary = adversary
        if ADVERSARY in s.learning_sides():
            new_adversary = self._trained(
                f"{place}/adversary", s.adversary, adversary, rows[ADVERSARY], ADVERSARY, number
            )
        new_target = self._trained(f"{place}/target", s.target, target, rows[TARGET], TARGET, number)
        facts = {**chosen.result, "adversary_rows": len(rows[ADVERSARY]), "target_rows": len(rows[TARGET])}
        return Round(number, facts, new_target, new_adversary, rounds.as_prompts(asked, found.attacks))

    def _rows(self, number: int, who: str, side: Side) -> list[Record]:
        """What a side learns in a round: of this round, or of all so far."""
        first = 1 if side.accumulate else number
        folders = [self._done[f"round-{n:02d}/selected"].folder for n in range(first, number + 1)]
        return [one for folder in folders for one in read_records(folder / f"{who}.jsonl")]

    def _written_before(self, number: int) -> list[str]:
        folders = [self._done[f"round-{n:02d}/prompts"].folder for n in range(1, number)]
        return [one["text"] for f in folders for one in rounds.asked_prompts(read_records(f / "prompts.jsonl"))]

    def _prompts(
        self,
        name: str,
        number: int | str,
        parents: Sequence[Prompt],
        adversary: ModelSettings,
        known: Sequence[str],
    ) -> list[Record]:
        s = self.settings
        requests: list[Request] = []
        if s.attacks.list is None:
            requests, extra = rounds.prompt_requests(s, parents, number, self.seed)
            self.asking.count(len(requests))

        def writer() -> Writer:
            return self.asking.writer(s.adversary, adversary, f"round {number}: attacks")

        def write(work: Workspace) -> dict[str, Any]:
            if s.attacks.list is not None:
                records = rounds.listed_prompts(s, parents, read_prompts(s.attacks.list), number)
            else:
                place = work.folder / "written.jsonl"
                records = self.asking.write(place, requests, writer, s.attacks.max_new_tokens, extra)
            sifted = rounds.sifted(records, s, self.measured, known)
            write_records(work.folder / "prompts.jsonl", sifted)
            return {"prompts": len(sifted), "asked": len(rounds.asked_prompts(sifted))}

        return read_records(self._step(name, write).folder / "prompts.jsonl")

    def _answers(self, name: str, number: int, prompts: Sequence[Record], target: ModelSettings) -> list[Record]:
        s = self.settings
        requests, extra = rounds.answer_requests(s, prompts, number, self.seed)
        self.asking.count(len(requests))

        def writer() -> Writer:
            return self.asking.writer(s.target, target, f"round {number}: answers")

        def write(work: Workspace) -> dict[str, Any]:
            place = work.folder / "answers.jsonl"
            return {"answers": len(self.asking.write(place, requests, writer, s.answers.max_new_tokens, extra))}

        return read_records(self._step(name, write).folder / "answers.jsonl")

    def _scores(self, name: str, prompts: Sequence[Record], answers: Sequence[Record]) -> list[Record]:
        texts = {one["id"]: one["text"] for one in prompts}

        def score(work: Workspace) -> dict[str, Any]:
            judges = self.check.selecting
            self.asking.make_room(judges)
            return {"scores": len(judged(work.folder / "scores.jsonl", judges, answers, texts, self.labels))}

        return read_records(self._step(name, score).folder / "scores.jsonl")

    # -- measuring -----------------------------------------------------------------------------------------------

    def _measure(
        self,
        number: int,
        target: ModelSettings,
        sets: Mapping[str, Sequence[Prompt]],
        references: Sequence[Mapping[str, str]],
        result: MartResult,
    ) -> None:
        self.asking.count(sum(map(len, sets.values())))

        def work(space: Workspace) -> dict[str, Any]:
            return measure(self.asking, self.check.all, target, sets, references, self.labels, space.folder, number)

        done = self._step(f"round-{number:02d}/evaluation", work)
        result.measured[number], result.folders[number] = done.result, done.folder

    def _finish(self, result: MartResult, split: SeedSplit, parents: Sequence[Prompt]) -> None:
        """Prompts of the last adversary, and attacks of every round asked to every target."""
        evaluation = self.settings.evaluation
        if not result.rounds:
            return
        if evaluation.final_attacks:
            known = [one.text for one in split.train] + self._written_before(len(result.rounds) + 1)
            parents = rounds.parents_of(self.settings, parents, [], split.train, len(result.rounds) + 1)
            prompts = self._prompts("final/prompts", "final", parents, result.adversary, known)
            asked = rounds.as_prompts(prompts, [one["id"] for one in rounds.asked_prompts(prompts)])
            result.final = {
                name: self._asked_again(f"final/{name}", asked, model, "final", name)
                for name, model in (("first", self.start), ("last", result.target))
            }
            before = set(self._written_before(len(result.rounds) + 1))
            result.final["prompts"] = len(asked)
            result.final["asked_before"] = sum(one.text in before for one in asked)
        if evaluation.transfer:
            targets = [self.start, *(done.target for done in result.rounds)]
            for done in result.rounds:
                attacks = done.attacks[: evaluation.transfer_prompts]
                row: dict[int, list[int]] = {}
                for place, model in enumerate(targets):
                    name = f"transfer/attacks-{done.number:02d}-target-{place:02d}"
                    found = self._asked_again(name, attacks, model, "transfer", done.number, place)
                    safety = found.get("evaluation_safety", {"violations": 0, "scored": 0})
                    row[place] = [safety["violations"], safety["scored"]]
                result.transfer[done.number] = row

    def _asked_again(self, name: str, prompts: Sequence[Prompt], model: ModelSettings, *parts: Any) -> dict[str, Any]:
        if not prompts:
            return {}
        self.asking.count(len(prompts))

        def work(space: Workspace) -> dict[str, Any]:
            answers = answers_to(self.asking, model, prompts, space.folder / "answers.jsonl", *parts)
            write_records(space.folder / "prompts.jsonl", [one.to_json() for one in prompts])
            judges = {role: self.check.all[role] for role in ("evaluation_safety", "safety")}
            self.asking.make_room(judges)
            texts = {one.id: one.text for one in prompts}
            scores = judged(space.folder / "scores.jsonl", judges, answers, texts, self.labels)
            return safety_summary(answers, scores)

        return self._step(name, work).result


def _identity(model: ModelSettings) -> dict[str, Any]:
    """The weights of a model, and how they are loaded."""
    return {"content": fingerprint(resolve(model)), "settings": model.loaded_as()}


def _inside(step: Step, model: ModelSettings) -> ModelSettings:
    """The model that a step left, loaded as the one that it was made from."""
    place = str((step.folder / "model").resolve())
    return model.model_copy(update={"reference": place, "revision": None, "gguf_file": None})
