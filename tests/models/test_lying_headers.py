"""Headers and configurations that claim what can't be: refused at once, by file and key, in dry runs too."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import LuthierError, ModelError
from luthier.models.artifacts import load_artifact, load_model
from luthier.models.card import read_card
from luthier.models.loading import empty_model, load_tokenizer
from luthier.models.manifest import verify_manifest, write_manifest
from luthier.models.safety import check_config
from luthier.models.tensors import check_index, check_safetensors, read_json

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def with_header(path: Path, header: str, data: int = 8, length: int | None = None) -> Path:
    raw = header.encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + b"\0" * data)
    return path


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shape", "[1e400]"),
        ("shape", "[2.0]"),
        ("shape", "[true, 2]"),
        ("shape", '["2"]'),
        ("shape", "2"),
        ("shape", "null"),
        ("shape", str([9223372036854775807] * 20000)),
        ("shape", str([1] * 70)),
        ("data_offsets", "[0, 1e400]"),
        ("data_offsets", "[8, 0]"),
        ("data_offsets", "[0, 8, 8]"),
        ("data_offsets", "[0]"),
        ("data_offsets", '["0", "8"]'),
        ("data_offsets", "{}"),
        ("dtype", '"F33"'),
        ("dtype", "[]"),
        ("dtype", "null"),
    ],
)
def test_an_entry_that_lies_is_refused_by_its_key(tmp_path: Path, key: str, value: str):
    entry = {name: json.dumps(given) for name, given in ENTRY.items()} | {key: value}
    header = '{"x": {' + ", ".join(f'"{name}": {given}' for name, given in entry.items()) + "}}"
    with pytest.raises(ModelError, match=rf"tensor 'x' is wrong, see `{key}`"):
        check_safetensors(with_header(tmp_path / "m.safetensors", header))


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (json.dumps({"x": ENTRY, "y": ENTRY}), "starts at byte 0 instead of 8"),
        (json.dumps({"x": ENTRY | {"data_offsets": [8, 16]}}), "starts at byte 8 instead of 0"),
        (json.dumps({"x": ENTRY | {"shape": [2**40], "data_offsets": [0, 2**42]}}), "cut short"),
        (f'{{"x": {json.dumps(ENTRY)}, "x": {json.dumps(ENTRY)}}}', "'x' is named twice"),
        (json.dumps({"x": ENTRY, "__metadata__": [1]}), "`__metadata__`"),
        (json.dumps({"x": ENTRY, "__metadata__": {"format": 1}}), "`__metadata__`"),
        (json.dumps({"x": [1]}), "tensor 'x' is wrong"),
        (json.dumps({"x": ENTRY | {"more": 1}}), "tensor 'x' is wrong"),
        ("[" * 100_000, "header can't be read"),
        ('{"x": ' + "1" * 5000 + "}", "header can't be read"),
        ("[]", "header can't be read"),
        ('{"x": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}', "-1 is no size"),
        ('{"x": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}', "-8 is no size"),
        ('{"x": {"dtype": "F32", "shape": [2], "data_offsets": [-0, 8]}}', "-0 is no size"),
        (json.dumps({"x": ENTRY, "__metadata__": {"format": "\ud800"}}), "header can't be read"),
        (json.dumps({"\udfff": ENTRY}), "header can't be read"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: str, words: str):
    with pytest.raises(ModelError) as caught:
        check_safetensors(with_header(tmp_path / "m.safetensors", header))
    assert words in str(caught.value)
    assert "m.safetensors" in str(caught.value)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 99_000_000, 1000])
def test_a_header_longer_than_the_file_is_not_allocated(tmp_path: Path, length: int):
    with pytest.raises(ModelError, match="cut short"):
        check_safetensors(with_header(tmp_path / "m.safetensors", "{}", length=length))


LIES: list[tuple[str, Any]] = [
    ("num_hidden_layers", 10**9),
    ("num_hidden_layers", 5000),
    ("num_hidden_layers", -1),
    ("num_hidden_layers", "2"),
    ("num_hidden_layers", 2.5),
    ("num_hidden_layers", True),
    ("num_hidden_layers", float("nan")),
    ("vocab_size", 10**12),
    ("vocab_size", 10**8),
    ("hidden_size", float("inf")),
    ("hidden_size", -32),
    ("hidden_size", {"a": 1}),
    ("intermediate_size", 10**7),
    ("num_attention_heads", "many"),
    ("max_position_embeddings", 10**15),
    ("num_labels", 10**9),
]


@pytest.mark.parametrize(("key", "value"), LIES)
def test_a_configuration_that_lies_is_refused_by_file_and_key_in_run_and_plan(bert: Path, key: str, value: Any):
    edit(bert / "config.json", **{key: value})
    for build in (load_model, empty_model):
        with pytest.raises(ModelError) as caught:
            build(str(bert), "encoder")
        assert f"`{key}`" in str(caught.value)
        assert str(bert / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 33},
        {"layer_norm_eps": "small"},
        {"hidden_act": "nothing"},
        {"hidden_dropout_prob": [1]},
        {"id2label": [1, 2]},
        {"num_attention_heads": 0},
        {"vocab_size": 20_000, "hidden_size": 9_000},
    ],
)
def test_run_and_plan_refuse_the_same(bert: Path, changes: dict[str, Any]):
    edit(bert / "config.json", **changes)
    for build in (load_model, empty_model):
        with pytest.raises(ModelError, match=str(bert)):
            build(str(bert), "encoder")


def test_a_dry_run_looks_at_the_weights_that_are_there(bert: Path):
    with (bert / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ModelError, match="longer than its header says"):
        empty_model(str(bert), "encoder")


def test_sizes_inside_of_lists_and_inner_configurations_are_looked_at():
    path = Path("config.json")
    check_config({"text_config": {"num_hidden_layers": 2, "intermediate_size": [8, 16]}, "n_inner": None}, path)
    for config in ({"text_config": {"num_hidden_layers": 1e9}}, {"a": [{"hidden_size": -1}]}, {"d_ff": [8, "x"]}):
        with pytest.raises(ModelError):
            check_config(config, path)


@pytest.mark.parametrize("content", ["no json", '{"a": ', "[1]", "[" * 10_000, '{"a": ' + "1" * 5000 + "}", ""])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_json_that_is_none_is_refused_by_its_file(bert: Path, name: str, content: str):
    (bert / name).write_text(content)
    with pytest.raises(ModelError, match=name):
        load_tokenizer(str(bert))


def test_json_of_any_depth_or_size_is_refused_at_once(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text('{"a": ' + "[" * 150 + "]" * 150 + "}")
    with pytest.raises(ModelError, match="nested too deeply"):
        read_json(path)
    with path.open("wb") as file:
        file.truncate(1 << 36)
    with pytest.raises(ModelError, match="bytes, and is read up to"):
        read_json(path)


def adapter_on(bert: Path, folder: Path) -> Path:
    import peft

    from luthier.models.artifacts import save_artifact
    from luthier.models.card import describe

    base = load_model(str(bert), "encoder")
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["query"], r=2))
    return save_artifact(model, load_tokenizer(str(bert)), folder, describe(str(bert), "encoder"))


def test_an_adapter_that_names_itself_as_its_base_is_refused(bert: Path, tmp_path: Path):
    from luthier.models.references import content_fingerprint

    first, second = adapter_on(bert, tmp_path / "one"), adapter_on(bert, tmp_path / "two")
    for folder, other in ((first, second), (second, first)):
        edit(folder / "luthier.json", base=str(other), base_fingerprint=content_fingerprint(other))
        write_manifest(folder)
    with pytest.raises(ModelError, match="the adapter is its own base"):
        load_artifact(first)
    with pytest.raises(ModelError, match="the adapter is its own base"):
        empty_model(str(first), "encoder")


@pytest.mark.parametrize("changes", [{"r": 10**12}, {"r": -1}, {"peft_type": 5}, {"target_modules": {"a": [1]}}])
def test_an_odd_adapter_configuration_is_refused(bert: Path, tmp_path: Path, changes: dict[str, Any]):
    folder = adapter_on(bert, tmp_path / "adapter")
    edit(folder / "adapter_config.json", **changes)
    write_manifest(folder)
    with pytest.raises(ModelError, match="adapter"):
        load_artifact(folder)


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
CARD: dict[str, Any] = {"base": "b", "base_fingerprint": "f", "head": "encoder", "labels": ["a"], "text_form": None}


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(["base", "head", "labels", "max_length", "text_form", "columns", "metrics", "format_version"]),
        nested,
    )
)
def test_any_card_is_read_or_refused(tmp_path_factory, changes):
    folder = tmp_path_factory.getbasetemp()
    (folder / "luthier.json").write_text(json.dumps(CARD | changes))
    accepts_or_refuses(read_card, folder)


def test_a_card_that_names_a_label_twice_is_refused(tmp_path: Path):
    (tmp_path / "luthier.json").write_text(json.dumps(CARD | {"labels": ["a", "b", "a"]}))
    with pytest.raises(ModelError, match=r"`labels`: .*named twice"):
        read_card(tmp_path)


@settings(max_examples=200)
@given(nested | st.dictionaries(st.text(max_size=300), nested), st.sampled_from(["sha256", "weight_map"]))
def test_any_manifest_and_index_are_read_or_refused(tmp_path_factory, value, key):
    folder = tmp_path_factory.getbasetemp() / "manifest"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({key: value}))
    accepts_or_refuses(verify_manifest, folder)
    accepts_or_refuses(check_index, folder / "manifest.json")


@settings(max_examples=300)
@given(
    st.dictionaries(
        st.text(max_size=3) | st.just("__metadata__"),
        nested | st.fixed_dictionaries({key: nested | st.just(given) for key, given in ENTRY.items()}),
        max_size=3,
    )
)
def test_any_header_is_refused_or_one_that_safetensors_opens(tmp_path_factory, header):
    from safetensors import safe_open

    path = with_header(tmp_path_factory.getbasetemp() / "any.safetensors", json.dumps(header))
    try:
        check_safetensors(path)
    except ModelError:
        return
    with safe_open(path, framework="np"):
        pass


def accepts_or_refuses(action: Any, *arguments: Any) -> None:
    try:
        action(*arguments)
    except LuthierError:
        return
