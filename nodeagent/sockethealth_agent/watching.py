"""List and watch one collection for ever: what is known stays known while the API server is away.

The state machine is that of every Kubernetes client: a paged list, then a watch from the list's version, moved on by
each event and bookmark; a watch that ends is continued, and 410 Gone means listing again
(kubernetes.io/docs/reference/using-api/api-concepts, "Efficient detection of changes").
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from sockethealth_agent.kubeapi import SILENCE_SECONDS, ApiError, AwayError, GoneError, KubeApi, Watch, resource_version
from sockethealth_core import backoff

LOG = logging.getLogger(__name__)
LONGEST_BACKOFF_SECONDS: Final = 10.0
"""A sweep. What is found while the API server is away is there within two of them once it is back."""
SERVER_SECONDS: Final = 240

T = TypeVar("T")


class _VersionOnly(msgspec.Struct, frozen=True):
    resource_version: str = msgspec.field(default="", name="resourceVersion")


class _Bookmark(msgspec.Struct, frozen=True):
    metadata: _VersionOnly = _VersionOnly()


class _Event(msgspec.Struct, frozen=True):
    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
    object: msgspec.Raw = msgspec.Raw()


class _Failure(msgspec.Struct, frozen=True):
    code: int = 0
    message: str = ""


class _Items(msgspec.Struct, frozen=True):
    items: list[msgspec.Raw] = []


def backoff_seconds(failures: int, retry_after_seconds: float | None, chance: float) -> float:
    """The core's, up to a sweep: the agents of many nodes must not come back at once."""
    return backoff.backoff_seconds(failures, retry_after_seconds, chance, LONGEST_BACKOFF_SECONDS)


@dataclass(frozen=True)
class Collection(Generic[T]):
    """What to watch: a path with selectors, how to read an item, and what its key is."""

    path: str
    parameters: Mapping[str, str]
    read: Callable[[bytes], T]
    key: Callable[[T], str]


class Mirror(Generic[T]):
    """A copy of a collection, kept by a thread of its own.

    Readers get an immutable mapping that is replaced, never changed. `synced` is set once the first list is in.
    """

    def __init__(
        self,
        api: KubeApi,
        collection: Collection[T],
        *,
        on_change: Callable[[], None] = lambda: None,
        silence_seconds: float = SILENCE_SECONDS,
        server_seconds: int = SERVER_SECONDS,
    ) -> None:
        self._api = api
        self._collection = collection
        self._on_change = on_change
        self._silence_seconds = silence_seconds
        self._server_seconds = server_seconds
        self._items: dict[str, T] = {}
        self._version = ""
        self._stopping = threading.Event()
        self._watch: Watch | None = None
        self._heard = False
        self._away_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch {collection.path}", daemon=True)
        self.synced = threading.Event()

    @property
    def items(self) -> Mapping[str, T]:
        """All items by key, as last known."""
        return self._items

    def start(self) -> None:
        """Begin listing and watching."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 2.0) -> None:
        """End the thread; what is known stays readable."""
        self._stopping.set()
        if self._watch is not None:
            self._watch.interrupt()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            retry_after = None
            self._heard = False
            try:
                if not self._version:
                    self._list()
                self._follow()
                failures = 0 if self._heard else failures + 1
            except ApiError as error:
                if self._stopping.is_set():
                    return
                failures, retry_after = 1 if self._heard else failures + 1, error.retry_after_seconds
                if not isinstance(error, AwayError):
                    self._version = ""
                # A broken watch alone is everyday: what counts is whether it can be taken up again.
                if failures > 1 and not isinstance(error, GoneError):
                    self._report_away(error)
            if failures:
                self._stopping.wait(backoff_seconds(failures, retry_after, random.random()))  # noqa: S311 (spreads load)

    def _list(self) -> None:
        found: dict[str, T] = {}
        version = ""
        for page in self._api.pages(self._collection.path, self._collection.parameters):
            version = version or resource_version(page)
            for raw in msgspec.json.decode(page, type=_Items).items:
                self._put(found, bytes(raw))
        self._items, self._version = found, version
        self.synced.set()
        self._on_change()

    def _follow(self) -> None:
        parameters = {**self._collection.parameters, "resourceVersion": self._version}
        # A spread end, so that the watches of all agents do not come back at the same moment.
        seconds = self._server_seconds + random.randrange(60)  # noqa: S311 (spreads load)
        with self._api.watch(
            self._collection.path, parameters, server_seconds=seconds, silence_seconds=self._silence_seconds
        ) as watch:
            self._watch = watch
            self._report_back()
            try:
                for line in watch:
                    if self._stopping.is_set():
                        return
                    self._take(line)
            finally:
                self._watch = None

    def _take(self, line: bytes) -> None:
        try:
            event = msgspec.json.decode(line, type=_Event)
        except msgspec.DecodeError as error:
            raise AwayError(f"The watch of {self._collection.path} sent a line that is no event: {error}.") from error
        raw = bytes(event.object)
        if event.type == "ERROR":
            failure = msgspec.json.decode(raw, type=_Failure)
            kind = GoneError if failure.code == 410 else AwayError
            raise kind(f"The watch of {self._collection.path} ended: {failure.message}", status=failure.code)
        version = msgspec.json.decode(raw, type=_Bookmark).metadata.resource_version
        if event.type != "BOOKMARK":
            changed = dict(self._items)
            if event.type == "DELETED":
                self._drop(changed, raw)
            else:
                self._put(changed, raw)
            self._items = changed
            self._on_change()
        self._version = version or self._version
        self._heard = True

    def _put(self, items: dict[str, T], raw: bytes) -> None:
        item = self._read(raw)
        if item is not None:
            items[self._collection.key(item)] = item

    def _drop(self, items: dict[str, T], raw: bytes) -> None:
        item = self._read(raw)
        if item is not None:
            items.pop(self._collection.key(item), None)

    def _read(self, raw: bytes) -> T | None:
        try:
            return self._collection.read(raw)
        except msgspec.MsgspecError as error:
            name = _name(raw)
            LOG.warning(
                "%s of %s is passed over: it is not of the shape this version knows (%s).",
                name,
                self._collection.path,
                error,
            )
            return None

    def _report_away(self, error: ApiError) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            LOG.warning(
                "%s cannot be watched, so what is known of it stays as it is until it can: %s",
                self._collection.path,
                error,
            )

    def _report_back(self) -> None:
        if self._away_since is not None:
            LOG.info("%s is read again after %.0f s.", self._collection.path, time.monotonic() - self._away_since)
            self._away_since = None


def _name(raw: bytes) -> str:
    metadata: Any = msgspec.json.decode(raw).get("metadata") or {}
    return "/".join(str(metadata[key]) for key in ("namespace", "name") if metadata.get(key))
