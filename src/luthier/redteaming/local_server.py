"""A server that answers this machine alone."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

from luthier.errors import WorkspaceError

logger = logging.getLogger(__name__)


class LocalServer(ThreadingHTTPServer):
    """Goes on whatever a request does to it; nothing of a request is printed."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # who asked is gone
            logger.error("a request failed: %s", type(error).__name__)


_Server = TypeVar("_Server", bound=LocalServer)


class LocalHandler(BaseHTTPRequestHandler):
    """Answers requests; nothing of them is printed."""

    @property
    def is_local(self) -> bool:
        """Whether the request was meant for this machine by name: a page elsewhere may lead its own name here."""
        return (self.headers.get("Host") or "").rpartition(":")[0] in ("127.0.0.1", "localhost")

    def content(self, most: int) -> bytes:
        """What was sent.

        Raises:
            ValueError: it is nothing, or more bytes than `most`, or nobody says how many.
        """
        size = int(self.headers.get("Content-Length") or 0)
        if not 0 < size <= most:
            raise ValueError("the request is empty or too long")
        return self.rfile.read(size)

    def answer(self, status: HTTPStatus, kind: str, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a whole answer.

        Args:
            status: of it.
            kind: its content type.
            content: its bytes.
            headers: more of them.
        """
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Requests are not printed."""


def local_server(kind: type[_Server], port: int, handler: type[LocalHandler]) -> _Server:
    """A server of a kind for `127.0.0.1`.

    Args:
        kind: its class.
        port: 0 takes a free one.
        handler: of its requests.

    Raises:
        WorkspaceError: the port is taken, or is none.
    """
    try:
        return kind(("127.0.0.1", port), handler)
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else "ports go up to 65535"
        raise WorkspaceError(f"port {port} can't be used: {why}", fix="take another `--port`") from error
