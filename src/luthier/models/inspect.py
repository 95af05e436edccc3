"""Facts about a model: its parameters, its embeddings, how long a text it takes, and its size on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

_POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length")
_RELATIVE_POSITIONS = frozenset(
    {"t5", "mt5", "umt5", "switch_transformers", "longt5", "bloom", "mpt", "xlnet", "mamba"}
)
_POSITIONS_AFTER_PADDING = frozenset(
    {
        "roberta",
        "xlm-roberta",
        "xlm-roberta-xl",
        "camembert",
        "roberta-prelayernorm",
        "longformer",
        "data2vec-text",
        "ibert",
        "mpnet",
        "xmod",
        "esm",
        "luke",
        "lilt",
        "layoutlmv3",
        "markuplm",
    }
)
_NO_LIMIT = 10_000_000


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """Trainable and total parameters; a tensor that is used twice is counted once."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


def base_of(model: Any) -> Any:
    """The transformers model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def ends_of(model: Any) -> frozenset[int]:
    """The tokens at which a model ends a text, by its settings of generation."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = named if isinstance(named, list | tuple) else [named]
    return frozenset(int(one) for one in found if one is not None)


def is_of_choices(model: Any) -> bool:
    """Whether a model, with or without an adapter around it, picks one of a row's choices."""
    return type(base_of(model)).__name__.endswith("ForMultipleChoice")


def text_embeddings(model: Any) -> nn.Embedding:
    """The token embedding table, of shape (vocabulary, hidden), with or without an adapter around it.

    Raises:
        ModelError: the model has none.
    """
    from torch import nn

    found = input_embeddings(base_of(model))
    found = getattr(found, "original_module", found)
    found = getattr(found, "base_layer", found)
    if not isinstance(found, nn.Embedding):
        raise ModelError(f"{type(model).__name__} has no token embedding table that could be found")
    return found


def table_width(model: Any) -> int | None:
    """Width of the token embeddings; None where the model has no table of them, as CANINE has none."""
    width = getattr(input_embeddings(model), "embedding_dim", None)
    return width if isinstance(width, int) else None


def input_embeddings(model: Any) -> Any:
    """The module that turns token ids into vectors; None where the model has no single one."""
    try:
        return model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    except NotImplementedError:
        return None


def is_encoder_decoder(config: Any) -> bool:
    """Whether the model has an encoder and a decoder, as T5 and BART do."""
    return bool(getattr(config, "is_encoder_decoder", False))


def is_decoder(config: Any) -> bool:
    """Whether the model is a decoder alone, as GPT-2 and Llama are."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    if is_encoder_decoder(config):
        return False
    if getattr(config, "is_decoder", False):
        return True
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING


def language_head(config: Any) -> str:
    """The language-model head that a model of this configuration takes by its type: `causal_lm`, `seq2seq_lm`,
    `masked_lm`, or empty where it takes none."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    if is_encoder_decoder(config):
        return "seq2seq_lm"
    if is_decoder(config):
        return "causal_lm"
    return "masked_lm" if type(config) in MODEL_FOR_MASKED_LM_MAPPING else ""


def model_max_length(config: Any, tokenizer: Any = None) -> int | None:
    """The longest text, in tokens with the special ones, that the model takes; None where nothing limits it.

    The number of positions counts, less those that RoBERTa-like models keep for padding. A tokenizer's own
    limit counts only where it is smaller; its "no limit" (a huge number) and -1 are ignored.
    """
    limits = [_position_limit(config)]
    if tokenizer is not None:
        limits.append(_sane(getattr(tokenizer, "model_max_length", None)))
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def _position_limit(config: Any) -> int | None:
    kind = getattr(config, "model_type", "")
    if kind in _RELATIVE_POSITIONS:
        return None
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in _POSITIONS:
        limit = _sane(getattr(text, name, None))
        if limit is not None:
            break
    else:
        return None
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") == "dynamic":
        limit = int(limit * float(rope.get("factor") or 1))  # its positions are those of before it was lengthened
    return limit - first_position(config)


def first_position(config: Any) -> int:
    """The position of a text's first token: RoBERTa-like models count from behind the one that padding has."""
    if getattr(config, "model_type", "") not in _POSITIONS_AFTER_PADDING:
        return 0
    padding = getattr(config, "pad_token_id", None)
    return (1 if padding is None else padding) + 1


def _sane(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and 0 < value < _NO_LIMIT else None


def bytes_on_disk(directory: str | Path) -> int:
    """Bytes of all files in a directory and below it."""
    return sum(path.stat().st_size for path in Path(directory).rglob("*") if path.is_file())
