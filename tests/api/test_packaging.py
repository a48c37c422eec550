"""The chart's objects as a real API server sees them: every one of them, by a dry run, with its strict validation."""

import json
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness import binaries
from harness.cluster import existing_kubeconfig
from harness.plugin import skip_or_fail
from harness.waiting import until
from product_lab import CHART, DEFINITIONS

pytestmark = pytest.mark.api

MONITORING = ("podmonitors", "prometheusrules", "servicemonitors")
EVERYTHING = ("--values", str(CHART / "ci" / "everything-values.yaml"))
SERVICE_MONITORS = ("--set", "serviceMonitor.enabled=true,defaultRules.create=false,metrics.services=true")
IN_EVERY_INSTALLATION = {
    "ServiceAccount": 5,
    "ClusterRole": 6,
    "DaemonSet": 1,
    "Deployment": 1,
    "Job": 2,
    "Pod": 1,
    "ClusterSocketHealthPolicy": 1,
}
"""Agent, operator and three hooks; the operator has a role for further workloads beside its own."""


@pytest.fixture(scope="module")
def helm(control_plane, crds):
    """Helm on the control plane, which serves the project's kinds."""
    if not existing_kubeconfig():
        binaries.ensure(("helm",))
    return control_plane.helm


@pytest.fixture
def render(helm, namespace):
    """Renders the chart as an installation in the namespace would, and knows what the cluster serves."""

    def render(*values: str) -> list[dict]:
        shown = helm("template", "sockethealth", str(CHART), "--validate", "--namespace", namespace, *values)
        documents = yaml.load_all(shown.stdout, Loader=yaml.CSafeLoader)
        return [document for document in documents if document]

    return render


@pytest.fixture
def prometheus_operator(control_plane):
    """The API server serves the Prometheus Operator's kinds, by its own definitions."""
    if existing_kubeconfig():
        skip_or_fail("An own control plane is missing: this test adds definitions to it and takes them away.")
    folder = binaries.prometheus_operator_definitions()
    files = [f"--filename={folder / f'monitoring.coreos.com_{plural}.yaml'}" for plural in MONITORING]
    try:
        control_plane.kubectl("apply", "--server-side", *files)
        control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", *files)
        yield
    finally:
        control_plane.kubectl("delete", "--ignore-not-found", *files, check=False)


def groups_of(documents):
    return {document["apiVersion"].rpartition("/")[0] for document in documents}


def dry_run(cluster, namespace, documents):
    """What the API server says of each object: its name, and `(server dry run)`."""
    # A Pod is refused without its service account, and a dry run makes none.
    accounts = [document for document in documents if document["kind"] == "ServiceAccount"]
    cluster.kubectl("apply", "--server-side", "-n", namespace, "-f", "-", input=yaml.safe_dump_all(accounts))
    done = cluster.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-"),
        input=yaml.safe_dump_all(documents),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_api_server_takes_everything_an_installation_has(control_plane, namespace, render):
    documents = render()
    counts = {kind: sum(one["kind"] == kind for one in documents) for kind in IN_EVERY_INSTALLATION}
    assert counts == IN_EVERY_INSTALLATION
    definitions = [yaml.safe_load(file.read_text()) for file in (CHART / "crds").iterdir()]
    assert sorted(one["metadata"]["name"] for one in definitions) == DEFINITIONS
    documents += definitions
    said = dry_run(control_plane, namespace, documents)
    assert len(said) == len(documents)
    assert all(line.endswith("serverside-applied (server dry run)") for line in said), said


def test_the_api_server_takes_every_feature_at_once(control_plane, namespace, render, prometheus_operator):
    documents = render(*EVERYTHING)
    kinds = {one["kind"] for one in documents}
    assert {"PodMonitor", "PrometheusRule", "NetworkPolicy", "PodDisruptionBudget"} <= kinds
    monitors = [one for one in render(*SERVICE_MONITORS) if one["kind"] == "ServiceMonitor"]
    assert len(monitors) == 2
    documents += monitors
    assert len(dry_run(control_plane, namespace, documents)) == len(documents)


def test_kinds_of_the_prometheus_operator_are_left_out_where_it_is_not_and_the_notes_say_so(helm, namespace, render):
    assert "monitoring.coreos.com" not in groups_of(render(*EVERYTHING))
    shown = helm(
        *("install", "sockethealth", str(CHART), "--dry-run=server", "--skip-crds", "--namespace", namespace),
        *EVERYTHING,
    ).stdout
    notes = shown.partition("\nNOTES:\n")[2]
    assert "does not serve PodMonitors (monitoring.coreos.com/v1)" in notes
    assert f"helm test sockethealth -n {namespace}" in notes


def test_both_monitors_together_are_refused_because_they_would_scrape_twice(helm):
    done = helm(
        "template",
        str(CHART),
        "--validate",
        "--set",
        "serviceMonitor.enabled=true,podMonitor.enabled=true",
        check=False,
    )
    assert done.returncode != 0
    assert "would scrape every pod twice" in done.stderr


def test_every_example_on_artifact_hub_is_accepted(control_plane, helm):
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    examples = yaml.safe_load(chart["annotations"]["artifacthub.io/crdsExamples"])
    done = control_plane.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"),
        input=yaml.safe_dump_all(examples),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(examples) > 2


@pytest.fixture
def tester(control_plane, helm, namespace):
    """A kubeconfig of the account of `helm test`, with the permissions and the policy the chart gives it."""
    name = f"prove-{secrets.token_hex(3)}"
    rendered = helm(
        "template", name, str(CHART), "--validate", "--namespace", namespace, "--set", f"fullnameOverride={name}"
    ).stdout
    objects = [
        one
        for one in yaml.safe_load_all(rendered)
        if one and one["metadata"]["name"].startswith(f"{name}-test") and one["kind"] != "Pod"
    ]
    text = yaml.safe_dump_all(objects)
    try:
        control_plane.kubectl("apply", "-n", namespace, "-f", "-", input=text)
        yield name, control_plane.token_for(f"{name}-test", namespace)
    finally:
        control_plane.kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", input=text, check=False)


def test_the_account_of_helm_test_may_ask_whether_a_profile_is_good_and_make_none(control_plane, tester):
    profile = {
        "apiVersion": "sockethealth.io/v1alpha1",
        "kind": "SysctlProfile",
        "metadata": {"name": tester[0]},
        "spec": {"target": "Node", "sysctls": [{"name": "net.core.somaxconn", "value": "4096"}]},
    }

    def create(*options):
        # The kubeconfig's own token would win over --token.
        kubectl = (
            *("--kubeconfig=/dev/null", f"--server={control_plane.server}", f"--token={tester[1]}"),
            f"--certificate-authority={control_plane.ca_file}",
        )
        return control_plane.kubectl(*kubectl, "create", "-f", "-", *options, input=json.dumps(profile), check=False)

    def refused():
        done = create("--validate=false")
        control_plane.delete("sysctlprofile", tester[0], wait=True)
        return "may ask for dry runs only" in done.stderr

    until(refused, "the policy to be in force", seconds=30, poll_seconds=0.3)
    done = create("--validate=false", "--dry-run=server")
    assert done.returncode == 0, done.stderr


def test_verify_says_each_thing_that_is_missing(control_plane, crds, namespace):
    done = subprocess.run(
        [
            *(Path(sys.executable).parent / "sockethealth-operator", "verify", "--timeout=3s"),
            f"--kubeconfig={control_plane.kubeconfig}",
            f"--daemonset={namespace}/none",
            f"--deployment={namespace}/none",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "The operator's Deployment does not exist: run `helm upgrade --install` again",
        "The agent's DaemonSet does not exist: run `helm upgrade --install` again",
    ]
