"""What the chart renders and refuses, as Helm sees it."""

import tomllib

import pytest
import yaml

from harness.images import REPOSITORY
from product_lab import CHART, DEFINITIONS
from sockethealth_agent.sysctls import main as writer_command
from sockethealth_operator import main as operator_command

pytestmark = pytest.mark.node

VERBS_OF_THE_AGENT = {
    "pods": {"list", "watch"},
    "nodes": {"get"},
    "sockethealths": {"get", "list", "create", "patch", "delete"},
    "sockethealths/status": {"patch"},
    "nodesockethealths": {"list", "watch", "create", "patch"},
    "nodesockethealths/status": {"patch"},
}


@pytest.fixture
def render(cluster_node):
    def render(*values: str, upgrade: bool = False) -> list[dict]:
        where = ("--namespace", "here", "--kube-version", "1.34.0", *(("--is-upgrade",) if upgrade else ()))
        done = cluster_node.helm("template", "sockethealth", str(CHART), *where, *values)
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return render


def named(documents, kind, name):
    return next(one for one in documents if one["kind"] == kind and one["metadata"]["name"] == name)


def test_lint_finds_nothing(cluster_node):
    cluster_node.helm("lint", "--strict", str(CHART))


def test_lint_finds_nothing_with_sysctls(cluster_node):
    cluster_node.helm("lint", "--strict", str(CHART), "--set", "sysctls.enabled=true")


def test_an_unknown_value_is_refused_by_name(cluster_node):
    done = cluster_node.helm(
        "template", str(CHART), "--kube-version", "1.34.0", "--set", "agent.intervl=1", check=False
    )
    assert done.returncode != 0
    assert "'intervl' not allowed" in done.stderr


def test_a_digest_decides_which_image_runs(render):
    digest = f"sha256:{'0' * 64}"
    documents = render("--set", f"image.repository=registry.example/sockethealth,image.tag=1,image.digest={digest}")
    agent = named(documents, "DaemonSet", "sockethealth-agent")["spec"]["template"]["spec"]["containers"][0]
    assert agent["image"] == f"registry.example/sockethealth:1@{digest}"


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
