"""What every container of every template may do, hooks and `helm test` included."""

import pytest
import yaml

from product_lab import CHART

pytestmark = pytest.mark.api

HARDENED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
OF_THE_NODE = {"agent", "sysctl-writer"}
PODS = {"DaemonSet", "Deployment", "StatefulSet", "ReplicaSet", "Job", "CronJob", "Pod", "PodTemplate"}


@pytest.fixture(scope="module")
def pods(control_plane):
    """The spec of each pod the chart can make, by the object's name."""
    everything = ("--values", str(CHART / "ci" / "everything-values.yaml"), "--set", "sysctls.enabled=true")
    where = ("--namespace", "here", "--kube-version", "1.34.0", "--is-upgrade")
    shown = control_plane.helm("template", "sockethealth", str(CHART), *where, *everything).stdout
    found = {}
    for one in yaml.safe_load_all(shown):
        if one and one["kind"] in PODS:
            found[one["metadata"]["name"]] = one["spec"] if one["kind"] == "Pod" else one["spec"]["template"]["spec"]
        elif one:
            assert "containers" not in yaml.safe_dump(one.get("spec", {})), f"a pod in a {one['kind']}"
    return found


def containers(pods):
    for name, spec in pods.items():
        for kind in ("initContainers", "containers", "ephemeralContainers"):
            for container in spec.get(kind, []):
                yield f"{name}/{container['name']}", spec, container


def test_these_are_all_the_pods(pods):
    assert set(pods) == {
        "sockethealth-agent",
        "sockethealth-operator",
        "sockethealth-apply-crds",
        "sockethealth-cleanup",
        "sockethealth-test",
    }


def test_every_container_is_confined(pods):
    for name, spec, container in containers(pods):
        context = container["securityContext"]
        assert {key: context.get(key) for key in HARDENED} == HARDENED, name
        assert context["capabilities"]["drop"] == ["ALL"], name
        assert not context.get("privileged"), name
        profile = context.get("seccompProfile", spec["securityContext"].get("seccompProfile"))
        assert profile == {"type": "RuntimeDefault"}, name


def test_only_the_nodes_containers_are_root_and_they_have_two_capabilities(pods):
    for name, spec, container in containers(pods):
        context = container["securityContext"]
        added = context["capabilities"].get("add", [])
        if container["name"] in OF_THE_NODE:
            assert (context["runAsUser"], added) == (0, ["SYS_ADMIN", "SYS_PTRACE"]), name
            continue
        inherited = {**spec["securityContext"], **context}
        assert inherited["runAsNonRoot"] is True, name
        assert inherited["runAsUser"] > 0, name
        assert added == [], name


def test_only_the_agents_pod_reaches_into_the_node_and_no_pod_its_network(pods):
    for name, spec in pods.items():
        assert not spec.get("hostNetwork"), name
        assert not spec.get("hostIPC"), name
        of_the_node = name == "sockethealth-agent"
        assert bool(spec.get("hostPID")) == of_the_node, name
        paths = {one["hostPath"]["path"] for one in spec.get("volumes", []) if "hostPath" in one}
        assert bool(paths) == of_the_node, name
        assert not [path for path in paths if "run" in path.split("/") or path == "/"], f"{name}: a runtime's socket"
