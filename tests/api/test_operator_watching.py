"""Following a kind on a real API server: changes, bookmarks, versions that are too old, and a server that is away."""

import asyncio
import base64
import json
import time
import urllib.request
from contextlib import asynccontextmanager

import pytest

from sockethealth_core.names import API_VERSION, GROUP
from sockethealth_operator import api as api_module
from sockethealth_operator.api import Api, NotFoundError
from sockethealth_operator.intake import Intake
from sockethealth_operator.metrics import Metrics
from sockethealth_operator.objects import OURS, Key
from sockethealth_operator.targets import Targets
from sockethealth_operator.watching import Watching
from sockethealth_operator.workqueue import WorkQueue
from sockethealth_operator.world import World

pytestmark = pytest.mark.api

HEALTH = OURS["SocketHealth"]
SECONDS = 30


class Following:
    """SocketHealths as the operator follows them, without what it does about them."""

    def __init__(self, api):
        clock = asyncio.get_running_loop().time
        self.world, self.metrics = World(), Metrics()
        self.queue = WorkQueue(clock)
        intake = Intake(self.world, Targets(), self.queue, self.metrics, time.time)
        self.watching = Watching(api, HEALTH, intake, clock)

    async def until(self, condition, what):
        """Wait for a condition, which is looked at twenty times a second."""
        try:
            async with asyncio.timeout(SECONDS):
                while not condition():  # noqa: ASYNC110 (nobody tells when an object has been taken in)
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(f"Not within {SECONDS} s: {what}. Known are {sorted(self.world.tracked)}.")

    def relists(self):
        """How often all objects were listed again."""
        sample = "sockethealth_operator_watch_relists_total"
        return self.metrics.registry.get_sample_value(sample, {"kind": "SocketHealth"}) or 0.0


@asynccontextmanager
async def following(cluster):
    async with await Api.connect(cluster.kubeconfig) as api:
        followed = Following(api)
        task = asyncio.create_task(followed.watching.run())
        try:
            async with asyncio.timeout(SECONDS):
                await followed.watching.synced.wait()
            yield followed
        finally:
            task.cancel()


def manifest(name, namespace):
    return {
        "apiVersion": API_VERSION,
        "kind": "SocketHealth",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"nodeName": "nowhere", "podUID": f"uid-of-{name}"},
    }


async def create(cluster, namespace, *names):
    await asyncio.to_thread(cluster.apply, *(manifest(name, namespace) for name in names))


def delete_from_etcd(cluster, namespace, name):
    """Delete an object and the history of that, so that an API server that was away cannot tell."""
    key = base64.b64encode(f"/registry/{GROUP}/sockethealths/{namespace}/{name}".encode()).decode()
    deleted = ask_etcd(cluster, "deleterange", {"key": key})
    assert deleted["deleted"] == "1", f"etcd has no {name}"
    # The history from a compaction's own revision on is kept, so it has to be a later one.
    later = ask_etcd(cluster, "put", {"key": base64.b64encode(b"/of-a-test").decode()})
    ask_etcd(cluster, "compaction", {"revision": later["header"]["revision"]})


def ask_etcd(cluster, what, body):
    port = json.loads((cluster.directory.path / "ports.json").read_text())["etcd_client"]
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v3/kv/{what}", json.dumps(body).encode(), headers)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=10) as answer:
        return json.loads(answer.read())


def test_changes_arrive_and_bookmarks_carry_the_version_on(control_plane, crds, namespace, monkeypatch):
    # A server sends a bookmark before it ends a watch that has seen a change, so that a short one has one too.
    monkeypatch.setattr(api_module, "_WATCH_SECONDS", 4)
    first, second = Key("SocketHealth", namespace, "first"), Key("SocketHealth", namespace, "second")
    changes = []

    async def scenario():
        async with following(control_plane) as followed:
            await create(control_plane, namespace, "first", "second")
            await followed.until(lambda: {first, second} <= followed.world.tracked.keys(), "both are known")
            await asyncio.to_thread(control_plane.delete, "sockethealth", "first", namespace=namespace)
            await followed.until(lambda: first not in followed.world.tracked, "the deleted one is forgotten")
            assert followed.world.tracked[second].regarding.uid == "uid-of-second"

            async with await Api.connect(control_plane.kubeconfig) as api:
                page = await anext(api.pages(HEALTH))
                creation = asyncio.create_task(create(control_plane, namespace, "third"))
                async with asyncio.timeout(SECONDS):
                    async for change, raw in api.watch(HEALTH, page["metadata"]["resourceVersion"]):
                        changes.append((change, int(raw["metadata"]["resourceVersion"])))
                await creation
            created = next(version for change, version in changes if change == "ADDED")
            bookmarks = [version for change, version in changes if change == "BOOKMARK"]
            assert bookmarks, f"no bookmark among {changes}"
            assert bookmarks[-1] >= created

            # The watch that was there at the beginning has been ended by the server by now.
            await create(control_plane, namespace, "first")
            await followed.until(lambda: first in followed.world.tracked, "what was created after the watch's end")
            assert followed.relists() == 0

    asyncio.run(scenario())


def test_a_version_that_is_too_old_is_told_from_other_errors(control_plane, crds):
    async def watch():
        async with await Api.connect(control_plane.kubeconfig) as api:
            # The first request for a kind makes the server's watch cache, which begins at the version of that time.
            await anext(api.pages(HEALTH))
            with pytest.raises(NotFoundError, match="too old resource version") as caught:
                await anext(api.watch(HEALTH, "1"))
            return caught.value

    assert asyncio.run(watch()).status == 410


def test_what_was_deleted_while_the_server_was_away_is_forgotten(control_plane, crds, namespace):
    keys = {name: Key("SocketHealth", namespace, name) for name in ("stays", "goes", "comes")}

    async def scenario():
        await create(control_plane, namespace, "stays", "goes")
        async with following(control_plane) as followed:
            known = followed.world.tracked
            assert {keys["stays"], keys["goes"]} <= known.keys()
            await asyncio.to_thread(control_plane.stop_apiserver)
            try:
                await asyncio.to_thread(delete_from_etcd, control_plane, namespace, "goes")
            finally:
                await asyncio.to_thread(control_plane.start_apiserver)
            await followed.until(lambda: keys["goes"] not in known, "what was deleted meanwhile is forgotten")
            await followed.until(lambda: followed.relists() >= 1, "the list that told is counted")
            await create(control_plane, namespace, "comes")
            await followed.until(lambda: keys["comes"] in known, "the watch goes on")
            assert keys["stays"] in known

    asyncio.run(scenario())
