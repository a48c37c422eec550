"""What the chart renders and refuses, as Helm sees it."""

import pytest
import yaml

from harness.images import REPOSITORY
from product_lab import CHART, DEFINITIONS

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
