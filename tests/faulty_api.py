"""An API server at its worst: a TLS reverse proxy for one client, in front of a real API server.

What a test sets is what its client meets: an address nobody listens at, a refusal of chosen requests, answers that
take their time, running watches that fall silent. Everything else passes unchanged, so that what is written arrives.
"""

import asyncio
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
import yarl
from aiohttp import web

from harness import network, pki

T = TypeVar("T")

WRITES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_OF_THE_CONNECTION: Final = frozenset({"Connection", "Content-Length", "Host", "Keep-Alive", "Transfer-Encoding"})
"""Headers that concern one connection alone (RFC 9110, 7.6.1), or that aiohttp makes itself."""
_NAMESPACED: Final = frozenset(
    {
        *("sockethealths", "sockethealthpolicies", "pods", "deployments", "statefulsets", "daemonsets"),
        *("replicasets", "jobs", "cronjobs"),
    }
)
_WATCH_GONE: Final = b'"code":410'
SECONDS: Final = 15


@dataclass(frozen=True)
class Refusal:
    """An answer in the API server's stead: a ``metav1.Status``, and how many seconds to wait where it says so."""

    status: int
    reason: str
    message: str
    retry_after_seconds: int | None = None

    def response(self) -> web.Response:
        """As HTTP."""
        document = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": self.status}
        document |= {"reason": self.reason, "message": self.message}
        headers = {} if self.retry_after_seconds is None else {"Retry-After": str(self.retry_after_seconds)}
        return web.json_response(document, status=self.status, headers=headers)


TOO_MANY = Refusal(429, "TooManyRequests", "too many requests, please try again later", 2)
"""As API Priority and Fairness refuses a request that found no place in its queue."""
CONFLICT = Refusal(
    409,
    "Conflict",
    "Operation cannot be fulfilled: the object has been modified; please apply your changes to the latest version and "
    "try again",
)
"""As the API server refuses a write that lost against others until it gave up."""


@dataclass(frozen=True)
class Scope:
    """Field selectors that leave a client only some objects of all: several operators can then run beside each other.

    Attributes:
        objects: for namespaced kinds, such as ``metadata.namespace=shop``.
        nodes: for NodeSocketHealths, such as ``metadata.name=node-a``.
    """

    objects: str = ""
    nodes: str = ""

    def selector(self, path: str) -> str:
        """What is added to a list or watch of that path."""
        plural = path.rpartition("/")[2]
        if plural == "nodesockethealths":
            return self.nodes
        return self.objects if plural in _NAMESPACED and "/namespaces/" not in path else ""


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty api", daemon=True)
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()


class FaultyApi:
    """One client's way to the API server.

    Attributes:
        refuse: asked for each request, by method and path, for what it is refused with; None lets it pass.
        arrived: told of each request by method and path once the API server has done it, before its client is answered.
        delay_seconds: how long each request waits before it is passed on.
        answers: how many requests were answered, by status, watches among them as 200; 0 is without an answer.
        refused: how many of them were refused here, by method.
        gone: how often a watch or a list was answered with 410.
    """

    def __init__(self, loop: _Loop, server: str, keys: Path, scope: Scope) -> None:
        self.refuse: Callable[[str, str], Refusal | None] = nothing
        self.arrived: Callable[[str, str], object] = nothing
        self.delay_seconds = 0.0
        self.answers: Counter[int] = Counter()
        self.refused: Counter[str] = Counter()
        self.gone = 0
        self._loop = loop
        self._server = server
        self._keys = keys
        self._scope = scope
        (self._port,) = network.free_ports(1)
        self._watches: set[asyncio.Event] = set()
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://127.0.0.1:{self._port}"

    def kubeconfig(self, file: Path, token: str) -> Path:
        """Write a kubeconfig that comes this way; `file`."""
        pki.write_kubeconfig(file, "client", token, self.url, self._keys / "ca.crt")
        return file

    def start(self) -> None:
        """Listen and pass on."""
        self._loop.do(self._start())

    def stop(self) -> None:
        """Close everything."""
        self._loop.do(self._stop())

    def go_away(self) -> None:
        """Nobody listens, and every connection is reset."""
        self._loop.do(self._go_away())

    def come_back(self) -> None:
        """Listen at the same port again."""
        self._loop.do(self._listen())

    def silence(self) -> int:
        """Have nothing more arrive on the watches that run, which stay open; how many there are."""
        return self._loop.do(self._silence())

    async def _start(self) -> None:
        upstream = ssl.create_default_context(cafile=str(self._keys / "ca.crt"))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=upstream, limit=0), auto_decompress=False, trust_env=False
        )
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await self._listen()

    async def _stop(self) -> None:
        assert self._runner is not None
        assert self._session is not None
        await self._go_away()
        await self._runner.cleanup()
        await self._session.close()

    async def _listen(self) -> None:
        assert self._runner is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._keys / "apiserver.crt", self._keys / "apiserver.key")
        self._site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=context, reuse_address=True)
        await self._site.start()

    async def _go_away(self) -> None:
        if self._site is not None:
            await self._site.stop()
            self._site = None
        if self._runner is not None and self._runner.server is not None:
            for connection in list(self._runner.server.connections):
                if connection.transport is not None:
                    connection.transport.abort()

    async def _silence(self) -> int:
        for watch in self._watches:
            watch.set()
        return len(self._watches)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        refusal = self.refuse(request.method, request.path)
        if refusal is not None:
            self.refused[request.method] += 1
            self.answers[refusal.status] += 1
            return refusal.response()
        headers = {name: text for name, text in request.headers.items() if name not in _OF_THE_CONNECTION}
        assert self._session is not None
        try:
            async with self._session.request(
                request.method,
                self._url(request),
                data=body or None,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None),
            ) as answer:
                if answer.ok:
                    self.arrived(request.method, request.path)
                return await self._pass_on(request, answer)
        except aiohttp.ClientError:
            # The API server is away: its client meets what it would meet without a proxy.
            self.answers[0] += 1
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=502)

    def _url(self, request: web.Request) -> yarl.URL:
        url = yarl.URL(self._server + request.raw_path, encoded=True)
        selector = self._scope.selector(request.path) if request.method == "GET" else ""
        return url.update_query(fieldSelector=selector) if selector else url

    async def _pass_on(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        headers = {name: text for name, text in answer.headers.items() if name not in _OF_THE_CONNECTION}
        self.answers[answer.status] += 1
        self.gone += answer.status == web.HTTPGone.status_code
        if request.query.get("watch") not in {"1", "true"} or answer.status >= web.HTTPBadRequest.status_code:
            return web.Response(status=answer.status, body=await answer.read(), headers=headers)
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        silent = asyncio.Event()
        self._watches.add(silent)
        try:
            async for chunk in answer.content.iter_any():
                if silent.is_set():
                    # Until the client gives up, which cancels this.
                    await asyncio.Event().wait()
                self.gone += chunk.count(_WATCH_GONE)
                await response.write(chunk)
        finally:
            self._watches.discard(silent)
        return response


def nothing(_method: str, _path: str) -> Refusal | None:
    """Refuse no request."""
    return None


def every_request(refusal: Refusal) -> Callable[[str, str], Refusal]:
    """Refuse everything so."""
    return lambda _method, _path: refusal


def every_write(refusal: Refusal) -> Callable[[str, str], Refusal | None]:
    """Refuse everything so that would change something."""
    return lambda method, _path: refusal if method in WRITES else None


class Gate:
    """Makes ways to one API server, all served by one thread."""

    def __init__(self, server: str, keys: Path) -> None:
        self._server = server
        self._keys = keys
        self._loop = _Loop()
        self._made: list[FaultyApi] = []

    def way(self, scope: Scope = Scope()) -> FaultyApi:
        """One client's."""
        made = FaultyApi(self._loop, self._server, self._keys, scope)
        made.start()
        self._made.append(made)
        return made

    def close(self) -> None:
        """Stop all of them."""
        for made in self._made:
            made.stop()
        self._loop.close()


@contextmanager
def gate(server: str, keys: Path) -> Iterator[Gate]:
    """Ways to an API server whose keys are in a folder of the harness, until the end of the block."""
    opened = Gate(server, keys)
    try:
        yield opened
    finally:
        with suppress(TimeoutError):
            opened.close()
