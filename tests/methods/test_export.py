"""Tuned prompts and prefixes as one plain file: the layout, equal logits in plain models, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from luthier.cli.arguments import main
from luthier.errors import ModelError, WorkspaceError
from luthier.methods.base import MethodContext
from luthier.models.artifacts import load_artifact, load_model, save_artifact
from luthier.models.card import describe
from luthier.models.loading import load_tokenizer
from luthier.registry import METHODS
from luthier.tuning import export_prompt
from tests.models.builders import BERT_TOKENS, bert_config, llama_config, save_tiny, t5_config

PAGE = (Path(__file__).parents[2] / "docs" / "interchange.md").read_text(encoding="utf8")


def t5() -> Any:
    """Three layers, since PEFT does not give prefixes to those of an encoder-decoder in their order."""
    config = t5_config()
    config.num_layers = config.num_decoder_layers = 3
    return config


BUILDS: dict[str, tuple[str, Any, dict[str, str], Any]] = {
    "causal_lm": (
        "LlamaForCausalLM",
        lambda: llama_config(num_key_value_heads=1),
        {"eos_token": "</s>"},
        "CAUSAL_LM",
    ),
    "sequence_classification": ("BertForSequenceClassification", bert_config, BERT_TOKENS, "SEQ_CLS"),
    "seq2seq_lm": (
        "T5ForConditionalGeneration",
        t5,
        {"pad_token": "[PAD]", "eos_token": "</s>"},
        "SEQ_2_SEQ_LM",
    ),
}
PROMPTS = [
    {"name": "prompt", "length": 3},
    {"name": "p_tuning", "length": 3},
    {"name": "residual_prompt", "length": 3, "bottleneck": 8},
]
PREFIXES = [
    {"name": "prefix", "length": 3},
    {"name": "prefix", "length": 3, "projection": True},
    {"name": "task_prefix", "prefix_length": 3},
    {"name": "task_prefix", "prefix_length": 3, "projection": True, "projection_width": 8},
]
OTHERS = ["full", "head_only", "bitfit", "lora", "ia3", "idpg", "unipelt", "bottleneck"]


def named(method: dict[str, Any]) -> str:
    return "-".join(str(value) for value in method.values())


def base_model(folder: Path, head: str) -> Path:
    cls, configure, special, _ = BUILDS[head]
    return save_tiny(cls, configure(), folder / "base", **special)


def tuned(folder: Path, head: str, method: dict[str, Any]) -> Path:
    """The saved artefact of a model whose trained parts are far from their first values."""
    base = str(base_model(folder, head))
    labels = ["no", "yes"] if head == "sequence_classification" else None
    settings = METHODS.get(method["name"]).model_validate(method)
    tokenizer = load_tokenizer(base)
    context = MethodContext(BUILDS[head][3], 1, tokenizer)
    model: Any = settings.apply(load_model(base, head, labels=labels), context)  # type: ignore[arg-type]
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.5)
    card = describe(base, head, labels=labels, method=settings.model_dump(mode="json"))  # type: ignore[arg-type]
    return save_artifact(model.eval(), tokenizer, folder / "run" / "00-tune" / "model", card)


def read(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    with safe_open(file, "pt") as opened:
        assert set(opened.metadata()) == {"luthier"}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return tensors, json.loads(opened.metadata()["luthier"])


@torch.no_grad()
def of_artifact(folder: Path, **batch: torch.Tensor) -> torch.Tensor:
    return load_artifact(folder)[0](**batch).logits


def example(number: int, base: Path) -> torch.Tensor:
    """The logits of an example of the page, run as it stands."""
    code = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)[number]
    place: dict[str, Any] = {"base": str(base)}
    with torch.no_grad():
        exec(compile(code, "interchange.md", "exec"), place)
    found: torch.Tensor = place["logits"]
    return found


def text(base: Path) -> dict[str, torch.Tensor]:
    return dict(load_tokenizer(str(base))(["the film was"], return_tensors="pt"))


@pytest.mark.parametrize("method", [*PROMPTS, *PREFIXES], ids=named)
def test_the_examples_of_the_page_give_the_logits_of_the_tuned_decoder(
    method: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tuned(tmp_path, "causal_lm", method)
    monkeypatch.chdir(tmp_path)
    kind = "prompt" if method in PROMPTS else "prefix"
    assert export_prompt(tmp_path / "run" / "00-tune", f"{kind}.safetensors") == Path(f"{kind}.safetensors")
    tensors, about = read(Path(f"{kind}.safetensors"))
    shapes = {name: tuple(x.shape) for name, x in tensors.items()}
    assert shapes == ({"embeddings": (3, 32)} if kind == "prompt" else {"key": (2, 1, 3, 16), "value": (2, 1, 3, 16)})
    card = load_artifact(folder)[2]
    assert about == {
        "format_version": 1,
        "kind": kind,
        "base": card.base,
        "base_fingerprint": card.base_fingerprint,
        "method": method["name"],
        "length": 3,
        "first_position": 0 if method["name"] == "task_prefix" else 3,
        "head": "causal_lm",
        "head_left_out": [],
    }
    batch = text(tmp_path / "base")
    found = example(["prompt", "prefix"].index(kind), tmp_path / "base")
    expected = of_artifact(folder, input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    expected = expected[:, -found.shape[1] :]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        plain = load_model(str(tmp_path / "base"), "causal_lm")(input_ids=batch["input_ids"]).logits
    assert not torch.allclose(plain, expected, atol=1e-2)


@pytest.mark.parametrize("method", PROMPTS, ids=named)
def test_an_encoder_with_the_embeddings_and_the_head_that_was_left_out(method: dict[str, Any], tmp_path: Path):
    folder = tuned(tmp_path, "sequence_classification", method)
    tensors, about = read(export_prompt(folder, tmp_path / "prompt.safetensors"))
    assert about["head_left_out"] == ["classifier.bias", "classifier.weight"]
    assert set(tensors) == {"embeddings"}
    from safetensors.torch import load_file

    head = {
        name.removeprefix("base_model."): x
        for name, x in load_file(folder / "adapter_model.safetensors").items()
        if "classifier" in name
    }
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=2)
    plain.load_state_dict(head, strict=False)
    batch = text(tmp_path / "base")
    embedded = plain.get_input_embeddings()(batch["input_ids"])
    with torch.no_grad():
        found = plain(inputs_embeds=torch.cat([tensors["embeddings"][None], embedded], dim=1)).logits
    expected = of_artifact(folder, input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_prefix_of_an_encoder_decoder_is_the_decoders(tmp_path: Path):
    folder = tuned(tmp_path, "seq2seq_lm", {"name": "prefix", "length": 3})
    tensors, _ = read(export_prompt(folder, tmp_path / "prefix.safetensors"))
    assert {name: tuple(x.shape) for name, x in tensors.items()} == dict.fromkeys(
        ["decoder.key", "decoder.value"], (3, 2, 3, 16)
    )
    ids, answer = text(tmp_path / "base")["input_ids"], torch.tensor([[0, 8, 9]])
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base").eval()
    pairs = zip(tensors["decoder.key"], tensors["decoder.value"], strict=True)
    cache = EncoderDecoderCache(DynamicCache([(k[None], v[None]) for k, v in pairs]), DynamicCache())
    with torch.no_grad():
        found = plain(input_ids=ids, decoder_input_ids=answer, past_key_values=cache).logits
    expected = of_artifact(folder, input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=answer)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_task_prefixes_of_an_encoder_decoder_and_of_some_layers_say_where_they_stand(tmp_path: Path):
    whole = tuned(tmp_path / "whole", "seq2seq_lm", {"name": "task_prefix", "prefix_length": 4})
    tensors, about = read(export_prompt(whole, tmp_path / "whole.safetensors"))
    assert {name: tuple(x.shape) for name, x in tensors.items() if name.endswith("key")} == {
        "encoder.key": (3, 2, 4, 16),
        "decoder.key": (3, 2, 4, 16),
        "cross.key": (3, 2, 4, 16),
    }
    assert "layers" not in about
    top = tuned(tmp_path / "top", "causal_lm", {"name": "task_prefix", "prefix_length": 4, "layers": [1]})
    tensors, about = read(export_prompt(top, tmp_path / "top.safetensors"))
    assert tensors["key"].shape == (1, 1, 4, 16)
    assert about["layers"] == {"layers": [1]}


def test_equal_prompts_are_equal_files(tmp_path: Path):
    folder = tuned(tmp_path, "sequence_classification", PROMPTS[0])
    files = [export_prompt(folder, tmp_path / name).read_bytes() for name in ("a.safetensors", "b.safetensors")]
    assert files[0] == files[1]


@pytest.mark.parametrize("name", OTHERS)
def test_methods_without_a_fixed_prompt_are_refused_with_the_reason(name: str, tmp_path: Path):
    folder = tuned(tmp_path, "sequence_classification", {"name": name})
    with pytest.raises(ModelError, match=rf"{name} can't be exported as a prompt or prefix: .*\n  fix: ") as caught:
        export_prompt(folder, tmp_path / "prompt.safetensors")
    assert caught.value.where == str(folder)
    assert [path.name for path in tmp_path.iterdir() if "prompt" in path.name] == []


def test_a_head_without_its_base_is_exported_as_a_whole_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder, place = tuned(tmp_path, "sequence_classification", {"name": "head_only"}), tmp_path / "whole"
    assert main(["export", str(folder), "--to", str(place)]) == 0
    assert f"wrote {place}; the whole model" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(ModelError, match="is no longer there"):
        load_artifact(folder)
    batch = AutoTokenizer.from_pretrained(place)("a good film", return_tensors="pt")
    stock = AutoModelForSequenceClassification.from_pretrained(place)
    with torch.no_grad():
        assert torch.equal(stock(**batch).logits, of_artifact(place, **batch))
    assert stock.config.id2label == {0: "no", 1: "yes"}
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    assert main(["export", str(place), "--to", str(tmp_path / "again")]) == 4
    assert "the whole model" in capsys.readouterr().err
    assert main(["export", str(folder), "--to", str(place)]) == 6
    assert "--force" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tuned(tmp_path, "sequence_classification", PROMPTS[0])
    file = tmp_path / "out" / "prompt.safetensors"
    assert main(["export", str(folder), "--to", str(file)]) == 0
    assert f"wrote {file}" in capsys.readouterr().out
    before = file.read_bytes()
    file.write_bytes(b"mine")
    assert main(["export", str(folder), "--to", str(file)]) == 6
    assert "the file is there already" in capsys.readouterr().err
    assert file.read_bytes() == b"mine"
    assert main(["export", str(folder), "--to", str(file), "--force"]) == 0
    assert file.read_bytes() == before
    assert main(["export", str(folder), "--to", str(tmp_path)]) == 6
    assert "this is a folder" in capsys.readouterr().err
    assert main(["export", str(folder), "--to", str(file / "below-a-file.safetensors")]) == 6
    assert "can't write here" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "base"), "--to", str(tmp_path / "x.safetensors")]) == 4
    assert "no model that Luthier tuned" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "nowhere"), "--to", str(tmp_path / "x.safetensors")]) == 4
    assert "nowhere" in capsys.readouterr().err
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    assert main(["export", str(folder), "--to", str(tmp_path / "x.safetensors")]) == 4
    assert "does not match its SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()


def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tuned(tmp_path, "sequence_classification", PROMPTS[0])
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / "prompt.safetensors"
    export_prompt(folder, file)
    before = file.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkspaceError, match="No space left on device"):
        export_prompt(folder, file, overwrite=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["prompt.safetensors"]
    assert file.read_bytes() == before
