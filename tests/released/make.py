"""Makes the fixtures of one format version with the code of the revision it is run in.

python -m tests.released.make v1
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HEADS = {
    "sequence_classification": "AutoModelForSequenceClassification",
    "causal_lm": "AutoModelForCausalLM",
    "seq2seq_lm": "AutoModelForSeq2SeqLM",
}
TUNED: dict[str, dict[str, Any]] = {
    "full": {"name": "full"},
    "head_only": {"name": "head_only"},
    "bitfit": {"name": "bitfit"},
    "lora": {"name": "lora", "rank": 2},
    "lora-dora": {"name": "lora", "rank": 2, "target_modules": "all-linear", "dora": True},
    "ia3": {"name": "ia3"},
    "prompt": {"name": "prompt", "length": 3},
    "p_tuning": {"name": "p_tuning", "length": 3},
    "prefix": {"name": "prefix", "length": 3},
    "prefix-projection": {"name": "prefix", "length": 3, "projection": True},
    "residual_prompt": {"name": "residual_prompt", "length": 3, "bottleneck": 8},
    "residual_prompt-transformer": {
        "name": "residual_prompt",
        "length": 3,
        "reparameterizer": "transformer",
        "bottleneck": 8,
    },
    "idpg": {"name": "idpg", "length": 2, "bottleneck": 8},
    "idpg-key_value": {"name": "idpg", "length": 2, "bottleneck": 8, "generator": "dnn", "insertion": "key_value"},
    "bottleneck": {"name": "bottleneck", "bottleneck": 4},
    "unipelt": {"name": "unipelt", "prefix_length": 3, "prefix_projection_width": 8, "lora_rank": 2},
    "unipelt-ungated": {"name": "unipelt", "parts": ["lora", "bitfit"], "gates": "none", "lora_rank": 2},
    "task_prefix": {"name": "task_prefix", "prefix_length": 3},
    "task_prefix-projection": {
        "name": "task_prefix",
        "prefix_length": 3,
        "projection": True,
        "projection_width": 8,
        "layers": [1],
    },
    "peft": {"name": "peft", "peft_type": "LOHA", "settings": {"r": 2}},
}
SAVED_BY_PEFT: dict[str, dict[str, Any]] = {
    "ResidualPromptConfig": {"num_virtual_tokens": 3, "bottleneck": 8},
    "InstancePromptConfig": {"prompt_length": 2, "bottleneck": 8, "phm_order": 4},
    "UniPELTConfig": {"prefix_length": 3, "prefix_projection_width": 8, "lora_rank": 2},
    "BottleneckConfig": {"bottleneck": 4},
    "TaskPrefixConfig": {"prefix_length": 3},
}
KINDS = {
    "bert": ("SEQ_CLS", "sequence_classification"),
    "llama": ("CAUSAL_LM", "causal_lm"),
    "t5": ("SEQ_2_SEQ_LM", "seq2seq_lm"),
}
EXPORTED = ("prompt", "p_tuning", "residual_prompt", "prefix", "task_prefix")


def main(version: str) -> None:
    target = HERE / version
    if target.exists():
        raise SystemExit(f"{target} is there already: fixtures that were made are never made again")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["LUTHIER_CACHE"] = f"{scratch}/cache"
        root = Path(scratch).resolve() / "work"
        for folder in ("bases", "adapters", "runs"):
            (root / folder).mkdir(parents=True)
        os.chdir(root)
        index = _make(root)
        target.mkdir()
        from tests.released.archive import pack

        for parts in (["bases", "data"], ["adapters"], ["runs"]):
            pack(root, parts, target / f"{parts[0]}.tar.gz")
        (target / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf8")
    print({path.name: path.stat().st_size for path in sorted(target.iterdir())})


def _make(root: Path) -> dict[str, Any]:
    from safetensors.torch import save_file

    from tests.released import tiny
    from tests.released.archive import make_portable
    from tests.released.reading import command, logits_of
    from tests.released.runs import make_runs, record_runs

    tiny.save_bases(root / "bases")
    tiny.save_data(root / "data")
    adapters = _tuned() | _saved_by_peft()
    runs = make_runs()
    make_portable(root)
    for name in EXPORTED:
        command("export", f"adapters/{name}", "--to", f"adapters/{name}.exported.safetensors")
    expected = {name: logits_of(f"adapters/{name}", about) for name, about in adapters.items()}
    alike = [name for name, logits in expected.items() if logits.std(0).max() < 1e-3]
    if alike:
        raise ValueError(f"these give every text the same logits: {', '.join(alike)}")
    save_file({name: logits.contiguous() for name, logits in expected.items()}, "adapters/expected.safetensors")
    record_runs(runs)
    return {"adapters": adapters, "runs": runs}


def _tuned() -> dict[str, dict[str, Any]]:
    """Every method as a `tune` stage saves it, some also folded or exported."""
    from luthier.tuning import fold_prompt
    from tests.released.runs import run, tune

    adapters = {}
    for name, method in TUNED.items():
        folder = run(f"tuned-{name}", "bert", [tune("single_sentence", method)])
        model = Path("adapters") / name
        (folder / "00-tune" / "model").rename(model)
        adapters[name] = _about("bert", model)
    name = "residual_prompt-folded"
    fold_prompt("adapters/residual_prompt", f"adapters/{name}")
    adapters[name] = _about("bert", Path("adapters") / name)
    shutil.rmtree("tuned")
    return adapters


def _saved_by_peft() -> dict[str, dict[str, Any]]:
    """Every PEFT configuration of Luthier's own on every kind of model, as PEFT saves it."""
    import peft
    import torch
    import transformers

    import luthier.tuning

    adapters = {}
    for config_name, settings in SAVED_BY_PEFT.items():
        for kind, (task_type, head) in KINDS.items():
            torch.manual_seed(3)
            base = getattr(transformers, HEADS[head]).from_pretrained(f"bases/{kind}")
            config = getattr(luthier.tuning, config_name)(task_type=task_type, **settings)
            model = peft.get_peft_model(base, config)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.add_(torch.randn_like(parameter), alpha=0.1)
            name = f"peft-{config_name}-{kind}"
            model.save_pretrained(f"adapters/{name}")
            (Path("adapters") / name / "README.md").unlink(missing_ok=True)
            adapters[name] = _about(kind, Path("adapters") / name, head)
    return adapters


def _about(kind: str, folder: Path, head: str = "sequence_classification") -> dict[str, Any]:
    is_adapter = (folder / "adapter_config.json").is_file()
    return {"base": f"bases/{kind}", "auto_class": HEADS[head], "adapter": is_adapter}


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[1]))
    main(sys.argv[1])
