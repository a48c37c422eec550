"""Making, changing and deleting objects over one connection: a kubectl costs a tenth of a second of CPU."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from harness.errors import HarnessError
from harness.reading import NotThereError, Query, Reading
from harness.waiting import until

Document = Mapping[str, Any]
_DELETION_SECONDS: Final = 60


class Writing:
    """Writes objects as kubectl does: a field that no kind has is refused, and not dropped.

    Args:
        api: where kinds are known, and the API server is asked.
    """

    def __init__(self, api: Reading) -> None:
        self._api = api

    def apply(self, document: Document, namespace: str, manager: str, subresource: str) -> dict[str, Any]:
        """Server-side apply (KEP-555), over whatever others have written into the same fields."""
        options = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"}
        path = self._url(document, namespace, name=str(document["metadata"]["name"]), subresource=subresource)
        how = "application/apply-patch+yaml"
        return self._api.ask(f"{path}?{urlencode(options)}", method="PATCH", body=document, content_type=how)

    def create(self, document: Document, namespace: str, *, dry_run: bool) -> dict[str, Any]:
        """An object that is not there yet; with `dry_run` what it would be."""
        options = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        return self._api.ask(f"{self._url(document, namespace)}?{urlencode(options)}", method="POST", body=document)

    def merge(self, query: Query, patch: Document, subresource: str) -> dict[str, Any]:
        """A JSON merge patch (RFC 7386) of an object."""
        path = self._api.kind(query.kind).url(query.namespace, query.name, subresource)
        return self._api.ask(path, method="PATCH", body=patch, content_type="application/merge-patch+json")

    def delete(self, query: Query, *, wait: bool) -> None:
        """Delete an object where it is there, and with `wait` wait until it is gone."""
        path = self._api.kind(query.kind).url(query.namespace, query.name)
        try:
            # As kubectl: what it owns is deleted too, later.
            answer = self._api.ask(path, method="DELETE", body={"propagationPolicy": "Background"})
        except NotThereError:
            return
        uid = answer.get("details", answer.get("metadata", {})).get("uid")

        def gone() -> bool:
            try:
                return bool(self._api.ask(path)["metadata"]["uid"] != uid)
            except NotThereError:
                return True

        if wait:
            until(gone, f"{query.kind} {query.name} to be gone", seconds=_DELETION_SECONDS)

    def _url(self, document: Document, namespace: str, *, name: str = "", subresource: str = "") -> str:
        kind = self._api.kind(f"{document['apiVersion']}/{document['kind']}")
        named = document.get("metadata", {}).get("namespace")
        if named and namespace and named != namespace:
            raise HarnessError(f"The object is of namespace {named}, and was to be made in {namespace}.")
        return kind.url(named or namespace or "default", name, subresource)
