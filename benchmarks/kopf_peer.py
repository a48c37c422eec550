"""The operator that kopf's own means would give: it keeps every object and does nothing else. A benchmark's peer.

`event` keeps them in a dictionary, `index` in kopf's index. Prints one line once it has seen so many objects: how long
that took, the CPU time, and the resident memory. Then it stays, so that it can be looked at, until its parent ends.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import kopf

from benchmarks.inhabitant import die_with
from sockethealth_core.names import GROUP, VERSION
from sockethealth_operator.api import Api

KINDS = ("sockethealths", "nodesockethealths")


def main() -> None:
    """Arguments: the parent's pid, event or index, a kubeconfig, and how many objects there are."""
    die_with(int(sys.argv[1]))
    asyncio.run(_run(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))


async def _run(how: str, kubeconfig: Path, expected: int) -> None:
    began = time.monotonic()
    registry = kopf.OperatorRegistry()
    kept: dict[str, Any] = {}

    def note(uid: str, thing: Any) -> None:
        kept[uid] = thing
        if len(kept) == expected:
            _tell(began)

    for kind in KINDS:
        _handle(registry, how, kind, note)
    async with await Api.connect(kubeconfig) as api:

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.ConnectionInfo:
            return await api.connection()

        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.scanning.disabled = True
        await kopf.operator(registry=registry, settings=settings, standalone=True, clusterwide=True)


def _handle(registry: kopf.OperatorRegistry, how: str, kind: str, note: Any) -> None:
    if how == "index":

        @kopf.index(GROUP, VERSION, kind, registry=registry, id=f"index-{kind}")
        async def keep(uid: str, status: kopf.Status, **_: Any) -> dict[str, Any]:
            note(uid, None)
            return {uid: dict(status)}

    else:

        @kopf.on.event(GROUP, VERSION, kind, registry=registry, id=f"watch-{kind}")
        async def take(event: kopf.RawEvent, **_: Any) -> None:
            note(event["object"]["metadata"]["uid"], event["object"])


def _tell(began: float) -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    answer = {"seconds": time.monotonic() - began, "cpu": time.process_time(), "rss_mib": pages * 4096 / 2**20}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
