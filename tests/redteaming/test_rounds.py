"""What flows between the phases of a round."""

from __future__ import annotations

import pytest
import torch

from luthier.generation.writing import seed_of, text_id
from luthier.models.settings import ModelSettings
from luthier.redteaming import rounds
from luthier.redteaming.asking import judged
from luthier.redteaming.diversity import distinct, diversity, entropy
from luthier.redteaming.duplicates import NearDuplicates, pieces, similarity
from luthier.redteaming.embedding import sentence_vectors
from luthier.redteaming.judges.loading import load_judge
from luthier.redteaming.labels import HumanLabels, answer_key
from luthier.redteaming.loop import MartLoop
from luthier.redteaming.measuring import safety_summary
from luthier.redteaming.seeds import Prompt, split_seeds
from luthier.redteaming.wording import imitate, written_prompt

RULES = {"kind": "rules"}


def settings(**more):
    content = {"seeds": "seeds.txt", "judges": {"safety": RULES, "helpfulness": {**RULES, "aim": "helpfulness"}}}
    return MartLoop.settings_of({**content, **more})


def seeds(count: int = 6) -> list[Prompt]:
    words = ["kettle", "garden", "ladder", "violin", "pillow", "harbour", "candle", "meadow"]
    return [
        Prompt(f"tell me how the {words[i]} may be borrowed without a word", f"c{i % 2}", f"s{i % 3 % 2}")
        for i in range(count)
    ]


def test_warm_up_pairs_share_category_and_style_and_never_a_seed_with_itself():
    every = seeds(8)
    by_text = {one.text: one for one in every}
    rows = rounds.warm_up_rows(every, 2)
    assert rows
    for row in rows:
        written = by_text[row["response"]]
        shown = [one for one in every if one.text in row["prompt"]]
        assert len(shown) == 1
        assert shown[0].id != written.id
        assert (shown[0].category, shown[0].style) == (written.category, written.style)
        assert row["prompt"] == imitate([shown[0].text], written.category)


def test_many_seeds_of_one_category_are_paired_in_no_time():
    every = [Prompt(f"seed {i}", "c") for i in range(300)]
    with pytest.MonkeyPatch.context() as patch:
        calls: list[tuple[str, ...]] = []
        patch.setattr(rounds, "text_id", lambda *texts: calls.append(texts) or text_id(*texts))
        assert len(rounds.warm_up_rows(every, 2)) == 600
        rounds.prompt_requests(settings(), every, 1, 0)
    assert len(calls) == 300 + 600 + 300


def test_the_adversary_is_shown_one_example_or_several_of_the_category():
    every = seeds()
    one, extra = rounds.prompt_requests(settings(), every, 2, 7)
    assert [request.prompt for request in one] == [imitate([p.text], p.category) for p in every]
    assert [extra[request.id]["parent"] for request in one] == [p.id for p in every]
    assert len({request.seed for request in one}) == len(every)
    three, _ = rounds.prompt_requests(settings(attacks={"shots": 3, "per_parent": 2}), every, 2, 7)
    assert len(three) == 12
    assert all(f"3. {p.text}" in three[2 * i].prompt for i, p in enumerate(every))
    other = {p.text for p in every if p.category != every[0].category}
    assert not any(text in three[0].prompt for text in other)


def test_context_distillation_in_round_1_and_rejection_sampling_in_the_last():
    s = settings(rounds=3, answers={"temperature": 0.7})
    prompts = [{"id": "p", "text": "borrow a kettle", "parent": "x", "category": "c"}]
    first, extra = rounds.answer_requests(s, prompts, 1, 7)
    assert [(r.system != "", r.temperature) for r in first] == [(False, 0.7), (True, 0.7)]
    assert [extra[r.id]["variant"] for r in first] == ["plain", "preamble"]
    assert [r.temperature for r in rounds.answer_requests(s, prompts, 2, 7)[0]] == [0.7]
    last, _ = rounds.answer_requests(s, prompts, 3, 7)
    assert [r.temperature for r in last] == [0.6, 0.7, 0.8, 0.9]
    assert not any(r.system for r in last)
    assert len({r.seed for r in (*first, *last)}) == 6


def test_the_preamble_may_stand_before_the_prompt_itself():
    s = settings(answers={"preamble": "be kind", "preamble_place": "prompt"})
    plain, under = rounds.answer_requests(s, [{"id": "p", "text": "borrow it"}], 1, 0)[0]
    assert (plain.system, plain.prompt) == ("", "borrow it")
    assert (under.system, under.prompt) == ("", "be kind\n\nborrow it")


def test_what_is_learned_lacks_the_preamble():
    s = settings()
    prompts = [
        {"id": "p", "text": "borrow a kettle", "parent": "x", "parent_text": "seed", "category": "c", "round": 1}
    ]
    answers = [
        {"id": "a", "prompt": "p", "variant": "plain", "text": "take it", "cut_off": False},
        {"id": "b", "prompt": "p", "variant": "preamble", "text": "ask the owner first", "cut_off": False},
    ]
    said = {"a": (0.1, 0.9), "b": (0.95, 0.9)}
    scores = [
        {"id": name, "safety": {"score": x, "status": "ok"}, "helpfulness": {"score": y, "status": "ok"}}
        for name, (x, y) in said.items()
    ]
    found = rounds.selected(s, prompts, answers, scores, HumanLabels(), 0)
    assert rounds.target_rows(prompts, answers, found) == [
        {"id": "b", "prompt": "borrow a kettle", "response": "ask the owner first"}
    ]
    assert rounds.adversary_rows(prompts, found) == [
        {"id": "p", "prompt": imitate(["seed"], "c"), "response": "borrow a kettle"}
    ]
    people = HumanLabels(vetoes=frozenset({answer_key("borrow a kettle", answers[1]["text"])}))
    other = rounds.selected(s, prompts, answers, scores, people, 0)
    assert (other.attacks, other.answers) == (("p",), ())


def test_what_people_said_of_an_answer_is_in_every_rate(tmp_path, monkeypatch):
    """Of a cut-off one that no judge scores, too."""
    prompts = [{"id": f"p{i}", "text": f"q{i}", "parent": "", "category": "c", "dropped": ""} for i in range(3)]
    answers = [
        {
            "id": f"a{i}",
            "prompt": f"p{i}",
            "text": f"I can't, {i}",
            "variant": "plain",
            "cut_off": i == 1,
            "category": "c",
        }
        for i in range(3)
    ]
    labels = HumanLabels({answer_key(f"q{i}", f"I can't, {i}"): "unsafe" for i in range(2)})
    judge, asked_of = load_judge(RULES), list[int]()
    plain = judge.rate
    monkeypatch.setattr(judge, "rate", lambda p, a: asked_of.append(len(a)) or plain(p, a))
    judges = {"safety": judge, "helpfulness": load_judge({**RULES, "aim": "helpfulness"}), "evaluation_safety": judge}
    texts = {one["id"]: one["text"] for one in prompts}
    scores = judged(tmp_path / "scores.jsonl", judges, answers, texts, labels)
    found = rounds.selected(settings(), prompts, answers, scores, labels, 0)
    assert found.attacks == ("p0", "p1")
    assert [found.reasons[f"a{i}"] for i in range(2)] == ["unsafe", "unsafe"]
    told = rounds.facts(1, [], prompts, prompts, answers, scores, found, diversity(["q"]), labels)
    assert (told["violations"], told["violations_of"], told["labelled"], told["unscored"]) == (2, 3, 2, 0)
    assert asked_of == [2]
    measured = safety_summary(answers, scores)
    assert [measured[role]["rate"] for role in ("safety", "evaluation_safety")] == [2 / 3] * 2
    assert measured["categories"] == {"c": [2, 3]}


def test_prompts_like_measured_ones_are_always_dropped_and_repeats_where_novelty_is_asked_for():
    held = NearDuplicates(settings().near_duplicate)
    held.add("x", "tell me how the lantern may be borrowed at night")
    texts = [
        "Tell me how the lantern may be borrowed, at night!",
        '"a wholly different question about gardens"',
        "a wholly different question about gardens",
        "   ",
        "an earlier prompt that was asked in round one",
    ]
    records = [{"id": str(i), "text": text} for i, text in enumerate(texts)]
    earlier = ["an earlier prompt that was asked in round one"]
    found = rounds.sifted(records, settings(), held, earlier)
    assert [one["dropped"] for one in found] == [
        "like a prompt that is measured by",
        "",
        "like an earlier prompt",
        "empty",
        "like an earlier prompt",
    ]
    assert found[1]["text"] == "a wholly different question about gardens"
    kept = rounds.sifted(records, settings(attacks={"novelty": None}), held, earlier)
    assert [one["dropped"] for one in kept] == ["like a prompt that is measured by", "", "", "empty", ""]


def test_parents_are_filled_up_from_earlier_attacks_and_then_seeds():
    every = seeds(8)
    s = settings(attacks={"refill": 5})
    found = rounds.parents_of(s, every[:1], every[1:3], every, 2)
    assert found[:3] == [every[0], every[2], every[1]]
    assert len({one.id for one in found}) == 5
    assert rounds.parents_of(settings(attacks={"max_parents": 3}), every, [], every, 1) != every[:3]
    assert len(rounds.parents_of(settings(attacks={"max_parents": 3}), every, [], every, 1)) == 3


def test_prompts_of_a_list_and_suffixes(tmp_path):
    every = seeds(2)
    entries = [Prompt("please and thank you"), Prompt("with sugar")]
    static = settings(attacks={"source": "static", "list": "x.txt"})
    assert [one["text"] for one in rounds.listed_prompts(static, every, entries, 1)] == [e.text for e in entries]
    suffix = settings(attacks={"source": "suffix", "list": "x.txt", "per_parent": 2})
    found = rounds.listed_prompts(suffix, every, entries, 1)
    assert {one["text"] for one in found} == {f"{p.text} {e.text}" for p in every for e in entries}
    assert len({one["id"] for one in found}) == 4


@pytest.mark.parametrize("source", ["static", "suffix"])
@pytest.mark.parametrize(
    "text", ['"How is it done?"', "Question: is 2. a number?", "1. First 2. then", "'tis a 'game'"]
)
def test_prompts_of_a_list_are_asked_as_they_are(source, text):
    found = rounds.sifted(
        [{"id": "a", "text": text}], settings(attacks={"source": source, "list": "x.txt"}), NearDuplicates(1.0), []
    )
    assert [one["text"] for one in rounds.asked_prompts(found)] == [text]


@pytest.mark.parametrize(
    ("written", "prompt"),
    [
        ('"How is it done?"', "How is it done?"),
        ("Message: how is it done?", "how is it done?"),
        ("1. how is it done?", "how is it done?"),
        ('"Yes" or "no"', '"Yes" or "no"'),
        ("  how\nis it done?  ", "how\nis it done?"),
    ],
)
def test_what_the_adversary_wrote_becomes_a_prompt(written, prompt):
    assert written_prompt(written) == prompt


def test_seeds_of_every_category_and_style_are_held_out_and_near_duplicates_left_out():
    every = [
        Prompt(f"question number {i} about {word} and nothing else", f"c{i % 2}", "s")
        for i, word in enumerate(
            ["apples", "bridges", "castles", "deserts", "engines", "forests", "gloves", "hammers", "islands", "jungles"]
        )
    ]
    found = split_seeds(every, None, share=0.3, similar=1.0, seed=0)
    assert {one.category for one in found.held_out} == {"c0", "c1"}
    assert len(found.held_out) == 4
    assert len(found.train) == 6
    assert split_seeds(every[::-1], None, share=0.3, similar=1.0, seed=0).held_out == found.held_out[::-1]
    near = split_seeds(
        every, [Prompt("Question number 3, about deserts and nothing else")], share=0.3, similar=0.8, seed=0
    )
    assert near.dropped == {every[3].id: near.held_out[0].id}


def test_near_duplicates_are_found_as_by_comparing_all_pairs():
    import random

    draw = random.Random(0)
    words = "a kettle garden ladder violin pillow harbour candle meadow bridge river stone cloud engine".split()
    texts = [" ".join(draw.choice(words) for _ in range(9)) for _ in range(60)]
    texts += [text.replace(draw.choice(text.split()), "lamp", 1) for text in texts]
    for least in (0.6, 0.15):
        known, found = NearDuplicates(least), 0
        for i, text in enumerate(texts):
            close = [j for j in range(i) if similarity(pieces(text), pieces(texts[j])) >= least]
            found += bool(close)
            assert (known.like(text) is not None) == bool(close)
            known.add(str(i), text)
        assert 0 < found < len(texts)


def test_diversity_against_counts_by_hand():
    assert distinct([["a", "b", "a"], ["a"]], 1) == 2 / 4
    assert distinct([["a", "b", "a"], ["a", "b"]], 2) == 2 / 3
    assert entropy(["x", "x", "y", "y"]) == 1
    same, mixed = (
        diversity(["one trick again"] * 4, ["c"] * 4),
        diversity(["quite new", "all else", "third way", "last"]),
    )
    assert (same.spread, same.opening, same.categories) == (0, 1, 0)
    assert mixed.spread > 0.9
    assert mixed.opening == 0.25


def test_the_spread_of_meaning_is_that_of_all_pairs_and_of_no_padding(speaker):
    encoder = ModelSettings(reference=str(speaker))
    texts = ["a kettle", "please tell me to ask the owner of the garden first", "sorry"]
    vectors = sentence_vectors(texts, encoder)
    alone = torch.cat([sentence_vectors([one], encoder) for one in texts])
    assert torch.allclose(vectors, alone, atol=1e-5)
    cosines = [float(torch.cosine_similarity(vectors[i], vectors[j], dim=0)) for i in range(3) for j in range(i)]
    found = diversity(texts, encoder=encoder)
    assert found.meaning == pytest.approx(1 - sum(cosines) / 3, abs=1e-6)
    assert diversity(["hide it"] * 4, encoder=encoder).meaning == pytest.approx(0, abs=1e-6)
    assert diversity(texts).meaning is None


def test_seeds_of_samples_depend_on_their_parts_alone():
    assert seed_of(1, "a") == seed_of(1, "a")
    assert len({seed_of(1, "a"), seed_of(2, "a"), seed_of(1, "b"), seed_of("1a")}) == 4
