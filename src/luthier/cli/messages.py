"""How messages reach people: what is logged, what is warned of, and the console; secrets are blotted out of all."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any


class _Once(logging.Filter):
    """Lets every warning pass once: stages that read the same data warn of the same things."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        told = f"{record.name}: {record.getMessage()}"
        new = told not in self.said
        self.said.add(told)
        return new


class _Plain(logging.Formatter):
    """Luthier's own warnings as sentences for people; those of other libraries with the name of the library."""

    def format(self, record: logging.LogRecord) -> str:
        from luthier.report.text import visible

        library = record.name.partition(".")[0]
        source = "" if library == "luthier" else f" ({library})"
        return f"{record.levelname.lower()}{source}: {visible(super().format(record), keep=chr(10))}"


def quieten(verbose: bool) -> None:
    """Set up logging for the command line: warnings once and in plain words, or, verbose, all with their sources."""
    from luthier.models.quiet import log_noise

    shown = logging.StreamHandler()
    shown.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s") if verbose else _Plain())
    if not verbose:
        shown.addFilter(_Once())
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[shown])
    hide_secrets_in_messages()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not verbose:
        log_noise()
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("DATASETS_VERBOSITY", "error")


def hide_secrets_in_messages() -> None:
    """Blot secrets out of what is logged and warned of, whichever library does it."""
    from luthier.secrets import redact

    class Record(logging.LogRecord):
        def getMessage(self) -> str:  # noqa: N802
            return redact(super().getMessage())

        @property
        def exc_text(self) -> str | None:
            return self._trace

        @exc_text.setter
        def exc_text(self, trace: str | None) -> None:
            self._trace = trace and redact(trace)

    def shown(*about: Any) -> str:
        return redact(plain(*about))

    logging.setLogRecordFactory(Record)
    plain = getattr(warnings.formatwarning, "plain", warnings.formatwarning)
    shown.plain = plain  # type: ignore[attr-defined]
    warnings.formatwarning = shown  # type: ignore[assignment]


def console(**arguments: Any) -> Any:
    """A rich console on standard output that prints brackets as they are; wide enough for a table in a pipe.

    Secrets in the texts that it prints are blotted out.
    """
    from rich.console import Console as AnyConsole

    from luthier.secrets import redact_values

    class Console(AnyConsole):
        def print(self, *objects: Any, **options: Any) -> None:
            super().print(*redact_values(objects), **options)

    shown = Console(highlight=False, markup=False, **arguments)
    return (
        shown if shown.is_terminal else Console(highlight=False, markup=False, width=max(shown.width, 110), **arguments)
    )
