"""Checkpoints that stock PEFT and Luthier exchange, and ours in PEFT after `import luthier`; in fresh processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from luthier.models.adapter_files import attach_adapter
from luthier.models.artifacts import load_model
from luthier.tuning import load_trainable_prompt
from tests.methods.test_export import named, of_artifact, text, tuned
from tests.processes import python

STOCK: list[dict[str, Any]] = [
    {"name": "lora"},
    {"name": "prompt", "length": 3},
    {"name": "p_tuning", "length": 3},
    {"name": "prefix", "length": 3},
    {"name": "prefix", "length": 3, "projection": True},
]
OURS = [{"name": name} for name in ("residual_prompt", "idpg", "unipelt", "bottleneck", "task_prefix")]
LOAD = """
import sys, torch
{first}
from peft import PeftModel
from transformers import AutoModelForSequenceClassification as Auto
{then}
for folder in sys.argv[1:]:
    plain = Auto.from_pretrained(folder + "/base", num_labels=2)
    model = PeftModel.from_pretrained(plain, folder + "/run/00-tune/model", is_trainable={trainable})
    with torch.no_grad():
        torch.save(model.eval()(**torch.load(folder + "/batch.pt")).logits, folder + "/logits.pt")
    assert not {trainable} or any(p.requires_grad for p in model.parameters())
"""
WITHOUT = "assert not any(name.startswith('luthier') for name in sys.modules)"
WRITE = """
import sys, torch, peft
from transformers import AutoModelForSequenceClassification as Auto
base, adapter, batch, out, name = sys.argv[1:]
configs = {
    "lora": lambda: peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query"], init_lora_weights=False),
    "prompt": lambda: peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3),
    "p_tuning": lambda: peft.PromptEncoderConfig(task_type="SEQ_CLS", num_virtual_tokens=3, encoder_hidden_size=8),
    "prefix": lambda: peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3),
}
torch.manual_seed(4)
model = peft.get_peft_model(Auto.from_pretrained(base, num_labels=2), configs[name]()).eval()
with torch.no_grad():
    torch.save(model(**torch.load(batch)).logits, out)
model.save_pretrained(adapter)
assert not any(name.startswith('luthier') for name in sys.modules)
"""


def fresh(code: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    """Code in a process that has imported nothing."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def saved(folder: Path, method: dict[str, Any]) -> Path:
    """A folder with a base model, an adapter for it and a batch."""
    folder.mkdir(exist_ok=True)
    tuned(folder, "sequence_classification", method)
    torch.save(text(folder / "base"), folder / "batch.pt")
    return folder


def check_logits(folder: Path) -> None:
    """Those that PEFT gave in another process are ours."""
    expected = of_artifact(folder / "run" / "00-tune" / "model", **text(folder / "base"))
    torch.testing.assert_close(torch.load(folder / "logits.pt"), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", STOCK, ids=named)
def test_stock_peft_loads_what_we_saved(method: dict[str, Any], tmp_path: Path):
    code = LOAD.format(first="", then="", trainable=method["name"] == "lora") + WITHOUT
    done = python("-c", code, saved(tmp_path, method))
    assert done.returncode == 0, done.stderr
    check_logits(tmp_path)


@pytest.mark.parametrize("name", ["lora", "prompt", "p_tuning", "prefix"])
def test_we_load_what_stock_peft_saved_and_train_it_on(name: str, tmp_path: Path):
    from tests.models.builders import BERT_TOKENS, bert_config, save_tiny

    base = save_tiny("BertForSequenceClassification", bert_config(), tmp_path / "base", **BERT_TOKENS)
    batch = text(base)
    torch.save(batch, tmp_path / "batch.pt")
    done = python("-c", WRITE, base, tmp_path / "adapter", tmp_path / "batch.pt", tmp_path / "logits.pt", name)
    assert done.returncode == 0, done.stderr
    expected = torch.load(tmp_path / "logits.pt")
    ours = attach_adapter(load_model(str(base), "sequence_classification", num_labels=2), tmp_path / "adapter")
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    if name == "lora":
        trained: Any = PeftModel.from_pretrained(plain, tmp_path / "adapter", is_trainable=True)
    else:
        trained = load_trainable_prompt(plain, tmp_path / "adapter")
    for model in (ours, trained.eval()):
        with torch.no_grad():
            torch.testing.assert_close(model(**batch).logits, expected, atol=1e-6, rtol=1e-5)
    trained(**batch, labels=torch.tensor([1])).loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.parameters())


@pytest.mark.parametrize("trainable", [False, True])
def test_peft_loads_ours_after_the_import(trainable: bool, tmp_path: Path):
    """Trainable, when PEFT is imported behind us, too."""
    first, then = ("import luthier", "") if trainable else ("", "import luthier")
    folders = [tmp_path / method["name"] for method in OURS]
    for folder, method in zip(folders, OURS, strict=True):
        saved(folder, method)
    done = fresh(LOAD.format(first=first, then=then, trainable=trainable), *folders)
    assert done.returncode == 0, done.stderr
    for folder in folders:
        check_logits(folder)


def test_the_import_alone_imports_nothing_heavy_and_leaves_other_adapters_to_peft(tmp_path: Path):
    code = (
        "import sys, luthier\n"
        "assert not {'torch', 'peft', 'transformers'} & set(sys.modules)\n"
        "import peft\n"
        "assert 'luthier.tuning' not in sys.modules\n"
        "peft.LoraConfig(r=2).save_pretrained(sys.argv[1])\n"
        "assert peft.PeftConfig.from_pretrained(sys.argv[1]).r == 2\n"
        "assert not [name for name in sys.modules if name.startswith('luthier.tuning')]\n"
        "import json, pathlib\n"
        "pathlib.Path(sys.argv[1], 'adapter_config.json').write_text(json.dumps({'peft_type': 'NONE_SUCH'}))\n"
        "try:\n"
        "    peft.PeftConfig.from_pretrained(sys.argv[1])\n"
        "except KeyError as error:\n"
        "    assert 'NONE_SUCH' in str(error)\n"
        "else:\n"
        "    raise SystemExit('no error')\n"
    )
    done = fresh(code, tmp_path / "adapter")
    assert done.returncode == 0, done.stderr
