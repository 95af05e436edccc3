"""Folders that are dangerous or damaged are refused before anything in them is read."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import ModelError
from luthier.models.artifacts import load_model
from luthier.models.loading import load_config, load_tokenizer
from luthier.models.safety import check_model_folder
from luthier.models.settings import ModelSettings


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "model.ckpt", "model.pth"])
def test_a_pickle_bomb_does_not_go_off(bert: Path, tmp_path: Path, name: str):
    canary = tmp_path / "canary"
    (bert / "model.safetensors").unlink()
    (bert / name).write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(ModelError, match="can run code when it is read; nothing was read") as caught:
        load_model(str(bert), "encoder")
    assert name in caught.value.what
    assert caught.value.where == str(bert)
    assert "allow: [pickle]" in caught.value.fix
    assert not canary.exists()


def test_an_allowed_pickle_is_read_without_running_its_code(bert: Path, tmp_path: Path):
    import torch

    canary = tmp_path / "canary"
    (bert / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": Bomb(canary)}, bert / "pytorch_model.bin")
    with pytest.raises(ModelError, match="the weights can't be read"):
        load_model(ModelSettings(reference=str(bert), allow=("pickle",)), "encoder")
    assert not canary.exists()


def test_an_allowed_pickle_of_plain_tensors_loads(bert: Path):
    import torch
    from safetensors.torch import load_file

    tensors = load_file(bert / "model.safetensors")
    torch.save(tensors, bert / "pytorch_model.bin")
    (bert / "model.safetensors").unlink()
    model = load_model(ModelSettings(reference=str(bert), allow=("pickle",)), "encoder")
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(model.state_dict()[name], tensors[name])


def test_pickles_beside_safetensors_are_left_alone(bert: Path, tmp_path: Path):
    canary = tmp_path / "canary"
    (bert / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(canary)))
    load_model(str(bert), "encoder")
    assert not canary.exists()


@pytest.mark.parametrize(
    ("file", "load"),
    [
        ("config.json", lambda folder: load_config(folder)),
        ("config.json", lambda folder: load_model(folder, "encoder")),
        ("tokenizer_config.json", lambda folder: load_tokenizer(folder)),
        ("tokenizer_config.json", lambda folder: load_model(folder, "encoder")),
    ],
)
def test_auto_map_is_refused_and_its_code_does_not_run(bert: Path, tmp_path: Path, file: str, load: Any):
    canary = tmp_path / "canary"
    (bert / "evil.py").write_text(f"import os\nos.mkdir({str(canary)!r})\n")
    edit(bert / file, auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.Config"})
    with pytest.raises(ModelError, match="`auto_map` names Python classes") as caught:
        load(str(bert))
    assert caught.value.where == f"{bert / file}, key auto_map"
    assert "allow: [remote_code]" in caught.value.fix
    assert not canary.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_attn_implementation": "evil/kernel"}, "compute kernel that would be downloaded"),
        ({"attn_implementation": {"text_config": "evil/kernel@v1:run"}}, "compute kernel"),
        ({"text_config": {"_attn_implementation_internal": "paged|evil/kernel"}}, "compute kernel"),
        ({"experts_implementation": "evil/kernel"}, "compute kernel"),
        ({"kernel_config": {"RMSNorm": "evil/kernel"}}, "names compute kernels"),
        ({"use_kernels": True}, "compute kernels to be downloaded"),
        ({"trust_remote_code": True}, "asks for Python that comes with the model"),
        ({"custom_pipelines": {"x": {"impl": "evil.Pipe"}}}, "Python pipelines"),
        ({"text_config": {"auto_map": {"AutoConfig": "evil.Config"}}}, "Python classes"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantised \(method 'gptq'\)"),
        ({"transformers_weights": "../other/model.safetensors"}, "outside the model's folder"),
    ],
)
def test_configs_that_run_or_fetch_code_are_refused(bert: Path, changes: dict[str, Any], message: str):
    edit(bert / "config.json", **changes)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(str(bert), "encoder")
    assert caught.value.where.startswith(f"{bert / 'config.json'}, key ")
    assert caught.value.fix


def test_harmless_values_of_the_same_keys_pass(bert: Path):
    edit(
        bert / "config.json",
        custom_pipelines=None,
        _attn_implementation="eager",
        trust_remote_code=False,
        use_kernels=False,
    )
    assert load_model(str(bert), "encoder").config._attn_implementation == "sdpa"


def test_the_file_does_not_choose_the_attention_code(bert: Path):
    edit(bert / "config.json", attn_implementation="flash_attention_2")
    assert load_model(str(bert), "encoder").config._attn_implementation == "sdpa"


def test_a_tokenizer_file_outside_the_folder_is_refused_where_it_exists(bert: Path, tmp_path: Path):
    (tmp_path / "private.json").write_text("{}")
    edit(bert / "tokenizer_config.json", tokenizer_file=str(tmp_path / "private.json"))
    with pytest.raises(ModelError, match=r"points at .*private.json', outside the model's folder"):
        load_tokenizer(str(bert))
    edit(bert / "tokenizer_config.json", tokenizer_file="/home/somebody/tokenizer.json")
    assert load_tokenizer(str(bert)).pad_token == "[PAD]"


def test_an_adapter_that_names_a_module_to_import_is_refused(tmp_path: Path):
    path = tmp_path / "adapter_config.json"
    for config, message in [
        ({"auto_mapping": {"parent_library": "evil.module", "base_model_class": "X"}}, "'evil.module' to be imported"),
        ({"megatron_config": {"a": 1}}, "names a Python module"),
        ({"tokenizer_kwargs": {"trust_remote_code": True}}, "asks for Python"),
        ({"loftq_config": {}, "corda_config": {"cache_file": "x.pt"}}, "names a pickle file"),
    ]:
        path.write_text(json.dumps(config))
        with pytest.raises(ModelError, match=message):
            check_model_folder(tmp_path)


@pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/secret.safetensors", "sub/x.safetensors", "x.bin"])
def test_an_index_that_points_elsewhere_is_refused(bert: Path, name: str):
    index = bert / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"embeddings.weight": name}}))
    with pytest.raises(ModelError, match="the index names") as caught:
        load_model(str(bert), "encoder")
    assert name in caught.value.what
    assert caught.value.where == str(index)


def test_a_shard_that_is_missing(bert: Path):
    index = bert / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(ModelError, match=r"'model-00001-of-00002\.safetensors' is missing\n  fix: .*again"):
        load_model(str(bert), "encoder")


@pytest.mark.parametrize("keep", [0, 5, 100, -1, -1000])
def test_a_truncated_file(bert: Path, keep: int):
    weights = bert / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"cut short[\s\S]*fix: the file is damaged or incomplete") as caught:
        load_model(str(bert), "encoder")
    assert caught.value.where == str(weights)


def test_a_file_with_bytes_to_spare(bert: Path):
    weights = bert / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(ModelError, match="longer than its header says"):
        load_model(str(bert), "encoder")


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[1]",
        json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}).encode(),
        json.dumps({"a": {"dtype": "nope", "shape": [1], "data_offsets": [0, 4]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}).encode(),
    ],
)
def test_a_header_that_does_not_describe_its_file(bert: Path, header: bytes):
    weights = bert / "model.safetensors"
    weights.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(ModelError, match=r"header|starts at byte") as caught:
        load_model(str(bert), "encoder")
    assert caught.value.where == str(weights)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "config.json:1: the file is not valid JSON"), (b"[]", "no JSON object"), (b'{"a": "\xff"}', "not UTF-8")],
)
def test_a_config_that_is_no_json(bert: Path, content: bytes, message: str):
    (bert / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_model(str(bert), "encoder")


def test_a_folder_without_weights(bert: Path):
    (bert / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"there are no weights \(\*\.safetensors\)\n  fix: "):
        load_model(str(bert), "encoder")


def test_a_link_out_of_the_folder(bert: Path, tmp_path: Path):
    secret = tmp_path / "secret.txt"
    secret.write_text("x")
    (bert / "vocab.txt").symlink_to(secret)
    with pytest.raises(ModelError, match=f"leads out of the model's folder, to {secret}"):
        load_model(str(bert), "encoder")


def test_the_hub_cache_may_link_to_its_blobs(bert: Path, tmp_path: Path):
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    blobs = tmp_path / "models--org--name" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in list(bert.iterdir()):
        path.replace(blobs / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert load_model(str(snapshot), "encoder").config.hidden_size == 32


def test_a_pickle_file_that_calls_itself_gguf(tmp_path: Path):
    (tmp_path / "model.gguf").write_bytes(pickle.dumps({}))
    with pytest.raises(ModelError, match="the file is no GGUF file"):
        check_model_folder(tmp_path, gguf_file="model.gguf")
