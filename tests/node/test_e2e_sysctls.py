"""Sysctl profiles on a real node: what is written where, and that all of it is put back.."""

import os
import signal
from pathlib import Path

import pytest

import host_sysctls
from harness.waiting import until
from product_lab import Place, pids_of
from sockethealth_agent import netns
from sockethealth_core.sysctls import SYSCTLS, path_of

pytestmark = pytest.mark.node

NODE_VALUES = {"net.ipv4.tcp_keepalive_intvl": "61", "net.ipv4.tcp_keepalive_probes": "7"}
POD_VALUES = {"net.ipv4.ip_local_port_range": "20000 60999", "net.ipv4.tcp_fin_timeout": "33"}
SWEEP_SECONDS = 10
WRITER = "sysctl-writer"


@pytest.fixture(scope="module")
def place(product):
    """The product with its sysctl writer, two pods of their own network and one of the node's."""
    product.ensure_with_writer()
    place = Place(product, "test-sysctls")
    for name, more in (("tuned", {}), ("other", {}), ("host", {"hostNetwork": True})):
        place.deployment(name, "sleep", "infinity", **more)
    for name in ("tuned", "other", "host"):
        place.pod(name)
    yield place
    product.cluster.kubectl("delete", "sysctlprofiles", "--all", check=False)
    if product.is_installed():
        product.uninstall()
    place.delete()


@pytest.fixture
def host_to_itself():
    with host_sysctls.changing():
        yield


@pytest.fixture
def profiles(place):
    """Makes profiles; at the end they are deleted, and everything is as it was."""
    before = everything(place)
    made = []

    def make(name, **spec):
        made.append(name)
        apply_profile(place, name, **spec)

    yield make
    for name in made:
        place.cluster.delete("sysctlprofile", name, wait=True)
    place.until(lambda: everything(place) == before, "all values to be as they were", seconds=40)


def apply_profile(place, name, **spec):
    sysctls = [{"name": key, "value": value} for key, value in spec.pop("values").items()]
    place.apply(
        {
            "apiVersion": "sockethealth.io/v1alpha1",
            "kind": "SysctlProfile",
            "metadata": {"name": name},
            "spec": {"mode": "Enforce", "rollout": {"pauseSeconds": 0}, "sysctls": sysctls, **spec},
        }
    )


def for_tuned(place):
    """Selects the pod `tuned` of the place, and no pod of the system."""
    return {
        "target": "Pods",
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": place.namespace}},
        "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["tuned", "host", "late"]}]},
    }


def in_force():
    """All sysctls of the table in the namespace that the caller is in."""
    found = {}
    for sysctl in SYSCTLS:
        file = Path("/proc/sys/net", path_of(sysctl.name))
        if file.exists():
            found[sysctl.name] = " ".join(file.read_text().split())
    return found


def of_node():
    """The same of this machine's namespace, which is the node's."""
    return in_force()


def of_pod(place, app):
    """All sysctls of the table in a pod's namespace."""
    with netns.entered(f"/proc/{next(pids_of(place.pod(app)))}/ns/net"):
        return in_force()


def everything(place):
    """What is in force on the node and in the pods."""
    return {"node": of_node(), "tuned": of_pod(place, "tuned"), "other": of_pod(place, "other")}


def changed(before, after):
    return {
        place: {name: value for name, value in after[place].items() if before[place][name] != value} for place in after
    }


def status(place, name):
    return place.cluster.get("sysctlprofile", name).get("status", {})


def conditions(place, name):
    return {each["type"]: each for each in status(place, name).get("conditions", [])}


def report(place, name):
    node = place.cluster.get("nodesockethealth", place.cluster.node_name)
    return {r["profile"]: r for r in node.get("status", {}).get("sysctlProfiles", [])}.get(name, {})


def complete(place, name):
    return conditions(place, name).get("Progressing", {}).get("reason") == "Complete"


def writer_pid(place):
    return place.product.pid_of("agent", WRITER, "sockethealth-sysctl-writer")


def test_audit_says_what_enforce_would_change_and_changes_nothing(place, profiles):
    before = everything(place)
    profiles("look", target="Node", mode="Audit", values=NODE_VALUES)
    profiles("look-pods", mode="Audit", values=POD_VALUES, **for_tuned(place))
    for name in ("look", "look-pods"):
        place.until(lambda n=name: status(place, n).get("nodes", {}).get("wouldChange") == 1, "the audit", seconds=30)
    diff = {(c["where"], c["name"]): (c["found"], c["wanted"]) for c in report(place, "look")["changes"]}
    assert diff == {("node", name): (before["node"][name], value) for name, value in NODE_VALUES.items()}
    pod = place.pod("tuned")["metadata"]["name"]
    where = f"{place.namespace}/{pod}"
    diff = {(c["where"], c["name"]): (c["found"], c["wanted"]) for c in report(place, "look-pods")["changes"]}
    assert diff == {(where, name): (before["tuned"][name], value) for name, value in POD_VALUES.items()}
    assert everything(place) == before


def test_a_node_profile_changes_the_nodes_namespace_only_and_deleting_it_puts_back(host_to_itself, place, profiles):
    before = everything(place)
    profiles("node-values", target="Node", values=NODE_VALUES)
    place.until(lambda: complete(place, "node-values"), "the roll-out", seconds=40)
    assert changed(before, everything(place)) == {"node": NODE_VALUES, "tuned": {}, "other": {}}
    assert status(place, "node-values")["nodes"]["applied"] == 1
    place.cluster.delete("sysctlprofile", "node-values", wait=True)
    place.until(lambda: of_node() == before["node"], "the values to be put back", seconds=30)
    place.until(lambda: report(place, "node-values") == {}, "the report to end", seconds=20)


def test_a_pods_profile_changes_the_selected_pods_and_those_that_start_later(place, profiles):
    before = everything(place)
    profiles("pod-values", values=POD_VALUES, **for_tuned(place))
    place.until(lambda: complete(place, "pod-values"), "the roll-out", seconds=40)
    # The pod `host` is selected too and is in the node's namespace, which stays as it is.
    assert changed(before, everything(place)) == {"node": {}, "tuned": POD_VALUES, "other": {}}

    place.deployment("late", "sleep", "infinity")
    place.pod("late")
    seen = {}
    until(
        lambda: seen.update(of_pod(place, "late")) or POD_VALUES.items() <= seen.items(),
        "the values in a pod that started later",
        seconds=SWEEP_SECONDS,
        explain=place.product.logs,
    )

    place.cluster.kubectl("label", "pod", place.pod("tuned")["metadata"]["name"], "-n", place.namespace, "app-", "x=y")
    # The Deployment makes another pod in its place; the one that lost its label is the older.
    pods = place.cluster.get("pods", "-n", place.namespace, "-l", "x=y")["items"]
    loose = pods[0]["metadata"]["name"]
    read = ("sh", "-c", "cat /proc/sys/net/ipv4/tcp_fin_timeout")
    place.until(
        lambda: (
            place.cluster.exec(place.namespace, loose, *read).strip() == before["tuned"]["net.ipv4.tcp_fin_timeout"]
        ),
        "the values to be put back in a pod that is selected no more",
        seconds=20,
    )
    place.cluster.kubectl("delete", "pod", loose, "-n", place.namespace, "--now")
    place.cluster.kubectl("delete", "deployment", "late", "-n", place.namespace)


def test_a_writer_that_is_killed_while_it_applies_and_restores_ends_with_the_right_values(place, profiles):
    # Each further restart waits twice as long for the kubelet. Every single step is visited in
    # tests/kernel/test_sysctl_faults.py.
    before = everything(place)
    killed = set()

    def kill():
        found = []
        place.until(lambda: found.append(writer_pid(place)) or found[-1] not in {None, *killed}, "a writer", seconds=60)
        killed.add(found[-1])
        os.kill(found[-1], signal.SIGKILL)

    profiles("killed", values=POD_VALUES, **for_tuned(place))
    kill()
    place.until(lambda: POD_VALUES.items() <= of_pod(place, "tuned").items(), "the values", seconds=60)
    place.cluster.delete("sysctlprofile", "killed", wait=True)
    kill()
    place.until(lambda: everything(place) == before, "the values to be put back", seconds=60)


def test_a_value_that_someone_set_after_us_is_left_alone_and_the_profile_says_degraded(host_to_itself, place, profiles):
    name, value = "net.ipv4.tcp_keepalive_probes", NODE_VALUES["net.ipv4.tcp_keepalive_probes"]
    file = Path("/proc/sys/net", path_of(name))
    found = file.read_text()
    try:
        profiles("drift", target="Node", values={name: value})
        place.until(lambda: complete(place, "drift"), "the roll-out", seconds=40)
        file.write_text("5")
        place.until(lambda: of_node()[name] == value, "the value to be applied once more", seconds=20)
        file.write_text("4")
        place.until(
            lambda: conditions(place, "drift").get("Degraded", {}).get("reason") == "Drifted", "Degraded", seconds=30
        )
        assert of_node()[name] == "4"
        place.cluster.delete("sysctlprofile", "drift", wait=True)
        place.until(lambda: report(place, "drift") == {}, "the report to end", seconds=20)
        assert of_node()[name] == "4"
    finally:
        file.write_text(found)


def test_uninstalling_puts_every_value_back(host_to_itself, place):
    before = everything(place)
    apply_profile(place, "node-values", target="Node", values=NODE_VALUES)
    apply_profile(place, "pod-values", values=POD_VALUES, **for_tuned(place))
    for name in ("node-values", "pod-values"):
        place.until(lambda n=name: complete(place, n), "the roll-out", seconds=40)
    assert changed(before, everything(place)) == {"node": NODE_VALUES, "tuned": POD_VALUES, "other": {}}
    place.product.uninstall()
    assert everything(place) == before
    assert place.cluster.get("sysctlprofiles")["items"], "profiles are people's, and stay"
    assert list((place.cluster.host_dir / "journal").glob("*.json")) == []
