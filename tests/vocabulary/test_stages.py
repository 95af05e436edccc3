"""The stages as recipes have them: a chain to a trained model, what pages show, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import AutoModelForMaskedLM, AutoTokenizer

import luthier
from luthier.cli.arguments import main
from luthier.errors import DataError, WorkspaceError
from luthier.storage.one_version import one_version
from luthier.vocabulary import transplant_run
from luthier.vocabulary.checking import check_vocabulary
from luthier.vocabulary.planning import _models
from luthier.vocabulary.reporting import cluster_section
from luthier.vocabulary.settings import CapacitySettings, ClusterSettings, MergeSettings, VocabularySettings
from luthier.vocabulary.stage import Transplant, Vocabulary
from luthier.vocabulary.transplant_settings import ExtendSettings
from tests.vocabulary.conftest import settings
from tests.vocabulary.texts import lines_of

TINY = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
STEPS = {"length": 16, "max_steps": 2, "batch_size": 4}
# Published clusters of 115 entries of CC100, with their capacities (XLM-V, table of the appendix).
PUBLISHED = {
    174_504: "fa pa sa ka ur lo my ne am te my th ta ko bn ml he sd as hi km gu kn si yi mr ps or xh ar ug",
    102_722: "ja zh-TW zh-CN",
    186_881: "fi sk om sw ln az lg uz so hy ss hu la ff et ta wo lv ku te sc el pl lt tr",
    110_148: "pt eu gl gn it ca qu es",
    24_752: "af li nl fy",
    19_801: "hr sl bs",
    101_485: "bg ky uk be kk sr mk ru mn",
    279_702: "su jv tl sv tn no id ig bn ns mg cs ms ro ur rm ha ga ht is eo gd br hi en cy fr vi da yo de sq",
}


def test_the_published_clusters_are_shown_with_their_sums():
    clusters, capacities = [names.split() for names in PUBLISHED.values()], list(PUBLISHED)
    section = cluster_section(clusters, capacities)
    assert section.text == "115 languages in 8 clusters, 999,995 pieces in all."
    assert section.table is not None
    rows = {row[0]: row for row in section.table.rows}
    assert rows[2][1:5] == [3, 102_722, 34_241, "ja zh-TW zh-CN"]
    assert [row[1] for row in section.table.rows] == [31, 3, 25, 8, 4, 3, 9, 32]
    assert section.plot is not None
    assert "cluster 8" in section.plot.draw("capacities")


@pytest.fixture(scope="module")
def chain(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one language, a vocabulary of five, the model with it, and that trained on."""
    folder = tmp_path_factory.mktemp("chain")
    corpus = {"train": str(text / "la.txt"), "held_out": 0.1}
    small = settings(text, capacity={"step": 50, "least": 60, "most": 160, "curve": "pruned"})
    recipe = {
        "name": "chain",
        "stages": [
            {
                "pretrain": {
                    "corpus": corpus,
                    "architecture": TINY,
                    "tokenizer": {"kind": "unigram", "vocabulary": 120},
                    **STEPS,
                }
            },
            {"vocabulary": small},
            {"transplant": {"tokenizer": "stages.1", "text": str(text), "lines": 20}},
            {"pretrain": {"corpus": corpus, **STEPS}},
            {"transplant": {"model": "stages.2", "prune": {"text": str(text)}, "init": "copy"}},
            {
                "transplant": {
                    "model": "stages.0",
                    "extend": {"text": {"languages": {"ka": str(text / "ka.txt")}}, "pieces": 120},
                }
            },
        ],
    }
    place = folder / "chain.yaml"
    place.write_text(json.dumps(recipe))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(folder / "cache"))
        assert main(["run", str(place), "--output", str(folder / "runs"), "--quiet"]) == 0
    return folder / "runs" / "chain"


def test_a_chain_ends_in_a_model_with_the_new_vocabulary(chain: Path, text: Path):
    tokenizer = AutoTokenizer.from_pretrained(chain / "01-vocabulary" / "tokenizer")
    last = AutoTokenizer.from_pretrained(chain / "03-pretrain" / "model")
    lines = lines_of("kb", 10, 3)
    assert last(lines).input_ids == tokenizer(lines).input_ids
    model = AutoModelForMaskedLM.from_pretrained(chain / "03-pretrain" / "model")
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    told = json.loads((chain / "02-transplant" / "metrics.json").read_text())
    assert set(told["scores"]) == {f"text/{name}/nats_a_letter" for name in ("la", "lb", "ka", "kb", "zh")}
    assert set(told["details"]["before"]) == {"la", "lb", "ka", "kb", "zh"}
    assert told["details"]["copied"] + told["details"]["composed"] + told["details"]["drawn"] == len(tokenizer)
    pruned = AutoTokenizer.from_pretrained(chain / "04-transplant" / "model")
    assert [pruned.tokenize(line) for line in lines_of("la", 150)] == [
        tokenizer.tokenize(line) for line in lines_of("la", 150)
    ]
    extended = AutoTokenizer.from_pretrained(chain / "05-transplant" / "model")
    first = AutoTokenizer.from_pretrained(chain / "00-pretrain" / "model")
    assert extended.convert_ids_to_tokens(range(len(first))) == first.convert_ids_to_tokens(range(len(first)))
    assert len(extended) > len(first)


def test_the_page_shows_clusters_map_curves_and_losses(chain: Path):
    page = (chain / "report.html").read_text(encoding="utf8")
    for title in (
        "Clusters and capacities",
        "Map of languages",
        "What pieces are worth",
        "Before any training",
        "New vocabulary",
    ):
        assert title in page
    assert "approximated by pruning" in page


def test_a_dry_run_tells_languages_and_models(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "recipe.yaml").write_text(json.dumps({"name": "v", "stages": [{"vocabulary": settings(text)}]}))
    assert main(["plan", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "runs")]) == 0
    told = capsys.readouterr().out
    assert "150 lines, counted for 150, as sentences" in told
    assert "5 of languages, 30 for ALP curves, 3 of clusters" in told


def test_tokenizers_are_compared_on_the_terminal_on_a_page_and_as_data(
    chain: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    english = tmp_path / "text"
    english.mkdir()
    for old, new in (("la", "en"), ("kb", "kb"), ("zh", "zh")):
        (english / f"{new}.txt").write_text((text / f"{old}.txt").read_text(encoding="utf8"), encoding="utf8")
    ours, other = str(chain / "01-vocabulary"), str(chain / "00-pretrain" / "model")
    page, data = tmp_path / "page.html", tmp_path / "data.json"
    for place in (page, data):
        assert main(["tokenizer", ours, other, "--text", str(english), "--lines", "40", "--output", str(place)]) == 0
    out = capsys.readouterr().out
    assert "01-vocabulary" in out
    assert "change" in out
    told = json.loads(data.read_text(encoding="utf8"))
    first, second = told["tokenizers"]
    fast = AutoTokenizer.from_pretrained(chain / "01-vocabulary" / "tokenizer")
    lines = (english / "kb.txt").read_text(encoding="utf8").splitlines()[:40]
    tokens = [len(fast(line, add_special_tokens=False).input_ids) for line in lines]
    own = first["languages"]["kb"]
    assert own["tokens_a_sentence"] == pytest.approx(sum(tokens) / 40)
    words = [word for line in lines for word in line.split()]
    assert own["fertility"] == pytest.approx(sum(tokens) / len(words))
    cut = sum(len(fast(word, add_special_tokens=False).input_ids) > 1 for word in words)
    assert own["continued_rate"] == pytest.approx(cut / len(words))
    assert own["parity"] == pytest.approx(own["tokens_a_sentence"] / first["languages"]["en"]["tokens_a_sentence"])
    assert first["languages"]["en"]["parity"] == 1
    assert second["languages"]["zh"]["unknown_rate"] > 0.3 > first["languages"]["zh"]["unknown_rate"]
    assert first["coverage"]["1.0"] <= first["vocabulary"]
    assert list(first["coverage"].values()) == sorted(first["coverage"].values())
    shown = page.read_text(encoding="utf8")
    assert shown.count("<svg") >= 3
    assert "Pieces that cover the text" in shown
    assert main(["tokenizer", ours, "--text", str(english), "--output", "x.txt"]) == 2
    assert main(["tokenizer", ours, "--text", str(tmp_path / "none")]) == 3
    (english / "empty.txt").write_text("")
    assert main(["tokenizer", ours, "--text", str(english)]) == 3
    (english / "empty.txt").unlink()
    assert main(["tokenizer", str(tmp_path), "--text", str(english)]) == 4


@pytest.mark.parametrize(
    ("kind", "given", "told"),
    [
        (ClusterSettings, {"method": "pins"}, "needs `pins`"),
        (ClusterSettings, {"pins": {"a": 0}}, "from 1"),
        (ClusterSettings, {"pins": {"a": 3}, "count": 2}, "name cluster 3"),
        (ClusterSettings, {"method": "agglomerative", "pins": {"a": 1}}, "no effect"),
        (CapacitySettings, {"rule": "union", "alpha": 0.5}, "`alpha` has no effect"),
        (ClusterSettings, {"method": "agglomerative", "starts": 3}, "`starts` has no effect"),
        (ClusterSettings, {"must_link": [["a"]]}, "one language"),
        (CapacitySettings, {"rescale": False, "alpha": 0.5}, "`alpha` has no effect"),
        (CapacitySettings, {"rescale": False, "beta": 0.5}, "`beta` has no effect"),
        (CapacitySettings, {"tail_pieces": 100}, "`tail_pieces` has no effect"),
        (CapacitySettings, {"rule": "file"}, "goes with"),
        (CapacitySettings, {"least": 10, "most": 5}, "above"),
        (MergeSettings, {"passes": 2}, "`passes` has no effect"),
        (MergeSettings, {"weights": "uniform"}, "`weights` has no effect"),
        (ExtendSettings, {"text": "x", "trainer": {"normaliser": "nfkc"}}, "`trainer.normaliser` has no effect"),
        (ExtendSettings, {"text": "x", "trainer": {"byte_fallback": True}}, "`trainer.byte_fallback` has no effect"),
        (Transplant, {"extend": {"text": "x"}, "init": "copy"}, "refuses new tokens"),
        (Transplant, {}, "nothing says which vocabulary"),
        (Transplant, {"tokenizer": "stages.0", "prune": {"text": "x"}}, "both say"),
        (Transplant, {"tokenizer": "stages.0", "init": "focus"}, "give some"),
        (Transplant, {"tokenizer": "stages.0", "init": "mean", "rescale": False}, "`rescale` has no effect"),
        (Transplant, {"tokenizer": "stages.0", "lines": 5}, "`lines` has no effect"),
    ],
)
def test_settings_without_effect_are_refused(kind: Any, given: dict[str, Any], told: str):
    with pytest.raises(ValidationError, match=told):
        kind.model_validate(given)


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ([{"vocabulary": {"text": "none-there", "size": 100}}], "no such folder"),
        ([{"vocabulary": {"text": "TEXT", "size": 400, "cluster": {"must_link": [["la", "xx"]]}}}], "no language 'xx'"),
        ([{"vocabulary": {"text": "TEXT", "size": 400, "cluster": {"count": 9}}}], "9 clusters of 5"),
        (
            [{"vocabulary": {"text": "TEXT", "size": 400}}, {"tune": {"method": "full", "data": "x.tsv"}}],
            "takes a model",
        ),
        ([{"vocabulary": {"text": "TEXT", "size": 400}}, {"transplant": {"tokenizer": "stages.0"}}], "takes a model"),
    ],
)
def test_recipes_that_can_not_be_run_are_refused(text: Path, tmp_path: Path, stages: Any, told: str, capsys: Any):
    content = json.dumps({"name": "v", "stages": stages}).replace("TEXT", str(text))
    (tmp_path / "recipe.yaml").write_text(content)
    assert main(["run", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "runs"), "--quiet"]) in (2, 3)
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"cluster": {"count": 4, "must_link": [["la", "lb"], ["ka", "kb"]]}}, "4 clusters of 3 languages, or groups"),
        ({"cluster": {"must_link": [["la", "lb"]], "pins": {"la": 1, "lb": 2}}}, "pinned to different clusters"),
        ({"cluster": {"pins": {"la": 9}}}, "cluster 9 of at most 5"),
        ({"cluster": {"method": "pins", "pins": {"la": 1}}}, "no pin says where"),
        ({"capacity": {"tail": ["la"], "tail_pieces": 400}}, "get 400 pieces, and the vocabulary has 400"),
        ({"capacity": {"parity": True}}, "pads with English"),
        ({"text": {"folder": "TEXT", "unspaced": ["thai"]}}, "no language 'thai'"),
    ],
)
def test_what_no_model_can_be_trained_for_is_told_before(text: Path, more: dict[str, Any], told: str):
    given = {"text": str(text), "size": 400, **more}
    if isinstance(given["text"], dict):
        given["text"] = {**given["text"], "folder": str(text)}
    with pytest.raises(DataError, match=told):
        check_vocabulary(VocabularySettings.model_validate(given))


@pytest.mark.parametrize(
    ("cluster", "clusters"),
    [
        ({}, 5),
        ({"count": 2}, 2),
        ({"must_link": [["la", "lb"]]}, 4),
        ({"method": "pins", "pins": dict.fromkeys(("la", "lb", "ka", "kb", "zh"), 1)}, 1),
    ],
)
def test_a_plan_tells_the_clusters_that_are_made(cluster: dict[str, Any], clusters: int):
    stage = Vocabulary.model_validate({"text": "x", "size": 400, "cluster": cluster})
    assert _models(stage, ["la", "lb", "ka", "kb", "zh"]).endswith(f"{clusters} of clusters")


def test_an_encoder_without_a_head_stays_one(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from transformers import AutoModel, BertConfig, BertModel

    from tests.vocabulary.test_transplanting import SIZES, word_pieces

    words = word_pieces()
    BertModel(BertConfig(vocab_size=len(words), **SIZES)).save_pretrained(tmp_path / "encoder")
    words.save_pretrained(tmp_path / "encoder")
    (tmp_path / "recipe.yaml").write_text(
        json.dumps(
            {
                "name": "v",
                "model": str(tmp_path / "encoder"),
                "stages": [{"transplant": {"prune": {"text": str(text)}, "init": "copy"}}],
            }
        )
    )
    assert main(["run", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "runs"), "--quiet"]) == 0
    folder = tmp_path / "runs" / "v" / "00-transplant" / "model"
    assert (
        AutoModel.from_pretrained(folder).config.vocab_size == len(AutoTokenizer.from_pretrained(folder)) < len(words)
    )
    assert main(["predict", str(folder), "--text", "a"]) == 4
    assert "predicts nothing" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["prune", "extend"])
def test_text_of_a_transplant_that_changes_while_it_is_read_is_told(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = tmp_path / "de.txt"
    place.write_text("some text\n")
    stage, inputs = Transplant.model_validate({part: {"text": str(tmp_path)}}), SimpleNamespace(model=None, seed=0)
    tokenizer = SimpleNamespace(model_max_length=8)

    def read(*_: Any) -> Any:
        place.write_text("another text\n")
        return tokenizer

    monkeypatch.setattr(transplant_run, "loaded", lambda *_: (None, "encoder"))
    monkeypatch.setattr(transplant_run, "load_tokenizer", lambda _: tokenizer)
    monkeypatch.setattr(transplant_run, "new_tokenizer", read)
    monkeypatch.setattr(transplant_run, "transplant_embeddings", lambda *_, **__: None)
    with one_version():
        stage.external_inputs(inputs)
        with pytest.raises(WorkspaceError, match="changed while it was in use"):
            transplant_run.run_transplant(stage, inputs, tmp_path / "run")


def test_the_room_is_used_from_python(text: Path, tmp_path: Path):
    record = luthier.run(
        {"name": "v", "stages": [{"vocabulary": settings(text, capacity={"rule": "uniform"})}]},
        output=tmp_path / "runs",
    )
    assert record.metrics["00-vocabulary"]["details"]["pieces"] > 300
