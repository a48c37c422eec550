"""What tests on an API server share."""

import json
from functools import cache

import pytest
import yaml

from harness.errors import HarnessError
from harness.waiting import until
from product_lab import CHART


@pytest.fixture
def dry_run(control_plane, crds):
    """Ask the API server what it would do with an object: (accepted, what it answers)."""

    def ask(document):
        try:
            (made,) = control_plane.add(document, dry_run=True)
        except HarnessError as error:
            return False, str(error)
        return True, json.dumps(made)

    return ask


@pytest.fixture(scope="session")
def rendered(control_plane):
    """The documents that Helm makes of the chart with some arguments, new ones for each caller."""

    @cache
    def text(*arguments):
        where = ("--namespace", "here", "--kube-version", "1.34.0")
        return control_plane.helm("template", "sockethealth", str(CHART), *where, *arguments).stdout

    def render(*arguments):
        documents = yaml.load_all(text(*arguments), Loader=yaml.CSafeLoader)
        return [document for document in documents if document]

    return render


@pytest.fixture
def end_namespace(control_plane, namespace):
    """Have the test's namespace be deleted, and stay for the test: an object in it is held by a finalizer."""
    held = {"name": "held", "namespace": namespace, "finalizers": ["example.com/held"]}

    def end():
        control_plane.add({"apiVersion": "v1", "kind": "ConfigMap", "metadata": held})
        control_plane.delete("namespace", namespace, wait=False)
        until(
            lambda: control_plane.get("namespace", namespace)["status"]["phase"] == "Terminating",
            f"the namespace {namespace} to be on its way out",
            seconds=10,
        )

    yield end
    control_plane.merge("configmap", "held", {"metadata": {"finalizers": []}}, namespace=namespace)
