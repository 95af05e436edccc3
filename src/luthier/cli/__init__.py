"""The command line: parses, calls, prints."""

from __future__ import annotations

from luthier.cli.arguments import main

__all__ = ["main"]
