"""The recipe: every error at once, by line; YAML's traps; overrides; a resolved recipe that runs again."""

import gc
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from luthier.errors import RecipeError
from luthier.recipe.grid import cell_name, cell_recipe, cells
from luthier.recipe.loading import check_recipe, load_recipe
from luthier.recipe.recipe import json_schema, recipe_yaml
from luthier.recipe.yaml_text import dump_yaml, parse_value, parse_yaml

GOOD = """\
name: small
model: package:some_model
stages:
  - tune:
      method: lora
      data: {train: train.tsv, labels: [no, yes]}
      learning_rate: 1e-4
  - evaluate:
      suites: [task, calibration]
"""


def check(text: str, *overrides: str):
    return check_recipe(parse_yaml(text, "r.yaml"), overrides)


def errors(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        check(text, *overrides)
    return str(caught.value)


def test_traps_of_older_yaml_are_read_as_written():
    tune = check(GOOD).stage_list()[0]
    assert tune.data.labels == ["no", "yes"]
    assert tune.learning_rate == 1e-4


def test_all_errors_at_once_with_their_lines_and_fixes():
    text = GOOD.replace("method: lora", "method: lroa").replace("suites", "suite") + "sead: 3\n"
    message = errors(text)
    assert "3 errors" in message
    assert "r.yaml:5: stages.0.tune.method: there is no tuning method called 'lroa'" in message
    assert "did you mean 'lora'" in message
    assert "r.yaml:9: stages.1.evaluate.suite: unknown key 'suite'" in message
    assert "did you mean 'suites'" in message
    assert "r.yaml:10: sead: unknown key 'sead'" in message


def test_nearest_key_inside_a_method_is_one_of_that_method():
    message = errors(GOOD.replace("method: lora", "method: {name: lora, alpa: 3}"))
    assert "r.yaml:5: stages.0.tune.method.alpa: unknown key 'alpa'" in message
    assert "did you mean 'alpha'" in message or "lora_alpha" in message


def test_duplicate_keys_are_found_with_both_lines():
    message = errors(GOOD + "seed: 1\nseed: 2\n")
    assert "r.yaml:11: seed: the key is given twice, first in line 10" in message


def test_a_key_beside_a_merge_takes_the_place_of_the_merged_one():
    merged = GOOD.replace("- tune:", "- tune: &t").replace(
        "  - evaluate:", "  - tune:\n      <<: *t\n      epochs: 2\n  - evaluate:"
    )
    tunes = check(merged).stage_list()[:2]
    assert [(tune.epochs, tune.learning_rate) for tune in tunes] == [(tunes[0].epochs, 1e-4), (2, 1e-4)]
    source = parse_yaml(merged, "r.yaml")
    tune = ("stages", 1, "tune")
    assert [source.place((*tune, key)) for key in ("epochs", "method", "data")] == ["r.yaml:10", "r.yaml:9", "r.yaml:9"]
    assert source.place((*tune, "data", "train")) == "r.yaml:9"
    message = errors(merged.replace("epochs: 2", "epochs: 2\n      epochs: 3"))
    assert "1 error" in message
    assert "r.yaml:11: stages.1.tune.epochs: the key is given twice, first in line 10" in message


def test_two_merges_in_one_mapping_are_to_be_a_list():
    message = errors(f"a: &a {{seed: 1}}\nb: &b {{seed: 2}}\n{GOOD}<<: *a\n<<: *b\n")
    assert "the key is given twice, first in line 12\n" in message
    assert "fix: merge them in one list: `<<: [*a, *b]`" in message


def test_a_key_is_set_in_one_of_the_places_that_share_it():
    text = GOOD.replace("data: {", "data: &d {").replace("calibration]", "calibration]\n      data: *d")
    tune, evaluate = check(text, "stages.0.tune.data.limit=20").stage_list()
    assert (tune.data.limit, evaluate.data.limit) == (20, None)
    listed = check(text, "stages.0.tune.data.labels.0=none").stage_list()
    assert [stage.data.labels for stage in listed] == [["none", "yes"], ["no", "yes"]]


def test_wrong_type_names_value_and_line():
    assert "r.yaml:7: stages.0.tune.learning_rate" in errors(GOOD.replace("1e-4", "fast"))


@pytest.mark.parametrize("text", ["", "- a\n", "just text\n"])
def test_no_mapping_is_an_error(text):
    assert "a recipe is a mapping" in errors(text)


def test_broken_yaml_names_the_line():
    assert "r.yaml:2" in errors("name: [\nmodel: x: y\n")
    assert "not with tabs" in errors("name: a\nstages:\n\t- tune: {}\n")


@pytest.mark.parametrize("path", [r"C:\data\x.csv", r"C:\users\x.csv", r"C:\xy.csv"])
def test_a_path_of_windows_in_double_quotes_says_how_to_write_it(path):
    message = errors(GOOD.replace("train.tsv", f'"{path}"'))
    assert "r.yaml:6: this is not YAML" in message
    assert "take single ones, or write a path with /" in message
    assert check(GOOD.replace("train.tsv", f"'{path}'")).stage_list()[0].data.train == path


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "nul", "a:b", " outer"])
def test_names_that_are_no_folder_are_refused(name):
    assert "the name becomes a folder" in errors(GOOD.replace("name: small", f"name: '{name}'"))


@pytest.mark.parametrize("name", ["a\\nb", "\\e[31mred", "a\\u202eb", "\U0001f600" * 80])
def test_names_that_hide_something_or_are_too_long_for_a_folder_are_refused(name):
    assert "the name becomes a folder: " in errors(GOOD.replace("name: small", f'name: "{name}"'))


def test_names_in_any_script_are_folders():
    for name in ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0646\u0645", "\u8a66\u9a13", "caf\u00e9 2"):
        assert check(GOOD.replace("name: small", f"name: '{name}'")).name == name


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        (
            "  - tune: {data: a.tsv}\n    evaluate: {}\n",
            "stages.0: a stage is one key with its settings below it, and here are 2: tune, evaluate\n"
            "  fix: begin each stage with a dash of its own",
        ),
        ("  - tune:\n    method: lora\n", "here are 2: tune, method\n  fix: indent 'method' further than the stage"),
        ("  - evaluate\n", "and this is text\n  fix: write `evaluate:`, with a colon"),
        ("  -\n", "and this is empty\n  fix: write one of distil, evaluate"),
        ("  - [tune]\n", "and this is ['tune']\n  fix: write one of distil, evaluate"),
    ],
)
def test_an_item_that_is_no_stage_says_how_to_write_one(stages: str, told: str):
    assert told in errors(f"name: small\nmodel: m\nstages:\n{stages}")


def test_a_wrong_stage_in_an_override_is_blamed_on_the_command_line():
    message = errors(GOOD, "stages.0.tun.epochs=1")
    assert "\n--set stages.0.tun.epochs: stages.0: a stage is one key" in message
    assert "here are 2: tune, tun\n  fix: did you mean 'tune'?" in message


def test_stages_that_cannot_chain_are_refused_before_anything_runs():
    text = GOOD.replace("  - tune:", "  - evaluate: {suites: [task], data: {test: t.tsv, task: pair}}\n  - tune:")
    assert "r.yaml:4: stages.0.evaluate: stage 0 (evaluate): a pretrained model has no head" in errors(text)


def test_overrides_reach_into_lists_and_methods_given_by_name():
    recipe = check(GOOD, "stages.0.tune.method.rank=4", "stages.0.tune.epochs=1", "seed=99")
    tune = recipe.stage_list()[0]
    assert (tune.method.name, tune.method.rank, tune.epochs, recipe.seed) == ("lora", 4, 1, 99)


def test_overrides_reach_into_whatever_is_written_as_text():
    text = GOOD.replace("{train: train.tsv, labels: [no, yes]}", "sst2") + "compare: {preset: tuning}\n"
    recipe = check(text, "stages.0.tune.data.limit=7", "compare.preset.seeds=2", "model.dtype=bfloat16")
    data = recipe.stage_list()[0].data
    assert (data.source, data.limit, recipe.model.dtype) == ("sst2", 7, "bfloat16")
    assert recipe.compare.preset.seeds == 2


def test_a_value_of_the_command_line_has_no_comments():
    values = ("#text", "a #b", "5 # x", "'a #b'", "[a, b] # c", "a#b", "")
    assert [parse_value(value) for value in values] == ["#text", "a #b", "5 # x", "a #b", ["a", "b"], "a#b", None]
    data = check(GOOD, "stages.0.tune.data.text=#text").stage_list()[0].data
    assert data.text == "#text"


@pytest.mark.parametrize("text", [*"|>~&*-?:;,%@ ", "|-", "&x", "*.csv", "---", "\t"])
def test_a_sign_on_the_command_line_is_text(text):
    assert parse_value(text) == text


def test_a_tab_and_null_can_be_set_on_the_command_line():
    data = check(GOOD, r"stages.0.tune.data.delimiter=\t", "stages.0.tune.data.labels=null").stage_list()[0].data
    assert (data.delimiter, data.labels) == ("\t", None)
    assert parse_value("[|, ~]") == "[|, ~]"
    assert parse_value("|\n a\n") == "a\n"


def test_text_that_looks_like_a_number_is_quoted_for_the_shell():
    assert """fix: write --set 'name="2024"'\n""" in errors(GOOD, "name=2024") + "\n"
    assert check(GOOD, 'name="2024"').name == "2024"
    assert """write --set 'stages.0.tune.data.text="1e5"'""" in errors(GOOD, "stages.0.tune.data.text=1e5")
    assert f"""where text is meant, write --set 'name="{"9" * 20}"'""" in errors(GOOD, f"name={'9' * 20}")
    assert "fix: write it in quotes" in errors(GOOD, "stages.0.tune.data={train: a.tsv, text: 5}")


def test_a_place_in_a_list_of_any_length_is_refused():
    far = "9" * 5000
    assert f"the list has no item {far}" in errors(GOOD, f"stages.{far}.tune.epochs=1")
    assert f"the list has no item {far}" in errors(GOOD, f"stages.{far}=1")


def test_a_wrong_override_is_blamed_on_the_command_line():
    assert "\n--set stages.0.tune.epocs: unknown key 'epocs'\n" in errors(GOOD, "stages.0.tune.epocs=1")
    whole = errors(GOOD, "stages.0.tune={data: {train: a.tsv}, epocs: 1}")
    assert "\n--set stages.0.tune: stages.0.tune.epocs: unknown key" in whole
    assert "write key=value" in errors(GOOD, "seed")
    assert "has no item 7" in errors(GOOD, "stages.7.tune.epochs=1")


def test_the_resolved_recipe_is_complete_and_means_the_same():
    recipe = check(GOOD)
    text = recipe_yaml(recipe)
    assert "warmup_ratio: 0.06" in text
    assert check(text).model_dump() == recipe.model_dump()


def test_a_grid_has_every_combination_and_each_cell_is_checked():
    text = GOOD + "compare:\n  over:\n    stages.0.tune.method: [full, {name: lora, rank: 2}]\n    seed: [1, 2]\n"
    recipe = check(text)
    every = cells(recipe.compare)
    assert [cell_name(f) for f in every][:2] == ["method=full,seed=1", "method=full,seed=2"]
    assert len({cell_name(f) for f in every}) == 4
    assert cell_recipe(recipe, every[3]).stage_list()[0].method.rank == 2
    assert cell_recipe(recipe, every[3]).seed == 2
    assert "compare.over: with stages.0.tune.method=fll" in errors(text.replace("full", "fll"))


def test_a_grid_that_lists_a_value_twice_is_refused():
    assert "lists a value twice" in errors(GOOD + "compare: {over: {seed: [1, 1]}}\n")
    assert "lists a value twice" in errors(GOOD + 'compare: {over: {seed: [1, "1"]}}\n')


def test_json_schema_is_json_and_knows_the_stages():
    schema = json.dumps(json_schema())
    assert '"tune"' in schema
    assert '"warmup_ratio"' in schema


RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))


def written(path: Path) -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(path)


@cache
def validator() -> Any:
    schema = json_schema()
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(schema)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_shipped_recipes_fit_the_json_schema(path: Path):
    validator().validate(written(path))


@pytest.mark.parametrize(
    "change",
    [
        {"method": "lroa"},
        {"method": {"name": "lora", "rnk": 3}},
        {"objective": {"name": "roast", "alpah": 0.6}},
        {"objective": {"name": "roast", "alpha": 2}},
    ],
)
def test_the_json_schema_refuses_what_a_recipe_refuses(change: dict[str, Any]):
    recipe = written(next(path for path in RECIPES if path.stem == "quickstart"))
    recipe["stages"][0]["tune"] |= change
    with pytest.raises(jsonschema.ValidationError):
        validator().validate(recipe)


def test_a_recipe_of_known_stages_is_checked_without_a_look_at_what_is_frozen(monkeypatch: pytest.MonkeyPatch):
    """Which takes as long as a process has frozen objects, tens of milliseconds where torch was imported before."""
    check(GOOD)
    gc.collect()
    looks = []
    monkeypatch.setattr(gc, "get_freeze_count", lambda: looks.append(1) or 1)
    check(GOOD)
    assert not looks


def test_a_folder_is_no_recipe_and_may_hold_one(tmp_path: Path):
    with pytest.raises(RecipeError, match="this is a folder, and no recipe\n  fix: name the recipe's file"):
        load_recipe(tmp_path)
    (tmp_path / "recipe.yaml").write_text(GOOD)
    with pytest.raises(RecipeError, match=r"fix: did you mean .*recipe\.yaml\?"):
        load_recipe(tmp_path)


def test_missing_file_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(RecipeError, match="luthier init"):
        load_recipe(tmp_path / "none.yaml")


def test_yaml_round_trip_keeps_text_that_looks_like_something_else():
    data = {"a": ["no", "1e-4", "1", "true", None, 1e-4, True, "x: y"]}
    assert parse_yaml(dump_yaml(data), "d").data == data
    assert parse_value("[1, no]") == [1, "no"]


@pytest.mark.parametrize("between", [" ", "  ", "\t", " \n", "\n\n", "\x85", "\u2028 ", ": ", " #", "' \""])
def test_yaml_round_trip_keeps_every_character_of_a_long_text(between: str):
    for words in range(10, 60, 7):
        data = {
            "template": between.join(f"{{text}} word{n}" for n in range(words)),
            "below": [{between: between * words}],
        }
        assert parse_yaml(dump_yaml(data), "d").data == data


@pytest.mark.parametrize(
    "code",
    [
        "import luthier.cli.arguments as c; c.build_parser().format_help()",
        "from luthier.recipe import load_recipe; load_recipe('recipes/local/quickstart.yaml')",
        "from luthier.cli.explain import parts_table; parts_table()",
        "import luthier, luthier.tuning, luthier.evaluation, luthier.training, luthier.data, luthier.models",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code):
    heavy = ["torch", "transformers", "peft", "datasets", "pandas", "matplotlib", "sklearn", "scipy", "rich"]
    script = f"{code}\nimport sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_json_with_emoji_as_surrogate_pairs_is_read_as_json_reads_it():
    data = {"a": "film \U0001f600!", "\U0001f3ac": ["\U0001f600\U0001f3ac", "plain"]}
    parsed = parse_yaml(json.dumps(data), "r.json")
    assert "\\ud83d" in json.dumps(data)
    assert parsed.data == data
    assert parsed.lines["\U0001f3ac", 0] == 1
