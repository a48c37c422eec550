"""The chart's life: upgrade, uninstall, install again. Last of the files, as it takes the product away."""

import json

import pytest

from product_lab import DEFINITIONS, Place

pytestmark = pytest.mark.node

POLICY = {
    "apiVersion": "sockethealth.io/v1alpha1",
    "kind": "SocketHealthPolicy",
    "metadata": {"name": "at-once"},
    "spec": {
        "rules": [
            {"name": "leak", "detector": "CloseWaitLeak", "threshold": 10, "for": "0s", "parameters": {"minAge": "1s"}}
        ],
        "actions": {"annotate": {"workload": True, "pod": True}},
    },
}
ANNOTATED_KINDS = "deployments,replicasets,statefulsets,daemonsets,jobs,cronjobs,pods"


@pytest.fixture(scope="module")
def place(product):
    """A leak that stays."""
    place = Place(product, "test-lifecycle")
    place.apply(POLICY)
    impatient = place.service("impatient")
    place.deployment("impatient", "python3", "/scripts/server.py", "--close-after=0.1")
    place.deployment("leaking", "python3", "/scripts/leaking_client.py", impatient, "--count=20")
    yield place
    place.delete()


def _definitions(cluster):
    listed = cluster.get("customresourcedefinitions")["items"]
    return sorted(item["metadata"]["name"] for item in listed if item["spec"]["group"] == "sockethealth.io")


def _annotated(cluster):
    items = cluster.get(ANNOTATED_KINDS, "-A")["items"]
    return [
        f"{item['kind']} {item['metadata']['namespace']}/{item['metadata']['name']}"
        for item in items
        if any("sockethealth.io/" in key for key in item["metadata"].get("annotations", {}))
    ]


def _priority(cluster):
    """The schema of SysctlProfile's spec.priority, if it has one."""
    spec = cluster.get("customresourcedefinition", "sysctlprofiles.sockethealth.io")["spec"]
    schema = spec["versions"][0]["schema"]["openAPIV3Schema"]
    return schema["properties"]["spec"]["properties"].get("priority")


def test_an_upgrade_brings_the_definitions_to_the_charts_version(place, product):
    current = _priority(product.cluster)
    assert current is not None
    path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/priority"
    product.cluster.kubectl(
        *("patch", "customresourcedefinition", "sysctlprofiles.sockethealth.io", "--type=json"),
        *("-p", json.dumps([{"op": "remove", "path": path}])),
    )
    assert _priority(product.cluster) is None
    product.upgrade()
    assert _priority(product.cluster) == current


def test_uninstalling_leaves_no_annotation_and_keeps_the_definitions(place, product):
    pod = place.pod("leaking")["metadata"]["name"]
    expected = [f"Deployment {place.namespace}/leaking", f"Pod {place.namespace}/{pod}"]
    place.until(lambda: set(expected) <= set(_annotated(product.cluster)), "the annotations", seconds=60)
    product.uninstall()
    assert _annotated(product.cluster) == []
    assert product.cluster.get("sockethealth,nodesockethealth", "-A")["items"] == []
    assert _definitions(product.cluster) == DEFINITIONS
    assert place.cluster.get("sockethealthpolicy", "at-once", "-n", place.namespace)["spec"]["rules"]


def test_it_installs_again_and_takes_the_definitions_along_when_asked(place, product):
    product.install("--set", "crds.keep=false")
    pod = place.pod("leaking")["metadata"]["name"]
    place.until(lambda: "leak" in place.findings(pod), "the leak to be found again", seconds=45)
    product.uninstall()
    place.until(lambda: _definitions(product.cluster) == [], "the definitions to go", seconds=30)
    assert _annotated(product.cluster) == []
