"""One hash that changes when the data or its settings change, without loading the data."""

from __future__ import annotations

import hashlib
import json

from luthier.data.origins import plan
from luthier.data.settings import DataSettings
from luthier.data.sources import digest


def source_fingerprint(settings: DataSettings) -> str:
    """sha256, in hex, over the settings and the bytes of every file they name.

    A set on the Hub counts by its id, configuration and revision: pin the revision where that matters.

    Raises:
        DataError: a source can't be found or read.
    """
    parts: dict[str, object] = {"settings": settings.model_dump(mode="json")}
    for split, origin in plan(settings).items():
        if origin.hub is not None:
            parts[split] = [origin.hub.id, origin.hub.config, origin.hub.revision, origin.split]
        else:
            parts[split] = [digest(file) for file in origin.files] + [origin.split, origin.cut]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
