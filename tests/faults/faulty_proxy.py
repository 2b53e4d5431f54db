"""An HTTP proxy before a tracking server that fails in a chosen way from a chosen request on."""

from __future__ import annotations

import http.server
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Literal, Self

Fault = Literal["500", "401", "hangs", "refuses", "cuts"]
"""What a request gets: an error, a demand to log in, no answer, no connection, or one that is cut."""
_SECONDS_OF_A_HANG = 120
_OF_THE_CONNECTION = {"connection", "transfer-encoding", "content-length", "server", "date"}


class FaultyProxy:
    """Forwards requests until the first for which `begins` is true; from there on it fails, until `heal`."""

    def __init__(
        self, target: str, fault: Fault, *, begins: Callable[[str, bytes], bool], only: str = ""
    ) -> None:
        """Open the port.

        Args:
            target: URL of the server.
            fault: what requests get once it has begun.
            begins: called with the path and the body of each request that comes before.
            only: requests with this in their path get it, others are forwarded.
        """
        self.has_begun, self.is_healed = threading.Event(), threading.Event()
        self._target, self._fault, self._begins, self._only = target, fault, begins, only
        self._lock = threading.Lock()
        self._open(port=0)
        self._port = int(self._server.server_address[1])
        self.uri = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        """Nothing more to do."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the port, and let go of requests that hang."""
        self.is_healed.set()
        self._close()

    def heal(self) -> None:
        """Forward every request again."""
        self.is_healed.set()
        if self._fault == "refuses":
            self._open(port=self._port)

    def _open(self, port: int) -> None:
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.close_connection = True
                self.raw_requestline = self.rfile.readline(65537)
                if self.raw_requestline and self.parse_request():
                    proxy._answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of http.server
                """Keep the test's output clean."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        body = _body_of(handler)
        with self._lock:
            if not self.has_begun.is_set() and self._begins(handler.path, body):
                self.has_begun.set()
                if self._fault == "refuses":
                    self._close()
            fails = self.has_begun.is_set() and not self.is_healed.is_set() and self._only in handler.path
        if not fails:
            self._forward(handler, body)
        elif self._fault in {"500", "401"}:
            _reply(handler, int(self._fault), {"Content-Type": "text/plain"}, b"this is the test's fault\n")
        elif self._fault == "hangs":
            self.is_healed.wait(_SECONDS_OF_A_HANG)

    def _forward(self, handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        request = urllib.request.Request(  # noqa: S310 - the test's own server
            self._target + handler.path,
            data=None if handler.command == "GET" else body,
            method=handler.command,
            headers=_passed_on(handler.headers),
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
                status, headers, data = reply.status, dict(reply.headers), reply.read()
        except urllib.error.HTTPError as error:
            with error:
                status, headers, data = error.code, dict(error.headers), error.read()
        _reply(handler, status, headers, data)


def _body_of(handler: http.server.BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding") != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    # MLflow's client sends an empty file in chunks.
    parts = []
    while size := int(handler.rfile.readline(), 16):
        parts.append(handler.rfile.read(size))
        handler.rfile.readline()
    handler.rfile.readline()
    return b"".join(parts)


def _passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _OF_THE_CONNECTION}


def _reply(
    handler: http.server.BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes
) -> None:
    handler.send_response(status)
    for name, value in _passed_on(headers).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)
