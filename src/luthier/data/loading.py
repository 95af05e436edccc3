"""From the data block of a recipe to checked examples in canonical columns."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.data.schemas import TrainedOn
from luthier.data.settings import SPLITS, DataSettings
from luthier.data.sources.fingerprint import source_fingerprint
from luthier.data.sources.origins import plan, without_effect
from luthier.data.task_data import TaskData
from luthier.data.whole import load_whole
from luthier.storage.one_version import one_version


def load_data(settings: DataSettings, *, splits: Sequence[str] = SPLITS, trained: TrainedOn | None = None) -> TaskData:
    """Read, check and draw the examples that the settings describe.

    Splits that the settings do not bring are left out. Labels get the same ids, and the same columns are read,
    whichever splits are asked for.

    Args:
        settings: the data block.
        splits: the splits that are wanted.
        trained: what the model that will meet the rows was trained on, where there is one.

    Raises:
        DataError: a source can't be found or read, rows can't be used (all are listed), or there are too few.
        WorkspaceError: a file changed since the run looked at it first, or while it was read.
    """
    with one_version():
        source_fingerprint(settings)
        origins = plan(settings)
        for error in without_effect(settings, origins).values():
            raise error
        if settings.streaming:
            from luthier.data.streaming import load_stream

            return load_stream(settings, origins, splits, trained)
        return load_whole(settings, origins, splits, trained)
