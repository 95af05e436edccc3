"""Which stages can follow one another, and what a recipe is told where they can't."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.errors import RecipeError
from luthier.recipe.loading import check_recipe
from luthier.recipe.recipe import RecipeBase, recipe_yaml
from luthier.recipe.yaml_text import parse_yaml
from luthier.registry import METHODS
from luthier.stages.artifacts import kind_of_folder, register_kind
from luthier.stages.chaining import chain, kind_of

pytestmark = pytest.mark.usefixtures("example_stages")
TUNE = "  - tune: {data: {train: train.tsv}}\n"
TEXT = "  - tune: {data: {train: train.tsv, task: plain_text}}\n"
REPRESENT = "  - represent: {heads: {a: {data: {train: train.tsv, test: test.tsv}}}}\n"


def check(stages: str, head: str = "model: org/model\n") -> RecipeBase:
    return check_recipe(parse_yaml(f"name: small\n{head}stages:\n{stages}", "r.yaml"))


def refused(stages: str, head: str = "model: org/model\n") -> str:
    with pytest.raises(RecipeError) as caught:
        check(stages, head)
    return str(caught.value)


def links(recipe: RecipeBase) -> list[dict[str, tuple[int | None, str, str]]]:
    found = chain(recipe.stage_list(), recipe.model)
    return [{port: (link.stage, link.name, link.kind) for port, link in one.items()} for one in found]


def test_a_lone_model_is_the_newest_one_and_a_stage_that_gives_none_is_passed_by():
    recipe = check(TUNE + "  - look: {}\n  - words: {}\n" + TUNE + "  - look: {}\n")
    assert links(recipe) == [
        {"model": (None, "", "pretrained")},
        {"model": (0, "model", "task")},
        {},
        {"model": (0, "model", "task")},
        {"model": (3, "model", "task")},
    ]


def test_ports_are_named_and_several_artefacts_are_given():
    stages = TUNE + TUNE + "  - words: {}\n"
    stages += "  - twins: {elder: stages.0, younger: stages.1.model, list: stages.2}\n"
    stages += "  - look: {model: stages.3.elder}\n  - look: {}\n"
    assert links(check(stages))[3:] == [
        {"elder": (0, "model", "task"), "younger": (1, "model", "task"), "list": (2, "list", "wordlist")},
        {"model": (3, "elder", "task")},
        {"model": (3, "younger", "task")},
    ]


def test_text_without_labels_gives_a_language_model():
    assert [one["model"][2] for one in links(check(TEXT + "  - evaluate: {}\n" + TUNE))] == ["pretrained"] * 3
    assert links(check("  - tune: {data: {train: t.txt}}\n  - evaluate: {}\n"))[1]["model"][2] == "pretrained"
    assert links(check("  - tune: {data: data:sst2}\n  - evaluate: {}\n"))[1]["model"][2] == "task"


def method(settings: str, more: str = "") -> str:
    return f"  - tune: {{data: {{train: train.tsv}}, method: {settings}{more}}}\n"


@pytest.mark.parametrize("first", [name for name in METHODS.names() if not METHODS.get(name).merges])
def test_nothing_is_trained_on_top_of_what_can_not_be_merged(first: str):
    told = refused(method(first) + method("prompt"))
    assert "r.yaml:5: stages.1.tune: stage 1 (tune) goes on from stages.0" in told
    assert f"what {first} trains can't be merged into its base" in told
    check(method(first) + method(first, ", continue_adapter: true"))
    check(method("lora") + method(first))


@pytest.mark.parametrize(
    "first", ["unipelt", "{name: peft, peft_type: prefix_tuning, settings: {num_virtual_tokens: 4}}"]
)
def test_no_stage_is_built_on_what_can_not_be_merged(first: str):
    text = "  - tune: {data: {train: t.txt, task: plain_text}, method: %s}\n"
    for stage in (
        "represent: {heads: {a: {data: {train: train.tsv}}}}",
        "lengthen: {corpus: {train: t.txt}, length: 64}",
    ):
        told = refused((text if stage.startswith("lengthen") else method("%s")) % first + f"  - {stage}\n")
        assert "goes on from stages.0: what" in told
        assert "can't be merged into its base" in told
    assert "can't be merged" in refused(method(first) + TUNE)
    check(method(first) + "  - evaluate: {}\n")


def test_an_adapter_is_not_trained_on_in_another_form():
    more = ", continue_adapter: true"
    told = refused(method("{name: lora, rank: 4}") + method("{name: lora, rank: 8}", more))
    assert "goes on from stages.0: the adapter was made with rank 4 and not 8" in told
    assert "fix: write `method: {name: lora, rank: 4}`" in told
    assert "the adapter was made by prompt" in refused(method("prompt") + method("lora", more))
    check(method("{name: lora, rank: 4}") + method("{name: lora, rank: 4}", more))


@pytest.mark.parametrize("whole", ["full", "bitfit", "{name: head_only, save_base_model: true}"])
def test_what_is_saved_whole_leaves_no_adapter_to_go_on_from(whole: str):
    told = "saves a whole model and no adapter that `continue_adapter` could go on from"
    later = refused(method(whole) + method("lora", ", continue_adapter: true"))
    assert "stage 1 (tune) goes on from stages.0" in later
    assert told in later
    assert "leave `continue_adapter` out, or take lora in the earlier stage" in later
    assert told in refused(method(whole, ", continue_adapter: true"))
    check(method("head_only") + method("head_only", ", continue_adapter: true"))


def test_a_model_is_judged_on_data_of_its_own_task():
    tune = "  - tune: {data: {train: train.tsv, task: pair}}\n"
    told = refused(tune + "  - evaluate: {data: {test: t.tsv, task: single_sentence}}\n")
    assert "stage 1 (evaluate) goes on from stages.0: its model is trained for the task pair, and the data" in told
    check(tune + "  - evaluate: {data: {test: t.tsv, task: pair}}\n")
    check(tune + "  - evaluate: {data: {test: t.tsv}}\n")


def test_a_recipe_without_a_model_where_no_stage_takes_one_from_outside():
    assert links(check("  - words: {}\n", head="")) == [{}]
    message = refused("  - words: {}\n" + TUNE, head="")
    assert "r.yaml:4: stages.1.tune: stage 1 (tune) takes a model, pretrained or task, and there is none" in message
    assert "give the recipe's `model`" in message


@pytest.mark.parametrize(
    ("stages", "line", "message"),
    [
        (
            REPRESENT + TUNE,
            5,
            "stages.1.tune: stage 1 (tune) can't follow what comes before it: it takes pretrained or task, and gets "
            "encoder from stages.0 (represent) (encoder is a frozen model with prefixes and light heads)",
        ),
        ("  - look: {}\n", 4, "stage 0 (look) can't follow what comes before it: it takes task, and gets pretrained"),
        (TUNE + "  - look:\n      model: org/other\n", 6, "takes task as `model`, and `org/other` is pretrained"),
        (TUNE + "  - twins: {elder: stages.0}\n", 5, "takes task as `younger`, and the recipe names none"),
        ("  - tune: {model: stages.0, data: x.tsv}\n", 4, "stages.0 is this stage itself"),
        ("  - tune: {model: stages.1, data: x.tsv}\n" + TUNE, 4, "stages.1 is a later stage"),
        ("  - tune: {model: stages.7, data: x.tsv}\n", 4, "stages.7 is no stage of this recipe"),
        (TUNE + "  - look: {model: stages.0.teacher}\n", 5, "stages.0 (tune) gives no 'teacher', but model"),
        (TUNE + "  - look: {}\n  - look: {model: stages.1}\n", 6, "stages.1 (look) gives no artefact"),
        (TUNE + "  - look: {model: stages.last}\n", 5, "'stages.last' names no stage"),
        (
            TUNE + "  - words: {}\n  - look: {model: stages.1}\n",
            6,
            "stage 2 (look) takes task as `model`, and stages.1 (words) is wordlist (wordlist is a list of words)",
        ),
    ],
)
def test_what_cannot_chain_is_refused_with_line_stage_and_reason(stages: str, line: int, message: str):
    told = refused(stages)
    assert f"r.yaml:{line}: " in told
    assert message in told


def test_a_refusal_names_what_would_fit():
    stages = TUNE + REPRESENT + "  - look: {}\n"
    assert "fix: name another one with `model:`, such as stages.0.model" in refused(stages)
    assert links(check(stages.replace("look: {}", "look: {model: stages.0}")))[2] == {"model": (0, "model", "task")}


def test_every_stage_that_cannot_chain_is_told_at_once():
    message = refused(TUNE + "  - look: {model: stages.4}\n  - look: {model: stages.0.x}\n")
    assert "2 errors" in message


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("  - evaluate: {}\n", "there is no data to judge on"),
        ("  - evaluate: {data: data:sst2}\n", "a pretrained model has no head for a single_sentence task"),
        (
            "  - evaluate: {data: {test: t.txt}, suites: [perplexity, calibration]}\n",
            "of a pretrained model, calibration can't be judged",
        ),
    ],
)
def test_what_does_not_fit_a_language_model_is_refused(stages: str, message: str):
    told = refused(stages)
    assert "r.yaml:4: stages.0.evaluate: stage 0 (evaluate): " in told
    assert message in told
    check("  - evaluate: {data: {test: t.txt}, suites: [task, perplexity, cost]}\n")


def test_a_resolved_recipe_with_references_means_the_same():
    text = "name: small\nmodel: {reference: org/model, dtype: bfloat16}\nstages:\n"
    recipe = check_recipe(parse_yaml(text + TUNE + "  - look: {model: stages.0}\n", "r.yaml"))
    again = check_recipe(parse_yaml(recipe_yaml(recipe), "again.yaml"))
    assert again.model_dump() == recipe.model_dump()
    assert chain(again.stage_list(), again.model)[1]["model"].changes == {}
    override = check(TUNE + "  - look: {model: {reference: stages.0, dtype: float16}}\n")
    assert chain(override.stage_list(), override.model)[1]["model"].changes == {"dtype": "float16"}


CARDS = {
    "task": {"head": "sequence_classification", "schema": "single_sentence"},
    "pretrained": {"head": "causal_lm", "schema": "plain_text"},
}


@pytest.mark.parametrize("kind", CARDS)
def test_the_kind_of_a_saved_model_is_told_by_its_card(kind: str, tmp_path: Path):
    model = tmp_path / "run" / "00-tune" / "model"
    model.mkdir(parents=True)
    (model / "luthier.json").write_text(json.dumps(CARDS[kind]))
    (model.parent / "done.json").write_text("{}")
    for place in (model, model.parent, model.parent.parent):
        assert kind_of(check(TUNE, f"model: {place}\n").model) == kind
    assert kind_of_folder(tmp_path) is None


def test_a_text_form_makes_a_language_model_one_of_a_task(tmp_path: Path):
    card = {"head": "causal_lm", "schema": "single_sentence", "text_form": {"template": "{text}"}}
    (tmp_path / "luthier.json").write_text(json.dumps(card))
    assert kind_of_folder(tmp_path) == "task"


def test_the_kind_that_a_stage_noted_counts_for_what_has_no_card(tmp_path: Path):
    (tmp_path / "list").mkdir()
    (tmp_path / "key.json").write_text(json.dumps({"key": "k", "gives": {"list": "wordlist"}}))
    assert kind_of_folder(tmp_path / "list") == "wordlist"


def test_a_kind_is_registered_once():
    register_kind("wordlist", "a list of words", is_model=False)
    with pytest.raises(ValueError, match="registered twice"):
        register_kind("wordlist", "something else")
