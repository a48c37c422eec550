"""An API server that keeps objects in memory and counts what is written, for programs that speak HTTP to it.

It knows what an agent asks of a real one: a Node, and SocketHealths and NodeSocketHealths to apply, get, list, delete.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any
from urllib.parse import unquote, urlsplit

_Object = dict[str, Any]


@dataclass(frozen=True)
class Write:
    """One write: when by the benchmark's clock, and to what."""

    at: float
    method: str
    path: str
    body: _Object


@dataclass
class CountingApi:
    """What is held, and every write.

    Attributes:
        clock: says when a write arrives.
    """

    clock: Callable[[], float]
    url: str = ""
    objects: dict[str, _Object] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._versions = count(1)
        self._lock = threading.Lock()

    def collect(self, path: str) -> None:
        """Remove an object as the garbage collector does when its owner is gone."""
        self.objects.pop(path, None)

    def answer(self, method: str, path: str, body: _Object) -> tuple[int, _Object]:
        """Status and document for one request."""
        with self._lock:
            if method == "GET":
                return self._get(path)
            self.writes.append(Write(self.clock(), method, path, body))
            if method == "DELETE":
                self.objects.pop(path, None)
                return 200, {"kind": "Status", "status": "Success"}
            return self._apply(path, body)

    def _get(self, path: str) -> tuple[int, _Object]:
        if path.startswith("/api/v1/nodes/"):
            return 200, {"metadata": {"name": path.rpartition("/")[2], "uid": "node", "labels": {}}}
        if path in self.objects:
            return 200, self.objects[path]
        kind = path.rpartition("/")[2]
        if kind in {"sockethealths", "nodesockethealths"}:
            items = [held for at, held in self.objects.items() if f"/{kind}/" in at]
            return 200, {"metadata": {"resourceVersion": str(next(self._versions))}, "items": items}
        return 404, _refusal(404, f"{path} is not there")

    def _apply(self, path: str, body: _Object) -> tuple[int, _Object]:
        status = path.endswith("/status")
        path = path.removesuffix("/status")
        held = self.objects.get(path)
        if held is None:
            if status:
                return 404, _refusal(404, f"{path} is not there")
            held = {"metadata": {"uid": f"uid-{next(self._versions)}", "creationTimestamp": "2026-01-01T00:00:00Z"}}
        if status:
            held = {**held, "status": body.get("status", {})}
        else:
            held = {**held, **body, "metadata": {**held["metadata"], **body["metadata"]}}
        held["metadata"]["resourceVersion"] = str(next(self._versions))
        self.objects[path] = held
        return 200, held


def _refusal(code: int, message: str) -> _Object:
    return {"kind": "Status", "code": code, "message": message}


@contextmanager
def counting_api(clock: Callable[[], float]) -> Iterator[CountingApi]:
    """A server on a free port of the loopback, until the end of the block."""
    held = CountingApi(clock)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length", "0"))
            body = json.loads(self.rfile.read(size)) if size else {}
            status, document = held.answer(self.command, unquote(urlsplit(self.path).path), body)
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(data)

        do_PATCH = do_DELETE = do_GET  # noqa: N815 - the base class looks for these names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        held.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield held
        finally:
            server.shutdown()
            thread.join()
