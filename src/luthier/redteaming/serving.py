"""The review page on this machine alone, which saves labels as they are given."""

from __future__ import annotations

import json
import secrets
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from pathlib import Path

from luthier.redteaming.labels import HumanLabels, read_labels
from luthier.redteaming.local_server import LocalHandler, local_server
from luthier.redteaming.marks import marks_in
from luthier.redteaming.reading import exchanges, stage_folders
from luthier.redteaming.review import render_review
from luthier.storage.files import write_text

_MOST_BYTES = 64 << 20


class ReviewServer(ThreadingHTTPServer):
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
    read_labels(str(place)) if place.exists() else HumanLabels()

    class Handler(LocalHandler):
        def do_GET(self) -> None:  # noqa: N802
            if not self._is_allowed(f"/{secret}/"):
                return
            known = read_labels(str(place)) if place.exists() and place.stat().st_size > 1 else None
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
            size = int(self.headers.get("Content-Length") or 0)
            if size > _MOST_BYTES:
                return self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"")
            try:
                text = json.loads(self.rfile.read(size))
                for line in str(text).split("\n"):
                    if line and not isinstance(json.loads(line), dict):
                        raise ValueError
            except ValueError:
                return self._answer(HTTPStatus.BAD_REQUEST, b"")
            write_text(place, str(text))
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
