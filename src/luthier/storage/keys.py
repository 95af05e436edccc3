"""The one key of results: a digest over everything that they depend on."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel

from luthier.settings import Settings


def digest_of(content: Any) -> str:
    """SHA-256, in hex, over data of JSON's types and settings; the order of a mapping's keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.model_dump(mode="json", exclude=value.outside_keys())
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"a key can't be made of {type(value).__name__}")
