"""The chart's life: replaced while it works, uninstalled, installed again."""

import itertools
import secrets
import time
from datetime import datetime

import pytest

from harness.cluster import OwnCluster
from product_lab import DEFINITIONS, RELEASE, Place

pytestmark = [pytest.mark.node, pytest.mark.usefixtures("demo")]

REPLICAS = 2
"""Operators that the chart runs by default."""

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


def test_while_the_operator_is_replaced_a_leak_is_told_of_in_time_and_once(place, product, record_property):
    cluster = product.cluster
    before = {pod["metadata"]["name"] for pod in product.pods_of("operator")}
    assert len(before) == REPLICAS
    place.deployment("leaking-too", "python3", "/scripts/leaking_client.py", place.service("impatient"), "--count=20")
    began = time.monotonic()
    product.upgrade("--set", f"operator.podAnnotations.replaced=at-{secrets.token_hex(4)}")
    record_property("replaced_seconds", round(time.monotonic() - began, 1))
    pod = place.pod("leaking-too")["metadata"]["name"]
    place.until(lambda: "leak" in place.findings(pod), "the leak to be found", seconds=45)
    place.until(lambda: len(_events(place, "leaking-too")) == 1, "its Event", seconds=20)

    def replaced():
        running = product.pods_of("operator")
        return len(running) == REPLICAS and not before & {one["metadata"]["name"] for one in running}

    place.until(replaced, "all operators to be replaced", seconds=60)
    if not isinstance(cluster, OwnCluster):
        return  # whose audit log is not ours to read
    spans = _spans(cluster.audited(f"system:serviceaccount:{product.namespace}:{RELEASE}-operator"))
    assert len(spans) >= 2, "nobody has handed over"
    for (_, ended, one), (started, _, other) in itertools.pairwise(sorted(spans)):
        assert ended < started, f"{other} has written before {one} had ended"


def _events(place, deployment):
    items = place.cluster.get("events.events.k8s.io", "-n", place.namespace)["items"]
    return [one for one in items if one["regarding"]["name"] == deployment and one["reason"] == "CloseWaitLeak"]


def _spans(audited):
    """When each pod has written for the first and for the last time, Leases left out: epoch seconds, and its name."""
    times = {}
    for one in audited:
        if one["objectRef"]["resource"] != "leases":
            (name,) = one["user"]["extra"]["authentication.kubernetes.io/pod-name"]
            times.setdefault(name, []).append(datetime.fromisoformat(one["requestReceivedTimestamp"]).timestamp())
    return [(min(stamps), max(stamps), name) for name, stamps in times.items()]


def test_uninstalling_leaves_no_annotation_and_keeps_the_definitions(place, product):
    pod = place.pod("leaking")["metadata"]["name"]
    expected = [f"Deployment {place.namespace}/leaking", f"Pod {place.namespace}/{pod}"]
    place.until(lambda: set(expected) <= set(_annotated(product.cluster)), "the annotations", seconds=60)
    product.uninstall()
    assert _annotated(product.cluster) == []
    assert product.cluster.get("sockethealth,nodesockethealth", "-A")["items"] == []
    assert product.cluster.get("leases", "-n", product.namespace)["items"] == []
    assert _definitions(product.cluster) == DEFINITIONS
    assert place.cluster.get("sockethealthpolicy", "at-once", "-n", place.namespace)["spec"]["rules"]


def test_it_installs_again_and_takes_the_definitions_along_when_asked(place, product):
    product.install("--set", "crds.keep=false")
    pod = place.pod("leaking")["metadata"]["name"]
    place.until(lambda: "leak" in place.findings(pod), "the leak to be found again", seconds=45)
    product.uninstall()
    place.until(lambda: _definitions(product.cluster) == [], "the definitions to go", seconds=30)
    assert _annotated(product.cluster) == []
