"""The agent's HTTP port: /metrics, /healthz and /readyz."""

import logging
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

LOG = logging.getLogger(__name__)
Check = Callable[[], str | None]
"""None when all is well, else a sentence."""
_IDLE_SECONDS: Final = 10.0


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        # One socket for both families, whichever the cluster has.
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Quiet(WSGIRequestHandler):
    timeout = _IDLE_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
        """Logs nothing: a probe every few seconds is no news."""


class WebServer:
    """Serves from threads of its own until `stop`."""

    def __init__(self, address: str, port: int, registry: CollectorRegistry, checks: dict[str, Check]) -> None:
        """Bind the port; 0 takes a free one.

        Args:
            address: to listen on; ``::`` is IPv4 too, and IPv4 alone on a node without IPv6.
            port: see `port`.
            registry: what /metrics shows.
            checks: by path, such as /healthz.

        Raises:
            OSError: the port is taken, or the address is none of this machine.
        """
        metrics = make_wsgi_app(registry)

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            path = environ.get("PATH_INFO", "/")
            if path == "/metrics":
                answer: Iterable[bytes] = metrics(environ, start_response)
                return answer
            check = checks.get(path)
            if check is None:
                return _say(start_response, "404 Not Found", "try /metrics, " + ", ".join(checks))
            trouble = check()
            if trouble is None:
                return _say(start_response, "200 OK", "ok")
            return _say(start_response, "503 Service Unavailable", trouble)

        if address == "::" and not _has_ipv6():
            address = "0.0.0.0"  # noqa: S104 (what was asked for, in the one family there is)
        kind = _Server6 if ":" in address else _Server
        self._server = make_server(address, port, app, server_class=kind, handler_class=_Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, name="web", daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_port)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


def _has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def _say(start_response: Callable[..., Any], status: str, text: str) -> Iterable[bytes]:
    body = (text + "\n").encode()
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
