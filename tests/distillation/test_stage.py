"""The `distil` stage: what its settings refuse, what nodes are built from, what is kept of each, stored teachers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import luthier
from luthier.cli.arguments import main
from luthier.distillation import scores as scores_module
from luthier.distillation.nodes import NodeBuilder
from luthier.distillation.tokens import check_same_tokens
from luthier.errors import LuthierError, ModelError, RecipeError
from luthier.models.card import read_card
from luthier.recipe import load_recipe
from luthier.storage.jsonlines import read_log
from tests.cli.conftest import Workplace, sentences, tiny_model
from tests.models.builders import BERT_TOKENS, build_tokenizer

__all__ = ["tiny_model"]
STEPS = {"max_steps": 4, "batch_size": 8, "evaluate_every": 2, "checkpoint_every": 2, "learning_rate": 5e-3}
TEACH = [{"teacher": "t", "student": "s"}]
NODES = {"t": {"frozen": True}, "s": {}}
TWO = {"nodes": {"t": {}, "s": {}}, "give": "s", "update": "alternating"}
TEXT = {"data": None, "text": {"corpus": "a.txt"}, "same_mask": False}


def stage(**settings: Any) -> dict[str, Any]:
    block = {"data": {"train": "train.tsv"}, "nodes": NODES, "edges": TEACH, **settings}
    return {"distil": {key: value for key, value in block.items() if value is not None}}


def load(folder: Path, block: dict[str, Any]) -> Any:
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({"name": "x", "model": "somewhere/model", "stages": [block]}))
    return load_recipe(path).stage_list()[0]


def test_what_may_have_no_epoch_is_kept_by_steps_where_a_recipe_leaves_it_out(tmp_path):
    text = stage(**TEXT | {"same_mask": None})
    streamed = {"tune": {"data": {"train": "a.tsv", "labels": ["x", "y"], "streaming": True}, "max_steps": 9}}
    for block in (text, streamed):
        kept = load(tmp_path, block)
        assert (kept.evaluate_every, kept.checkpoint_every) == (200, 200)
        (settings,) = block.values()
        settings["checkpoint_every"] = "epoch"
        kept = load(tmp_path, block)
        assert (kept.evaluate_every, kept.checkpoint_every) == (200, "epoch")
    whole = load(tmp_path, stage())
    assert (whole.evaluate_every, whole.checkpoint_every) == ("epoch", "epoch")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": None}, "give `data` with labels, or plain `text`"),
        ({"text": {"corpus": "a.txt"}}, "give `data` with labels, or plain `text`"),
        ({"edges": [{"teacher": "x", "student": "s"}]}, "an edge names 'x'"),
        ({"edges": [{"teacher": "s", "student": "t"}]}, "'t' is frozen and can't learn"),
        ({"edges": TEACH * 2}, "two edges from t to s"),
        ({"edges": []}, "the frozen node 't' teaches nobody"),
        ({"edges": [{**TEACH[0], "stop_gradient": False}]}, "the teacher 't' is frozen"),
        ({"nodes": {"t": {"frozen": True}}, "edges": []}, "teaches nobody"),
        ({"nodes": {"t": {}, "s": {}}}, "say with `give` which of t, s"),
        ({"give": "t"}, "none of the trained nodes s"),
        ({"nodes": {**NODES, "s": {"like": "x"}}}, "is like 'x'"),
        ({"nodes": {**NODES, "s": {"like": "r"}, "r": {"like": "s"}}}, "each like the next one"),
        ({"nodes": {**NODES, "s": {"sizes": {"num_hidden_layers": 1}, "init": "weights"}}}, "weights don't fit other"),
        ({"nodes": {**NODES, "s": {"init": "remap"}}}, "there are none"),
        ({"nodes": {**NODES, "s": {"remap": {"depth": "last"}}}}, "no effect without `init: remap`"),
        ({"nodes": {"t": {"frozen": True, "method": "lora"}, "s": {}}}, "`method` has no effect on a frozen node"),
        ({"nodes": {"t": {"frozen": True, "sizes": {"num_hidden_layers": 1}}, "s": {}}}, "a frozen node can't be new"),
        ({"nodes": {**NODES, "s": {"store": {}}}}, "`store` keeps the outputs of a `frozen` node"),
        ({"nodes": {**NODES, "model": {}}}, "'model' can't be the name of a node"),
        ({"nodes": {**NODES, "a/b": {}}}, "'a/b' can't be the name of a node"),
        ({"objective": "roast", "nodes": {**NODES, "s": {"hard_weight": 0.5}}}, "no effect beside an objective"),
        (
            {"edges": [{**TEACH[0], "weight": {"kind": "inherit"}}], "nodes": {**NODES, "s": {"hard_weight": 1}}},
            "follows",
        ),
        (
            {
                "nodes": {"t": {"frozen": True, "store": {}}, "s": {}},
                "edges": [{**TEACH[0], "temperature": {"kind": "linear", "start": 4, "end": 1}}],
            },
            "stored at one temperature",
        ),
        ({"data": None, "text": {"corpus": "a.txt"}, "objective": "roast"}, "an `objective` acts on a task"),
        (TEXT | {"same_mask": None, "epochs": 5, "max_steps": 9}, "`epochs` and `max_steps` both end the training"),
        ({"update": "alternating"}, "no effect where one node is trained"),
        ({**TWO, "edges": [{**TEACH[0], "stop_gradient": False}]}, "moves two nodes at once"),
        ({**TWO, "objective": "roast"}, "does not work with `update: alternating`"),
        ({**TWO, "precision": "float16"}, "does not work with float16"),
        ({"same_mask": False}, "`same_mask` is about masked text"),
        ({"edges": [{**TEACH[0], "start_step": 4}], "max_steps": 4}, "begins behind 4 steps, and the run takes 4"),
        ({**TEXT, "same_mask": True, "group_by_length": False}, "`group_by_length` has no effect"),
        (
            {**TEXT, "same_mask": True, "text": {"corpus": "a", "objective": "causal", "masking": {"rate": 0.3}}},
            "`masking` has no effect under `objective: causal`",
        ),
        ({**TEXT, "text": {"corpus": "a.txt", "objective": "causal"}}, "`same_mask` is about masked text"),
        ({**TEXT, "nodes": {"s": {}}, "edges": []}, "no effect on one node alone"),
        ({**TEXT, "nodes": {"t": {"frozen": True, "store": {}}, "s": {}}}, "on the rows that all nodes read"),
    ],
)
def test_settings_that_don_t_fit_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, stage(**settings))
    assert message in str(caught.value)


def test_it_says_what_it_takes_and_gives(tmp_path: Path) -> None:
    nodes = {
        "t": {"model": "a/teacher", "frozen": True},
        "s": {},
        "p": {"like": "s", "sizes": {"num_hidden_layers": 1}},
    }
    made = load(tmp_path, stage(nodes=nodes, give="s"))
    assert list(made.takes()) == ["model", "nodes.t"]
    assert made.reference("nodes.t").reference == "a/teacher"
    assert made.gives() == {"model": "task", "p": "task"}
    text = load(tmp_path, stage(data=None, text={"corpus": "a.txt"}, nodes={"s": {"model": "a/b"}}, edges=None))
    assert list(text.takes()) == ["nodes.s"]
    assert text.gives() == {"model": "pretrained"}


def test_a_model_that_no_node_starts_from_is_refused(tmp_path: Path) -> None:
    own = {"t": {"model": "a/teacher", "frozen": True}, "s": {"model": "a/student"}}
    with pytest.raises(RecipeError, match=r"stages\.0\.distil\.model: .*`model` has no effect"):
        load(tmp_path, stage(nodes=own, model="a/third"))
    for nodes in (own, NODES):
        load(tmp_path, stage(nodes=nodes, model="a/third" if nodes is NODES else None))


def test_a_reference_that_leads_nowhere_is_told_at_its_node(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"stages\.0\.distil\.nodes\.t\.model: stages\.0 is this stage itself"):
        load(tmp_path, stage(nodes={"t": {"model": "stages.0", "frozen": True}, "s": {}}))


def test_the_first_token_that_differs_is_named() -> None:
    one, other, longer = (build_tokenizer(**BERT_TOKENS) for _ in range(3))
    check_same_tokens({"a": one, "b": other})
    longer.add_tokens(["extra"])
    with pytest.raises(ModelError, match="token 17 is missing in a and 'extra' in b"):
        check_same_tokens({"a": one, "b": longer})
    special = build_tokenizer(**{**BERT_TOKENS, "sep_token": "[MASK]"})
    with pytest.raises(ModelError, match=r"the sep token is '\[SEP\]' \(3\) in the node a and '\[MASK\]' \(4\) in b"):
        check_same_tokens({"a": one, "b": special})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("place"), tiny_model)


@pytest.fixture(scope="module")
def teacher(place: Workplace) -> Path:
    """The folder of a tuned model."""
    tune = {"method": "full", "data": place.tune["data"], **STEPS}
    return run(place, "teacher", {"tune": tune}) / "00-tune" / "model"


def run(place: Workplace, name: str, *stages: dict[str, Any]) -> Path:
    recipe = {"name": name, "model": place.recipe["model"], "stages": list(stages)}
    return luthier.run(recipe, output=place.folder / "runs").folder


def distilled(place: Workplace, teacher: Path, store: Any = None, **settings: Any) -> dict[str, Any]:
    """A frozen teacher of two students, which teach each other too."""
    nodes = {
        "t": {"model": str(teacher), "frozen": True, "store": store},
        "s": {"sizes": {"num_hidden_layers": 1}, "init": "remap"},
        "p": {"learning_rate": 1e-3},
    }
    edges = [
        {"teacher": "t", "student": "s", "temperature": 2},
        {"teacher": "t", "student": "p", "temperature": 2},
        {"teacher": "p", "student": "s"},
    ]
    return {"distil": {"data": place.tune["data"], "nodes": nodes, "edges": edges, "give": "s", **STEPS, **settings}}


def test_a_stored_teacher_teaches_as_a_live_one_and_is_loaded_once(
    place: Workplace, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(place.folder / "cache"))
    loads: list[str] = []
    load_teacher = NodeBuilder._teacher

    def counted(self: NodeBuilder, name: str, heads: Any) -> Any:
        loads.append(name)
        return load_teacher(self, name, heads)

    monkeypatch.setattr(NodeBuilder, "_teacher", counted)
    live = run(place, "live", distilled(place, teacher))
    assert loads == ["t"]
    first = run(place, "stored", distilled(place, teacher, store={"top_k": 2}))
    assert loads == ["t", "t"]
    second = run(place, "stored again", distilled(place, teacher, store={"top_k": 2}, log_every=1))
    assert loads == ["t", "t"]
    weights = [load_file(folder / "00-distil" / "model" / "model.safetensors") for folder in (live, first, second)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=1e-4)
        assert torch.equal(weights[1][name], weights[2][name])
    titles = [s["title"] for s in metrics(first)["details"]["sections"]]
    assert "Stored outputs of t" in titles


def metrics(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "00-distil" / "metrics.json").read_text())
    return found


def test_each_node_ends_with_its_own_best_weights_and_is_told(place: Workplace, teacher: Path) -> None:
    folder = run(place, "told", distilled(place, teacher, max_steps=6, evaluate_every=1, learning_rate=0.05))
    found, log = metrics(folder), read_log(folder / "00-distil" / "log.jsonl")
    curves = {"s": "validation/accuracy", "p": "validation/p/accuracy"}
    for node, key in curves.items():
        loss = key.replace("accuracy", "loss")
        scores = {line["step"]: (line[key], -line[loss]) for line in log if line["event"] == "evaluate"}
        best = max(scores.values())  # of equal scores that with the lower loss
        assert found["scores"][key] == best[0]
        assert found["details"]["best_steps"][node] == min(step for step, value in scores.items() if value == best)
    card = read_card(folder / "00-distil" / "p")
    assert card.metrics["validation/accuracy"] == found["scores"]["validation/p/accuracy"]
    sections = {s["title"]: s for s in found["details"]["sections"]}
    assert set(sections["Learning at equal steps"]["plot"]["series"]) == {"s", "p"}
    at_cost = sections["Learning at equal cost"]["plot"]["series"]
    operations = found["details"]["operations_a_token"]
    assert operations["s"] > operations["p"] > operations["t"]  # s learns from both others
    assert at_cost["s"][-1][0] / at_cost["p"][-1][0] == pytest.approx(operations["s"] / operations["p"])
    terms = next(line for line in log if line["event"] == "terms")
    assert {"loss of s", "loss of p", "t to s", "t to p", "p to s"} <= set(terms)
    assert not (folder / "00-distil" / "t").exists()
    assert not (folder / "00-distil" / "checkpoints").exists()


def test_the_best_weights_of_a_node_are_what_was_scored(
    place: Workplace, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[int, float] = {}
    save = scores_module.save_trainable

    def noted(state: dict[str, torch.Tensor], path: Path) -> str:
        kept[int(path.stem.rpartition("-")[2])] = float(sum(p.sum() for p in state.values()))
        return save(state, path)

    monkeypatch.setattr(scores_module, "save_trainable", noted)
    folder = run(place, "best", distilled(place, teacher, max_steps=6, evaluate_every=1, learning_rate=0.05))
    saved = load_file(folder / "00-distil" / "p" / "model.safetensors")
    step = metrics(folder)["details"]["best_steps"]["p"]
    assert float(sum(p.sum() for p in saved.values())) == pytest.approx(kept[step], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes": {"t": {"frozen": True}, "s": {}}, "edges": TEACH}, "t was not trained for this task"),
        ({"nodes": {"s": {"sizes": {"num_layers_": 1}}}, "edges": [], "give": None}, "no field 'num_layers_'"),
        ({"nodes": {"s": {"sizes": {"hidden_size": 31}}}, "edges": [], "give": None}, "can't be built"),
        *[
            (
                {"nodes": {"s": {"sizes": {"num_hidden_layers": 1}, "method": method}}, "edges": [], "give": None},
                f"{method} would leave its random weights",
            )
            for method in ("lora", "head_only", "bitfit")
        ],
    ],
)
def test_nodes_that_can_t_be_are_refused(
    place: Workplace, teacher: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LuthierError) as caught:
        run(place, "refused", distilled(place, teacher, **changes))
    assert message in str(caught.value)


def test_a_teacher_of_other_labels_is_refused(place: Workplace, teacher: Path) -> None:
    data = place.tune["data"] | {"labels": ["positive", "negative"]}
    with pytest.raises(ModelError, match="number 0 is 'negative' in it and 'positive' here"):
        run(place, "labels", distilled(place, teacher, data=data))


def test_twins_without_dropout_are_refused(place: Workplace, teacher: Path) -> None:
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    nodes = {
        "a": {"model": str(teacher), "sizes": dropout, "init": "remap"},
        "b": {"model": str(teacher), "sizes": dropout, "init": "remap"},
    }
    edges = [{"teacher": "a", "student": "b"}, {"teacher": "b", "student": "a"}]
    with pytest.raises(ModelError, match="begin with the same weights and have no dropout"):
        run(place, "twins", distilled(place, teacher, nodes=nodes, edges=edges, give="a"))


def test_the_dry_run_refuses_weights_that_don_t_fit_and_edges_that_never_begin(
    place: Workplace, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = {"t": {"model": str(teacher), "frozen": True}}
    new = {"like": "t", "sizes": {"num_hidden_layers": 3}, "init": "remap", "remap": {"depth": [0, 1, 7]}}
    late = [{**TEACH[0], "start_step": 900}]
    for changes, message in (
        ({"nodes": {**taken, "s": new}, "edges": TEACH}, "distil.nodes.s.remap: the depth map [0, 1, 7]"),
        ({"nodes": {**taken, "s": {}}, "edges": late, "max_steps": None}, "behind 900 steps, and the run takes 48"),
    ):
        path = place.folder / "dry.yaml"
        block = distilled(place, teacher, **{"give": "s", **changes})
        path.write_text(json.dumps({"name": "dry", "model": place.recipe["model"], "stages": [block]}))
        assert main(["plan", str(path), "--output", str(place.folder / "runs")]) != 0
        assert message in capsys.readouterr().err


def test_a_stored_teacher_is_part_of_no_step_in_plan_and_run(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(place.folder / "cache"))
    corpus = {}
    for split, seed in (("train", 5), ("validation", 6)):
        corpus[split] = str(place.folder / f"{split}.txt")
        Path(corpus[split]).write_text("".join(f"{words}\n" for words, _ in sentences(200, seed)))
    text = {"corpus": corpus, "objective": "masked", "length": 16, "pseudo_perplexity_tokens": 0}
    weak = run(place, "weak", {"distil": {"text": text, "nodes": {"t": {}}, **STEPS, "max_steps": 2}})
    nodes = {
        "t": {"model": str(weak / "00-distil" / "model"), "frozen": True, "store": {"top_k": 4}},
        "s": {"sizes": {"num_hidden_layers": 1}},
    }
    block = {"distil": {"text": {**text, "max_flops": 2e8}, "nodes": nodes, "edges": TEACH, "batch_size": 8}}
    path = place.folder / "budget.yaml"
    path.write_text(json.dumps({"name": "budget", "model": place.recipe["model"], "stages": [block]}))
    assert main(["plan", str(path), "--output", str(place.folder / "runs")]) == 0
    told = metrics(run(place, "budget", block))["details"]
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines() if "steps  " in line] == [
        str(told["steps"])
    ]
    # What the curves at equal cost count for a step is what `max_flops` counts.
    spent = told["operations_a_token"]["s"] * 16 * 8
    assert told["steps"] == int(2e8 / spent)


def test_scores_of_the_last_step_are_told_where_no_best_is_kept_under_an_objective_that_attends_to_padding(
    place: Workplace, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(place.folder / "cache"))
    last = {"keep_best": False, "max_steps": 6, "evaluate_every": 1, "learning_rate": 0.05}
    roast = {"name": "roast", "pad_mask": False}
    folder = run(place, "last", distilled(place, teacher, store={"top_k": 2}, objective=roast, **last))
    card, found = read_card(folder / "00-distil" / "p"), metrics(folder)
    log = [line for line in read_log(folder / "00-distil" / "log.jsonl") if line["event"] == "evaluate"]
    assert card.metrics["validation/loss"] == found["scores"]["validation/p/loss"] == log[-1]["validation/p/loss"]
    assert card.metrics["validation/loss"] > min(line["validation/p/loss"] for line in log)


@pytest.mark.parametrize("path", sorted(Path("recipes").glob("*/*distil*.yaml")), ids=str)
def test_shipped_recipes_are_valid(path: Path) -> None:
    assert any(one.name == "distil" for one in load_recipe(path).stage_list())
