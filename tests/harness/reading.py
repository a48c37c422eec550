"""Objects of a cluster by the words kubectl takes, over one connection: a kubectl costs a tenth of a second of CPU."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlencode

from kubernetes import client as kubernetes_client

from harness.errors import HarnessError

_DISCOVERY: Final = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class NotThereError(HarnessError):
    """The object, or its kind, does not exist."""


@dataclass(frozen=True)
class _Kind:
    path: str
    plural: str
    namespaced: bool


@dataclass(frozen=True)
class Query:
    """What `kubectl get` is asked for: one kind, and of it one object, or those of a namespace or of all."""

    kind: str
    name: str = ""
    namespace: str = ""
    selector: str = ""

    @classmethod
    def of(cls, *words: str) -> "Query | None":
        """The query of kubectl's arguments; None when it takes more than is known here."""
        plain, options = [], {"-n": "default", "-l": ""}
        rest = iter(words)
        for word in rest:
            if word == "-A":
                options["-n"] = ""
            elif word in options:
                options[word] = next(rest)
            elif word.startswith("-") or "," in word or "/" in word:
                return None
            else:
                plain.append(word)
        if len(plain) not in (1, 2):
            return None
        return cls(plain[0], plain[1] if len(plain) == 2 else "", options["-n"], options["-l"])


class Reading:
    """Reads objects; what kinds there are is asked for when an unknown one is.

    Args:
        client: a client of the cluster, made when it is first needed.
    """

    def __init__(self, client: Callable[[], kubernetes_client.ApiClient]) -> None:
        self._make = client
        self._client: kubernetes_client.ApiClient | None = None
        self._kinds: dict[str, _Kind] = {}

    def get(self, query: Query) -> dict[str, Any]:
        """An object without its managedFields, or a list whose items say their kind, as kubectl shows them.

        Raises:
            NotThereError: There is none.
            HarnessError: The API server refused.
        """
        kind = self._kind(query.kind)
        where = f"/namespaces/{quote(query.namespace)}" if kind.namespaced and query.namespace else ""
        path = f"{kind.path}{where}/{kind.plural}" + (f"/{quote(query.name)}" if query.name else "")
        found = self._ask(path + (f"?{urlencode({'labelSelector': query.selector})}" if query.selector else ""))
        for each in found.get("items", [found]):
            each["metadata"].pop("managedFields", None)
        common = {"apiVersion": found["apiVersion"], "kind": str(found["kind"]).removesuffix("List")}
        return found if query.name else {**found, "items": [common | item for item in found["items"]]}

    def _kind(self, word: str) -> _Kind:
        if word not in self._kinds:
            self._kinds = {}
            for path in ("/apis", "/api"):
                for group in self._ask(path, _DISCOVERY)["items"]:
                    self._learn(path, group)
        if word not in self._kinds:
            raise NotThereError(f'the server doesn\'t have a resource type "{word}"')
        return self._kinds[word]

    def _learn(self, path: str, group: dict[str, Any]) -> None:
        name = group.get("metadata", {}).get("name", "")
        for version in reversed(group["versions"]):  # the preferred one is the first, and is to win
            where = f"{path}/{name}/{version['version']}" if name else f"{path}/{version['version']}"
            for resource in version["resources"]:
                kind = _Kind(where, resource["resource"], resource["scope"] == "Namespaced")
                words = {kind.plural, resource.get("singularResource", ""), *resource.get("shortNames", ())}
                # The core group is learnt last: `events` alone are its own.
                self._kinds |= dict.fromkeys({*words, *(f"{word}.{name}" for word in words)} - {""}, kind)

    def _ask(self, path: str, accept: str = "application/json") -> dict[str, Any]:
        if self._client is None:
            self._client = self._make()
        client = self._client
        headers = {"Accept": accept}
        client.update_params_for_auth(headers, [], ["BearerToken"], path, "GET", None)
        answer = client.call_api("GET", client.configuration.host + path, headers, _request_timeout=60)
        document: dict[str, Any] = json.loads(answer.read())  # type: ignore[no-untyped-call] # no annotations
        if answer.status == HTTPStatus.OK:
            return document
        said = f"get {path}: {document.get('message', answer.reason)}"
        raise NotThereError(said) if answer.status == HTTPStatus.NOT_FOUND else HarnessError(said)
