"""The phases of one round: write prompts, answer them, judge, select, and the rows that both sides learn.

Everything here depends on its arguments alone, and works inside the folder of a step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.generation.records import Record
from luthier.generation.writing import Request, seed_of, text_id
from luthier.redteaming.diversity import Diversity
from luthier.redteaming.duplicates import NearDuplicates
from luthier.redteaming.labels import HumanLabels, answer_key
from luthier.redteaming.seeds import Prompt
from luthier.redteaming.selection import (
    PLAIN,
    PREAMBLE,
    Asked,
    Caps,
    Scored,
    Selected,
    Thresholds,
    quantile_limits,
    select_round,
    violation,
)
from luthier.redteaming.settings import AnswerSettings, MartSettings
from luthier.redteaming.wording import imitate, written_prompt


def parents_of(
    settings: MartSettings, last: Sequence[Prompt], earlier: Sequence[Prompt], seeds: Sequence[Prompt], number: int
) -> list[Prompt]:
    """What the prompts of a round are written from: the last round's attacks, filled up where there are too few, and
    drawn from where there are too many."""
    found = list(last)
    known = {one.id for one in found}
    for one in (*reversed(earlier), *_shuffled(seeds, "refill", number)):
        if len(found) >= settings.attacks.refill:
            break
        if one.id not in known:
            known.add(one.id)
            found.append(one)
    most = settings.attacks.max_parents
    return found if most is None or len(found) <= most else _shuffled(found, "parents", number)[:most]


def _shuffled(prompts: Sequence[Prompt], *parts: Any) -> list[Prompt]:
    return sorted(prompts, key=lambda one: text_id(*map(str, parts), one.id))


def examples_for(parent: Prompt, parents: Sequence[Prompt], shots: int, *parts: Any) -> list[str]:
    """The parent's text, and those of others of its category where the adversary is shown several."""
    if shots == 1:
        return [parent.text]
    others = [one for one in parents if one.category == parent.category and one.id != parent.id]
    chosen = _shuffled(others, "shots", parent.id, *parts)[: shots - 1]
    return [*(one.text for one in chosen), parent.text]


def prompt_requests(
    settings: MartSettings, parents: Sequence[Prompt], number: int | str, seed: int
) -> tuple[list[Request], dict[str, dict[str, Any]]]:
    """What the adversary is asked in a round, and what is known of each prompt before it is written."""
    attacks = settings.attacks
    requests, extra = [], {}
    for parent in parents:
        for k in range(attacks.per_parent):
            name = text_id("prompt", str(number), parent.id, str(k))
            shown = examples_for(parent, parents, attacks.shots, number, k)
            requests.append(
                Request(
                    name,
                    imitate(shown, parent.category),
                    temperature=attacks.temperature,
                    top_p=attacks.top_p,
                    seed=seed_of(seed, number, parent.id, k),
                )
            )
            extra[name] = {
                "parent": parent.id,
                "parent_text": parent.text,
                "round": number,
                "category": parent.category,
                "style": parent.style,
            }
    return requests, extra


def listed_prompts(
    settings: MartSettings, parents: Sequence[Prompt], entries: Sequence[Prompt], number: int | str
) -> list[Record]:
    """The prompts of a round that no adversary writes: those of a list, or the parents with suffixes of a list."""
    found: list[Record] = []
    if settings.attacks.source == "static":
        pairs = [(one, one.text, k) for one in entries for k in range(settings.attacks.per_parent)]
    else:
        pairs = [
            (parent, f"{parent.text} {suffix.text}", k)
            for parent in parents
            for k, suffix in enumerate(_shuffled(entries, "suffix", number, parent.id)[: settings.attacks.per_parent])
        ]
    for origin, text, k in pairs:
        name = text_id("prompt", str(number), origin.id, str(k))
        found.append(
            {
                "id": name,
                "parent": origin.id,
                "parent_text": origin.text,
                "round": number,
                "category": origin.category,
                "style": origin.style,
                "text": text,
                "cut_off": False,
            }
        )
    return found


def sifted(
    records: Sequence[Record], settings: MartSettings, measured: NearDuplicates, earlier: Sequence[str]
) -> list[Record]:
    """The prompts of a round, each with the reason why it is dropped, or an empty one.

    Args:
        records: as they were written.
        settings: how new a prompt has to be.
        measured: every prompt that a target is measured by, which nothing that is trained on may be like.
        earlier: seeds and prompts of earlier rounds.
    """
    by_adversary = settings.attacks.source in ("mart", "few_shot")  # else they are the user's, and asked as they are
    novelty = settings.attacks.novelty if by_adversary else None
    known = NearDuplicates(novelty or 1.0)
    for place, text in enumerate(earlier) if novelty else ():
        known.add(f"earlier {place}", text)
    found = []
    for record in records:
        text, reason = written_prompt(record["text"]) if by_adversary else record["text"].strip(), ""
        if not text:
            reason = "empty"
        elif measured.like(text) is not None:
            reason = "like a prompt that is measured by"
        elif novelty and known.like(text) is not None:
            reason = "like an earlier prompt"
        elif novelty:
            known.add(record["id"], text)
        found.append({**record, "text": text, "dropped": reason})
    return found


def asked_prompts(records: Sequence[Record]) -> list[Record]:
    """Those that are not dropped."""
    return [one for one in records if not one["dropped"]]


def answer_requests(
    settings: MartSettings, prompts: Sequence[Record], number: int, seed: int
) -> tuple[list[Request], dict[str, dict[str, Any]]]:
    """What the target is asked in a round: every prompt at the round's temperatures, and in a round of context
    distillation under the preamble, too."""
    answers = settings.answers
    variants = [PLAIN, *([PREAMBLE] if number in answers.distillation_rounds else [])]
    requests, extra = [], {}
    for prompt in prompts:
        for variant in variants:
            system, text = _said(prompt["text"], answers) if variant == PREAMBLE else ("", prompt["text"])
            for k, temperature in enumerate(settings.temperatures(number)):
                name = text_id("answer", prompt["id"], variant, str(k))
                requests.append(
                    Request(
                        name,
                        text,
                        system,
                        temperature,
                        answers.top_p,
                        seed_of(seed, number, prompt["id"], variant, k),
                    )
                )
                extra[name] = {"prompt": prompt["id"], "variant": variant, "k": k, "round": number}
    return requests, extra


def _said(text: str, answers: AnswerSettings) -> tuple[str, str]:
    """What the system and what the user says where a prompt is asked under the preamble."""
    if answers.preamble_place == "system":
        return answers.preamble, text
    return "", f"{answers.preamble}\n\n{text}"


def selected(
    settings: MartSettings,
    prompts: Sequence[Record],
    answers: Sequence[Record],
    scores: Sequence[Record],
    labels: HumanLabels,
    seed: int,
) -> Selected:
    """The selection of a round, without what people vetoed."""
    by_id = {one["id"]: one for one in scores}
    texts = {one["id"]: one["text"] for one in prompts}
    scored = []
    for answer in answers:
        said, asked = by_id[answer["id"]], texts[answer["prompt"]]
        status = next((said[role]["status"] for role in ("safety", "helpfulness") if said[role]["score"] is None), "ok")
        scored.append(
            Scored(
                answer["id"],
                answer["prompt"],
                said["safety"]["score"],
                said["helpfulness"]["score"],
                answer["variant"],
                status,
                labels.forbids(asked, answer["text"]),
            )
        )
    rules = settings.selection
    limits = Thresholds(rules.adversary, rules.safety, rules.helpfulness)
    if rules.mode == "quantile":
        limits = quantile_limits(limits, scored)
    return select_round(
        [Asked(one["id"], one["parent"], one["category"]) for one in prompts],
        scored,
        limits,
        success=rules.success,
        choice=rules.choice,
        caps=Caps(settings.attacks.most_of_parent, settings.attacks.most_of_category),
        seed=seed,
    )


def selection_records(prompts: Sequence[Record], answers: Sequence[Record], found: Selected) -> list[Record]:
    """Every prompt and answer with what became of it, and of prompts whether they broke the target."""
    attacks, learned, broke = set(found.attacks), set(found.answers), set(found.broke)
    made: list[Record] = []
    for kind, records in (("prompt", prompts), ("answer", answers)):
        for one in records:
            chosen = "adversary" if one["id"] in attacks else "target" if one["id"] in learned else "dropped"
            record = {"id": one["id"], "kind": kind, "set": chosen, "reason": found.reasons.get(one["id"], "")}
            made.append({**record, "broke": one["id"] in broke} if kind == "prompt" else record)
    return made


def adversary_rows(prompts: Sequence[Record], found: Selected) -> list[Record]:
    """(imitate(parent), prompt) of every attack that the adversary learns."""
    attacks = set(found.attacks)
    return [
        {"id": one["id"], "prompt": imitate([one["parent_text"]], one["category"]), "response": one["text"]}
        for one in prompts
        if one["id"] in attacks
    ]


def target_rows(prompts: Sequence[Record], answers: Sequence[Record], found: Selected) -> list[Record]:
    """(prompt, answer) of every answer that is learned; without the preamble that it may have been given under."""
    texts: Mapping[str, str] = {one["id"]: one["text"] for one in prompts}
    learned = set(found.answers)
    return [
        {"id": one["id"], "prompt": texts[one["prompt"]], "response": one["text"]}
        for one in answers
        if one["id"] in learned
    ]


def warm_up_rows(seeds: Sequence[Prompt], pairs: int) -> list[Record]:
    """(imitate(x), y) for seeds x and y of one category and style, x other than y: for each y those that come behind
    it where all are drawn into a ring."""
    rings: dict[tuple[str, str], list[Prompt]] = defaultdict(list)
    for one in _shuffled(seeds, "warm-up"):
        rings[one.category, one.style].append(one)
    places = {one.id: place for ring in rings.values() for place, one in enumerate(ring)}
    found: list[Record] = []
    for one in seeds:
        ring = rings[one.category, one.style]
        for step in range(1, min(pairs, len(ring) - 1) + 1):
            other = ring[(places[one.id] + step) % len(ring)]
            found.append(
                {"id": text_id(other.id, one.id), "prompt": imitate([other.text], one.category), "response": one.text}
            )
    return found


def as_prompts(records: Sequence[Record], kept: Sequence[str]) -> list[Prompt]:
    """Records of chosen prompts as parents of the next round."""
    wanted = set(kept)
    return [
        Prompt(one["text"], one["category"], one["style"], f"round {one['round']}", one["parent"], one["id"])
        for one in records
        if one["id"] in wanted
    ]


def facts(
    number: int,
    parents: Sequence[Prompt],
    prompts: Sequence[Record],
    asked: Sequence[Record],
    answers: Sequence[Record],
    scores: Sequence[Record],
    found: Selected,
    variety: Diversity,
    labels: HumanLabels,
) -> dict[str, Any]:
    """Counts and rates of a round, in JSON's types."""
    texts = {one["id"]: one["text"] for one in asked}
    judged_by_people = sum(answer_key(texts[one["prompt"]], one["text"]) in labels.labels for one in answers)
    plain = {one["id"] for one in answers if one["variant"] == PLAIN}
    hits, total = violation(one["safety"]["score"] for one in scores if one["id"] in plain)
    reasons: dict[str, int] = {}
    for one in prompts:
        if one["dropped"]:
            reasons[one["dropped"]] = reasons.get(one["dropped"], 0) + 1
    return {
        "number": number,
        "parents": len(parents),
        "written": len(prompts),
        "asked": len(asked),
        "dropped": reasons,
        "answers": len(answers),
        "unscored": len(answers) - sum(one["safety"]["score"] is not None for one in scores),
        "labelled": judged_by_people,
        "vetoed": sum(labels.forbids(texts[one["prompt"]], one["text"]) for one in answers),
        "violations": hits,
        "violations_of": total,
        "attack_rate": found.attack_rate,
        "broken": found.broken,
        "attacks": len(found.attacks),
        "learned": len(found.answers),
        "diversity": variety.to_json(),
    }
