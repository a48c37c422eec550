"""HTTP for kubelet and Prometheus: liveness, readiness and metrics, on the operator's own event loop."""

import asyncio
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler


async def serve(
    health_address: tuple[str, int],
    metrics_address: tuple[str, int],
    ready: Callable[[], bool],
    registry: CollectorRegistry,
) -> None:
    """Serve for ever. That ``/healthz`` answers says that the event loop turns.

    Args:
        health_address: host and port of ``/healthz`` and ``/readyz``.
        metrics_address: host and port of ``/metrics``.
        ready: whether the cluster is known and work goes on.
        registry: the metrics.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if ready():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="The cluster is being read.\n")

    runners = [
        await _start(health_address, {"/healthz": healthz, "/readyz": readyz}),
        await _start(metrics_address, {"/metrics": make_aiohttp_handler(registry)}),
    ]
    try:
        await asyncio.Event().wait()
    finally:
        for runner in runners:
            await runner.cleanup()


async def _start(address: tuple[str, int], routes: dict[str, Handler]) -> web.AppRunner:
    application = web.Application()
    application.add_routes([web.get(path, handler) for path, handler in routes.items()])
    runner = web.AppRunner(application, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, *address).start()
    return runner
