"""The loop on a tiny model: what it leaves, that it goes on from anywhere, and its knobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from luthier.data.settings import DataSettings
from luthier.errors import DataError, WorkspaceError
from luthier.generation.instructions import instruction_rows
from luthier.generation.loaded import LoadedModels
from luthier.generation.records import Appending, read_records
from luthier.generation.rollout import Rollout
from luthier.generation.writing import Request
from luthier.models.artifacts import load_artifact, load_model
from luthier.models.inspect import parameter_counts
from luthier.models.settings import ModelSettings
from luthier.recipe import load_recipe
from luthier.redteaming import loop as loop_module
from luthier.redteaming.duplicates import NearDuplicates
from luthier.redteaming.loop import MartLoop
from luthier.redteaming.measuring import perplexity
from luthier.redteaming.planning import most_written, plan_redteaming
from luthier.redteaming.reading import attacks_of, exchanges, number_of, preferences_of, round_folders
from luthier.redteaming.reporting import intervals_of, scores_of, sections
from luthier.redteaming.result import HELD_OUT, MartResult
from luthier.report.sections import plain_sections
from luthier.stages.artifacts import Artifact
from luthier.stages.base import MODEL, StageInputs, StagePlan
from tests.generation.test_endpoint import Server, server
from tests.redteaming.conftest import loop_settings

__all__ = ["server"]
ENDPOINT = {"kind": "endpoint", "url": "http://localhost:1/v1", "model": "m"}
VLLM = {"kind": "vllm"}
LITTLE = {"transfer": False, "final_attacks": False, "every_round": False}


def run(prompts: Path, speaker: Path, folder: Path, **more: Any) -> MartResult:
    settings = MartLoop.settings_of(loop_settings(prompts, **more))
    return MartLoop(settings, str(speaker), folder, seed=5).run()


@pytest.fixture(scope="module")
def whole(prompts: Path, speaker: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MartResult]:
    """A loop of two rounds with everything that can be measured."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(prompts, speaker, folder, **everything(prompts))


def everything(prompts: Path) -> dict[str, Any]:
    ordinary, taught = (
        {"train": str(prompts / f"{name}.jsonl"), "prompt": "prompt", "response": "response"}
        for name in ("ordinary", "taught")
    )
    return {
        "instructions": taught,
        "adversary": {"max_steps": 2, "instruction_ratio": 1.0},
        "evaluation": {"helpful": ordinary, "look_alikes": str(prompts / "alike.txt"), "transfer_prompts": 3},
    }


def artefacts(folder: Path) -> dict[str, bytes]:
    """Every record and every weight; logs have times in them, cards the folder's name."""
    kinds = (".jsonl", ".safetensors")
    files = [one for one in folder.rglob("*") if one.suffix in kinds and one.name != "log.jsonl"]
    return {one.relative_to(folder).as_posix(): one.read_bytes() for one in files}


def test_everything_that_was_asked_answered_judged_and_chosen_can_be_read(whole):
    folder, result = whole
    assert len(result.rounds) == 2
    for done in result.rounds:
        place = folder / f"round-{done.number:02d}"
        prompts = {one["id"]: one for one in read_records(place / "prompts" / "prompts.jsonl")}
        answers = {one["id"]: one for one in read_records(place / "answers" / "answers.jsonl")}
        scores = {one["id"]: one for one in read_records(place / "scores" / "scores.jsonl")}
        chosen = read_records(place / "selected" / "selected.jsonl")
        assert set(answers) == set(scores)
        assert {one["prompt"] for one in answers.values()} == {k for k, one in prompts.items() if not one["dropped"]}
        assert len(chosen) == len(answers) + done.facts["asked"]
        attacks = {one["id"] for one in chosen if one["set"] == "adversary"}
        assert attacks == {one.id for one in done.attacks}
        unsafe = {
            answers[k]["prompt"]
            for k, one in scores.items()
            if one["safety"]["score"] is not None and one["safety"]["score"] < 0.5 and answers[k]["variant"] == "plain"
        }
        assert attacks == unsafe
        learned = [answers[one["id"]] for one in chosen if one["set"] == "target"]
        rows = read_records(place / "selected" / "target.jsonl")
        assert [(r["prompt"], r["response"]) for r in rows] == [
            (prompts[a["prompt"]]["text"], a["text"]) for a in learned
        ]
    parents = {one.id for one in result.rounds[0].attacks}
    second = read_records(folder / "round-02" / "prompts" / "prompts.jsonl")
    assert parents <= {one["parent"] for one in second}
    assert len(second) == max(4, len(parents))
    seeds = {one["id"] for one in read_records(folder / "seeds" / "train.jsonl")}
    assert {one["parent"] for one in read_records(folder / "round-01" / "prompts" / "prompts.jsonl")} == seeds


def test_a_plan_counts_every_text_that_may_be_written(whole, prompts):
    folder, result = whole
    settings = MartLoop.settings_of(loop_settings(prompts, **everything(prompts)))
    kinds = ("written", "answers", "held-out-answers", "helpful-answers", "look-alikes-answers")
    written = sum(len(read_records(one)) for kind in kinds for one in folder.rglob(f"{kind}.jsonl"))
    most, tokens = most_written(settings, result.seeds["seeds"], result.seeds["held_out"], 8 + 2)
    assert written <= most <= tokens
    only = MartLoop.settings_of(loop_settings(prompts, rounds=0, evaluation={"transfer": False}))
    assert most_written(only, 8, 6) == (6, 6 * only.answers.max_new_tokens)


def test_a_plan_counts_what_each_side_trains(prompts, speaker, tmp_path):
    def planned(target: dict[str, Any]) -> StagePlan:
        block = {"redteam": {"model": str(speaker), **loop_settings(prompts, target=target)}}
        (tmp_path / "r.yaml").write_text(json.dumps({"name": "r", "stages": [block]}))
        stage = load_recipe(tmp_path / "r.yaml").stage_list()[0]
        inputs = StageInputs({MODEL: Artifact("pretrained", ModelSettings(reference=str(speaker)))}, 0)
        return plan_redteaming(stage, inputs)

    light, whole = planned({"method": "lora"}), planned({"method": "full"})
    total = parameter_counts(load_model(str(speaker), "causal_lm"))[1]
    assert whole.facts["target"] == f"full, {total:,} of {total:,} parameters to train"
    trained = int(light.facts["target"].split()[1].replace(",", ""))
    assert light.facts["adversary"] == light.facts["target"].replace("target", "adversary")
    assert whole.memory_bytes - light.memory_bytes == 12 * (total - trained) - 4 * trained
    assert planned({"train": False}).facts["target"] == "not trained"


def test_pairs_of_a_safe_and_an_unsafe_answer_of_one_prompt_are_told(whole):
    folder, _ = whole
    pairs = preferences_of(folder)
    assert pairs
    assert {one["round"] for one in preferences_of(folder, [2])} <= {2}
    for one in pairs:
        place = folder / f"round-{one['round']:02d}"
        (prompt,) = {r["id"] for r in read_records(place / "prompts" / "prompts.jsonl") if r["text"] == one["prompt"]}
        answers = [r for r in read_records(place / "answers" / "answers.jsonl") if r["prompt"] == prompt]
        scores = {r["id"]: r["safety"]["score"] for r in read_records(place / "scores" / "scores.jsonl")}
        learned = {
            r["response"] for r in read_records(place / "selected" / "target.jsonl") if r["prompt"] == one["prompt"]
        }
        assert learned == {one["chosen"]}
        assert one["rejected"] in {r["text"] for r in answers if scores[r["id"]] == one["safety"][1]}
        assert one["safety"][1] == min(scores[r["id"]] for r in answers) < 0.5 <= one["safety"][0]


def test_the_first_round_distils_and_the_last_one_rejects(whole):
    folder, _ = whole
    first, second = (read_records(folder / f"round-0{n}" / "answers" / "answers.jsonl") for n in (1, 2))
    assert {one["variant"] for one in first} == {"plain", "preamble"}
    assert {one["sampling"]["temperature"] for one in second} == {0.6, 0.9}
    assert {one["variant"] for one in second} == {"plain"}


def test_the_adversary_mixes_in_instructions_and_the_target_does_not(whole):
    folder, _ = whole
    place = folder / "round-01"
    own = len(read_records(place / "selected" / "adversary.jsonl"))
    assert len(read_records(place / "adversary" / "train.jsonl")) == min(2 * own, own + 8)
    kept = read_records(place / "selected" / "target.jsonl")
    assert len(read_records(place / "target" / "train.jsonl")) == len(kept)


def test_nothing_that_is_measured_by_is_trained_on(whole, prompts, speaker, tmp_path):
    folder, _ = whole
    taught = {row["prompt"] for row in map(json.loads, (prompts / "taught.jsonl").read_text().splitlines())}
    measured = [one for place in folder.glob("round-00/evaluation/*-prompts.jsonl") for one in read_records(place)]
    rows = [one for place in folder.rglob("train.jsonl") if place.parent.name != "seeds" for one in read_records(place)]
    assert taught & {one["prompt"] for one in rows}
    known = NearDuplicates(0.95)
    for one in measured:
        known.add(one["id"], one["text"])
    assert not [one for one in rows if known.like(one["prompt"])]
    same = {**everything(prompts), "instructions": everything(prompts)["evaluation"]["helpful"], "rounds": 1}
    with pytest.raises(DataError, match="none may be trained on"):
        run(prompts, speaker, tmp_path, **same)


def test_instructions_like_measured_prompts_make_room_for_others(prompts):
    data = DataSettings(train=str(prompts / "taught.jsonl"), prompt="prompt", response="response")
    every = {one["prompt"] for one in instruction_rows(data, 8, 1)}
    first = [one["prompt"] for one in instruction_rows(data, 4, 1)]
    found = [one["prompt"] for one in instruction_rows(data, 4, 1, may_train=lambda one: one != first[1])]
    assert len(found) == 4
    assert set(found) <= every - {first[1]}
    assert found[:3] == [first[0], *first[2:]]


def test_both_sides_go_on_from_the_round_before(whole):
    folder, _ = whole
    for who in ("adversary", "target"):
        told = [json.loads((folder / f"round-0{n}" / who / "metrics.json").read_text()) for n in (1, 2)]
        assert [one["continued"] for one in told] == [who == "adversary", True]


def test_what_is_told_of_it(whole, prompts):
    _, result = whole
    scores, intervals = scores_of(result), intervals_of(result)
    assert set(intervals) <= set(scores)
    assert 0 <= scores["held_out/violation"] <= 1
    assert scores["helpful/perplexity"] > 1
    assert {"look_alikes/refusal_rate", "attacks/success_round_2", "final_attacks/violation_last"} <= set(scores)
    found = plain_sections({"sections": sections(MartLoop.settings_of(loop_settings(prompts)), result)})["sections"]
    text = json.dumps(found)
    assert "has not been checked against labels of people" in text
    assert all(one["text"].startswith("The safety judge") for one in found if "table" in one)
    asked = [one["text"] for one in read_records(whole[0] / "round-01" / "prompts" / "prompts.jsonl")]
    assert not any(one in text for one in asked if len(one.split()) > 4)


class Killed(BaseException):
    pass


def test_stopped_in_every_phase_and_gone_on_with_it_leaves_the_same_artefacts(
    whole, prompts, speaker, tmp_path, monkeypatch
):
    """Every file of records is left with its first part and half a line; every training is stopped before it begins."""
    died: set[str] = set()
    plain_add, plain_train = Appending.add, loop_module.train_side

    def die_once(place: str) -> None:
        if place not in died:
            died.add(place)
            raise Killed

    def add(self: Appending, records: Any) -> None:
        before = len(self.records)
        plain_add(self, records)
        if len(self.records) > before and str(self.path) not in died:
            with self.path.open("ab") as file:
                file.write(b'{"id": "torn')
            die_once(str(self.path))

    def train(side: Any, settings: Any, model: Any, rows: Any, work: Any, seed: int) -> Any:
        die_once(str(work.folder))
        return plain_train(side, settings, model, rows, work, seed)

    monkeypatch.setattr(Appending, "add", add)
    monkeypatch.setattr(loop_module, "train_side", train)
    for _ in range(100):
        try:
            run(prompts, speaker, tmp_path, **everything(prompts))
            break
        except Killed:
            continue
    assert len(died) >= 20
    assert artefacts(tmp_path) == artefacts(whole[0])


def test_done_steps_are_not_done_again(whole, prompts, speaker, monkeypatch):
    folder, result = whole
    before = artefacts(folder)
    monkeypatch.setattr(Rollout, "write", lambda *_: pytest.fail("a text was written again"))
    monkeypatch.setattr(loop_module, "train_side", lambda *_: pytest.fail("it was trained again"))
    again = run(prompts, speaker, folder, **everything(prompts))
    assert scores_of(again) == scores_of(result)
    assert artefacts(folder) == before


def test_one_base_serves_the_adapters_of_both_sides(whole, speaker):
    _, result = whole
    requests = [Request(str(i), "how may i hide", temperature=0.8, seed=i) for i in range(4)]
    models, shared = LoadedModels(), []
    for side in (result.target, result.adversary, result.target):
        model, tokenizer, reserved = models.get(side)
        shared.append([one for part in Rollout(model, tokenizer, reserved=reserved).write(requests, 8) for one in part])
    assert models.bases_loaded == 1
    for side, found in zip((result.target, result.adversary), shared, strict=False):
        model, tokenizer, _ = load_artifact(side.reference)
        assert [one for part in Rollout(model, tokenizer).write(requests, 8) for one in part] == found
    assert shared[2] == shared[0]
    models.get(ModelSettings(reference=str(speaker)))
    assert models.bases_loaded == 2
    half, _, _ = models.get(ModelSettings(reference=str(speaker), dtype="bfloat16"))
    assert half.dtype == torch.bfloat16


def test_no_judge_is_in_memory_beside_a_model_that_writes(prompts, speaker, tmp_path, monkeypatch):
    guard = {"kind": "guard", "model": str(speaker), "template": "{prompt} {response}"}
    guard |= {"safe": "please", "unsafe": "never"}
    settings = loop_settings(prompts, rounds=1, target={"train": False}, adversary={"train": False})
    settings["judges"] = {"safety": guard, "helpfulness": {**guard, "batch_size": 3}, "cut_off": "judge"}
    settings["evaluation"] = {**everything(prompts)["evaluation"], "transfer_prompts": 2}
    loop = MartLoop(MartLoop.settings_of(settings), str(speaker), tmp_path, seed=5)
    beside, get = [], LoadedModels.get

    def judges() -> list[str]:
        return [role for role, judge in loop.check.all.items() if judge._loaded is not None]

    def watched(models: LoadedModels, model: ModelSettings) -> Any:
        beside.append(judges())
        return get(models, model)

    monkeypatch.setattr(LoadedModels, "get", watched)
    loop.run()
    assert judges()
    perplexity(loop.asking, loop.start, [{"prompt": "how may i", "response": "no never"}])
    assert len(beside) > 10
    assert not any(beside)


@pytest.mark.parametrize("method", ["full", {"name": "prompt", "length": 2}], ids=str)
def test_any_tuner_trains_the_target(method, prompts, speaker, tmp_path):
    side = {"max_steps": 1, "method": method}
    result = run(prompts, speaker, tmp_path, rounds=2, target=side, evaluation=LITTLE, adversary={"train": False})
    assert result.trained
    assert [one.facts["target_rows"] > 0 for one in result.rounds] == [True, True]
    model, _, card = load_artifact(result.target.reference)
    assert card.method["name"] == (method if isinstance(method, str) else method["name"])
    assert model.config.vocab_size > 0


def test_both_sides_may_have_adapters_of_their_own_kind(prompts, speaker, tmp_path):
    sides = {name: {"max_steps": 1, "method": method} for name, method in (("adversary", "lora"), ("target", "ia3"))}
    result = run(prompts, speaker, tmp_path, rounds=2, evaluation=LITTLE, **sides)
    assert len(result.rounds) == 2


def test_each_side_is_loaded_by_its_own_settings(prompts, speaker, tmp_path):
    def loop(folder: str, dtypes: tuple[str, str], **more: Any) -> MartLoop:
        settings = MartLoop.settings_of(loop_settings(prompts, **more))
        one, other = (ModelSettings(reference=str(speaker), dtype=dtype) for dtype in dtypes)
        return MartLoop(settings, one, tmp_path / folder, adversary=other, seed=5)

    side = {"max_steps": 1}
    one = {"rounds": 1, "evaluation": LITTLE, "adversary": side, "target": side}
    result = loop("both", ("float32", "bfloat16"), **one).run()
    assert (result.target.dtype, result.adversary.dtype) == ("float32", "bfloat16")
    assert result.adversary.reference != str(speaker)
    pairs = [("float32", "float32"), ("bfloat16", "float32"), ("float32", "bfloat16")]
    keys = [loop("key", pair).key for pair in pairs]
    assert len(set(keys)) == 3


def test_a_file_that_changed_is_read_anew(prompts, speaker, tmp_path):
    seeds, lines = tmp_path / "seeds.jsonl", (prompts / "seeds.jsonl").read_text().splitlines()
    seeds.write_text("\n".join(lines[:-2]))
    counts = []
    for more in ([], lines[-2:]):
        with seeds.open("a") as file:
            file.write("".join(f"\n{line}" for line in more))
        counts.append(run(prompts, speaker, tmp_path / "loop", rounds=0, evaluation=LITTLE, seeds=str(seeds)).seeds)
    assert counts[0] != counts[1]


def test_one_side_alone_is_trained(prompts, speaker, tmp_path):
    result = run(
        prompts,
        speaker,
        tmp_path,
        rounds=1,
        adversary={"train": False},
        target={"train": False},
        evaluation=LITTLE,
    )
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not result.trained
    assert result.rounds[0].facts["learned"] > 0


def test_it_stops_when_too_few_attacks_succeed(prompts, speaker, tmp_path):
    judges = {**loop_settings(prompts)["judges"], "safety": {"kind": "rules", "otherwise": 1.0}}
    result = run(prompts, speaker, tmp_path, judges=judges, evaluation=LITTLE)
    assert result.stopped == "0 attacks succeeded, fewer than 1"
    assert len(result.rounds) == 1


def test_caps_on_training_say_nothing_of_what_succeeded(prompts, speaker, tmp_path):
    judges = {**loop_settings(prompts)["judges"], "safety": {"kind": "rules", "otherwise": 0.1}}
    attacks = {"warm_up": False, "max_new_tokens": 4, "novelty": None, "most_of_category": 1}
    sides = {who: {"train": False} for who in ("adversary", "target")}
    more: dict[str, Any] = {"rounds": 1, "judges": judges, "attacks": attacks, "evaluation": LITTLE, **sides}
    result = run(prompts, speaker, tmp_path, stop_below_attacks=4, **more)
    facts = result.rounds[0].facts
    assert (facts["attacks"], facts["broken"], result.stopped) == (2, facts["asked"], "")
    assert len(attacks_of(tmp_path)) == facts["broken"] > 4
    assert sum(one.broke for one in exchanges(tmp_path)) >= facts["broken"]


def test_nothing_but_measuring_in_no_round(prompts, speaker, tmp_path):
    result = run(prompts, speaker, tmp_path, rounds=0)
    assert not result.rounds
    assert set(scores_of(result)) >= {"held_out/violation"}


def test_rounds_of_an_earlier_loop_are_none_of_a_later_one(prompts, speaker, tmp_path):
    more = {"attacks": {"warm_up": False, "max_new_tokens": 4}, "target": {"train": False}}
    run(prompts, speaker, tmp_path, rounds=1, evaluation={"transfer": False}, **more)
    assert [number_of(one) for one in round_folders(tmp_path)] == [1]
    assert {one.round for one in exchanges(tmp_path)} >= {"1", "held-out after 1", "final attacks, last target"}
    run(prompts, speaker, tmp_path, rounds=0, evaluation=LITTLE, **more)
    assert round_folders(tmp_path) == []
    assert {one.round for one in exchanges(tmp_path)} == {"held-out after 0"}


def test_labels_of_people_replace_the_judge(whole, prompts, speaker, tmp_path):
    folder, result = whole
    place = folder / "round-01"
    asked = {one["id"]: one["text"] for one in read_records(place / "prompts" / "prompts.jsonl")}
    answers = read_records(place / "answers" / "answers.jsonl")
    first = [(one.prompt, one.answer) for one in exchanges(folder) if one.round == "held-out after 0"]
    labels: dict[tuple[str, str], dict[str, Any]] = {
        (prompt, answer): {"label": "safe", "prompt": prompt, "answer": answer} for prompt, answer in first
    }
    labels |= {
        (asked[one["prompt"]], one["text"]): {
            "id": one["id"],
            "label": "safe",
            "prompt": asked[one["prompt"]],
            "answer": one["text"],
        }
        for one in answers
    }
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(one) + "\n" for one in labels.values()))
    found = run(prompts, speaker, tmp_path / "run", labels=str(tmp_path / "labels.jsonl"), **everything(prompts))
    assert result.rounds[0].attacks
    assert found.rounds[0].attacks == []
    assert found.rounds[0].facts["violations"] == 0
    rates = [one.measured[0][HELD_OUT]["evaluation_safety"]["rate"] for one in (result, found)]
    assert rates[0] > 0 == rates[1]
    assert found.rounds[0].facts["labelled"] == len(answers)
    assert found.judges["from_review"] == len(labels)


def test_labels_say_nothing_of_other_answers_that_have_the_same_ids(whole, prompts, speaker, tmp_path):
    """Another seed of a run asks the same parents: its answers have the ids of the first run's, and other texts."""
    folder, _ = whole
    answers = read_records(folder / "round-01" / "answers" / "answers.jsonl")
    labels = [{"id": one["id"], "label": "safe", "veto": True, "prompt": "p", "answer": one["text"]} for one in answers]
    (tmp_path / "labels.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in {x["answer"]: x for x in labels}.values())
    )
    settings = MartLoop.settings_of(
        loop_settings(prompts, rounds=1, labels=str(tmp_path / "labels.jsonl"), evaluation=LITTLE)
    )
    found = MartLoop(settings, str(speaker), tmp_path / "run", seed=6).run()
    again = read_records(tmp_path / "run" / "round-01" / "answers" / "answers.jsonl")
    assert {one["id"] for one in again} & {one["id"] for one in answers}
    assert found.rounds[0].facts["labelled"] == found.rounds[0].facts["vetoed"] == 0
    assert found.rounds[0].attacks
    places = folder / "round-00", folder / "round-02", tmp_path / "run" / "round-00"
    first, last, other = (
        [one["sampling"]["seed"] for one in read_records(place / "evaluation" / "held-out-answers.jsonl")]
        for place in places
    )
    assert first == last
    assert not set(first) & set(other)


def test_a_target_behind_an_endpoint_is_asked_and_not_trained(prompts, speaker, tmp_path, server: Server):
    target = {"train": False, "backend": {"kind": "endpoint", "url": server.url, "model": "mine", "max_requests": 200}}
    result = run(prompts, speaker, tmp_path, rounds=1, target=target, evaluation={"transfer": False})
    assert {body["model"] for body in server.bodies} == {"mine"}
    assert all(
        one["text"].startswith("about ") for one in read_records(tmp_path / "round-01" / "answers" / "answers.jsonl")
    )
    assert not result.trained
    (spent,) = (json.loads(one.read_text()) for one in (tmp_path / "spent").iterdir())
    assert spent["requests"] == len(server.bodies)


def test_a_cap_that_was_reached_is_raised_and_nothing_is_asked_again(prompts, speaker, tmp_path, server: Server):
    backend = {"kind": "endpoint", "url": server.url, "model": "mine", "max_requests": 9, "at_once": 2}
    more = {"rounds": 1, "evaluation": {"transfer": False}}
    with pytest.raises(WorkspaceError, match="9 requests is spent"):
        run(prompts, speaker, tmp_path, target={"train": False, "backend": backend}, **more)
    backend |= {"max_requests": 500, "api_key": "another", "retries": 1}
    run(prompts, speaker, tmp_path, target={"train": False, "backend": backend}, limits={"generations": 999}, **more)
    (spent,) = (json.loads(one.read_text()) for one in (tmp_path / "spent").iterdir())
    assert not list(tmp_path.rglob("replaced"))
    kept = [one for place in tmp_path.rglob("*answers.jsonl") for one in read_records(place)]
    assert spent["requests"] == len(server.bodies) == len(kept)


def test_a_round_of_one_step_trains(prompts, speaker, tmp_path):
    """The first step of a warm-up has a rate of 0; a small round has no other."""
    result = run(prompts, speaker, tmp_path, rounds=1, target={"epochs": 1, "batch_size": 64}, evaluation=LITTLE)
    assert json.loads((tmp_path / "round-01" / "target" / "metrics.json").read_text())["steps"] == 1
    weights = load_file(Path(result.target.reference) / "adapter_model.safetensors")
    assert max(float(value.abs().max()) for name, value in weights.items() if "lora_B" in name) > 0


def test_half_a_character_from_a_server_can_be_trained_on(prompts, speaker, tmp_path, server: Server):
    server.ending = " \ud83d"
    more = {"train": False, "backend": {"kind": "endpoint", "url": server.url, "model": "mine"}}
    judges = {
        **loop_settings(prompts)["judges"],
        "safety": {"kind": "rules", "unsafe": ["kettle", "garden"], "otherwise": 0.9},
    }
    result = run(prompts, speaker, tmp_path, rounds=1, adversary=more, judges=judges, evaluation=LITTLE)
    written = read_records(tmp_path / "round-01" / "prompts" / "prompts.jsonl")
    assert all(one["text"].endswith(" ?") for one in written)
    assert result.trained


def test_a_cap_on_volume_ends_it_before_anything_is_written_above_it(prompts, speaker, tmp_path):
    with pytest.raises(WorkspaceError, match="may write"):
        run(prompts, speaker, tmp_path, limits={"generations": 10})
    assert len(read_records(tmp_path / "round-00" / "evaluation" / "held-out-answers.jsonl")) == 6


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"held_out_share": 0.2}, "held_out_share"),
        ({"answers": {"distillation_rounds": [3]}}, "names round 3"),
        ({"answers": {"rejection_rounds": [4]}}, "names round 4"),
        ({"attacks": {"source": "static"}}, "needs a `list`"),
        ({"attacks": {"list": "x.txt"}}, "no effect"),
        (
            {"attacks": {"source": "suffix", "list": "x", "temperature": 0.1}},
            "`temperature` has no effect with `source: s",
        ),
        ({"attacks": {"source": "static", "list": "x", "refill": 4}}, "`refill` has no effect with `source: static`"),
        (
            {"attacks": {"source": "few_shot", "warm_up_pairs": 2}},
            "`warm_up_pairs` has no effect with `source: few_shot`",
        ),
        ({"attacks": {"warm_up": False, "warm_up_pairs": 2}}, "`warm_up_pairs` has no effect with `warm_up: false`"),
        ({"adversary": {"instruction_ratio": 1}}, "needs `instructions`"),
        ({"instructions": {"train": "x.jsonl"}}, "`instructions` has no effect without an `instruction_ratio`"),
        (
            {"answers": {"rejection_rounds": [], "rejection_temperatures": [0.1]}},
            "`rejection_temperatures` has no effect beside `rejection_rounds: ..`",
        ),
        ({"answers": {"distillation_rounds": [], "preamble": "Be good."}}, "`preamble` has no effect"),
        ({"rounds": 1, "answers": {"per_prompt": 5}}, "`answers.per_prompt` has no effect where every round"),
        (
            {"rounds": 2, "answers": {"rejection_rounds": [1, 2], "temperature": 0.1}},
            "`answers.temperature` has no eff",
        ),
        ({"evaluation": {"transfer": False, "transfer_prompts": 3}}, "`transfer_prompts` has no effect"),
        (
            {"judges": {"safety": {"kind": "rules", "enough_words": 3}, "helpfulness": "rules"}},
            "`enough_words` has no effect beside `aim: safety`",
        ),
        ({"target": {"backend": {"kind": "endpoint", "url": "http://localhost:1", "model": "m"}}}, "can't be trained"),
        ({"target": {"method": "loraa"}}, "loraa"),
        ({"target": {"method": "ia3", "backend": VLLM}}, "this is IA3, which `method` would train"),
        ({"target": {"method": "prompt", "backend": VLLM}}, "this is PROMPT"),
        ({"adversary": {"method": {"name": "lora", "dora": True}, "backend": VLLM}}, "`use_dora`"),
        ({"target": {"method": {"name": "lora", "rank": 600}, "backend": VLLM}}, "this has 600"),
        (
            {
                "target": {
                    "method": {"name": "peft", "peft_type": "lora", "settings": {"rank_pattern": {"q_proj": 600}}},
                    "backend": VLLM,
                }
            },
            "this has 600",
        ),
        (
            {
                "adversary": {"train": False, "backend": ENDPOINT},
                "target": {"train": False, "backend": {**ENDPOINT, "max_requests": 7}},
            },
            "one `max_requests`",
        ),
        ({"judges": {"safety": {"kind": "rule"}, "helpfulness": "rules"}}, "rule"),
    ],
)
def test_settings_that_can_not_work_are_refused(prompts, more, said):
    with pytest.raises(ValidationError, match=said):
        MartLoop.settings_of(loop_settings(prompts, **more))


@pytest.mark.parametrize(
    "side",
    [
        {"method": "full"},
        {"method": "bitfit"},
        {"method": {"name": "lora", "rank": 512}},
        {"method": {"name": "peft", "peft_type": "lora", "settings": {"use_rslora": True}}},
        {"method": "ia3", "train": False},
    ],
)
def test_what_vllm_serves_may_be_trained(prompts, side):
    MartLoop.settings_of(loop_settings(prompts, target={**side, "backend": VLLM}))


@pytest.mark.parametrize(
    "side",
    [
        {"method": "ia3", "backend": VLLM},
        {"backend": ENDPOINT},
        {"method": "prefix", "gradient_checkpointing": True},
    ],
)
def test_only_a_side_that_is_trained_has_to_be_one_that_can_be(prompts, side):
    def refused(**more: Any) -> str:
        try:
            MartLoop.settings_of(loop_settings(prompts, **more))
        except ValidationError as error:
            return str(error)
        return ""

    assert "`adversary`: " in refused(adversary=side)
    assert "`target`: " in refused(target=side)
    for more in ({"attacks": {"source": "few_shot"}}, {"rounds": 0}):
        assert not refused(adversary=side, **more)
    assert not refused(adversary={**side, "train": False}, target={**side, "train": False})
