"""Where a model comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        kind: `artifact` is a directory that Luthier saved.
        path: the folder with its files; None for a hub id.
        gguf_file: name of the GGUF file in `path` that holds the weights; None where they are safetensors.
        reference: as the user wrote it.
    """

    kind: Literal["hub", "directory", "package", "artifact"]
    reference: str
    path: Path | None = None
    hub_id: str | None = None
    revision: str | None = None
    gguf_file: str | None = None

    @property
    def portable(self) -> str:
        """A reference that, with `gguf_file`, finds the same model from any working directory."""
        if self.kind == "hub":
            return f"{self.hub_id}@{self.revision}" if self.revision else str(self.hub_id)
        return self.reference if self.kind == "package" else str(self.path)
