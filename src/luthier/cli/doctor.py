"""What this machine has: versions, accelerator, cores, memory, extras."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from luthier.extras import EXTRAS, how_to_install, is_installed
from luthier.storage.provenance import environment, version

if TYPE_CHECKING:
    from rich.console import RenderableType


def examine() -> RenderableType:
    """A table of what was found, with a hint where something is missing."""
    from rich.table import Table

    found = environment()
    table = Table("what", "found", "remark", box=None, pad_edge=False)
    table.add_row("luthier", found["luthier"], f"code {found['code']}")
    table.add_row("python", found["python"], found["system"])
    for name, installed in found["libraries"].items():
        table.add_row(name, installed or "missing", "" if installed else "reinstall luthier")
    table.add_row("processor", found["processor"], f"{found['cores']} cores, {found['threads']} threads used")
    table.add_row("memory", f"{found['memory_bytes'] / 1e9:.1f} GB", "")
    table.add_row(
        "accelerator",
        found["accelerator"] or "none",
        "" if found["accelerator"] else "training runs on the processor",
    )
    for extra, module in EXTRAS.items():
        there = is_installed(extra)
        table.add_row(
            f"extra {extra}",
            version(module) or "installed" if there else "not installed",
            "" if there else how_to_install(extra),
        )
    folder = os.environ.get("LUTHIER_DATA")
    table.add_row("LUTHIER_DATA", folder or "not set", "" if folder else "only data:SET sources need it")
    return table
