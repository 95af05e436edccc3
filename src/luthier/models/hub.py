"""Models on the Hugging Face Hub: looked at before they are fetched, then used like any local folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

from luthier.errors import ModelError, WorkspaceError
from luthier.models.safety import CONFIG_FILES, PICKLES, check_configs, check_weight_names
from luthier.models.source import ModelSource
from luthier.storage.files import disk_failure, fix_of

T = TypeVar("T")

_TEXT_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.spm", "*.tiktoken"]


def commit_of(source: ModelSource) -> str:
    """The commit that the revision of a hub id stands for: asked of the Hub, or, offline, of the local cache.

    Raises:
        ModelError: neither knows.
    """
    from huggingface_hub import HfApi, constants

    snapshot = _cached_snapshot(source)
    if snapshot is not None and (constants.is_offline_mode() or source.revision == snapshot.name):
        return snapshot.name
    return str(_ask(source, lambda: HfApi().model_info(_id(source), revision=source.revision).sha))


def fetch(source: ModelSource, allow: tuple[str, ...] = (), *, weights: bool = True) -> Path:
    """Folder with a hub model's files. Configs come first and are checked before anything else is fetched.

    Raises:
        ModelError: it is not found, can't be reached, or is refused for safety.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    cached = _cached_snapshot(source)
    if constants.is_offline_mode():
        if cached is None:
            raise _offline(source)
        return cached
    info = _ask(source, lambda: HfApi().model_info(_id(source), revision=source.revision))
    names = [sibling.rfilename for sibling in info.siblings or [] if "/" not in sibling.rfilename]
    gguf = [source.gguf_file] if source.gguf_file else []
    if weights and not gguf:
        check_weight_names(names, source.reference, allow)
    only_pickles = not any(name.endswith(".safetensors") for name in names)
    formats = [f"*{ending}" for ending in PICKLES] if only_pickles else ["*.safetensors"]
    python = ["*.py"] if "remote_code" in allow else []
    wanted = [*_TEXT_FILES, *python, *(gguf or (formats if weights else []))]
    if cached is not None and cached.name == info.sha and _holds(cached, names, wanted):
        return cached

    def download(patterns: list[str]) -> Path:
        return Path(
            _ask(
                source,
                lambda: snapshot_download(
                    _id(source), revision=info.sha, allow_patterns=patterns, ignore_patterns=["*/*"]
                ),
            )
        )

    folder = download(list(CONFIG_FILES))
    check_configs(folder, allow)
    return download(wanted)


def _holds(folder: Path, names: list[str], patterns: list[str]) -> bool:
    """Whether all files that are wanted are there: a download that was stopped leaves some."""
    return all((folder / name).is_file() for name in names if any(fnmatch(name, pattern) for pattern in patterns))


def _id(source: ModelSource) -> str:
    return str(source.hub_id)


def _cached_snapshot(source: ModelSource) -> Path | None:
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE) / f"models--{_id(source).replace('/', '--')}"
    revision = source.revision or "main"
    if ".." in revision.split("/") or revision.startswith("/"):
        raise ModelError("that is no revision", where=source.reference, fix="name a branch, a tag or a commit")
    reference = repository / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    snapshot = repository / "snapshots" / commit
    return snapshot if (snapshot / (source.gguf_file or "config.json")).is_file() else None


def _ask(source: ModelSource, question: Callable[[], T]) -> T:
    """Put a question to the Hub; what goes wrong becomes one sentence."""
    from huggingface_hub import errors

    try:
        return question()
    except errors.GatedRepoError as error:
        fix = "accept its terms on its page, then set HF_TOKEN"
        raise ModelError(
            "the model is gated and your account has no access", where=source.reference, fix=fix
        ) from error
    except errors.RevisionNotFoundError as error:
        fix = "name a branch, a tag or a commit that exists"
        raise ModelError(f"the model has no revision {source.revision!r}", where=source.reference, fix=fix) from error
    except errors.RepositoryNotFoundError as error:
        fix = "check the spelling of `org/name`, or of the directory; for a private model set HF_TOKEN"
        raise ModelError(
            "there is no such model on the Hub, nor such a directory", where=source.reference, fix=fix
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise _offline(source) from error
    except Exception as error:
        if (failure := disk_failure(error)) is not None:
            raise _no_space(source, failure) from error
        reason = str(error).strip().splitlines()
        fix = "check the connection, or download the model elsewhere and give its directory"
        what = f"the Hub can't be reached: {reason[0] if reason else type(error).__name__}"
        raise ModelError(what, where=source.reference, fix=fix) from error


def _no_space(source: ModelSource, failure: OSError) -> WorkspaceError:
    from huggingface_hub.constants import HF_HUB_CACHE

    return WorkspaceError(
        f"the files of {source.reference} can't be kept: {failure.strerror or failure}",
        where=HF_HUB_CACHE,
        fix=fix_of(failure, "folder in HF_HUB_CACHE"),
    )


def _offline(source: ModelSource) -> ModelError:
    name = "HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "offline mode"
    return ModelError(
        f"there is no such directory, the model is not in the local cache, and {name} forbids fetching it",
        where=source.reference,
        fix="fetch it once with a connection, or give a directory or `package:NAME` that is on this machine",
    )
