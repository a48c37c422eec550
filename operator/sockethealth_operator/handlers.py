"""What kopf watches, and how it is told to behave. Each handler is one call into :mod:`intake`.

Only ``on.event`` handlers: they write nothing on the objects, where kopf's create and update handlers would leave
annotations and finalizers. Kinds of which there are many are not kopf's: see :mod:`watching`.
"""

import logging
import re
from collections.abc import Iterator
from typing import Any, Final

import kopf

from sockethealth_operator.api import Api
from sockethealth_operator.expiring import Once
from sockethealth_operator.intake import Intake
from sockethealth_operator.objects import FEW, ResourceType

_WATCH_SECONDS: Final = 300.0
_REQUEST_SECONDS: Final = 60.0
_CONNECT_SECONDS: Final = 10.0
_PAGE: Final = 500


def registry(intake: Intake, api: Api) -> kopf.OperatorRegistry:
    """One handler for each kind that kopf watches, and the credentials.

    Args:
        intake: takes in what kopf sees.
        api: has the credentials.
    """
    handlers = kopf.OperatorRegistry()
    for resource in FEW:
        _watch(handlers, resource, intake)

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await api.connection()

    return handlers


def settings() -> kopf.OperatorSettings:
    """How kopf behaves: it posts nothing, patches nothing, and never gives up on the API server."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    # The CRDs are there before kopf starts; without scanning it need not watch all CRDs of the cluster.
    chosen.scanning.disabled = True
    chosen.watching.server_timeout = int(_WATCH_SECONDS)
    chosen.watching.client_timeout = _WATCH_SECONDS + _CONNECT_SECONDS
    chosen.watching.connect_timeout = _CONNECT_SECONDS
    chosen.watching.chunk_size = _PAGE
    chosen.watching.reconnect_backoff = 0.5
    chosen.networking.request_timeout = _REQUEST_SECONDS
    chosen.networking.connect_timeout = _CONNECT_SECONDS
    chosen.networking.error_backoffs = Forever()
    chosen.networking.enforce_retry_after = True
    # A worker for each object that changes stays for so long: after a start that is all of them.
    chosen.queueing.idle_timeout = 1.0
    # kopf would kill the process some time after it has ended, and it is begun anew: see :mod:`observing`.
    chosen.process.ultimate_exiting_timeout = None
    return chosen


class Forever:
    """Pauses between attempts, in seconds, without an end."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1.0, 2.0, 3.0)
        while True:
            yield 5.0


class QuietKopf(logging.Filter):
    """Lets one line an hour through for each request that kopf fails with.

    That the API server is away is said by :class:`~sockethealth_operator.api.Api`, once; kopf says it for each
    watch and each attempt. That a part of kopf has failed is said by :mod:`observing`, once for all of them.
    """

    _request: Final = re.compile(r"Request attempt #\d+(?:/\d+)? failed; .*?: (\w+ [^ ?]+)\S* -> (\w+)")
    _failed: Final = re.compile(r".+ has failed: ")
    _away: Final = ("ClientConnectorError", "ClientOSError", "ServerDisconnectedError", "TimeoutError")

    def __init__(self, once: Once) -> None:
        super().__init__()
        self._once = once

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown."""
        if not record.name.startswith("kopf"):
            return True
        if self._failed.match(record.getMessage()):
            return False
        match = self._request.search(record.getMessage())
        if match is None:
            return True
        return match[2] not in self._away and self._once.first(match[1], match[2])


def _watch(handlers: kopf.OperatorRegistry, resource: ResourceType, intake: Intake) -> None:
    @kopf.on.event(resource.group, resource.version, resource.plural, registry=handlers, id=f"watch-{resource.plural}")
    async def take(event: kopf.RawEvent, **_: Any) -> None:
        intake.event(resource, event["type"], event["object"])
