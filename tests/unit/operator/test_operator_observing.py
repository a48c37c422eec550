"""kopf ends at a fault of one watch, and is begun anew: on a server that plays the API server."""

import asyncio
import json

import kopf
import pytest
from aiohttp import web
from kubernetes.aio import client

from sockethealth_operator import handlers, observing
from sockethealth_operator.api import Api
from sockethealth_operator.objects import FEW, OURS
from sockethealth_operator.observing import Observing

POLICY = OURS["SocketHealthPolicy"]


class Server:
    """Serves all kinds that kopf watches, without objects; ``faults`` has what the next watches of policies meet."""

    def __init__(self):
        self.faults = []
        self.lists = 0
        self.watched = asyncio.Condition()
        self.asked = asyncio.Event()

    async def answer(self, request):
        self.asked.set()
        path = request.path
        group, _, version = path.removeprefix("/apis/").removeprefix("/api/").rpartition("/")
        if path in {"/api", "/apis"}:
            return web.json_response(self._groups(core=path == "/api"))
        kinds = [kind for kind in FEW if (kind.group, kind.version) == (group, version)]
        if kinds:
            return web.json_response({"resources": [_described(kind) for kind in kinds]})
        ours = path == POLICY.path()
        if "watch" in request.query:
            return await self._watch(request, ours=ours)
        self.lists += ours
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})

    @staticmethod
    def _groups(*, core):
        if core:
            return {"versions": ["v1"]}
        groups = sorted({(kind.group, kind.version) for kind in FEW if kind.group})
        versions = [(group, {"version": version}) for group, version in groups]
        return {"groups": [{"name": g, "preferredVersion": v, "versions": [v]} for g, v in versions]}

    async def _watch(self, request, *, ours):
        fault = self.faults.pop(0) if ours and self.faults else None
        if fault == 404:
            raise web.HTTPNotFound
        response = web.StreamResponse()
        await response.prepare(request)
        if fault is not None:
            await response.write(json.dumps({"type": "ERROR", "object": fault}).encode() + b"\n")
        elif ours:
            async with self.watched:
                self.watched.notify_all()
        await asyncio.sleep(30)
        return response


def _described(kind):
    names = {"name": kind.plural, "singularName": "", "kind": kind.kind}
    return names | {"namespaced": kind.namespaced, "verbs": ["list", "watch"]}


class Steps:
    """What kopf's end set going."""

    def __init__(self):
        self.taken = []

    async def definitions(self):
        self.taken.append("definitions")


@pytest.fixture
def observe(monkeypatch):
    monkeypatch.setattr(observing, "backoff_seconds", lambda *_: 0.01)

    async def play(faults):
        server, steps = Server(), Steps()
        server.faults = faults
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", server.answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        bystander = task = None
        try:
            async with Api(client.Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")) as api:
                registry = handlers.registry(None, api)
                seen = Observing(
                    registry,
                    steps.definitions,
                    lambda: steps.taken.append("missed"),
                    lambda: steps.taken.append("signals"),
                    asyncio.get_running_loop().time,
                )
                async with asyncio.timeout(20), server.watched:
                    task = asyncio.create_task(seen.run())
                    bystander = asyncio.create_task(_younger_than(server))
                    await server.watched.wait()
                return server, list(steps.taken), not bystander.done()
        finally:
            for each in (task, bystander):
                if each is not None:
                    each.cancel()
                    await asyncio.wait({each})
            await runner.cleanup()

    return lambda faults: asyncio.run(play(faults))


async def _younger_than(server):
    """Begun after kopf's own tasks, as the work of a replica is that leads later."""
    await server.asked.wait()
    await asyncio.create_task(asyncio.Event().wait())


@pytest.mark.parametrize(
    ("fault", "named"),
    [(404, "APINotFoundError"), ({"kind": "Status", "code": 500, "message": "no leader"}, "WatchingError")],
)
def test_what_ends_kopf_ends_nothing_else(observe, caplog, fault, named):
    caplog.set_level("INFO", observing.__name__)
    server, steps, others = observe([fault, fault])
    assert steps == ["signals", *("definitions", "missed", "signals") * 2]
    assert server.lists == 3, "what there is, is seen anew each time"
    assert others, "kopf has ended a task that is not its own"
    told = [record for record in caplog.records if record.name == observing.__name__]
    assert [record.levelname for record in told] == ["WARNING", "INFO"]
    assert named in told[0].getMessage()
    assert kopf.__name__ in told[0].getMessage()


def test_a_watch_that_works_is_left_alone(observe):
    server, steps, others = observe([])
    assert (steps, server.lists, others) == (["signals"], 1, True)
