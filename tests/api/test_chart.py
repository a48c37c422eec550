"""What the chart renders and refuses, as Helm sees it."""

import json
import re
import tomllib

import pytest
import yaml

from harness.images import REPOSITORY
from product_lab import CHART, DEFINITIONS
from sockethealth_agent.sysctls import main as writer_command
from sockethealth_core.crd import KINDS
from sockethealth_core.names import VERSION
from sockethealth_operator import main as operator_command

pytestmark = pytest.mark.api

EVERYTHING = ("--values", str(CHART / "ci" / "everything-values.yaml"))
VERBS_OF_THE_AGENT = {
    "pods": {"list", "watch"},
    "nodes": {"get"},
    "sockethealths": {"get", "list", "create", "patch", "delete"},
    "sockethealths/status": {"patch"},
    "nodesockethealths": {"list", "watch", "create", "patch"},
    "nodesockethealths/status": {"patch"},
}


@pytest.fixture
def render(rendered):
    def render(*values: str, upgrade: bool = False) -> list[dict]:
        return rendered(*(("--is-upgrade",) if upgrade else ()), *values)

    return render


def named(documents, kind, name):
    return next(one for one in documents if one["kind"] == kind and one["metadata"]["name"] == name)


def test_lint_finds_nothing(control_plane):
    control_plane.helm("lint", "--strict", str(CHART))


def test_lint_finds_nothing_with_every_feature(control_plane):
    control_plane.helm("lint", "--strict", str(CHART), *EVERYTHING)


def test_an_unknown_value_is_refused_by_name(control_plane):
    done = control_plane.helm(
        "template", str(CHART), "--kube-version", "1.34.0", "--set", "agent.intervl=1", check=False
    )
    assert done.returncode != 0
    assert "'intervl' not allowed" in done.stderr


def containers_of(documents):
    """The containers of everything that runs, hooks included, as pairs of the object's name and the container."""
    for one in documents:
        spec = one["spec"] if one["kind"] == "Pod" else one.get("spec", {}).get("template", {}).get("spec", {})
        for container in spec.get("containers", []):
            yield one["metadata"]["name"], container


def test_a_digest_decides_which_image_runs_everywhere(render):
    values = yaml.safe_load((CHART / "ci" / "everything-values.yaml").read_text())["image"]
    images = [container["image"] for _, container in containers_of(render(*EVERYTHING, upgrade=True))]
    assert set(images) == {f"{values['repository']}:{values['tag']}@{values['digest']}"}
    assert len(images) == 6, "agent, sysctl writer, operator and three hooks"


def test_nothing_needs_a_shell(render):
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    for name, container in containers_of(render(*EVERYTHING, upgrade=True)):
        assert container["command"][0] in scripts, name
        probes = (container.get(probe, {}) for probe in ("livenessProbe", "readinessProbe", "startupProbe"))
        assert not any("exec" in probe for probe in probes), name


def test_no_permission_is_a_wildcard_and_the_agents_are_these(render):
    roles = [one for one in render(upgrade=True) if one["kind"] in {"ClusterRole", "Role"}]
    rules = [rule for role in roles for rule in role.get("rules") or []]
    assert not [rule for rule in rules if "*" in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])]
    agent = named(roles, "ClusterRole", "sockethealth-agent")["rules"]
    assert {resource: set(rule["verbs"]) for rule in agent for resource in rule["resources"]} == VERBS_OF_THE_AGENT


def test_a_further_kind_of_workload_is_granted_and_told(render):
    kind = "operator.workloadKinds[0].group=argoproj.io,operator.workloadKinds[0].version=v1alpha1"
    documents = render("--set", f"{kind},operator.workloadKinds[0].resource=rollouts")
    granted = {"apiGroups": ["argoproj.io"], "resources": ["rollouts"], "verbs": ["get", "list", "patch"]}
    assert granted in named(documents, "ClusterRole", "sockethealth-operator")["rules"]
    for job in (("Deployment", "sockethealth-operator"), ("Job", "sockethealth-cleanup")):
        container = named(documents, *job)["spec"]["template"]["spec"]["containers"][0]
        assert "--workload-kind=argoproj.io/v1alpha1/rollouts" in container["args"]


def test_the_default_policy_has_the_rules_of_the_detectors(render):
    policy = named(render(), "ClusterSocketHealthPolicy", "sockethealth-default")
    assert policy["spec"]["rules"] == yaml.safe_load((CHART / "files" / "default-rules.yaml").read_text())
    assert not [one for one in render("--set", "defaultPolicy.create=false") if one["kind"] == policy["kind"]]


def test_the_hook_that_upgrades_definitions_may_touch_ours_only(render):
    (rule,) = named(render(upgrade=True), "ClusterRole", "sockethealth-apply-crds")["rules"]
    assert sorted(rule["resourceNames"]) == DEFINITIONS
    assert rule["verbs"] == ["get", "patch"]


def test_the_chart_and_the_project_have_one_version(render):
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (REPOSITORY / "pyproject.toml").read_text()
    assert f'\nversion = "{chart["appVersion"]}"\n' in project


def agent_pod(documents):
    return named(documents, "DaemonSet", "sockethealth-agent")["spec"]["template"]["spec"]


def test_without_sysctls_nothing_in_the_chart_can_write_one(render):
    documents = render()
    pod = agent_pod(documents)
    assert [container["name"] for container in pod["containers"]] == ["agent"]
    assert [volume["hostPath"]["path"] for volume in pod["volumes"]] == ["/sys/fs/cgroup"]
    assert not [mount for mount in pod["containers"][0]["volumeMounts"] if not mount["readOnly"]]
    assert not [one for one in documents if one["kind"] == "Role" and one["metadata"]["name"] == "sockethealth-agent"]
    cleanup = named(documents, "Job", "sockethealth-cleanup")["spec"]["template"]["spec"]["containers"][0]
    assert "--restore-sysctls" not in cleanup["args"]


def test_with_sysctls_a_container_of_its_own_has_what_it_needs_and_no_more(render):
    before, after = agent_pod(render()), agent_pod(documents := render("--set", "sysctls.enabled=true"))
    observer, writer = after["containers"]
    assert observer == before["containers"][0]
    assert writer["securityContext"] == {
        "runAsUser": 0,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN", "SYS_PTRACE"]},
    }
    volumes = {volume["name"]: volume["hostPath"] for volume in after["volumes"]}
    written = {volumes[m["name"]]["path"]: m["mountPath"] for m in writer["volumeMounts"] if not m.get("readOnly")}
    assert written == {"/proc/sys/net": "/host/sys-net", "/var/lib/sockethealth": "/var/lib/sockethealth"}
    rules = named(documents, "Role", "sockethealth-agent")["rules"]
    own = {"apiGroups": ["apps"], "resources": ["daemonsets"], "resourceNames": ["sockethealth-agent"]}
    assert rules == [{**own, "verbs": ["get"]}]


def test_the_programs_take_the_arguments_of_the_chart(render):
    documents = render("--set", "sysctls.enabled=true,sysctls.nodePorts=20000-22767,sysctls.intervalSeconds=3")
    writer = agent_pod(documents)["containers"][1]
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts[writer["command"][0]] == f"{writer_command.__name__}:main"
    given = writer_command.command.make_context("writer", ["--node-name=here", *writer["args"]]).params
    assert given["node_ports"] == (20000, 22767)
    assert given["interval_seconds"] == 3
    assert given["daemonset"] == "here/sockethealth-agent"
    assert given["container"] == writer["name"]
    command, *rest = named(documents, "Job", "sockethealth-cleanup")["spec"]["template"]["spec"]["containers"][0][
        "args"
    ]
    assert operator_command.main.commands[command].make_context("cleanup", rest).params["restore_sysctls"]


def test_uninstalling_waits_for_sysctls_to_be_put_back_in_time(render):
    documents = render("--set", "sysctls.enabled=true,hooks.deadlineSeconds=600")
    job = named(documents, "Job", "sockethealth-cleanup")["spec"]
    arguments = job["template"]["spec"]["containers"][0]["args"]
    assert "--restore-sysctls" in arguments
    given = dict(argument.split("=") for argument in arguments if "timeout=" in argument)
    seconds = {flag: int(value.removesuffix("s")) for flag, value in given.items()}
    assert seconds.keys() == {"--restore-timeout", "--timeout"}
    assert sum(seconds.values()) < job["activeDeadlineSeconds"]
    rules = named(documents, "ClusterRole", "sockethealth-cleanup")["rules"]
    verbs = {verb for rule in rules if "nodesockethealths" in rule["resources"] for verb in rule["verbs"]}
    assert verbs == {"list", "patch", "deletecollection"}


def policies_of(documents):
    return {one["metadata"]["name"]: one for one in documents if one["kind"] == "ValidatingAdmissionPolicy"}


def test_every_admission_policy_is_bound_and_fails_closed_unless_it_only_warns(render):
    documents = render()
    bindings = {
        one["spec"]["policyName"]: one["spec"]["validationActions"]
        for one in documents
        if one["kind"] == "ValidatingAdmissionPolicyBinding"
    }
    policies = policies_of(documents)
    assert bindings.keys() == policies.keys() >= {"sockethealth-agent-nodes", "sockethealth-operator-workloads"}
    closed = {name for name, policy in policies.items() if policy["spec"]["failurePolicy"] == "Fail"}
    assert closed == {name for name, actions in bindings.items() if actions == ["Deny"]}
    assert policies.keys() - closed <= {"sockethealth-profile-advice"}


@pytest.mark.parametrize(
    "without", [("--set", "admissionPolicies.create=false"), ("--api-versions", "v1/Pod")], ids=["unwanted", "unserved"]
)
def test_admission_policies_are_left_out_where_they_are_not_wanted_or_not_served(render, without):
    assert not [one for one in render(*without) if one["kind"].startswith("ValidatingAdmissionPolicy")]


def selects(selector, documents):
    """The DaemonSets and Deployments whose pods a selector means."""
    return [
        one
        for one in documents
        if one["kind"] in {"DaemonSet", "Deployment"}
        and selector["matchLabels"].items() <= one["spec"]["template"]["metadata"]["labels"].items()
    ]


def ports_of(workload):
    return {port["name"]: port["containerPort"] for _, one in containers_of([workload]) for port in one["ports"]}


@pytest.mark.parametrize(("kind", "field"), [("podMonitor", "podMetricsEndpoints"), ("serviceMonitor", "endpoints")])
def test_monitors_scrape_every_metrics_port_and_keep_the_labels_of_the_series(render, kind, field):
    documents = render("--set", f"sysctls.enabled=true,{kind}.enabled=true,{kind}.interval=15s")
    monitors = [one for one in documents if one["kind"].lower() == kind.lower()]
    scraped = set()
    for monitor in monitors:
        (workload,) = selects(monitor["spec"]["selector"], documents)
        for endpoint in monitor["spec"][field]:
            assert endpoint["honorLabels"] is True
            assert endpoint["interval"] == "15s"
            scraped.add((workload["kind"], ports_of(workload)[endpoint["port"]]))
    assert scraped == {("DaemonSet", 9101), ("DaemonSet", 9102), ("Deployment", 9090)}
    assert not [one for one in render() if one["kind"].lower() == kind.lower()]


def test_network_policies_open_the_ports_of_the_programs_and_no_other(render):
    documents = render(*EVERYTHING)
    opened = {}
    for policy in (one["spec"] for one in documents if one["kind"] == "NetworkPolicy"):
        if "Egress" in policy["policyTypes"]:
            assert len(selects(policy["podSelector"], documents)) == 2
            assert "ingress" not in policy
            continue
        (workload,) = selects(policy["podSelector"], documents)
        assert not workload["spec"]["template"]["spec"].get("hostNetwork"), "no policy would bind it"
        ports = {port["port"]: rule.get("from") for rule in policy["ingress"] for port in rule["ports"]}
        opened[workload["kind"]] = set(ports)
        assert ports.keys() == set(ports_of(workload).values())
    scrapers = yaml.safe_load((CHART / "ci" / "everything-values.yaml").read_text())["networkPolicy"]["metricsFrom"]
    assert opened == {"DaemonSet": {9101, 9102}, "Deployment": {9090, 8080}}
    assert ports == {9090: scrapers, 8080: None}


def test_a_drain_takes_one_operator_at_a_time_and_is_held_up_by_none(render):
    documents = render()
    (budget,) = (one["spec"] for one in documents if one["kind"] == "PodDisruptionBudget")
    (workload,) = selects(budget["selector"], documents)
    assert 0 < budget["maxUnavailable"] < workload["spec"]["replicas"]


def operator_of(documents):
    return named(documents, "Deployment", "sockethealth-operator")["spec"]


def test_an_operator_goes_only_when_its_successor_is_ready(render):
    strategy = operator_of(render())["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def test_operators_keep_apart_unless_another_affinity_is_given(render):
    documents = render()
    pod = operator_of(documents)["template"]["spec"]
    terms = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    by_topology = {term["podAffinityTerm"]["topologyKey"]: term for term in terms}
    assert by_topology.keys() == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    for term in terms:
        (kept_apart,) = selects(term["podAffinityTerm"]["labelSelector"], documents)
        assert kept_apart["metadata"]["name"] == "sockethealth-operator"
    values = yaml.safe_load((CHART / "ci" / "everything-values.yaml").read_text())["operator"]
    given = operator_of(render(*EVERYTHING))
    assert given["template"]["spec"]["affinity"] == values["affinity"]
    assert given["replicas"] == values["replicas"]


def test_the_operators_lease_is_the_one_it_may_write_and_goes_with_the_release(render):
    documents = render()
    (container,) = operator_of(documents)["template"]["spec"]["containers"]
    command, *rest = [*container["command"], *container["args"]][1:]
    namespace, name = operator_command.main.commands[command].make_context("run", rest).params["lease"]
    assert not [one for one in documents if one["kind"] == "Lease"], "Helm would find the one that an operator made"
    (cleanup,) = [one for one in documents if one["kind"] == "Job" and one["metadata"]["name"].endswith("-cleanup")]
    (container,) = cleanup["spec"]["template"]["spec"]["containers"]
    assert f"--delete-lease={namespace}/{name}" in container["args"]
    rules = named(documents, "Role", name)["rules"]
    assert [(rule.get("resourceNames"), rule["verbs"]) for rule in rules] == [
        ([name], ["get", "patch"]),
        (None, ["create"]),
    ]


def test_agents_run_on_every_node_and_are_the_last_to_be_evicted(render):
    pod = agent_pod(render())
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["priorityClassName"] == "system-node-critical"


def test_helm_test_takes_its_arguments_and_may_do_no_more_than_it_needs(render):
    documents = render("--set", "sysctls.enabled=true")
    container = named(documents, "Pod", "sockethealth-test")["spec"]["containers"][0]
    command, *rest = container["args"]
    given = operator_command.main.commands[command].make_context(command, rest).params
    assert given["daemonset"] == ("here", "sockethealth-agent")
    assert given["deployment"] == ("here", "sockethealth-operator")
    assert given["sysctl_writer"]
    assert given["timeout"] < named(documents, "Pod", "sockethealth-test")["spec"]["activeDeadlineSeconds"]
    granted = {
        (resource, verb)
        for kind in ("ClusterRole", "Role")
        for rule in named(documents, kind, "sockethealth-test")["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == {
        ("nodesockethealths", "list"),
        ("sysctlprofiles", "create"),
        ("deployments", "get"),
        ("daemonsets", "get"),
        ("pods", "list"),
    }


def test_artifact_hub_is_told_of_this_version_and_of_every_kind():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    told = {key.removeprefix("artifacthub.io/"): value for key, value in chart["annotations"].items()}
    assert "signKey" not in told
    (image,) = yaml.safe_load(told["images"])
    assert image["image"].endswith(f":{chart['appVersion']}")
    definitions = {(one["kind"], one["version"], one["name"]) for one in yaml.safe_load(told["crds"])}
    assert definitions == {(kind.name, VERSION, kind.definition_name) for kind in KINDS}
    assert {one["kind"] for one in yaml.safe_load(told["crdsExamples"])} <= {kind.name for kind in KINDS}


def test_the_oldest_version_that_is_tested_is_the_oldest_one_the_chart_takes():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    tested = re.search(r"^VERSIONS \?= (.+)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert chart["kubeVersion"] == f">={tested[0].removeprefix('v')}-0"
    assert tested == sorted(tested, key=lambda version: [int(part) for part in version[1:].split(".")])


def test_every_value_is_described_in_the_schema_and_every_description_is_of_a_value():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert schema["properties"].keys() - {"global"} == values.keys()
