"""A model that can't learn from conversations is refused by `init` and by `validate`, before torch is loaded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.cli.arguments import main
from luthier.models.stated import CHAT_MODEL, packaged
from tests.cli.starting_files import CHAT, LABELLED, lines, rows

ONE = [{"messages": [{"role": "user", "content": f"a {n}"}, {"role": "assistant", "content": "b"}]} for n in range(8)]
RECIPE = """\
name: replies
model: {model}
stages:
  - tune:
      {more}
      data: {{train: {data}, validation_fraction: 0.5}}
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    """An encoder, a decoder without a chat template, and one with it: as far as their files say."""
    monkeypatch.chdir(tmp_path)
    Path("chats.jsonl").write_text(lines(*CHAT))
    Path("one.jsonl").write_text(lines(*ONE))
    Path("films.csv").write_text(rows(("text", "label"), *LABELLED))
    for name, kind, tokenizer in (
        ("encoder", "bert", {}),
        ("silent", "llama", {}),
        ("chatty", "llama", {"chat_template": "{{ messages }}"}),
    ):
        Path(name).mkdir()
        Path(name, "config.json").write_text(json.dumps({"model_type": kind}))
        Path(name, "tokenizer_config.json").write_text(json.dumps(tokenizer))


CASES = [
    ("encoder", "chats.jsonl", "a bert model writes no text"),
    ("encoder", "one.jsonl", "a bert model writes no text"),
    ("silent", "chats.jsonl", "the tokenizer has no chat template"),
    ("silent", "one.jsonl", None),
    ("chatty", "chats.jsonl", None),
    ("encoder", "films.csv", None),
]


@pytest.mark.parametrize(("model", "data", "told"), CASES)
def test_init_refuses_it_and_names_the_model_that_it_takes_itself(models, capsys, model, data, told):
    assert main(["init", "--model", model, "--data", data]) == (0 if told is None else 4)
    assert Path("recipe.yaml").exists() is (told is None)
    if told is not None:
        error = capsys.readouterr().err
        assert told in error
        assert f"leave --model out, which takes {packaged(*CHAT_MODEL)}" in error


@pytest.mark.parametrize(("model", "data", "told"), CASES)
def test_validate_tells_it_at_the_line_of_the_model(models, capsys, model, data, told):
    Path("recipe.yaml").write_text(RECIPE.format(model=model, data=data, more="method: lora"))
    assert main(["validate"]) == (0 if told is None else 4)
    if told is not None:
        assert f"recipe.yaml:2: model: {model}: {told}" in capsys.readouterr().err


def test_the_model_of_the_stage_itself_is_meant(models, capsys):
    Path("recipe.yaml").write_text(RECIPE.format(model="chatty", data="chats.jsonl", more="model: silent"))
    assert main(["validate"]) == 4
    assert "recipe.yaml:5: stages.0.tune.model: silent: the tokenizer has no chat template" in capsys.readouterr().err
    Path("recipe.yaml").write_text(RECIPE.format(model="silent", data="chats.jsonl", more="model: chatty"))
    assert main(["validate"]) == 0


def test_answers_as_text_need_a_model_that_writes(models, capsys):
    recipe = RECIPE.format(model="encoder", data="films.csv", more="method: lora").replace(
        "0.5}", "0.5, as_text: true}"
    )
    Path("recipe.yaml").write_text(recipe)
    assert main(["validate"]) == 2
    told = capsys.readouterr().err
    assert "data.as_text: `as_text` needs a model that writes text, which a bert model does not" in told


def test_each_cell_of_a_comparison_is_looked_at(models, capsys):
    recipe = RECIPE.format(model="chatty", data="chats.jsonl", more="method: lora")
    Path("recipe.yaml").write_text(recipe + "compare:\n  over:\n    model: [chatty, silent]\n")
    assert main(["validate"]) == 4
    assert "the tokenizer has no chat template" in capsys.readouterr().err


def test_it_is_told_without_torch(models):
    Path("recipe.yaml").write_text(RECIPE.format(model="encoder", data="chats.jsonl", more="method: lora"))
    code = "import sys; from luthier.cli import main; print(main(['validate']), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4", "False"]


@pytest.mark.parametrize(("method", "rate"), [("lora", "0.003"), ("full", "0.0001"), ("head_only", "0.03")])
def test_the_rate_in_the_comment_is_the_method_s_own(models, method, rate):
    assert main(["init", "--data", "films.csv", "--method", method]) == 0
    assert f"# learning_rate: {rate}\n" in Path("recipe.yaml").read_text()
