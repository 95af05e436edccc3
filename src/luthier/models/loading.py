"""Loading tokenizers and models, after the checks of `luthier.models.safety`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import ModelError
from luthier.extras import is_installed
from luthier.models.adapters import base_settings, is_adapter
from luthier.models.card import CARD, read_card
from luthier.models.gguf import gguf_read_well
from luthier.models.head_kinds import Head
from luthier.models.heads import HeadRequest, auto_class, know_model_type, output_names
from luthier.models.inspect import is_decoder, is_encoder_decoder
from luthier.models.manifest import verify_manifest, verify_package_files
from luthier.models.native_encoder import PIPELINE_FILE
from luthier.models.quiet import quiet_transformers
from luthier.models.references import check_model_unchanged, model_name, resolve
from luthier.models.safety import check_configs, check_model_folder
from luthier.models.settings import ModelSettings
from luthier.models.source import ModelSource
from luthier.models.tensors import read_json
from luthier.models.weights import account_for, draw_head_anew, refuse_non_finite
from luthier.storage.one_version import read_once

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)
# The largest vocabulary of a tokenizer that a run keeps a copy of.
_MOST_KEPT = 300_000
# A letter of a script that hardly any vocabulary has: an Egyptian hieroglyph, which no normaliser takes away.
_RARE = "\U00013000"


def load_tokenizer(settings: ModelSettings | str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a padding token: one without gets its end-of-text token for padding.

    Raises:
        ModelError: there is none, it is refused for safety, or nothing can serve for padding.
    """
    settings = ModelSettings.model_validate(settings)
    source = resolve(settings)
    folder = _checked_folder(source, settings)
    return _read_once("tokenizer", source, settings, lambda: _read_tokenizer(source, folder, settings), _is_small)


def _read_tokenizer(source: ModelSource, folder: Path, settings: ModelSettings) -> PreTrainedTokenizerBase:

    if source.gguf_file is None and not _has_tokenizer(folder):
        raise ModelError(
            "the model comes without a tokenizer",
            where=str(folder),
            fix="put its tokenizer.json beside config.json",
        )
    options = _options(source, settings)
    try:
        with _reading(source):
            tokenizer = translate(lambda: tokenizer_in(folder, **options), source, "the tokenizer can't be read")
    except ModelError:
        if (folder / "tokenizer.json").is_file():
            read_json(folder / "tokenizer.json")  # says which line is no JSON
        raise
    limit = tokenizer.model_max_length
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        raise ModelError(
            f"`model_max_length` is {str(limit)[:80]!r}, which is no number",
            where=str(folder / "tokenizer_config.json"),
            fix="write the longest text in tokens, or take the key out",
        )
    _give_padding(tokenizer, source)
    _refuse_panicking(tokenizer, folder)
    return tokenizer


def tokenizer_in(folder: Path, **options: Any) -> Any:
    """The tokenizer of a folder as transformers reads it, with SentencePiece underneath where the folder has it so.

    Args:
        folder: with the files of a tokenizer.
        options: of `AutoTokenizer.from_pretrained`.
    """
    from transformers import AutoTokenizer

    if (folder / PIPELINE_FILE).is_file():
        from luthier.models import native_tokenizer  # noqa: F401
    return AutoTokenizer.from_pretrained(str(folder), **{"local_files_only": True, **options})


def load_config(settings: ModelSettings | str) -> PreTrainedConfig:
    """The configuration of a model, for a saved adapter that of its base; no weights are read or fetched.

    Raises:
        ModelError: it is not found, damaged, or refused for safety.
    """
    source, settings = without_adapter(ModelSettings.model_validate(settings))
    return _config(source, _checked_folder(source, settings), settings)


def load_plain_model(source: ModelSource, settings: ModelSettings, request: HeadRequest, seed: int = 0) -> Any:
    """`luthier.models.artifacts.load_model` for everything but a saved adapter."""
    folder = local_folder(source, settings)
    _verify_origin(source, folder)
    return read_model(source, folder, settings, request, seed)


def read_model(source: ModelSource, folder: Path, settings: ModelSettings, request: HeadRequest, seed: int = 0) -> Any:
    """Check a local model folder and read the model in it."""
    _check_folder(source, folder, settings)
    config = _config(source, folder, settings)
    saved = output_names(config)
    config = request.configure(config, source)
    try:
        model, info = _read_weights(source, folder, settings, request.head, config, seed)
        account_for(model, info, source)
        if saved is not None and request.differs_from(saved) and not model.luthier_new_parameters:
            draw_head_anew(model, seed, source, saved)
        refuse_non_finite(model, source)
    finally:
        check_model_unchanged(source, folder)
    _set_padding(model, settings)
    return model.eval()


def empty_model(
    settings: ModelSettings | str,
    head: Head,
    *,
    num_labels: int | None = None,
    labels: list[str] | None = None,
    regression: bool = False,
    config_overrides: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """The model that `load_model` would give, on the meta device: every shape, no numbers, no weights read.

    Raises:
        ModelError: as `load_model`, as far as the configuration shows it.
    """
    import torch

    source, settings = without_adapter(ModelSettings.model_validate(settings))
    request = HeadRequest(head, num_labels, labels, regression, config_overrides)
    folder = _checked_folder(source, settings)
    if source.path is not None:  # what is here already is refused now, not when the weights are read
        _verify_origin(source, folder)
        _check_folder(source, folder, settings)
    config = request.configure(_config(source, folder, settings), source)
    options = {"dtype": _dtype(settings), **_attention(settings)}
    if options["dtype"] == "auto":
        options["dtype"] = config.dtype or torch.float32
    with torch.device("meta"):
        return translate(
            lambda: auto_class(head).from_config(config, **options), source, "the model can't be built from config.json"
        )


def local_folder(source: ModelSource, settings: ModelSettings, *, weights: bool = True) -> Path:
    """Folder with the model's files; a hub model is checked and fetched first."""
    if source.path is not None:
        return source.path
    from luthier.models.hub import fetch

    return fetch(source, settings.allow, weights=weights)


def translate(action: Callable[[], Any], source: ModelSource, what: str) -> Any:
    """Run a loading step quietly; whatever a library raises becomes one sentence that names the model."""
    try:
        with quiet_transformers():
            return action()
    except ModelError:
        raise
    except MemoryError as error:
        raise ModelError(
            "the model does not fit into memory",
            where=source.reference,
            fix="use `dtype: bfloat16`, or a smaller model",
        ) from error
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        fix = "check that the folder is whole and of a kind that transformers supports"
        raise ModelError(f"{what}: {reason}", where=str(source.path or source.reference), fix=fix) from error


def without_adapter(settings: ModelSettings) -> tuple[ModelSource, ModelSettings]:
    """The model itself, or the base of a saved adapter.

    Raises:
        ModelError: the base of an adapter is the adapter itself, be it by way of others.
    """
    passed = set()
    while (source := resolve(settings)).kind == "artifact":
        folder = local_folder(source, settings)
        if not is_adapter(folder):
            break
        if folder in passed:
            raise ModelError(
                "the adapter is its own base", where=str(folder / CARD), fix="restore the file from a copy"
            )
        passed.add(folder)
        settings = base_settings(read_card(folder), settings)
    return source, settings


def _check_folder(source: ModelSource, folder: Path, settings: ModelSettings) -> None:
    contained = source.kind != "package"  # an installer may link a package's files into its own store
    check_model_folder(folder, allow=settings.allow, gguf_file=source.gguf_file, contained=contained)


def _checked_folder(source: ModelSource, settings: ModelSettings) -> Path:
    folder = local_folder(source, settings, weights=False)
    check_configs(folder, settings.allow)
    return folder


def _has_tokenizer(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in ("tokenizer*", "vocab*", "*.model", "*.spm", "*.tiktoken"))


def _verify_origin(source: ModelSource, folder: Path) -> None:
    if source.kind == "artifact":
        verify_manifest(folder)
    elif source.kind == "package":
        verify_package_files(folder, source)
    elif (folder / "adapter_config.json").is_file():
        raise ModelError(
            "the folder holds a PEFT adapter, not a model by itself",
            where=str(folder),
            fix="name its base model here, and load the adapter on top of it",
        )


def _options(source: ModelSource, settings: ModelSettings) -> dict[str, Any]:
    options: dict[str, Any] = {"trust_remote_code": "remote_code" in settings.allow, "local_files_only": True}
    if source.gguf_file:
        _require_gguf(source.reference)
        options["gguf_file"] = source.gguf_file
    return options


def _reading(source: ModelSource) -> AbstractContextManager[None]:
    return gguf_read_well() if source.gguf_file else nullcontext()


def _is_small(tokenizer: PreTrainedTokenizerBase) -> bool:
    return len(tokenizer) <= _MOST_KEPT


def _read_once(
    what: str, source: ModelSource, settings: ModelSettings, read: Callable[[], Any], keep: Callable[[Any], bool]
) -> Any:
    """What was read of a model that no stage makes, once a run: a GGUF file is parsed whole for each part of it."""
    if source.kind == "artifact" or settings.allow:
        return read()
    return read_once(f"{what} of {model_name(source)}", read, keep=keep)


def _config(source: ModelSource, folder: Path, settings: ModelSettings) -> Any:
    return _read_once("config", source, settings, lambda: _read_config(source, folder, settings), lambda _: True)


def _read_config(source: ModelSource, folder: Path, settings: ModelSettings) -> Any:
    from transformers import AutoConfig

    options = _options(source, settings)
    if source.gguf_file is None and not (folder / "config.json").is_file():
        raise ModelError("config.json is missing", where=str(folder), fix="copy or download the model again")
    if source.gguf_file is None:
        know_model_type(read_json(folder / "config.json").get("model_type"))
    with _reading(source):
        config = translate(
            lambda: AutoConfig.from_pretrained(str(folder), **options), source, "the configuration can't be read"
        )
    # A file does not choose the attention code: transformers may download what is named there.
    config._attn_implementation = None
    config._experts_implementation = None
    return config


def _dtype(settings: ModelSettings) -> Any:
    import torch

    return "auto" if settings.dtype == "auto" else getattr(torch, settings.dtype)


def _attention(settings: ModelSettings) -> dict[str, Any]:
    """The attention argument. What is not installed is refused here, since transformers would fetch it."""
    name = settings.attention
    if name == "auto":
        return {}
    if name.startswith("flash_attention"):
        from transformers import utils

        if not getattr(utils, f"is_flash_attn_{name[-1]}_available")():
            raise ModelError(
                f"`attention: {name}` needs the package flash-attn and a GPU that it supports",
                where=settings.reference,
                fix="install it, or use `attention: sdpa`",
            )
    return {"attn_implementation": name}


def _read_weights(
    source: ModelSource, folder: Path, settings: ModelSettings, head: Head, config: Any, seed: int
) -> tuple[Any, dict[str, Any]]:
    import torch

    options = {
        "config": config,
        "dtype": _dtype(settings),
        **_options(source, settings),
        **_attention(settings),
    }
    if source.gguf_file:
        from transformers import GgufConfig

        options["quantization_config"] = GgufConfig(dequantize=True)
    else:
        options["use_safetensors"] = any(folder.glob("*.safetensors"))

    def read() -> Any:
        with _reading(source):
            return auto_class(head).from_pretrained(
                str(folder), output_loading_info=True, ignore_mismatched_sizes=True, **options
            )

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return translate(read, source, "the weights can't be read")


def _set_padding(model: Any, settings: ModelSettings) -> None:
    """Decoders often name no padding token; heads and batched generation need one."""
    config = model.config
    if getattr(config, "pad_token_id", None) is not None or not (is_decoder(config) or is_encoder_decoder(config)):
        return
    source = resolve(settings)
    if source.gguf_file or _has_tokenizer(local_folder(source, settings)):
        config.pad_token_id = load_tokenizer(settings).pad_token_id
    else:
        end = getattr(config, "eos_token_id", None)
        config.pad_token_id = end[0] if isinstance(end, list) else end
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = config.pad_token_id


def _give_padding(tokenizer: Any, source: ModelSource) -> None:
    if tokenizer.pad_token_id is not None:
        return
    if tokenizer.eos_token is None:
        raise ModelError(
            "the tokenizer has no padding token, and no end-of-text token that could serve as one",
            where=str(source.path or source.reference),
            fix='add `"pad_token": "…"` with a token of its vocabulary to tokenizer_config.json',
        )
    tokenizer.pad_token = tokenizer.eos_token
    log.info("%s: the tokenizer has no padding token; %r serves as one", source.reference, tokenizer.eos_token)


def _refuse_panicking(tokenizer: Any, folder: Path) -> None:
    """A tokenizer whose parts do not fit one another is read without a complaint; where it meets a text, its library
    panics, which is no `Exception`, and where it meets a letter that it does not know, it may lack a token for it."""
    for what, texts, fix in (
        ("can't be used", ("a",), ""),
        ("can't be used", ("a", "a"), ""),
        ("can't cut letters that it does not know", (_RARE,), ", or name an unknown token that its vocabulary has"),
    ):
        try:
            tokenizer(*texts)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            raise ModelError(
                f"the tokenizer {what}: {error}",
                where=str(folder),
                fix=f"copy or download tokenizer.json again{fix}",
            ) from error


def _require_gguf(where: str) -> None:
    if not is_installed("gguf"):
        raise ModelError("reading GGUF files needs the package gguf", where=where, fix="pip install 'luthier[gguf]'")
