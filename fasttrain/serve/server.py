"""The HTTP server of the page: one file to fetch, one address to post an image to.

Only programs of this machine reach it, and of their pages only its own: a request that another
site's page makes a browser send has another Host or Origin, and is refused.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..data.pictures import Unusable, quiet
from ..errors import EnvironmentProblem, FasttrainError
from ..explain.subject import open_classifier
from ..predict.classifier import Classifier
from .answer import answer

HOST = "127.0.0.1"
MOST_BYTES = 32 << 20  # of an upload
READ_SECONDS = 15  # for the bytes of a request, each time the sender pauses
WAIT_SECONDS = 30  # for the images before this one
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'"
)

Answer = Callable[[bytes], dict[str, Any]]


class Page(ThreadingHTTPServer):
    """The page of one classifier; requests wait for each other, since they share the cores."""

    daemon_threads = True

    def __init__(self, answer: Answer, page: bytes, port: int) -> None:
        self.answer, self.page, self.turn = answer, page, threading.Lock()
        super().__init__((HOST, port), Request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that has gone."""


class Request(BaseHTTPRequestHandler):
    """One request of a browser."""

    server: Page
    server_version, sys_version = "fasttrain", ""
    protocol_version = "HTTP/1.1"
    timeout = READ_SECONDS

    def do_GET(self) -> None:
        """Send the page."""
        if self._is_foreign():
            self._refuse(HTTPStatus.FORBIDDEN, "This page is for this machine only.")
        elif self.path.partition("?")[0] == "/":
            self._send(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "There is nothing at this address.")

    def do_POST(self) -> None:
        """Answer about the image in the body."""
        if self._is_foreign():
            self._refuse(HTTPStatus.FORBIDDEN, "This page is for this machine only.")
            return
        if self.path != "/predict":
            self._refuse(HTTPStatus.NOT_FOUND, "There is nothing at this address.")
            return
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "The request has no Content-Length.")
            return
        if int(length) > MOST_BYTES:
            most = f"{MOST_BYTES >> 20} MB"
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The file is larger than {most}.")
            return
        try:
            upload = self.rfile.read(int(length))
        except TimeoutError:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "The file did not arrive in time.")
            return
        if len(upload) < int(length):
            self._refuse(HTTPStatus.BAD_REQUEST, "The file arrived only in part.")
            return
        self._answer(upload)

    def log_message(self, format: str, *values: Any) -> None:
        """Print nothing: what a person drops is nobody else's."""

    def _answer(self, upload: bytes) -> None:
        if not self.server.turn.acquire(timeout=WAIT_SECONDS):
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Other images are before this one.")
            return
        try:
            found = self.server.answer(upload)
        except Unusable as error:
            why = f"This file cannot be used: {error}."
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, why)
            return
        except (FasttrainError, MemoryError):
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "There is no memory for this image.")
            return
        finally:
            self.server.turn.release()
        self._send(HTTPStatus.OK, json.dumps(found).encode(), "application/json")

    def _is_foreign(self) -> bool:
        """Whether the request is not of this server's own page, or of a program that names it."""
        port = self.server.server_address[1]
        own = {f"{name}:{port}" for name in (HOST, "localhost")}
        origin = self.headers.get("Origin")
        return self.headers.get("Host") not in own or (
            origin is not None and origin.removeprefix("http://") not in own
        )

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        self.close_connection = True  # the rest of the body was not read
        self._send(status, json.dumps({"error": sentence}).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


def serve(run: Path, *, device: str, port: int, log: Callable[[str], None]) -> None:
    """Serve the page of a run until a signal ends the process."""
    classifier, kept = open_classifier(run, device=device)
    with bound(classifier, about=kept, port=port) as page:
        log(f"{address(page)}  (Ctrl-C ends it)")
        page.serve_forever()


def bound(classifier: Classifier, *, about: dict[str, Any] | None, port: int) -> Page:
    """A server that listens and answers once `serve_forever` runs; EnvironmentProblem if the port
    is taken. `about` is what the checkpoint says of its data."""
    facts = {
        "model": classifier.recipe.model.rpartition("/")[2],
        "data": (about or {}).get("name", classifier.recipe.dataset),
        "classes": list(classifier.classes),
        "side": classifier.preprocessing.side,
    }
    text = (files(__package__) / "page.html").read_text(encoding="utf-8")
    # "<" would end the script of the page if a class were named </script>.
    page = text.replace("FACTS", json.dumps(facts).replace("<", "\\u003c")).encode()

    def answered(upload: bytes) -> dict[str, Any]:
        with quiet():
            return answer(classifier, upload)

    try:
        return Page(answered, page, port)
    except OSError as error:
        raise EnvironmentProblem(
            f"--port ({port}): {error.strerror or error}. Choose another one, or leave it out."
        ) from None


def address(page: Page) -> str:
    """The address of the page, for a browser."""
    return f"http://{HOST}:{page.server_address[1]}/"
