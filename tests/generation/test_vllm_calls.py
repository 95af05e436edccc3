"""The vLLM back end: what it refuses, and every call that it makes against the source of the vLLM that is installed.

vLLM itself runs on accelerators alone; its source says which names and arguments it takes.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from luthier.errors import ModelError
from luthier.generation import vllm_writer
from luthier.generation.served import RANKS, served_rank
from luthier.generation.vllm_writer import rounded_up, written
from luthier.generation.writing import Request, Written

FOUND = importlib.util.find_spec("vllm")
needs_vllm = pytest.mark.skipif(FOUND is None, reason="vLLM is not installed")


@pytest.mark.parametrize(
    ("config", "rank"),
    [
        ({}, 8),
        ({"r": 4}, 8),
        ({"r": 9}, 16),
        ({"r": 300}, 320),
        ({"rank_pattern": {"q_proj": 60}}, 64),
        ({"use_dora": False, "bias": "none", "modules_to_save": None, "trainable_token_indices": None}, 8),
    ],
)
def test_the_rank_that_an_adapter_fits_in(config, rank):
    assert served_rank({"peft_type": "LORA", "r": 8} | config) == rank


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "IA3"}, "this is IA3"),
        ({"use_dora": True}, "`use_dora`"),
        ({"bias": "all"}, "`bias`"),
        ({"modules_to_save": ["lm_head"]}, "`modules_to_save`"),
        ({"trainable_token_indices": [3]}, "`trainable_token_indices`"),
        ({"r": 600}, "this has 600"),
    ],
)
def test_adapters_that_it_can_not_serve_whole_are_refused(config, said):
    with pytest.raises(ModelError, match=said):
        served_rank({"peft_type": "LORA", "r": 8} | config)


def test_a_text_has_what_it_begins_with():
    said = SimpleNamespace(text=" on", finish_reason="length", token_ids=[5, 6])
    assert written(Request("a", "p", begins="So"), said, 3) == Written("a", "So on", True, 2, 3)
    said = SimpleNamespace(text="yes", finish_reason="stop", token_ids=[5])
    assert written(Request("a", "p"), said, 3) == Written("a", "yes", False, 1, 3)


def test_lengths_are_few():
    assert [rounded_up(n) for n in (1, 2, 3, 64, 65, 1000)] == [1, 2, 4, 64, 128, 1024]


def tree_of(module: str) -> ast.Module:
    """The source of a module of vLLM, which is not imported."""
    assert FOUND is not None
    place = Path(str(FOUND.origin)).parent.joinpath(*module.split(".")[1:])
    file = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
    return ast.parse(file.read_text(encoding="utf8"))


def home_of(name: str) -> str:
    """The module that a name of vLLM itself comes from, by the table that it loads its names from."""
    for node in ast.walk(tree_of("vllm")):
        if isinstance(node, ast.Dict) and any(isinstance(k, ast.Constant) and k.value == name for k in node.keys):
            (value,) = (v for k, v in zip(node.keys, node.values, strict=True) if ast.literal_eval(k) == name)
            module, _, attribute = ast.literal_eval(value).partition(":")
            assert attribute == name
            return defined_in(f"vllm{module}", name)
    raise AssertionError(f"vLLM has no {name}")


def defined_in(module: str, name: str) -> str:
    """The module that defines a name which another one may only hand on."""
    tree = tree_of(module)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module
        if isinstance(node, ast.ImportFrom) and any(one.name == name for one in node.names):
            inner = f"{module}.{node.module}" if node.level else str(node.module)
            return defined_in(inner, name)
    raise AssertionError(f"{module} has no {name}")


def class_of(module: str, name: str) -> ast.ClassDef:
    (found,) = (one for one in tree_of(module).body if isinstance(one, ast.ClassDef) and one.name == name)
    return found


def fields_of(found: ast.ClassDef) -> list[str]:
    return [one.target.id for one in found.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)]


def function_of(found: ast.ClassDef, name: str) -> ast.FunctionDef:
    (method,) = (
        one for one in found.body if isinstance(one, ast.FunctionDef) and one.name == name and not one.decorator_list
    )
    return method


def parameters(function: ast.FunctionDef) -> tuple[list[str], list[str]]:
    """Those that may be given by place, without self, and those by name alone."""
    return [one.arg for one in function.args.args][1:], [one.arg for one in function.args.kwonlyargs]


def calls() -> Iterator[tuple[str, int, list[str]]]:
    """What the back end calls of vLLM: the name, how many arguments by place, and those by name."""
    for node in ast.walk(ast.parse(inspect.getsource(vllm_writer))):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name in ("LLM", "SamplingParams", "TokensPrompt", "LoRARequest", "generate"):
                yield name, len(node.args), [one.arg for one in node.keywords if one.arg]


@needs_vllm
def test_every_call_is_one_that_vllm_takes():
    model = class_of(home_of("LLM"), "LLM")
    engine = fields_of(class_of(home_of("EngineArgs"), "EngineArgs"))
    seen = set()
    for name, by_place, by_name in calls():
        seen.add(name)
        if name == "LLM":
            # What the class does not name goes on to the arguments of the engine.
            places, names = parameters(function_of(model, "__init__"))
            names, given = [*names, *engine], [*by_name, "enable_lora", "max_lora_rank"]
        elif name == "generate":
            places, names = parameters(function_of(model, "generate"))
            given = by_name
        else:
            home = "vllm.lora.request" if name == "LoRARequest" else home_of(name)
            places, names, given = fields_of(class_of(home, name)), [], by_name
        assert by_place <= len(places), name
        assert set(given) <= {*places[by_place:], *names}, name
        if name == "LoRARequest":
            assert places[:3] == ["lora_name", "lora_int_id", "lora_path"]
        if name == "generate":
            assert places[:2] == ["prompts", "sampling_params"]
    assert seen == {"LLM", "SamplingParams", "TokensPrompt", "LoRARequest", "generate"}


@needs_vllm
def test_what_is_read_of_an_answer_is_in_it():
    outputs = home_of("RequestOutput")
    assert "self.outputs = outputs" in ast.unparse(function_of(class_of(outputs, "RequestOutput"), "__init__"))
    assert {"text", "token_ids", "finish_reason"} <= set(fields_of(class_of(outputs, "CompletionOutput")))


@needs_vllm
def test_ranks_and_refused_fields_are_those_of_vllm():
    (ranks,) = (
        node.value
        for node in ast.walk(tree_of("vllm.config.lora"))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MaxLoRARanks"
    )
    assert set(RANKS) <= set(ast.literal_eval(ast.unparse(ranks).removeprefix("Literal")))
    assert "VLLM_NO_USAGE_STATS" in {
        node.value for node in ast.walk(tree_of("vllm.envs")) if isinstance(node, ast.Constant)
    }
