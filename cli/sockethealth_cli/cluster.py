"""Reading from the Kubernetes API, with the person's own kubeconfig. Every failure is a sentence."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from sockethealth_core.names import GROUP, VERSION

_PAGE: Final = 500
_TIMEOUT_SECONDS: Final = 30

Object = dict[str, Any]


class ClusterError(Exception):
    """The cluster did not answer as asked: the text is a sentence."""


class RefusedError(ClusterError):
    """The person may not do that."""


class MissingError(ClusterError):
    """There is no object of that name."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind as the API serves it. The core group is empty, and of it only pods are read."""

    group: str
    version: str
    plural: str
    namespaced: bool = True

    def __str__(self) -> str:
        """As `kubectl auth can-i` takes it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


SOCKET_HEALTHS: Final = Resource(GROUP, VERSION, "sockethealths")
NODE_SOCKET_HEALTHS: Final = Resource(GROUP, VERSION, "nodesockethealths", namespaced=False)
SYSCTL_PROFILES: Final = Resource(GROUP, VERSION, "sysctlprofiles", namespaced=False)
PODS: Final = Resource("", "v1", "pods")
REPLICA_SETS: Final = Resource("apps", "v1", "replicasets")
JOBS: Final = Resource("batch", "v1", "jobs")
_VERSION: Final = Resource("", "v1", "version", namespaced=False)


class Cluster:
    """A connection to the API server of a kubeconfig's context.

    Args:
        context: name of the context; None for the current one.
        kubeconfig: path of the file; None for $KUBECONFIG or ~/.kube/config.

    Raises:
        ClusterError: there is no such kubeconfig or context.
    """

    def __init__(self, *, context: str | None = None, kubeconfig: str | None = None) -> None:
        try:
            self._api = config.new_client_from_config(  # type: ignore[no-untyped-call]  # the client has no types
                config_file=kubeconfig, context=context
            )
            contexts, active = config.list_kube_config_contexts(config_file=kubeconfig)  # type: ignore[no-untyped-call]
        except ConfigException as error:
            raise ClusterError(
                f"no cluster to ask: {error} (kubectl config get-contexts shows what there is)"
            ) from error
        chosen = next((one for one in contexts if one["name"] == context), active)
        self.namespace: str = (chosen.get("context") or {}).get("namespace") or "default"
        """The namespace of the context, which kubectl uses without -n."""

    def list(self, resource: Resource, namespace: str | None = None, field_selector: str = "") -> list[Object]:
        """All objects of a kind, in pages; of one namespace, or of all.

        Raises:
            ClusterError: no answer, or not that one.
        """
        call = self._lister(resource, namespace)
        with _explained("list", resource, namespace):
            return list(_pages(call, field_selector))

    def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """One object.

        Raises:
            MissingError: there is none.
            ClusterError: no answer, or not that one.
        """
        with _explained("get", resource, namespace, name):
            if not resource.group:
                core: Any = client.CoreV1Api(self._api)
                return self._plain(core.read_namespaced_pod(name, namespace, _request_timeout=_TIMEOUT_SECONDS))
            custom: Any = client.CustomObjectsApi(self._api)
            place = [resource.group, resource.version, *([namespace] if resource.namespaced else []), resource.plural]
            call = custom.get_namespaced_custom_object if resource.namespaced else custom.get_cluster_custom_object
            found: Object = call(*place, name, _request_timeout=_TIMEOUT_SECONDS)
            return found

    def owner(self, reference: Object, namespace: str) -> Object:
        """The object that a controller reference names, of whatever kind, with its kind and version filled in.

        Raises:
            MissingError: it is no longer there.
            ClusterError: no answer, or not that one.
        """
        api_version, kind, name = reference["apiVersion"], reference["kind"], reference["name"]
        group, _, version = api_version.rpartition("/")
        served = Resource(group, version, f"{kind.lower()}s")
        with _explained("get", served, namespace, name):
            if not group:
                core: Any = client.CoreV1Api(self._api)
                read = core.read_namespaced_replication_controller
                return {**self._plain(read(name, namespace, _request_timeout=_TIMEOUT_SECONDS)), **_kind_of(reference)}
            custom: Any = client.CustomObjectsApi(self._api)
            kinds = custom.get_api_resources(group, version, _request_timeout=_TIMEOUT_SECONDS).resources
        found = next((one for one in kinds if one.kind == kind and "/" not in one.name), None)
        if found is None:
            raise ClusterError(f"the API server does not serve {kind} of {api_version}, which controls the pod")
        served = Resource(group, version, found.name, namespaced=found.namespaced)
        return {**self.get(served, name, namespace), **_kind_of(reference)}

    def minor(self) -> int:
        """The minor of the API server's Kubernetes version 1.minor.

        Raises:
            ClusterError: no answer, or none that is a version.
        """
        with _explained("get", _VERSION, None):
            told = client.VersionApi(self._api).get_code(_request_timeout=_TIMEOUT_SECONDS)
        # Providers add to it: "34+".
        digits = re.match(r"\d+", str(told.minor))
        if digits is None:
            raise ClusterError(f"the API server's version is none of Kubernetes: '{told.git_version}'")
        return int(digits[0])

    def _lister(self, resource: Resource, namespace: str | None) -> Callable[..., Object]:
        if not resource.group:
            core: Any = client.CoreV1Api(self._api)
            if namespace is None:
                return lambda **asked: self._plain(core.list_pod_for_all_namespaces(**asked))
            return lambda **asked: self._plain(core.list_namespaced_pod(namespace, **asked))
        custom: Any = client.CustomObjectsApi(self._api)
        if resource.namespaced and namespace is not None:
            place = [resource.group, resource.version, namespace, resource.plural]
            return lambda **asked: dict(custom.list_namespaced_custom_object(*place, **asked))
        place = [resource.group, resource.version, resource.plural]
        return lambda **asked: dict(custom.list_cluster_custom_object(*place, **asked))

    def _plain(self, typed: Any) -> Object:
        plain: Object = self._api.sanitize_for_serialization(typed)
        return plain


def _kind_of(reference: Object) -> Object:
    return {"apiVersion": reference["apiVersion"], "kind": reference["kind"]}


def _pages(call: Callable[..., Object], field_selector: str) -> Iterator[Object]:
    asked: dict[str, Any] = {"limit": _PAGE, "_request_timeout": _TIMEOUT_SECONDS}
    if field_selector:
        asked["field_selector"] = field_selector
    while True:
        page = call(**asked)
        yield from page["items"]
        token = page["metadata"].get("continue")
        if not token:
            return
        asked["_continue"] = token


@contextmanager
def _explained(verb: str, resource: Resource, namespace: str | None, name: str = "") -> Iterator[None]:
    try:
        yield
    except ApiException as error:
        raise _refusal(error, verb, resource, namespace, name) from error
    except urllib3.exceptions.HTTPError as error:
        raise ClusterError(f"the API server does not answer: {error}") from error


def _refusal(error: ApiException, verb: str, resource: Resource, namespace: str | None, name: str) -> ClusterError:
    where = ""
    if resource.namespaced:
        where = f" in namespace {namespace}" if namespace else " in all namespaces (-n NAMESPACE asks for one)"
    if error.status == 401:
        return ClusterError("the API server does not know you: the kubeconfig's credentials are missing or expired")
    if error.status == 403:
        scope = f" -n {namespace}" if namespace else (" -A" if resource.namespaced else "")
        return RefusedError(
            f"you may not {verb} {resource}{where}: ask for a role that allows the verb {verb} on it "
            f"(kubectl auth can-i {verb} {resource}{scope})"
        )
    if error.status == 404 and name and _named_in(error.body) == name:
        return MissingError(f"there is no {resource} {name}{where}")
    if error.status == 404 and resource.group == GROUP:
        return ClusterError(
            f"the cluster does not know {resource}: install SocketHealth first (helm install sockethealth "
            "charts/sockethealth --namespace sockethealth --create-namespace)"
        )
    return ClusterError(f"the API server refused to {verb} {resource}{where}: {error.status} {error.reason}")


def _named_in(body: str | bytes | None) -> str | None:
    # A path that is not served answers in plain text, an object that is not there in a Status that names it.
    try:
        details = json.loads(body or "").get("details") or {}
    except (ValueError, AttributeError):
        return None
    found = details.get("name")
    return found if isinstance(found, str) else None
