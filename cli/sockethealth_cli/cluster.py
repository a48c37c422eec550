"""Reading SocketHealths from the Kubernetes API, with the person's own kubeconfig."""

from collections.abc import Iterator
from typing import Any, Final

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from sockethealth_core.names import GROUP, VERSION

_PLURAL: Final = "sockethealths"
_PAGE: Final = 500
_TIMEOUT_SECONDS: Final = 30


class ClusterError(Exception):
    """The cluster did not answer as asked: the text is a sentence."""


def socket_healths(
    *, namespace: str | None = None, context: str | None = None, kubeconfig: str | None = None
) -> list[dict[str, Any]]:
    """SocketHealth objects as the API server has them, of one namespace or of all.

    Raises:
        ClusterError: no kubeconfig, no answer, or a refusal.
    """
    try:
        connection = config.new_client_from_config(  # type: ignore[no-untyped-call]  # the client has no types
            config_file=kubeconfig, context=context
        )
        return list(_pages(client.CustomObjectsApi(connection), namespace))
    except ConfigException as error:
        raise ClusterError(f"no cluster to ask: {error} (kubectl config get-contexts shows what there is)") from error
    except ApiException as error:
        raise ClusterError(_refusal(error, namespace)) from error
    except urllib3.exceptions.HTTPError as error:
        raise ClusterError(f"the API server does not answer: {error}") from error


def _pages(api: Any, namespace: str | None) -> Iterator[dict[str, Any]]:
    place = [GROUP, VERSION] + ([namespace] if namespace else []) + [_PLURAL]
    call = api.list_namespaced_custom_object if namespace else api.list_cluster_custom_object
    token = ""
    while True:
        page = call(*place, limit=_PAGE, _continue=token, _request_timeout=_TIMEOUT_SECONDS)
        yield from page["items"]
        token = page["metadata"].get("continue") or ""
        if not token:
            return


def _refusal(error: ApiException, namespace: str | None) -> str:
    where = f"in namespace {namespace}" if namespace else "in all namespaces (-n NAMESPACE asks for one)"
    if error.status == 404:
        return f"the cluster does not know {_PLURAL}.{GROUP}: install SocketHealth with its Helm chart first"
    if error.status == 403:
        return f"you may not list {_PLURAL}.{GROUP} {where}: ask for a role that allows it"
    return f"the API server refused to list {_PLURAL}.{GROUP} {where}: {error.status} {error.reason}"
