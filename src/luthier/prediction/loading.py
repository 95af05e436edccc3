"""Which predictor answers for a saved artefact."""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from luthier.errors import DataError, LuthierError, ModelError
from luthier.models.predictor import Predictor
from luthier.models.settings import Danger
from luthier.recipe.yaml_text import parse_yaml
from luthier.registry import PREDICTORS, import_plugins
from luthier.storage.nearby import check_there
from luthier.storage.paths import user_path

TASK_MODEL = "task_model"
RECIPE = "recipe.yaml"
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
logger = logging.getLogger(__name__)


def load_predictor(run: str | Path, allow: Collection[Danger] = ()) -> Predictor:
    """The predictor of what a run, cell, stage or artefact directory holds, ready to be asked.

    Raises:
        ModelError: the directory is not there, or holds no whole artefact.
    """
    check_run(run)
    import_plugins_of(run, allow)
    predictor: Predictor = predictor_of(run)(run, allow)
    return predictor


def check_run(run: str | Path) -> None:
    """Raises:
    ModelError: there is no such folder; names the nearest one.
    """
    check_there(run, ModelError, "name a finished run, a stage of it, or the stage's `model` folder")


def check_batch_size(batch_size: int) -> None:
    """Raises:
    DataError: no row fits in so small a batch.
    """
    if batch_size < 1:
        raise DataError(f"batch_size is {batch_size}", fix="give a whole number above 0")


def load_embedder(run: str | Path, allow: Collection[Danger] = ()) -> Predictor:
    """The same for what turns text into vectors.

    Raises:
        ModelError: the directory is not there, or holds nothing that does.
    """
    import_plugins_of(run, allow)
    makers = " or ".join(kind.made_by for kind in PREDICTORS if kind.embeds)
    check_there(run, ModelError, f"name a run that has {makers}")
    kind = predictor_of(run)
    if not kind.embeds:
        raise ModelError(
            f"there is no encoder here that {makers} made",
            where=str(run),
            fix=f"run a recipe with {makers}; `luthier predict` labels text with a tuned model",
        )
    embedder: Predictor = kind(run, allow)
    return embedder


def predictor_of(run: str | Path) -> type[Predictor]:
    """The class that answers for an artefact, by its card. What is no artefact, or has a damaged card, is taken for
    a task model, whose loading says what is wrong.

    Raises:
        ModelError: the directory holds no model at all.
    """
    from luthier.models.card import read_card
    from luthier.models.references import resolve

    source, name = resolve(str(run)), ""
    if source.kind == "artifact" and source.path is not None:
        with suppress(ModelError):
            name = str((read_card(source.path).method or {}).get("name"))
    return PREDICTORS.get(name if name in PREDICTORS else TASK_MODEL)


def import_plugins_of(run: str | Path, allow: Collection[Danger] = ()) -> None:
    """Import the plugins that the saved recipe of a run names, so that the parts in them can answer.

    A run may come from anybody, so they are imported only where code that comes with a model is allowed. What isn't,
    or can't be, is told in the log: the answer may not need it. A module that lies in the run itself is never imported.

    Args:
        run: a run, cell, stage or artefact directory; the recipe lies there, or above it in the run.
        allow: `remote_code` allows it.
    """
    place, names = plugins_of(run)
    missing = [name for name in names if name not in sys.modules]
    if missing and "remote_code" not in allow:
        logger.warning(
            "%s names the plugins %s, which are not imported: if you trust them, add --allow remote_code",
            place,
            ", ".join(missing),
        )
        return
    for name, error in import_plugins(names).items():
        logger.warning("%s: the plugin %s can't be imported: %s", place, name, error)


def plugins_of(run: str | Path) -> tuple[Path | None, list[str]]:
    """The recipe that a run was made by, and the modules among its plugins that lie outside of the run."""
    folder = user_path(run).resolve()
    place = next((p for p in (folder / RECIPE, *(p / RECIPE for p in folder.parents[:2])) if p.is_file()), None)
    if place is None:
        return None, []
    try:
        content = parse_yaml(place.read_text(encoding="utf8"), str(place)).data
    except (LuthierError, OSError, ValueError):
        return place, []
    plugins = content.get("plugins") if isinstance(content, dict) else None
    names = [name for name in plugins if _is_module(name)] if isinstance(plugins, list) else []
    return place, [name for name in names if not _lies_in(place.parent, name)]


def _is_module(name: object) -> bool:
    return isinstance(name, str) and _MODULE.fullmatch(name) is not None


def _lies_in(folder: Path, module: str) -> bool:
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return False
    origins = () if spec is None else (spec.origin, *(spec.submodule_search_locations or ()))
    return any(origin and Path(origin).resolve().is_relative_to(folder) for origin in origins)
