"""A thin client of the Kubernetes API on urllib3: what the agent needs of it, in a quarter of the memory.

Get, paged list, watch, server-side apply and delete, each with a timeout. Answers are bytes: the caller decodes what
it needs of them into a type. Credentials come from the pod's service account or, for development, a kubeconfig.
"""

import base64
import json
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import msgspec
import urllib3
import yaml
from urllib3.exceptions import HTTPError

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_FRESH_SECONDS: Final = 60.0
"""How long a token is used before its file is read again; the kubelet replaces it well before it expires."""
CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 15.0
SILENCE_SECONDS: Final = 90.0
"""A watch this long without a line is dead: the API server sends a bookmark about once a minute."""
_APPLY: Final = "application/apply-patch+yaml"
_LONGEST_LINE: Final = 16 * 1024 * 1024


class ApiError(Exception):
    """The API server refused a request; the text names the request and has the server's own sentence."""

    def __init__(self, message: str, *, status: int = 0, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class NotFoundError(ApiError):
    """404: the object or its kind does not exist."""


class ConflictError(ApiError):
    """409: the object exists already, or is not the one that the given UID or version names."""


class GoneError(ApiError):
    """410: the resource version is too old to continue from; list again."""


class DeniedError(ApiError):
    """401 or 403: the credentials are not accepted, or lack the permission."""


class TerminatingError(ApiError):
    """403: nothing is created in the namespace any more, as it is being deleted; no fault of anyone.

    The cause NamespaceTerminating, of k8s.io/apiserver's plugin/namespace/lifecycle.
    """


class InvalidError(ApiError):
    """400 or 422: the server does not accept what was sent; sending it again will not help."""


class AwayError(ApiError):
    """No answer, 429 or 5xx: the same request may succeed later, after `retry_after_seconds` where it is set."""


class ConfigError(Exception):
    """There are no usable credentials; the text says which file or variable is missing."""


_ERRORS: Final[Mapping[int, type[ApiError]]] = {
    400: InvalidError,
    401: DeniedError,
    403: DeniedError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    422: InvalidError,
    429: AwayError,
}


class _Cause(msgspec.Struct, frozen=True):
    reason: str = ""


class _Details(msgspec.Struct, frozen=True):
    causes: list[_Cause] = []


class _Status(msgspec.Struct, frozen=True):
    """``metav1.Status``, as far as it explains a refusal."""

    message: str = ""
    reason: str = ""
    code: int = 0
    details: _Details | None = None


_TERMINATING: Final = _Cause("NamespaceTerminating")


@dataclass(frozen=True)
class Endpoint:
    """Where the API server is and how to be let in.

    Attributes:
        url: without a path, such as https://10.96.0.1:443.
        ca_file: the certificate authority; None for the system's.
        ca_data: the certificate authority itself, in PEM, where there is no file.
        token_file: holds a bearer token, and is read again as it is replaced.
        token: a fixed bearer token.
        cert_file: client certificate, with key_file.
    """

    url: str
    ca_file: str | None = None
    ca_data: str | None = None
    token_file: Path | None = None
    token: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


def in_cluster(environment: Mapping[str, str] = os.environ, folder: Path = SERVICE_ACCOUNT) -> Endpoint:
    """The API server and the service account of the pod this runs in.

    Raises:
        ConfigError: this is no pod, or it has no service account token.
    """
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ConfigError(
            "KUBERNETES_SERVICE_HOST is not set, so this is no pod of a cluster: give --kubeconfig FILE to use one "
            "from outside."
        )
    if not (folder / "token").is_file():
        raise ConfigError(f"{folder / 'token'} is missing: the pod needs automountServiceAccountToken: true.")
    return Endpoint(
        url=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        ca_file=str(folder / "ca.crt"),
        token_file=folder / "token",
    )


def from_kubeconfig(file: Path) -> Endpoint:
    """The current context of a kubeconfig: token, tokenFile or client certificate, CA by file or data.

    Raises:
        ConfigError: the file cannot be read, or authenticates in a way that is not supported (exec plugins).
    """
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        context = _named(document, "contexts", document["current-context"])["context"]
        cluster = _named(document, "clusters", context["cluster"])["cluster"]
        user = _named(document, "users", context["user"])["user"]
        server = str(cluster["server"]).rstrip("/")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is no kubeconfig with a current context ({error!r}).") from error
    if unsupported := {"exec", "auth-provider", "username"} & user.keys():
        raise ConfigError(
            f"{file} authenticates by {', '.join(sorted(unsupported))}, which the agent does not support: use a token "
            "or a client certificate."
        )

    def path(value: str | None) -> str | None:
        return None if value is None else str(file.parent / value)

    ca_data = cluster.get("certificate-authority-data")
    token_file = path(user.get("tokenFile"))
    return Endpoint(
        url=server,
        ca_file=path(cluster.get("certificate-authority")),
        ca_data=None if ca_data is None else base64.b64decode(ca_data).decode(),
        token_file=None if token_file is None else Path(token_file),
        token=user.get("token"),
        cert_file=path(user.get("client-certificate")) or _temporary(user.get("client-certificate-data")),
        key_file=path(user.get("client-key")) or _temporary(user.get("client-key-data")),
    )


def _named(document: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any]:
    for entry in document[kind]:
        if entry["name"] == name:
            found: Mapping[str, Any] = entry
            return found
    raise KeyError(f"{kind}: {name}")


def _temporary(data: str | None) -> str | None:
    # ssl takes a client certificate only from a file; mkstemp's is readable by its owner alone.
    if data is None:
        return None
    handle, name = tempfile.mkstemp(prefix="sockethealth-")
    with os.fdopen(handle, "wb") as file:
        file.write(base64.b64decode(data))
    return name


class KubeApi:
    """The requests of one program; safe to use from several threads."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        user_agent: str = "sockethealth-agent",
        on_error: Callable[[int], None] | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
            endpoint: server and credentials.
            user_agent: named in the API server's audit log and metrics.
            on_error: told of each failed request, with its HTTP status or 0 when there was no answer; not of what
                is refused because its namespace is being deleted.

        Raises:
            ConfigError: the CA or the client certificate cannot be read.
        """
        self._endpoint = endpoint
        self._user_agent = user_agent
        self._on_error = on_error or (lambda _status: None)
        self._token = endpoint.token
        self._token_read = float("-inf")
        try:
            context = ssl.create_default_context(cafile=endpoint.ca_file, cadata=endpoint.ca_data)
            if endpoint.cert_file:
                context.load_cert_chain(endpoint.cert_file, endpoint.key_file)
        except OSError as error:
            raise ConfigError(f"The certificates of {endpoint.url} cannot be read: {error}.") from error
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=4, ssl_context=context, retries=False)

    def close(self) -> None:
        """Close the connections that are idle."""
        self._pool.clear()

    def get(self, path: str, parameters: Mapping[str, str] | None = None) -> bytes:
        """GET a path.

        Raises:
            ApiError: see the types above.
        """
        return self._request("GET", path, parameters)

    def pages(self, path: str, parameters: Mapping[str, str] | None = None, *, limit: int = 250) -> Iterator[bytes]:
        """GET a list in pages of at most limit items; each page carries the resource version of the first.

        Raises:
            GoneError: it took so long that the server forgot where it was; start again.
            ApiError: see the types above.
        """
        token = ""
        while True:
            page = self.get(path, {**(parameters or {}), "limit": str(limit), **({"continue": token} if token else {})})
            yield page
            token = msgspec.json.decode(page, type=_Page).metadata.continue_
            if not token:
                return

    def apply(self, path: str, body: Mapping[str, Any], *, manager: str, force: bool = True) -> bytes:
        """Server-side apply (KEP-555) of an object to its path, or to its status with a path that ends so.

        Raises:
            ConflictError: metadata.uid is set and the object is another one.
            ApiError: see the types above.
        """
        parameters = {"fieldManager": manager, "force": "true" if force else "false"}
        return self._request("PATCH", path, parameters, json.dumps(body).encode(), _APPLY)

    def delete(self, path: str, *, uid: str | None = None) -> None:
        """Delete an object; it being gone already is no error.

        Raises:
            ConflictError: uid is set and the object is another one.
            ApiError: see the types above.
        """
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            self._request("DELETE", path, None, json.dumps(options).encode(), "application/json")
        except NotFoundError:
            return

    def watch(
        self,
        path: str,
        parameters: Mapping[str, str],
        *,
        server_seconds: int = 240,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> "Watch":
        """Start a watch; iterate over its lines within a ``with`` block.

        Args:
            path: of the collection.
            parameters: selectors and resourceVersion.
            server_seconds: after these the server ends the watch, and it is continued from the last version.
            silence_seconds: after these without a line the connection counts as dead.

        Raises:
            ApiError: see the types above.
        """
        everything = {**parameters, "watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(server_seconds)}
        response = self._open("GET", path, everything, None, None, read_seconds=silence_seconds)
        return Watch(response, path)

    def _request(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str] | None,
        body: bytes | None = None,
        content_type: str | None = None,
    ) -> bytes:
        response = self._open(method, path, parameters, body, content_type, read_seconds=ANSWER_SECONDS)
        try:
            return bytes(response.read())
        except HTTPError as error:
            raise self._away(method, path, error) from error
        finally:
            response.release_conn()

    def _open(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str] | None,
        body: bytes | None,
        content_type: str | None,
        *,
        read_seconds: float,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json", "User-Agent": self._user_agent}
        if content_type:
            headers["Content-Type"] = content_type
        if token := self._bearer():
            headers["Authorization"] = f"Bearer {token}"
        url = self._endpoint.url + path + (f"?{urlencode(parameters)}" if parameters else "")
        try:
            response = self._pool.request(
                method,
                url,
                body=body,
                headers=headers,
                redirect=False,
                preload_content=False,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds),
            )
            if response.status < 300:
                return response
            try:
                raise self._refused(method, path, response.status, response.headers, response.read())
            finally:
                response.release_conn()
        except HTTPError as error:
            raise self._away(method, path, error) from error

    def _bearer(self) -> str | None:
        file = self._endpoint.token_file
        if file is not None and time.monotonic() - self._token_read > TOKEN_FRESH_SECONDS:
            try:
                self._token = file.read_text(encoding="ascii").strip()
            except OSError as error:
                raise AwayError(f"The token {file} cannot be read: {error.strerror}.") from error
            self._token_read = time.monotonic()
        return self._token

    def _away(self, method: str, path: str, error: Exception) -> AwayError:
        self._on_error(0)
        return AwayError(f"{method} {path}: no answer from {self._endpoint.url} ({_cause(error)}).")

    def _refused(self, method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
        if status == 401:
            self._token_read = float("-inf")
        try:
            answer = msgspec.json.decode(body, type=_Status)
        except msgspec.DecodeError:
            answer = _Status(body[:200].decode(errors="replace").strip())
        said = answer.message
        if answer.details is not None and _TERMINATING in answer.details.causes:
            kind: type[ApiError] = TerminatingError
        else:
            kind = _ERRORS.get(status, AwayError if status >= 500 else ApiError)
            self._on_error(status)
        after = headers.get("Retry-After", "")
        return kind(
            f"{method} {path} was answered with {status}: {said or 'no explanation'}",
            status=status,
            retry_after_seconds=float(after) if after.isdigit() else None,
        )


def _cause(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    return str(reason if reason is not None else error) or type(error).__name__


class _ListMeta(msgspec.Struct, frozen=True):
    continue_: str = msgspec.field(default="", name="continue")
    resource_version: str = msgspec.field(default="", name="resourceVersion")


class _Page(msgspec.Struct, frozen=True):
    metadata: _ListMeta = _ListMeta()


def resource_version(page: bytes) -> str:
    """metadata.resourceVersion of a list or an object: where a watch goes on."""
    return msgspec.json.decode(page, type=_Page).metadata.resource_version


class Watch:
    """The lines of one watch, each a JSON event, until the server ends it. Closed by its ``with`` block."""

    def __init__(self, response: urllib3.BaseHTTPResponse, path: str) -> None:
        self._response = response
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response.close()

    def __iter__(self) -> Iterator[bytes]:
        """Yields lines.

        Raises:
            AwayError: the connection broke, or was silent for too long.
        """
        rest = b""
        try:
            while data := self._response.read1(65536):
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > _LONGEST_LINE:
                    raise AwayError(f"The watch of {self._path} sent a line of more than {_LONGEST_LINE} bytes.")
                yield from filter(None, lines)
        except (HTTPError, OSError, ValueError) as error:
            # A response that another thread shut down reads as a closed file.
            raise AwayError(f"The watch of {self._path} broke ({_cause(error)}).") from error

    def interrupt(self) -> None:
        """End the watch from another thread: whoever reads it gets its end or AwayError."""
        if isinstance(self._response, urllib3.HTTPResponse):
            try:
                self._response.shutdown()
            except (OSError, ValueError, RuntimeError):
                return  # it has ended by itself


def segment(text: str) -> str:
    """A name as a part of a path."""
    return quote(text, safe="")
