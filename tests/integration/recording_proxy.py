"""An HTTP proxy before a tracking server that records what passes and can lose replies."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.error
import urllib.request
from collections import Counter
from typing import Self


class RecordingProxy:
    """Forwards each request; the first `num_lost` that log a batch are answered 500 although they succeed."""

    def __init__(self, target: str, *, num_lost: int = 0) -> None:
        self.received: Counter[tuple[str, int]] = Counter()
        """How often each (metric, step) has reached the server."""
        self._target = target
        self._num_lost = num_lost
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                proxy._forward(self)

            def do_POST(self) -> None:
                proxy._forward(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of http.server
                """Keep the test's output clean."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _forward(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0)) or None
        request = urllib.request.Request(  # noqa: S310 - the test's own server
            self._target + handler.path, data=body, method=handler.command, headers=dict(handler.headers)
        )
        try:
            with urllib.request.urlopen(request) as reply:  # noqa: S310
                status, data = reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                status, data = error.code, error.read()
        if body is not None and handler.path.endswith("log-batch"):
            metrics = json.loads(body).get("metrics", [])
            self.received.update((metric["key"], int(metric["step"])) for metric in metrics)
            if self._num_lost > 0:
                self._num_lost -= 1
                status, data = 500, b'{"error_code": "INTERNAL_ERROR", "message": "lost"}'
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)
