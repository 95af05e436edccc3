"""`${env:NAME}` in recipes: filled in from the environment when a stage runs, and never written anywhere."""

from __future__ import annotations

import os
import re
from typing import Any

from luthier.errors import RecipeError

_PATTERN = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
_known: set[str] = set()
HIDDEN = "•••"


def references(value: Any) -> set[str]:
    """Names of the environment variables that a recipe value refers to."""
    if isinstance(value, str):
        return set(_PATTERN.findall(value))
    if isinstance(value, dict):
        return set().union(*(references(v) for v in value.values()), set())
    if isinstance(value, list | tuple):
        return set().union(*(references(v) for v in value), set())
    return set()


def expand(value: Any) -> Any:
    """The value with every reference replaced; the replaced texts are hidden by `redact` from then on.

    Raises:
        RecipeError: a variable is not set.
    """
    if isinstance(value, str):
        return _PATTERN.sub(_lookup, value)
    if isinstance(value, dict):
        return {k: expand(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(expand(v) for v in value)
    return value


def redact(text: str) -> str:
    """The text with every secret that was used in this process blotted out."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _lookup(match: re.Match[str]) -> str:
    name = match[1]
    secret = os.environ.get(name)
    if not secret:
        raise RecipeError(f"the environment variable {name} is not set", fix=f"export {name}=… before running")
    _known.add(secret)
    return secret
