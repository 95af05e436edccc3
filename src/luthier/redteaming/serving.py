"""The review page on this machine alone, which saves labels as they are given."""

from __future__ import annotations

import json
import secrets
import threading
from http import HTTPStatus
from pathlib import Path

from luthier.errors import DataError, WorkspaceError
from luthier.redteaming.labels import known_labels, save_labels
from luthier.redteaming.local_server import LocalHandler, LocalServer, local_server
from luthier.redteaming.marks import marks_in
from luthier.redteaming.reading import exchanges, stage_folders
from luthier.redteaming.review import render_review

_MOST_BYTES = 64 << 20


class ReviewServer(LocalServer):
    """Serves one page.

    Attributes:
        address: of the page, with a part that nobody can guess.
    """

    address: str = ""


def review_server(run: str | Path, labels: str | Path, port: int = 0) -> ReviewServer:
    """A server for `127.0.0.1`; call its `serve_forever`. Its page lies at a path that nobody can guess.

    Args:
        run: folder of a run with a `redteam` stage.
        labels: the file that labels are read from and saved to.
        port: 0 takes a free one.

    Raises:
        DataError: there is no such stage, or the file of labels is another file.
        WorkspaceError: the port is taken.
    """
    folder, place, secret = stage_folders(run)[-1], Path(labels), secrets.token_urlsafe(18)
    known_labels(place)
    saving = threading.Lock()

    class Handler(LocalHandler):
        def do_GET(self) -> None:  # noqa: N802
            if not self._is_allowed(f"/{secret}/"):
                return
            try:
                known = known_labels(place)
            except DataError as error:
                self.answer(HTTPStatus.CONFLICT, "text/plain; charset=utf-8", str(error).encode())
                return
            page = render_review(
                exchanges(folder),
                title=folder.parent.name,
                labels=known,
                save=f"/{secret}/labels",
                marks=marks_in(folder),
            )
            self._answer(HTTPStatus.OK, page.encode())

        def do_POST(self) -> None:  # noqa: N802
            if not self._is_allowed(f"/{secret}/labels"):
                return
            try:
                changes = json.loads(self.content(_MOST_BYTES))
                if not isinstance(changes, list):
                    raise ValueError
                with saving:
                    save_labels(place, changes)
            except (ValueError, RecursionError, DataError):
                return self._answer(HTTPStatus.BAD_REQUEST, b"")
            except WorkspaceError:
                return self._answer(HTTPStatus.INSUFFICIENT_STORAGE, b"")
            return self._answer(HTTPStatus.NO_CONTENT, b"")

        def _is_allowed(self, path: str) -> bool:
            if self.path != path or not self.is_local:
                self._answer(HTTPStatus.NOT_FOUND, b"")
                return False
            return True

        def _answer(self, status: HTTPStatus, content: bytes) -> None:
            self.answer(status, "text/html; charset=utf-8", content, {"X-Content-Type-Options": "nosniff"})

    server = local_server(ReviewServer, port, Handler)
    server.address = f"http://127.0.0.1:{server.server_address[1]}/{secret}/"
    return server
