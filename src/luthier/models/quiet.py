"""Loading, saving and running models without other libraries' own tables, bars and warnings.

What matters in them Luthier says itself. A warning is kept from the user only where `NOISE` names it and says why; it
is then logged, at debug level. All others are shown as ever.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Noise:
    """A warning of another library that tells a user of Luthier nothing.

    Attributes:
        libraries: which give it: a regular expression over names of packages.
        message: a regular expression that its text begins with.
        why: what is wrong with showing it.
        category: its class, or a class above that.
    """

    libraries: str
    message: str
    why: str
    category: type[Warning] = Warning


NOISE = (
    Noise(
        "peft",
        "Could not find a config file in .* - will assume that the vocabulary was not modified",
        "a base of GGUF weights has no config.json, and tuning leaves the vocabulary as it is",
    ),
    Noise(
        "peft",
        "Position ids are not supported for parameter efficient tuning",
        "Luthier counts the positions of prompt and text itself",
    ),
    Noise(
        "peft",
        "Token type ids are not supported for parameter efficient tuning",
        "the models that PEFT says this of read none",
    ),
    Noise(
        "torch",
        r"FSDP2-wrapped module \(\w+\) returned a view tensor",
        "nothing writes into the hidden vectors that a split model gives in place of logits",
    ),
    Noise(
        "transformers|peft|accelerate",
        "",
        "it asks whoever calls the library, which is Luthier, to call it otherwise",
        FutureWarning,
    ),
)
_Show = Callable[..., None]


def noise_named(message: str, category: type[Warning], filename: str) -> Noise | None:
    """The entry of `NOISE` that names a warning, by its text, class and the file that gave it."""
    for noise in NOISE:
        given_by = re.search(rf"[/\\]site-packages[/\\]({noise.libraries})[/\\]", filename)
        if given_by and issubclass(category, noise.category) and re.match(noise.message, message):
            return noise
    return None


def log_noise() -> None:
    """From now on log the warnings that `NOISE` names in place of showing them. Calling it again changes nothing."""
    if not isinstance(warnings.showwarning, partial):
        warnings.showwarning = _logging(warnings.showwarning)


@contextmanager
def noise_logged() -> Iterator[None]:
    """`log_noise` inside the block."""
    before = warnings.showwarning
    log_noise()
    try:
        yield
    finally:
        warnings.showwarning = before


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Only errors from transformers, no progress bars, and no warnings that are noise, inside the block."""
    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with noise_logged():
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _logging(show: _Show) -> Any:
    return partial(_show_or_log, show)


def _show_or_log(
    show: _Show, message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any, **more: Any
) -> None:
    noise = noise_named(str(message), category, filename)
    if noise is None:
        show(message, category, filename, lineno, *rest, **more)
    else:
        logger.debug("%s:%d: %s (not shown: %s)", filename, lineno, message, noise.why)
