"""Objects of a cluster by the words kubectl takes, over one connection: a kubectl costs a tenth of a second of CPU."""

import json
from collections.abc import Callable, Mapping
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
class Kind:
    """Where the API server has objects of a kind."""

    path: str
    plural: str
    namespaced: bool

    def url(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The path of an object, or of those of a namespace or of all; a namespace counts only where kinds have one."""
        where = ["namespaces", namespace] if self.namespaced and namespace else []
        return "/".join([self.path, *map(quote, filter(None, [*where, self.plural, name, subresource]))])


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
        self._kinds: dict[str, Kind] = {}

    def get(self, query: Query) -> dict[str, Any]:
        """An object without its managedFields, or a list whose items say their kind, as kubectl shows them.

        Raises:
            NotThereError: There is none.
            HarnessError: The API server refused.
        """
        path = self.kind(query.kind).url(query.namespace, query.name)
        found = self.ask(path + (f"?{urlencode({'labelSelector': query.selector})}" if query.selector else ""))
        for each in found.get("items", [found]):
            each["metadata"].pop("managedFields", None)
        common = {"apiVersion": found["apiVersion"], "kind": str(found["kind"]).removesuffix("List")}
        return found if query.name else {**found, "items": [common | item for item in found["items"]]}

    def kind(self, word: str) -> Kind:
        """The kind of a word that kubectl takes, or of `API-VERSION/KIND` as an object says its own.

        Raises:
            NotThereError: There is none.
        """
        # As with kubectl, which takes any case; a `/` is in what an object says of itself only.
        word = word if "/" in word else word.lower()
        if word not in self._kinds:
            self._kinds = {}
            for path in ("/apis", "/api"):
                for group in self.ask(path, accept=_DISCOVERY)["items"]:
                    self._learn(path, group)
        if word not in self._kinds:
            raise NotThereError(f'the server doesn\'t have a resource type "{word}"')
        return self._kinds[word]

    def _learn(self, path: str, group: dict[str, Any]) -> None:
        name = group.get("metadata", {}).get("name", "")
        for version in reversed(group["versions"]):  # the preferred one is the first, and is to win
            of_group = f"{name}/{version['version']}" if name else version["version"]
            for resource in version["resources"]:
                kind = Kind(f"{path}/{of_group}", resource["resource"], resource["scope"] == "Namespaced")
                self._kinds[f"{of_group}/{resource['responseKind']['kind']}"] = kind
                words = {kind.plural, resource.get("singularResource", ""), *resource.get("shortNames", ())}
                # The core group is learnt last: `events` alone are its own.
                self._kinds |= dict.fromkeys({*words, *(f"{word}.{name}" for word in words)} - {""}, kind)

    def ask(
        self,
        path: str,
        *,
        accept: str = "application/json",
        method: str = "GET",
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """What the API server answers to one request.

        Raises:
            NotThereError: Nothing is at the path.
            HarnessError: It was refused; the message is the API server's.
        """
        if self._client is None:
            self._client = self._make()
        settings = self._client.configuration
        headers = {"Accept": accept, "Content-Type": content_type}
        self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, None)
        pool = self._client.rest_client.pool_manager
        sent = None if body is None else json.dumps(body).encode()
        answer = pool.request(method, settings.host + path, body=sent, headers=headers, timeout=60)
        document: dict[str, Any] = json.loads(answer.data)
        if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            return document
        said = f"{method.lower()} {path}: {document.get('message', answer.reason)}"
        raise NotThereError(said) if answer.status == HTTPStatus.NOT_FOUND else HarnessError(said)
