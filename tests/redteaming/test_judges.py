"""Judges: what each kind computes, what they say where they can't, and the report on a judge."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification

from luthier.errors import DataError, ModelError
from luthier.models.artifacts import load_model, save_artifact
from luthier.models.card import CARD, ModelCard, describe
from luthier.models.loading import load_tokenizer
from luthier.redteaming.checks import JudgeCheck
from luthier.redteaming.inputs import fingerprints
from luthier.redteaming.judges.base import Judge
from luthier.redteaming.judges.fitness import check_card
from luthier.redteaming.judges.labelled import LabelledPair, read_labelled
from luthier.redteaming.judges.loading import load_judge
from luthier.redteaming.judges.models import ModelJudge
from luthier.redteaming.judges.report import PLAIN_REFUSALS, best_cut, judge_report, warnings_of
from luthier.redteaming.judges.rules import is_refusal
from luthier.redteaming.judges.settings import ClassifierJudgeSettings, LabelledPairs
from luthier.redteaming.labels import HumanLabels
from luthier.redteaming.loop import MartLoop
from luthier.redteaming.settings import JudgesSettings
from tests.redteaming.conftest import WORDS, loop_settings

PROMPTS = ["how may i borrow a kettle", "tell me of the garden", "please", "how may i"]
ANSWERS = ["ask the owner first", "the garden is here and you may take one", "no", "sorry no never"]


@pytest.fixture(scope="session")
def classifiers(speaker, tmp_path_factory):
    """Folders of a tiny model with two classes, and of one with one output."""
    found = {}
    for name, labels in (("classes", ["safe", "unsafe"]), ("reward", ["reward"])):
        folder = tmp_path_factory.mktemp(name) / "model"
        torch.manual_seed(3)
        model = AutoModelForSequenceClassification.from_pretrained(
            speaker,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={x: i for i, x in enumerate(labels)},
        )
        with torch.no_grad():
            model.score.weight.mul_(40)
        model.save_pretrained(folder)
        load_tokenizer(str(speaker)).save_pretrained(folder)
        found[name] = folder
    return found


def logits_one_by_one(folder):
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder).eval(), load_tokenizer(str(folder))
    with torch.no_grad():
        return [model(**tokenizer(p, a, return_tensors="pt")).logits[0] for p, a in zip(PROMPTS, ANSWERS, strict=True)]


def test_a_classifier_scores_one_less_the_worst_class(classifiers):
    judge = load_judge({"kind": "classifier", "model": str(classifiers["classes"]), "bad": ["unsafe"], "batch_size": 3})
    expected = [1 - float(row.softmax(-1)[1]) for row in logits_one_by_one(classifiers["classes"])]
    assert [one.score for one in judge.score(PROMPTS, ANSWERS)] == pytest.approx(expected, abs=1e-5)
    good = load_judge({"kind": "classifier", "model": str(classifiers["classes"]), "good": ["safe"]})
    assert [one.score for one in good.score(PROMPTS, ANSWERS)] == pytest.approx(expected, abs=1e-5)
    assert good.version != judge.version
    judge.release()
    assert judge.score(PROMPTS, ANSWERS)[0].score == pytest.approx(expected[0], abs=1e-5)


def test_a_classifier_reads_as_much_as_its_model_takes_and_tells_what_it_cuts(classifiers, monkeypatch, caplog):
    monkeypatch.setattr("luthier.redteaming.judges.models._LONGEST", 3)
    settings = {"kind": "classifier", "model": str(classifiers["classes"]), "bad": ["unsafe"]}
    expected = [1 - float(row.softmax(-1)[1]) for row in logits_one_by_one(classifiers["classes"])]
    assert [one.score for one in load_judge(settings).score(PROMPTS, ANSWERS)] == pytest.approx(expected, abs=1e-5)
    assert "longer ones are cut" not in caplog.text
    load_judge(settings | {"max_length": 3}).score(PROMPTS, ANSWERS)
    assert re.search(rf"reads 3 tokens, which [1-{len(PROMPTS)}] of {len(PROMPTS)} answers", caplog.text)


def test_a_reward_model_is_squashed_by_a_middle_and_a_spread(classifiers):
    judge = load_judge({"kind": "reward", "model": str(classifiers["reward"]), "middle": 0.5, "spread": 2.0})
    rewards = [float(row[0]) for row in logits_one_by_one(classifiers["reward"])]
    found = judge.score(PROMPTS, ANSWERS)
    assert [one.raw for one in found] == pytest.approx(rewards, abs=1e-4)
    assert [one.score for one in found] == pytest.approx([1 / (1 + math.exp((0.5 - r) / 2)) for r in rewards], abs=1e-5)


CHAT = "{% for one in messages %}Reply to the message {{ one.content }} {% endfor %}please"


def chat_reward(classifiers, folder, **card):
    """The reward model with a chat template, saved as Luthier saves one that is so described."""
    model = AutoModelForSequenceClassification.from_pretrained(classifiers["reward"])
    tokenizer = load_tokenizer(str(classifiers["reward"]))
    tokenizer.chat_template = CHAT
    told = describe(str(classifiers["reward"]), "sequence_classification", labels=["reward"], **card)
    return str(save_artifact(model, tokenizer, folder / "model", told))


@pytest.mark.parametrize("schema", ["pair", "regression"])
def test_a_reward_model_that_tune_trained_is_asked_as_it_was_trained(classifiers, tmp_path, schema):
    columns = {"text": "prompt", "text_pair": "response"}
    found = load_judge({"kind": "reward", "model": chat_reward(classifiers, tmp_path, schema=schema, columns=columns)})
    expected = [float(row[0]) for row in logits_one_by_one(classifiers["reward"])]
    assert [one.raw for one in found.score(PROMPTS, ANSWERS)] == pytest.approx(expected, abs=1e-4)


def test_a_judge_that_is_asked_in_another_form_is_another_version(prompts, classifiers, tmp_path):
    settings = {"kind": "reward", "model": chat_reward(classifiers, tmp_path)}
    judges = loop_settings(prompts)["judges"] | {"helpfulness": settings}
    loop = MartLoop.settings_of(loop_settings(prompts, judges=judges))
    version, read = load_judge(settings).version, fingerprints(loop)
    card = tmp_path / "model" / CARD
    told = json.loads(card.read_text())
    assert load_judge(settings).version == version
    for change in ({"schema": "pair"}, {"max_length": 12}):
        card.write_text(json.dumps(told | change))
        assert load_judge(settings).version != version
        assert fingerprints(loop) != read


def test_a_long_prompt_leaves_a_reward_model_the_answer_within_its_chat(classifiers, tmp_path, caplog):
    judge = load_judge({"kind": "reward", "model": chat_reward(classifiers, tmp_path), "max_length": 21})
    model, tokenizer, _ = judge.loaded()

    def reward(text):
        with torch.no_grad():
            return float(model(**tokenizer(text, return_tensors="pt")).logits[0, 0])

    told = judge.score(["how may i", "kettle " * 30, "kettle " * 30], ["no never", "no never", "garden " * 30])
    assert "2 of 3 answers" in caplog.text
    # 9 of the 21 tokens are the template's.
    seen = [("how may i", "no never"), ("kettle " * 10, "no never"), ("kettle " * 6, "garden " * 6)]
    said = [f"Reply to the message {prompt} Reply to the message {answer} please" for prompt, answer in seen]
    assert [one.raw for one in told] == pytest.approx([reward(one) for one in said], abs=1e-4)
    short = load_judge({"kind": "reward", "model": judge.where, "max_length": 10})
    with pytest.raises(ModelError, match="question has 9 tokens"):
        short.score(["how may i"], ["no never"])


def test_middle_and_spread_are_those_of_logistic_regression(classifiers, tmp_path):
    from sklearn.linear_model import LogisticRegression

    draw = random.Random(1)
    rows = [(draw.choice(WORDS), " ".join(draw.choices(WORDS, k=5))) for _ in range(60)]
    plain = load_judge({"kind": "reward", "model": str(classifiers["reward"])})
    rewards = plain.rewards([p for p, _ in rows], [a for _, a in rows])
    good = [reward + draw.gauss(0, 1) > sum(rewards) / 60 for reward in rewards]
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(
            json.dumps({"prompt": p, "response": a, "label": "fine" if g else "unsafe"}) + "\n"
            for (p, a), g in zip(rows, good, strict=True)
        )
    )
    judge = load_judge({"kind": "reward", "model": str(classifiers["reward"]), "fit": {"file": str(path)}})
    expected = LogisticRegression(C=1e6).fit([[r] for r in rewards], good).predict_proba([[r] for r in rewards])[:, 1]
    found = [one.score for one in judge.score([p for p, _ in rows], [a for _, a in rows])]
    assert found == pytest.approx(list(expected), abs=1e-3)
    content = path.read_text()
    path.write_text(content.replace("fine", "unsafe", 1))
    again = load_judge({"kind": "reward", "model": str(classifiers["reward"]), "fit": {"file": str(path)}})
    assert again.version != judge.version


def test_a_guard_compares_the_two_verdicts_at_their_first_token(speaker):
    template = "here is a message {prompt} and {response} is the word"
    judge = load_judge(
        {
            "kind": "guard",
            "model": str(speaker),
            "template": template,
            "safe": "please",
            "unsafe": "never",
            "batch_size": 3,
        }
    )
    model, tokenizer = load_model(str(speaker), "causal_lm"), load_tokenizer(str(speaker))
    expected = []
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        ids = tokenizer(template.format(prompt=prompt, response=answer), return_tensors="pt")["input_ids"]
        with torch.no_grad():
            both = model(input_ids=ids).logits[0, -1].softmax(-1)
        safe, unsafe = (float(both[tokenizer.convert_tokens_to_ids(w)]) for w in ("please", "never"))
        expected.append(safe / (safe + unsafe))
    assert [one.score for one in judge.score(PROMPTS, ANSWERS)] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ModelError, match="same token"):
        load_judge({"kind": "guard", "model": str(speaker), "safe": "please", "unsafe": "please no"}).score(
            ["a"], ["b"]
        )


def test_a_long_answer_loses_its_end_before_a_guard_loses_its_question(speaker):
    judge = load_judge(
        {
            "kind": "guard",
            "model": str(speaker),
            "template": "{prompt} {response} is a word",
            "max_length": 12,
            "safe": "please",
            "unsafe": "never",
        }
    )
    tokenizer = load_tokenizer(str(speaker))
    ids, cut = judge.question("how may i", "the garden " * 40, tokenizer, 12)
    assert (len(ids), cut) == (12, True)
    assert tokenizer.decode(ids).startswith("how may i")
    assert tokenizer.decode(ids).endswith("is a word")


@pytest.mark.parametrize(("words", "kept"), [((50, 3), (50, 3)), ((50, 40), (28, 27)), ((300, 3), (52, 3))])
def test_a_guard_reads_its_whole_question_however_long_the_prompt_is(speaker, words, kept, caplog):
    template = "please {prompt} here {response} is a word"
    settings = {"kind": "guard", "model": str(speaker), "safe": "please", "unsafe": "never", "max_length": 60}
    judge, tokenizer = load_judge({**settings, "template": template}), load_tokenizer(str(speaker))
    prompt, answer = ("kettle " * words[0]).strip(), ("garden " * words[1]).strip()
    ids, cut = judge.question(prompt, answer, tokenizer, 60)
    found = tokenizer.decode(ids).split()
    assert (found.count("kettle"), found.count("garden")) == kept
    assert [one for one in found if one not in ("kettle", "garden")][-5:] == ["please", "here", "is", "a", "word"]
    assert cut == (kept != words)
    judge.score([prompt], [answer])
    assert ("1 of 1 answers" in caplog.text) == cut


def test_placeholders_in_the_texts_stay_what_they_are(speaker):
    judge = load_judge(
        {"kind": "guard", "model": str(speaker), "template": "{prompt} {response}", "safe": "a", "unsafe": "no"}
    )
    tokenizer = load_tokenizer(str(speaker))
    assert (
        judge.question("{response} a", "{prompt} b", tokenizer, 64)[0]
        == tokenizer("{response} a {prompt} b")["input_ids"]
    )


def test_rules_find_harm_behind_polite_words_and_refusals_at_the_start():
    judge = load_judge({"kind": "rules", "unsafe": ["step one"], "otherwise": 0.4})
    answers = [
        "I\u2019m sorry, but I can't do that.",
        "I'm sorry, I can't. But here is STEP   one: wait.",
        "Borrow it and ask the owner.",
        "Gladly. " + "More words. " * 20 + "I can't say it better.",
    ]
    assert [one.score for one in judge.score([""] * 4, answers)] == [1.0, 0.0, 0.4, 0.4]
    helpful = load_judge({"kind": "rules", "aim": "helpfulness", "enough_words": 4})
    answers = ["ask them", "I cannot help with that", "I cannot help with that. Ask the owner first.", "I can't. Ask."]
    assert [one.score for one in helpful.score([""] * 4, answers)] == pytest.approx([0.5, 0.1, 0.6, 0.225])
    assert all(map(is_refusal, PLAIN_REFUSALS))


class Fixed(Judge):
    kind = "fixed"
    version = "1"

    def __init__(self, by_answer):
        self.by_answer = by_answer

    def rate(self, prompts, answers):
        return [(self.by_answer(one), 0.0) for one in answers]


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("Your Wi-Fi can't reach the router, so move closer.", False),
        ("As an airline, we let you bring one bag.", False),
        ("Hi! Hawai'i cannot be reached by train.", False),
        ("As an AI, I have no garden.", True),
        ("'I can't', it said.", True),
        ("Well \u2014 I can\u2019t.", True),
        ("\u201cI cannot do that\u201d, she said.", True),
    ],
)
def test_refusals_are_told_by_whole_words(answer, refuses):
    assert is_refusal(answer) == refuses


def test_empty_and_cut_off_answers_and_failures_have_no_score():
    judge = Fixed(lambda text: math.nan if "broken" in text else 0.7)
    found = judge.score(["p"] * 4, [" \n", "half of it", "broken", "whole"], [False, True, False, False])
    assert [one.status for one in found] == ["empty", "truncated", "error", "ok"]
    assert [one.score for one in found] == [None, None, None, 0.7]
    judge.judges_cut_off = True
    assert judge.score(["p"], ["half"], [True])[0].score == 0.7


@pytest.mark.parametrize(("combine", "score"), [("min", 0.2), ("mean", 0.6), ("median", 0.7), ("vote", 2 / 3)])
def test_ensembles(combine, score):
    from luthier.redteaming.judges.ensemble import EnsembleJudge

    members = [Fixed(lambda _, x=x: x) for x in (0.2, 0.7, 0.9)]
    assert EnsembleJudge(members, combine).score(["p"], ["a"])[0].score == pytest.approx(score)
    broken = EnsembleJudge([*members, Fixed(lambda _: math.nan)], combine)
    assert broken.score(["p"], ["a"])[0].status == "error"


def rows(count=120):
    draw = random.Random(0)
    found = []
    for i in range(count):
        good = draw.random() < 0.6
        found.append(
            LabelledPair(
                f"prompt {i}",
                f"{draw.random() * 0.6 + (0.4 if good else 0):.4f} word word word word word word word",
                good,
            )
        )
    return found


def test_the_report_is_that_of_scikit_learn():
    from sklearn.metrics import cohen_kappa_score, roc_auc_score

    labelled = rows()
    judge = Fixed(lambda text: float(text.split()[0]) if text[:1].isdigit() else 0.2)
    report = judge_report(judge, labelled)
    scores, good = [float(r.answer.split()[0]) for r in labelled], [r.good for r in labelled]
    assert report.auroc == pytest.approx(roc_auc_score(good, scores))
    assert report.kappa == pytest.approx(cohen_kappa_score(good, [s >= 0.5 for s in scores]))
    assert report.accuracy == pytest.approx(sum((s >= 0.5) == g for s, g in zip(scores, good, strict=True)) / 120)
    assert report.auroc_interval[0] < report.auroc < report.auroc_interval[1]
    assert report.refusals == 1.0  # it calls every refusal bad
    assert report.empty == 0.0
    assert report.cut_off == 0.0
    assert 0 < report.calibration_error < 0.5


def test_the_best_cut_agrees_most():
    import numpy as np

    assert best_cut(np.array([0.1, 0.2, 0.3, 0.9]), np.array([False, False, True, True])) == 0.3


def test_a_judge_below_the_stated_quality_is_told_of():
    coin = judge_report(Fixed(lambda text: len(text) % 7 / 7), rows())
    told = warnings_of({"safety": coin}, 0.75, same_judge=True)
    assert "below the stated quality" in told[0]
    assert "also evaluates" in told[1]
    assert "not been checked" in warnings_of({"safety": None}, 0.75, same_judge=False)[0]
    good = judge_report(Fixed(lambda text: float(text.split()[0]) if text[:1].isdigit() else 1.0), rows())
    assert warnings_of({"safety": good}, 0.75, same_judge=False) == []


def test_a_judge_that_was_hardly_checked_or_fails_often_is_told_of():
    judge = Fixed(lambda text: float(text.split()[0]) if text[:1].isdigit() else 1.0)
    few = [*[LabelledPair("p", "0.9", True)] * 40, *[LabelledPair("p", "0.1", False)] * 9]
    (told,) = warnings_of({"safety": judge_report(judge, few)}, 0.75, same_judge=False)
    assert "40 good and 9 bad answers, so that its AUROC of 1.000 may be chance" in told
    (told,) = warnings_of({"safety": judge_report(judge, few[:40])}, 0.75, same_judge=False)
    assert "40 good and 0 bad answers" in told
    often = Fixed(lambda text: float("nan") if text.endswith("5 word word word word word word word") else 0.5)
    told = warnings_of({"safety": judge_report(often, rows())}, 0.75, same_judge=False)
    assert "could score only" in told[0]
    assert "AUROC 0.500" in told[1]
    never = Fixed(lambda text: float("nan"))
    told = warnings_of({"safety": judge_report(never, rows())}, 0.75, same_judge=False)
    assert "could score only 0 of 120" in told[0]
    assert "0 good and 0 bad" in told[1]


def test_two_judges_that_differ_on_the_models_own_answers_are_told_of():
    from luthier.redteaming.judges.report import disagreement
    from luthier.redteaming.measuring import agreement_on

    def said(score, version):
        return {"score": score, "version": version}

    pairs = [(0.9, 0.8), (0.1, 0.7), (0.2, 0.9), (None, 0.1)]
    scores = [{"safety": said(a, "x"), "evaluation_safety": said(b, "y")} for a, b in pairs]
    assert agreement_on(scores) == pytest.approx(1 / 3)
    assert "33.3%" in disagreement(agreement_on(scores))[0]
    labelled = {role: {**said(0.0, ""), "judge": "people"} for role in ("safety", "evaluation_safety")}
    assert agreement_on([*scores, labelled]) == pytest.approx(1 / 3)
    same = [{"safety": said(a, "x"), "evaluation_safety": said(a, "x")} for a, _ in pairs]
    assert agreement_on(same) is None
    assert disagreement(None) == disagreement(0.8) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("prompt,response,label\na,b,0\n", "labels of one kind"),
        ("prompt,answer,label\na,b,0\n", "no column 'response'"),
        ("prompt,response,label\na,b,0\nc,d,\ne,f,1\n", "row 2 has no label"),
    ],
)
def test_labelled_rows_that_can_not_be_used(tmp_path, content, said):
    (tmp_path / "rows.csv").write_text(content)
    with pytest.raises(DataError, match=said):
        read_labelled(LabelledPairs(file=str(tmp_path / "rows.csv")))


def test_labels_are_the_same_however_they_are_written(tmp_path):
    labels = ["safe", "unsafe", "Unsafe ", "UNSAFE", " harmful"]
    rows = [json.dumps({"prompt": "a", "response": "b", "label": label}) for label in labels]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    found = read_labelled(LabelledPairs(file=str(tmp_path / "rows.jsonl"), bad=["unsafe", "Harmful"]))
    assert [one.good for one in found] == [True, False, False, False, False]


def test_what_is_missing_in_a_labelled_row_is_no_text(tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        '{"prompt": "a", "response": null, "label": 1}\n{"prompt": "b", "response": "c", "label": 0}\n'
    )
    assert read_labelled(LabelledPairs(file=str(tmp_path / "rows.jsonl"))) == [("a", "", False), ("b", "c", True)]


def card(**more) -> ModelCard:
    return ModelCard("base", "x", "sequence_classification", labels=["safe", "unsafe"], schema="pair", **more)


@pytest.mark.parametrize(
    ("made", "settings", "said"),
    [
        ({"schema": "text", "columns": {"text": "response"}}, {}, "rows of text with text"),
        ({"columns": {"text": "response", "text_pair": "prompt"}}, {}, "response as first text and prompt as second"),
        ({"head": "causal_lm"}, {}, "the head causal_lm"),
        ({"labels": ["harm"]}, {}, "one output and no classes"),
        ({}, {"bad": ["harmful"]}, "no class 'harmful'; its classes are safe, unsafe"),
    ],
)
def test_a_model_that_was_trained_for_something_else_is_no_judge(made, settings, said):
    judge = ClassifierJudgeSettings(model="x", **({"bad": ["unsafe"]} | settings))
    columns = {"text": "prompt", "text_pair": "response"}
    check_card(card(columns=columns), ClassifierJudgeSettings(model="x", bad=["unsafe"]))
    with pytest.raises(ModelError, match=said):
        check_card(dataclasses.replace(card(columns=columns), **made), judge)


def test_a_classifier_of_one_class_is_refused(classifiers):
    with pytest.raises(ModelError, match="kind: reward"):
        load_judge({"kind": "classifier", "model": str(classifiers["reward"]), "bad": ["reward"]}).score(["p"], ["a"])


RULES = {"kind": "rules"}
HELPFUL = {"kind": "rules", "aim": "helpfulness"}


@pytest.mark.parametrize(
    ("judges", "said"),
    [
        ({"safety": RULES, "helpfulness": "rules"}, "write `aim: helpfulness`"),
        ({"safety": HELPFUL, "helpfulness": HELPFUL}, "write `aim: safety`"),
        (
            {"safety": {"kind": "ensemble", "members": [RULES, HELPFUL]}, "helpfulness": HELPFUL},
            "rules of `safety` score helpfulness",
        ),
        (
            {
                "safety": {"kind": "ensemble", "members": [RULES, {"kind": "reward", "model": "stages.0"}]},
                "helpfulness": HELPFUL,
            },
            "can't be stages.0",
        ),
    ],
)
def test_judges_that_would_judge_something_else_are_refused(judges, said):
    with pytest.raises(ValidationError, match=said):
        JudgesSettings.model_validate(judges)


def test_rows_that_a_judge_was_fitted_on_and_judges_of_one_model_are_told_of(classifiers, prompts, tmp_path):
    place = tmp_path / "rows.jsonl"
    rows = [{"prompt": "p", "response": f"the {word}", "label": i % 2} for i, word in enumerate(WORDS[:4])]
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward = {"kind": "reward", "model": str(classifiers["reward"])}
    more = {"safety": reward, "evaluation_safety": {**reward, "batch_size": 3}, "labelled": {"file": str(place)}}
    settings = MartLoop.settings_of(loop_settings(prompts, judges={**more, "helpfulness": HELPFUL}))
    check = JudgeCheck(settings, HumanLabels())
    assert any("have a model in common" in one for one in check.run(tmp_path)["warnings"])
    fitted = {**more, "safety": {**reward, "fit": {"file": str(place)}}, "helpfulness": HELPFUL}
    check = JudgeCheck(MartLoop.settings_of(loop_settings(prompts, judges=fitted)), HumanLabels())
    check.all = dict.fromkeys(("safety", "helpfulness", "evaluation_safety", "evaluation_helpfulness"), Fixed(float))
    told = check.run(tmp_path)["warnings"]
    assert "has not been checked" in told[0]
    assert any(one.startswith("4 labelled answers say nothing") for one in told)


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ({"kind": "reward", "model": "classes"}, "has 2"),
        ({"kind": "reward", "model": "speaker"}, "lacks the head"),
        ({"kind": "classifier", "model": "classes", "good": ["fine"]}, "no class 'fine'"),
        ({"kind": "guard", "model": "speaker", "template": None}, "no chat template"),
        ({"kind": "guard", "model": "speaker", "safe": "no", "unsafe": "no never"}, "same token"),
    ],
)
@pytest.mark.parametrize("role", ["safety", "helpfulness", "evaluation_safety", "evaluation_helpfulness"])
def test_a_judge_that_can_not_judge_is_told_of_at_once(role, judge, said, classifiers, speaker, prompts, tmp_path):
    place = tmp_path / "rows.jsonl"
    place.write_text("".join(json.dumps({"prompt": "p", "response": "one", "label": i}) + "\n" for i in (0, 1)))
    judge = judge | {"model": str({**classifiers, "speaker": speaker}[judge["model"]])}
    rules = HELPFUL if "helpfulness" in role else RULES
    inner = {"kind": "ensemble", "members": [rules, {"kind": "ensemble", "members": [rules, judge]}]}
    judges = {"safety": RULES, "helpfulness": HELPFUL, role: inner if role.startswith("evaluation") else judge}
    judges |= {"labelled": {"file": str(place)}} if "helpfulness" in role else {}
    check = JudgeCheck(MartLoop.settings_of(loop_settings(prompts, judges=judges)), HumanLabels())
    with pytest.raises(ModelError, match=said):
        check.run(tmp_path)


def test_judges_are_tried_one_model_at_a_time(classifiers, speaker, prompts, tmp_path, monkeypatch):
    guard = {"kind": "guard", "model": str(speaker), "safe": "please", "unsafe": "never"}
    judges = {
        "safety": {"kind": "ensemble", "members": [guard, {"kind": "reward", "model": str(classifiers["reward"])}]},
        "helpfulness": {"kind": "classifier", "model": str(classifiers["classes"]), "good": ["safe"]},
    }
    check = JudgeCheck(MartLoop.settings_of(loop_settings(prompts, judges=judges)), HumanLabels())
    models = [part for judge in check.selecting.values() for part in judge.parts()]
    tried, load = [], ModelJudge._load

    def watched(judge):
        tried.append(judge.kind)
        assert not [one for one in models if one._loaded is not None]
        return load(judge)

    monkeypatch.setattr(ModelJudge, "_load", watched)
    check.run(tmp_path)
    assert tried == ["guard", "reward", "classifier"]
    assert not [one for one in models if one._loaded is not None]


def test_every_model_of_nested_judges_counts(prompts):
    inner = {"kind": "ensemble", "members": [RULES, {"kind": "guard", "model": "some/guard"}]}
    judges = {"safety": {"kind": "ensemble", "members": [RULES, inner]}, "helpfulness": HELPFUL}
    settings = MartLoop.settings_of(loop_settings(prompts, judges=judges))
    assert [one.kind for one in settings.every_judge()] == ["rules", "rules", "guard", "rules"]


def test_a_judge_without_its_head_or_class_is_refused(speaker, classifiers):
    with pytest.raises(ModelError, match="lacks the head"):
        load_judge({"kind": "classifier", "model": str(speaker), "bad": ["LABEL_0"]}).score(["p"], ["a"])
    with pytest.raises(ModelError, match="no class 'bad'"):
        load_judge({"kind": "classifier", "model": str(classifiers["classes"]), "bad": ["bad"]}).score(["p"], ["a"])
    with pytest.raises(ModelError, match="has 2"):
        load_judge({"kind": "reward", "model": str(classifiers["classes"])}).score(["p"], ["a"])
