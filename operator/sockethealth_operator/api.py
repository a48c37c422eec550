"""The Kubernetes API: the only module that knows its client, its status codes and its media types.

The asynchronous client of the kubernetes package is used, as kopf runs on asyncio: no thread pool, and one
connection pool. Only its transport, TLS and credentials are taken: the operator works with kinds that are
known by discovery only, for which plain JSON is the natural form.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast
from urllib.parse import quote

import aiohttp
import kopf
import msgspec
from kubernetes.aio import client, config

from sockethealth_core.names import OPERATOR_FIELD_MANAGER
from sockethealth_operator.objects import ObjectRef, ResourceType

_log = logging.getLogger(__name__)

_JSON: Final = "application/json"
_APPLY: Final = "application/apply-patch+yaml"
_MERGE: Final = "application/merge-patch+json"
_METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_REQUEST_SECONDS: Final = 15.0
_PAGE_SECONDS: Final = 60.0
"""A page of 500 objects that the API server has yet to read from etcd and decode takes seconds."""
_PAGE: Final = 500
_WATCH_SECONDS: Final = 300
_SILENCE_SECONDS: Final = 90.0
"""A watch this long without a byte counts as dead: the API server sends a bookmark about once a minute, once it has
seen a change of the kind. To ask anew where it has not is one request."""
UNREADABLE: Final = "UNREADABLE"
"""Type of a change of which not even the line could be read."""
_BROKEN: Final = (aiohttp.ClientError, OSError, TimeoutError, config.ConfigException)
"""What a request fails with that got no answer; the last is a service account's token that cannot be read."""


class ApiError(Exception):
    """The API server refused; the text is what it said."""

    def __init__(self, message: str, status: int, reason: str = "", retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class NotFoundError(ApiError):
    """The object, its namespace or its kind does not exist (404, 410)."""


class ForbiddenError(ApiError):
    """Not allowed (403), for want of a permission or because admission refuses this one object."""

    @property
    def lacks_permission(self) -> bool:
        """Whether a permission is missing; otherwise admission has refused this one object."""
        return " cannot " in str(self)


class TerminatingError(ApiError):
    """Nothing is created in the namespace any more, as it is being deleted (403); no fault of anyone.

    The cause NamespaceTerminating, of k8s.io/apiserver's plugin/namespace/lifecycle.
    """


class ConflictError(ApiError):
    """The object is another by now, or exists already (409)."""

    @property
    def already_exists(self) -> bool:
        """Whether an object of that name is there."""
        return self.reason == "AlreadyExists"


class InvalidError(ApiError):
    """The object is not valid (400, 422); the same request would be refused again."""


class UnreachableError(ApiError):
    """No answer: the API server is away, or the network is."""


_ERRORS: Final[Mapping[int, type[ApiError]]] = {
    400: InvalidError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: NotFoundError,
    422: InvalidError,
}


class Api:
    """Requests to one API server. It knows whether the server answers, and says so once when that changes."""

    def __init__(self, configuration: client.Configuration) -> None:
        self._configuration = configuration
        # Proxies are for the outside: an API server is reached directly, as kopf does.
        configuration.client_session_kwargs = {"trust_env": False}
        configuration.proxy = None
        self._client = client.ApiClient(configuration)
        self.present = asyncio.Event()
        self.present.set()
        self.on_away: Callable[[], None] = lambda: None
        self.on_return: Callable[[], None] = lambda: None
        self.on_answer: Callable[[str, float], None] = lambda _method, _seconds: None
        """Told of each request: its method and the seconds it took until it was answered or given up."""
        self.on_error: Callable[[int], None] = lambda _status: None
        """Told of each request that failed: the HTTP status, or 0 for no answer. What is refused because its namespace
        is being deleted is not told, as it cannot be foreseen and nobody can do anything about it."""

    @classmethod
    async def connect(cls, kubeconfig: Path | None) -> Self:
        """Read credentials: of the kubeconfig given, of the pod's service account, or of KUBECONFIG.

        Raises:
            ApiError: with a sentence, when there are none.
        """
        settings = client.Configuration()
        try:
            if kubeconfig is None and _in_cluster():
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call] # no annotations
            else:
                file = None if kubeconfig is None else str(kubeconfig)
                await config.load_kube_config(  # type: ignore[no-untyped-call] # no annotations
                    config_file=file, client_configuration=settings
                )
        except (config.ConfigException, OSError, TypeError) as error:
            raise ApiError(
                f"No credentials for an API server ({error}): run in a pod with a service account or give --kubeconfig",
                0,
            ) from error
        return cls(settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()  # type: ignore[no-untyped-call] # no annotations

    async def connection(self) -> kopf.ConnectionInfo:
        """The same credentials for kopf, with the service account's token as it is at this moment."""
        header = await self._configuration.get_api_key_with_prefix("BearerToken") or ""
        scheme, _, token = header.partition(" ")
        return kopf.ConnectionInfo(
            server=self._configuration.host,
            ca_path=self._configuration.ssl_ca_cert,
            ca_data=self._configuration.ca_cert_data,
            insecure=not self._configuration.verify_ssl,
            username=self._configuration.username or None,
            password=self._configuration.password or None,
            scheme=scheme or None,
            token=token or None,
            certificate_path=self._configuration.cert_file,
            private_key_path=self._configuration.key_file,
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = _JSON,
        accept: str = _JSON,
        seconds: float = _REQUEST_SECONDS,
    ) -> dict[str, Any]:
        """Send one request and decode the answer, which is waited for so many seconds.

        Raises:
            ApiError: one of its kinds; anything but 2xx.
        """
        began = time.monotonic()
        try:
            response = await self._send(method, path, query, body, content_type, accept, seconds)
            text = await response.read()
        except _BROKEN as error:
            self.on_answer(method, time.monotonic() - began)
            self.on_error(0)
            self._is_away(error)
            raise UnreachableError(f"The API server does not answer: {error}", 0) from error
        self.on_answer(method, time.monotonic() - began)
        self._is_back()
        if response.status >= 300:
            refusal = _error(response.status, text, response.headers)
            if not isinstance(refusal, TerminatingError):
                self.on_error(response.status)
            raise refusal
        try:
            return cast("dict[str, Any]", msgspec.json.decode(text))
        except (msgspec.DecodeError, RecursionError) as error:
            raise ApiError(f"The answer to {method} {path} is no JSON: {error}", response.status) from error

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        content_type: str,
        accept: str,
        timeout: float | aiohttp.ClientTimeout,  # noqa: ASYNC109 (aiohttp's own, which ends the connection too)
    ) -> aiohttp.ClientResponse:
        arguments = await self._client.param_serialize(
            method,
            quote(path),
            query_params=list((query or {}).items()),
            header_params={"Content-Type": content_type, "Accept": accept},
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = await self._client.call_api(*arguments, _request_timeout=timeout)
        return cast("aiohttp.ClientResponse", answer.response)

    async def watch(self, resource: ResourceType, version: str) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """Changes of all objects of a kind since a version: ADDED, MODIFIED, DELETED or BOOKMARK, and the object.

        A line that cannot be read is UNREADABLE, without an object. Ends when the server ends the watch, after some
        five minutes.

        Raises:
            NotFoundError: the version is too old; list again.
            UnreachableError: the connection broke, or has been silent for too long.
            ApiError: one of its kinds.
        """
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
            "resourceVersion": version,
        }
        timeout = aiohttp.ClientTimeout(sock_connect=_REQUEST_SECONDS, sock_read=_SILENCE_SECONDS)
        response = None
        try:
            response = await self._send("GET", resource.path(), query, None, _JSON, _JSON, timeout)
            if response.status >= 300:
                raise _error(response.status, await response.read(), response.headers)
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield _change(line)
        except _BROKEN as error:
            # Whether the server itself is away, the next request finds out.
            raise UnreachableError(
                f"The watch of {resource} broke off: {str(error) or type(error).__name__}", 0
            ) from error
        finally:
            if response is not None:
                response.close()

    async def get(self, resource: ResourceType, namespace: str, name: str) -> dict[str, Any]:
        """One object."""
        return await self.request("GET", resource.path(namespace, name))

    async def get_metadata(self, resource: ResourceType, namespace: str, name: str) -> dict[str, Any]:
        """One object's metadata, without the rest."""
        return await self.request("GET", resource.path(namespace, name), accept=_METADATA)

    async def list_metadata(self, resource: ResourceType) -> AsyncIterator[dict[str, Any]]:
        """Metadata of all objects of a kind, page by page, so that large clusters cost no memory."""
        async for page in self.pages(resource, _METADATA_LIST):
            for item in page.get("items") or []:
                yield item

    async def list_objects(self, resource: ResourceType) -> AsyncIterator[dict[str, Any]]:
        """All objects of a kind, page by page."""
        async for page in self.pages(resource):
            for item in page.get("items") or []:
                yield item

    async def pages(self, resource: ResourceType, accept: str = _JSON) -> AsyncGenerator[dict[str, Any], None]:
        """All objects of a kind, in pages as the server has them.

        Raises:
            NotFoundError: it took so long that the pages have expired (410).
        """
        following: str | None = ""
        while following is not None:
            query = {"limit": str(_PAGE)} | ({"continue": following} if following else {})
            page = await self.request("GET", resource.path(), query=query, accept=accept, seconds=_PAGE_SECONDS)
            yield page
            following = page["metadata"].get("continue") or None

    async def create(self, resource: ResourceType, namespace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object."""
        query = {"fieldManager": OPERATOR_FIELD_MANAGER}
        return await self.request("POST", resource.path(namespace), query=query, body=body)

    async def delete(self, resource: ResourceType, namespace: str, name: str, propagation: str = "Background") -> None:
        """Delete an object."""
        query = {"propagationPolicy": propagation}
        await self.request("DELETE", resource.path(namespace, name), query=query)

    async def delete_all(self, resource: ResourceType, namespace: str) -> None:
        """Delete all objects of a kind in a namespace, or of a cluster-wide kind."""
        await self.request("DELETE", resource.path(namespace))

    async def try_delete(self, resource: ResourceType, namespace: str, name: str) -> str | None:
        """Delete an object if it is there; a sentence when that was refused."""
        try:
            await self.delete(resource, namespace, name)
        except NotFoundError:
            return None
        except ForbiddenError as error:
            return f"{resource.kind} {name} could not be deleted: {error}"
        return None

    async def apply(
        self, resource: ResourceType, ref: ObjectRef, fields: Mapping[str, Any], subresource: str = ""
    ) -> dict[str, Any]:
        """Server-side apply of the operator's own fields.

        The UID goes with them: without it an object that was deleted meanwhile would come back as a stub.

        Raises:
            ConflictError: the object of that name is another by now.
            ApiError: one of its kinds; of 409 too, when others wrote the object so often that the server gave up.
        """
        metadata: dict[str, Any] = {"name": ref.name} | ({"namespace": ref.namespace} if ref.namespace else {})
        if ref.uid:
            metadata["uid"] = ref.uid
        metadata |= fields.get("metadata", {})
        try:
            return await self.request(
                "PATCH",
                resource.path(ref.namespace, ref.name, subresource),
                query={"fieldManager": OPERATOR_FIELD_MANAGER, "force": "true"},
                body={"apiVersion": resource.api_version, "kind": resource.kind, **fields, "metadata": metadata},
                content_type=_APPLY,
            )
        except ConflictError as error:
            raise _of_uid(error) from error

    async def merge(
        self, resource: ResourceType, namespace: str, name: str, fields: Mapping[str, Any], accept: str = _JSON
    ) -> dict[str, Any]:
        """Change fields of an object by a merge patch; None removes one.

        Raises:
            ConflictError: ``fields`` name a resourceVersion, and the object is of another by now.
        """
        return await self.request(
            "PATCH",
            resource.path(namespace, name),
            query={"fieldManager": OPERATOR_FIELD_MANAGER},
            body=fields,
            content_type=_MERGE,
            accept=accept,
        )

    async def annotate(self, resource: ResourceType, ref: ObjectRef, annotations: Mapping[str, str | None]) -> None:
        """Set or (None) remove annotations of the object with that UID; a successor of its name is refused.

        Raises:
            ConflictError: the object of that name is another by now.
        """
        fields = {"metadata": {"uid": ref.uid, "annotations": dict(annotations)}}
        try:
            await self.merge(resource, ref.namespace, ref.name, fields, accept=_METADATA)
        except ConflictError as error:
            raise _of_uid(error) from error
        except InvalidError as error:
            if "metadata.uid: " in str(error):
                raise ConflictError(str(error), error.status) from error
            raise

    async def served(self, group_version: str) -> list[ResourceType]:
        """Kinds of one group and version, as discovery has them; empty when it is not served."""
        group, _, version = group_version.rpartition("/")
        try:
            found = await self.request("GET", f"/apis/{group_version}" if group else f"/api/{version}")
        except NotFoundError:
            return []
        return [
            ResourceType(group, version, entry["name"], entry["kind"], namespaced=entry["namespaced"])
            for entry in found.get("resources") or []
            if "/" not in entry["name"]
        ]

    async def ping(self) -> bool:
        """Whether the server answers at all."""
        try:
            await self.request("GET", "/version")
        except UnreachableError:
            return False
        except ApiError:
            return True
        return True

    def _is_away(self, error: Exception) -> None:
        if self.present.is_set():
            self.present.clear()
            _log.warning(
                "The API server %s does not answer (%s). Nothing is lost: work goes on when it is back.",
                self._configuration.host,
                str(error) or type(error).__name__,
            )
            self.on_away()

    def _is_back(self) -> None:
        if not self.present.is_set():
            self.present.set()
            _log.info("The API server %s answers again.", self._configuration.host)
            self.on_return()


def _in_cluster() -> bool:
    return Path(config.incluster_config.SERVICE_TOKEN_FILENAME).is_file()


def _of_uid(error: ConflictError) -> ApiError:
    # That others wrote the object meanwhile is no reason to give up: the same write may succeed the next time.
    return error if ": uid mismatch: " in str(error) else ApiError(str(error), error.status, error.reason)


def _change(line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        event = msgspec.json.decode(line, type=_Event)
    except (msgspec.DecodeError, RecursionError):
        return UNREADABLE, {}
    if event.type == "ERROR":
        raise _refusal(int(event.object.get("code") or 0), event.object, "")
    return event.type, event.object


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: dict[str, Any]


def _error(status: int, text: bytes, headers: Mapping[str, str]) -> ApiError:
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {}
    answer = answer if isinstance(answer, dict) else {}
    said = {"message": text.decode(errors="replace")[:500].strip() or f"HTTP status {status}"} | answer
    return _refusal(status, said, headers.get("Retry-After") or "")


def _refusal(status: int, answer: Mapping[str, Any], retry_after: str) -> ApiError:
    details = answer.get("details") or {}
    wait = retry_after or str(details.get("retryAfterSeconds") or "")
    causes = {cause.get("reason") for cause in details.get("causes") or ()}
    kind = TerminatingError if "NamespaceTerminating" in causes else _ERRORS.get(status, ApiError)
    return kind(
        str(answer.get("message") or f"HTTP status {status}"),
        status,
        str(answer.get("reason") or ""),
        float(wait) if wait.isdecimal() else 0.0,
    )
