"""The tiny model that writes in the tests of red-teaming."""

from __future__ import annotations

from tests.redteaming.conftest import speaker

__all__ = ["speaker"]
