"""The suite `pseudo_perplexity`: what it computes, which chains it fits, and that others are refused at load."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForMaskedLM, AutoTokenizer

from luthier.cli.arguments import main
from luthier.language_modeling.masked_text import likelihoods, rows_by_token, scored_tokens
from luthier.language_modeling.packing import Block
from luthier.pretraining.answering import answer
from luthier.pretraining.scoring import suite_masking
from luthier.pretraining.suite import PseudoPerplexitySuite
from tests.cli.conftest import tiny_model
from tests.language_modeling.models import MASKED, made, word_pieces
from tests.pretraining.test_pretraining import DECODER, TINY, read_metrics, recipe, run

__all__ = ["tiny_model"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


def chained(folder: Path, model: Path | None, suites: Any, **more: Any) -> dict[str, Any]:
    """`pretrain -> evaluate` on a text of nine lines."""
    content = recipe(folder, model, **more)
    (folder / "few.txt").write_text("".join((folder / "held.txt").read_text().splitlines(keepends=True)[:9]))
    text = {"train": str(folder / "train.txt"), "test": str(folder / "few.txt")}
    content["stages"].append({"evaluate": {"suites": suites, "data": text}})
    return content


def blocks_of(folder: Path, tokenizer: Any, room: int) -> list[list[int]]:
    """The tokens of the text between [CLS] and [SEP], block by block."""
    ids: list[int] = []
    for line in (folder / "few.txt").read_text().splitlines():
        ids += [*tokenizer(line, add_special_tokens=False)["input_ids"], tokenizer.sep_token_id]
    return [ids[start : start + room] for start in range(0, len(ids), room)]


def test_every_token_is_masked_alone(tmp_path: Path, tiny_model: Path):
    content = chained(tmp_path, tiny_model, [{"name": "pseudo_perplexity", "exact": True}, "cost"])
    folder = run(tmp_path, content)
    model = AutoModelForMaskedLM.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    total, count = 0.0, 0
    for block in blocks_of(tmp_path, tokenizer, 14):
        ids = torch.tensor([[tokenizer.cls_token_id, *block, tokenizer.sep_token_id]])
        for place, token in enumerate(ids[0].tolist()):
            if token not in tokenizer.all_special_ids:
                seen = ids.clone()
                seen[0, place] = tokenizer.mask_token_id
                with torch.no_grad():
                    total -= model(input_ids=seen).logits[0, place].log_softmax(-1)[token].item()
                count += 1
    found = read_metrics(folder.parent / "01-evaluate")
    assert found["scores"]["test/pseudo_perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)
    assert found["scores"]["test/pseudo_loss"] == pytest.approx(total / count, rel=1e-4)
    assert found["primary"] == "test/pseudo_perplexity"
    spent = found["details"]["pseudo_perplexity"]
    assert (spent["passes"], spent["tokens"]) == (count, count)
    low, high = found["intervals"]["test/pseudo_perplexity"]
    assert low < found["scores"]["test/pseudo_perplexity"] < high
    assert "training text" in found["baselines"]["test/pseudo_perplexity"]["answer"]
    assert found["cost"]["tokens_per_second"] > 0


def test_unknown_words_count_as_they_do_in_what_predict_tells():
    model, tokenizer = made(MASKED["bert"]), word_pieces()
    text = "the zebra runs the cat"
    assert tokenizer.unk_token_id in tokenizer(text)["input_ids"]
    masking = suite_masking(PseudoPerplexitySuite(exact=True), tokenizer)
    ids = np.array(tokenizer(text)["input_ids"])
    blocks = [Block(ids, None, np.zeros_like(ids))]
    nll, items = likelihoods(model, rows_by_token(blocks, masking), 1)
    found = answer(model, tokenizer, text, None)
    assert items[0] == len(scored_tokens(blocks[0], masking)) == len(ids) - 2
    assert nll[0] == pytest.approx(-found["pseudo_log_likelihood"], rel=1e-5)


def test_drawn_masks_are_those_of_their_seed_whatever_the_run_is(tmp_path: Path, tiny_model: Path):
    saved, scores = run(tmp_path, recipe(tmp_path, tiny_model)), []
    for name, seed, of_masks in (("a", 1, 0), ("b", 2, 0), ("c", 1, 5)):
        suite = {"name": "pseudo_perplexity", "rate": 0.3, "seed": of_masks}
        content = chained(tmp_path, saved, [suite]) | {"name": name, "seed": seed}
        content["stages"] = content["stages"][1:]
        found = read_metrics(run(tmp_path, content).with_name("00-evaluate"))
        scores.append(found["scores"]["test/masked_perplexity"])
        spent = found["details"]["pseudo_perplexity"]
        assert spent["passes"] == spent["blocks"] < spent["tokens"]
    assert scores[0] == scores[1] != scores[2]


def test_a_whole_block_is_compared_with_its_masked_tokens(tmp_path: Path, tiny_model: Path):
    """Against the model's own loss on the same masks."""
    from luthier.language_modeling.masked_text import rows_by_share, text_blocks
    from luthier.language_modeling.masking import Masking

    content = chained(tmp_path, tiny_model, ["pseudo_perplexity"])
    folder = run(tmp_path, content)
    model = AutoModelForMaskedLM.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    masking = Masking.of(tokenizer, masked=1.0, random=0.0)
    texts = (tmp_path / "few.txt").read_text().splitlines()
    total, count = 0.0, 0
    blocks = list(text_blocks(texts, tokenizer, 16))
    assert [block.ids.tolist()[1:-1] for block in blocks] == blocks_of(tmp_path, tokenizer, 14)
    for row in rows_by_share(blocks, masking):
        labels = torch.as_tensor(row["labels"])[None]
        assert set(row["input_ids"][row["labels"] >= 0].tolist()) == {tokenizer.mask_token_id}
        with torch.no_grad():
            loss = model(input_ids=torch.as_tensor(row["input_ids"])[None], labels=labels).loss
        guessed = int(labels.ge(0).sum())
        total, count = total + loss.item() * guessed, count + guessed
    found = read_metrics(folder.parent / "01-evaluate")["scores"]
    assert found["test/masked_loss"] == pytest.approx(total / count, rel=1e-4)
    assert found["test/masked_perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)


def test_the_dry_run_tells_the_passes(tmp_path: Path, tiny_model: Path, capsys):
    content = chained(tmp_path, tiny_model, [{"name": "pseudo_perplexity", "exact": True}])
    place = tmp_path / "run.yaml"
    place.write_text(json.dumps(content))
    capsys.readouterr()
    assert main(["plan", str(place), "--output", str(tmp_path / "runs")]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    words = [tokenizer(line, add_special_tokens=False)["input_ids"] for line in (tmp_path / "few.txt").open()]
    assert f"{sum(map(len, words))}, one a token" in " ".join(capsys.readouterr().out.split())


def test_settings_without_effect_are_refused():
    with pytest.raises(ValidationError, match="no effect beside `exact`"):
        PseudoPerplexitySuite(exact=True, seed=3)


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (["perplexity"], {"objective": "masked"}, "from left to right"),
    (["task"], {"objective": "masked"}, "from left to right"),
    (["perplexity"], {}, "from left to right"),
    (["perplexity"], {"architecture": TINY}, "from left to right"),
    (["pseudo_perplexity"], {"objective": "causal", "architecture": DECODER}, "can't judge a causal language model"),
    (["pseudo_perplexity"], {"architecture": DECODER}, "can't judge a causal language model"),
    (["calibration"], {"objective": "masked"}, "can't be judged"),
]


@pytest.mark.parametrize(("suites", "given", "told"), REFUSED)
@pytest.mark.parametrize("verb", ["validate", "plan", "run"])
def test_a_chain_that_can_not_be_judged_is_refused_before_anything_runs(
    tmp_path: Path, tiny_model: Path, suites: Any, given: dict[str, Any], told: str, verb: str, capsys
):
    """By settings alone where they tell, and else by the configuration, which `validate` does not read."""
    place = tmp_path / "run.yaml"
    place.write_text(json.dumps(chained(tmp_path, tiny_model, suites, **given)))
    output = [] if verb == "validate" else ["--output", str(tmp_path / "runs")]
    capsys.readouterr()
    code = main([verb, str(place), *output])
    if verb == "validate" and "objective" not in given:
        return
    assert code == 2
    assert told in capsys.readouterr().err
    assert not list((tmp_path / "runs").rglob("log.jsonl"))


def test_a_saved_masked_model_is_judged_and_not_as_if_it_wrote_text(tmp_path: Path, tiny_model: Path, capsys):
    saved = run(tmp_path, recipe(tmp_path, tiny_model))
    content = chained(tmp_path, saved, ["perplexity"]) | {"name": "again"}
    content["stages"] = content["stages"][1:]
    place = tmp_path / "again.yaml"
    place.write_text(json.dumps(content))
    capsys.readouterr()
    assert main(["validate", str(place)]) == 2
    assert "from left to right" in capsys.readouterr().err
    content["stages"][0]["evaluate"]["suites"] = ["pseudo_perplexity"]
    assert "test/masked_perplexity" in read_metrics(run(tmp_path, content).with_name("00-evaluate"))["scores"]
    exported = saved.parent / "plain"
    (saved / "model").rename(exported)
    (exported / "luthier.json").unlink()
    content |= {"model": str(exported), "name": "from-elsewhere"}
    assert "test/masked_perplexity" in read_metrics(run(tmp_path, content).with_name("00-evaluate"))["scores"]


def test_an_encoder_without_a_head_is_not_judged_by_a_drawn_one(tmp_path: Path, tiny_model: Path, capsys):
    content = chained(tmp_path, tiny_model, ["pseudo_perplexity"])
    content["stages"] = content["stages"][1:]
    place = tmp_path / "run.yaml"
    place.write_text(json.dumps(content))
    capsys.readouterr()
    assert main(["run", str(place), "--output", str(tmp_path / "runs"), "--quiet"]) == 4
    assert "drawn at random" in capsys.readouterr().err
