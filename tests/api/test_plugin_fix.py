"""`kubectl sockethealth fix`: the API server takes what it prints, and the workload has just that afterwards."""

import json
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

import plugin_program
from operator_lab import Stage, pod_template
from sockethealth_core.names import AGENT_FIELD_MANAGER, OPERATOR_FIELD_MANAGER
from sockethealth_core.resources import encode
from sockethealth_core.sysctl_rules import refusal
from sockethealth_core.sysctls import safe_for_pods
from unit.cli.builders import exhausted, judged, leaking

pytestmark = pytest.mark.api

APPLY = ("apply", "--server-side", "--field-manager=kubectl-sockethealth", "-f", "-")
WIDE = {"name": "net.ipv4.ip_local_port_range", "value": "10240 64999"}
NOTHING_TO_PRINT = 3


class Lab:
    """A stage, and the plugin that looks at it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.cluster = stage.cluster
        self.namespace = stage.namespace

    def report(self, pod: str, facts) -> None:
        """What agent and operator have written of a pod, each its part."""
        self.stage.report(pod)
        status = encode(judged(pod, facts))["status"]
        judgement = {key: status.pop(key) for key in ("health", "findings", "evaluation")}
        for manager, part in ((AGENT_FIELD_MANAGER, status), (OPERATOR_FIELD_MANAGER, judgement)):
            self.cluster.kubectl(
                "apply",
                "--server-side",
                f"--field-manager={manager}",
                "--subresource=status",
                "-f",
                "-",
                input=json.dumps(
                    {
                        "apiVersion": "sockethealth.io/v1alpha1",
                        "kind": "SocketHealth",
                        "metadata": {"name": pod, "namespace": self.namespace},
                        "status": part,
                    }
                ),
            )

    def fix(self, pod: str, *arguments: str, expect: int = 0) -> "subprocess.CompletedProcess[str]":
        done = plugin_program.run("fix", pod, "-n", self.namespace, *arguments, kubeconfig=self.cluster.kubeconfig)
        assert done.returncode == expect, done.stderr
        return done

    def template(self, kind: str, name: str) -> dict[str, Any]:
        spec = self.stage.get(kind, name)["spec"]
        found: dict[str, Any] = spec["jobTemplate"]["spec"]["template"] if kind == "cronjob" else spec["template"]
        return found

    def applied(self, kind: str, name: str, text: str, *options: str) -> list[dict[str, str]]:
        """Apply a patch, first as a trial: the sysctls of the template, all else of which is as it was."""
        before = self.template(kind, name)
        self.cluster.kubectl(*APPLY, *options, "--dry-run=server", input=text)
        assert self.template(kind, name) == before, "a trial changes nothing"
        self.cluster.kubectl(*APPLY, *options, input=text)
        after = self.template(kind, name)
        sysctls: list[dict[str, str]] = after["spec"]["securityContext"].pop("sysctls")
        before["spec"]["securityContext"].pop("sysctls", None)
        assert after == before
        return sysctls


@pytest.fixture
def lab(control_plane, crds, namespace):
    with Stage.set_up(control_plane, namespace) as stage:
        yield Lab(stage)


def template_of(app: str, *sysctls: Mapping[str, str], **spec: Any) -> dict[str, Any]:
    made = pod_template(app)
    made["spec"] |= {"securityContext": {"fsGroup": 1000, "sysctls": list(sysctls)}} if sysctls else {}
    made["spec"] |= spec
    made["spec"]["containers"][0]["ports"] = [{"containerPort": 8080}, {"containerPort": 15021}]
    return made


def sysctls_of(text: str, *path: str) -> list[dict[str, str]]:
    found = yaml.safe_load(text)["spec"]
    for key in path:
        found = found[key]
    listed: list[dict[str, str]] = found["template"]["spec"]["securityContext"]["sysctls"]
    return listed


def deploy(lab: Lab, name: str, template: Mapping[str, Any]) -> str:
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": template}
    lab.stage.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec})
    (pod,) = lab.stage.pods_of(name)
    return pod


def test_a_deployment_takes_the_patch_and_keeps_everything_else(lab):
    pod = deploy(lab, "cart", template_of("cart"))
    lab.report(pod, exhausted())
    done = lab.fix(pod)
    wanted = [WIDE, {"name": "net.ipv4.ip_local_reserved_ports", "value": "15021"}]
    assert lab.applied("deployment", "cart", done.stdout) == wanted
    for sysctl in wanted:
        assert refusal(sysctl["name"], sysctl["value"], "Pods") is None
        assert sysctl["name"] in safe_for_pods(34)
    assert "913 connections/s to one destination instead of 471" in done.stdout
    assert "not for the pod's spec: net.ipv4.tcp_tw_reuse" in done.stderr
    assert all(line.startswith("note: ") for line in done.stderr.splitlines())
    lab.stage.wait(lambda: _restarted(lab, "cart", pod), "a pod made from the changed template")


def _restarted(lab: Lab, app: str, before: str) -> bool:
    pods = lab.cluster.get("pods", "-n", lab.namespace, "-l", f"app={app}")["items"]
    others = [pod for pod in pods if pod["metadata"]["name"] != before]
    return any(WIDE in pod["spec"]["securityContext"].get("sysctls", []) for pod in others)


def test_sysctls_that_the_template_has_are_kept_and_a_wrong_one_is_corrected(lab):
    kept = {"name": "kernel.shm_rmid_forced", "value": "1"}
    tiny = {"name": "net.ipv4.ip_local_port_range", "value": "50000 50500"}
    pod = deploy(lab, "cart", template_of("cart", kept, tiny))
    lab.report(pod, exhausted())
    text = lab.fix(pod).stdout
    assert "--force-conflicts" in text
    refused = lab.cluster.kubectl(*APPLY, "--dry-run=server", input=text, check=False)
    assert "conflict" in refused.stderr, "who owns the list is asked, as the comment says"
    reserved = {"name": "net.ipv4.ip_local_reserved_ports", "value": "15021"}
    assert lab.applied("deployment", "cart", text, "--force-conflicts") == [kept, WIDE, reserved]


def test_a_stateful_set_takes_it_as_json_and_as_a_patch_file(lab, tmp_path):
    spec = {
        "replicas": 1,
        "serviceName": "db",
        "selector": {"matchLabels": {"app": "db"}},
        "template": template_of("db"),
    }
    lab.stage.apply({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": spec})
    (pod,) = lab.stage.pods_of("db")
    lab.report(pod, exhausted())
    as_json = lab.fix(pod, "-o", "json").stdout
    assert json.loads(as_json) == yaml.safe_load(lab.fix(pod).stdout)
    file = tmp_path / "patch.yaml"
    file.write_text(lab.fix(pod).stdout)
    here = ("-n", lab.namespace)
    lab.cluster.kubectl("patch", "statefulset", "db", *here, "--dry-run=server", "--patch-file", str(file))
    assert WIDE in lab.applied("statefulset", "db", as_json)


def test_the_cron_job_above_a_job_takes_it(lab):
    template = template_of("nightly")
    template["spec"]["restartPolicy"] = "Never"
    job = {"spec": {"template": template}}
    spec = {"schedule": "0 3 1 1 *", "jobTemplate": job}
    lab.stage.apply({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "nightly"}, "spec": spec})
    lab.cluster.kubectl("create", "job", "now", "--from=cronjob/nightly", "-n", lab.namespace)
    (pod,) = lab.stage.pods_of("nightly")
    lab.report(pod, exhausted())
    done = lab.fix(pod)
    assert sysctls_of(done.stdout, "jobTemplate", "spec")[0] == WIDE
    assert WIDE in lab.applied("cronjob", "nightly", done.stdout)
    assert "Its next Job has them" in done.stdout


def test_the_sysctls_of_a_bare_pod_cannot_change_and_a_profile_can_set_them(lab):
    pod = lab.stage.pod("alone")
    lab.cluster.merge("pod", pod, {"metadata": {"labels": {"app": "alone"}}}, namespace=lab.namespace)
    lab.report(pod, exhausted())
    done = lab.fix(pod, expect=NOTHING_TO_PRINT)
    assert done.stdout == ""
    assert "make pod alone anew" in done.stderr
    assert json.dumps(WIDE) in done.stderr
    made = admitted_profile(lab, lab.fix(pod, "--profile").stdout)
    assert made["spec"]["podSelector"] == {"matchLabels": {"app": "alone"}}
    assert WIDE in made["spec"]["sysctls"]


def admitted_profile(lab: Lab, text: str) -> dict[str, Any]:
    """What the API server makes of a profile; it is a trial, as a profile is for the whole cluster."""
    done = lab.cluster.kubectl("apply", "--dry-run=server", "-o", "json", "-f", "-", input=text)
    made: dict[str, Any] = json.loads(done.stdout)
    assert made["kind"] == "SysctlProfile"
    assert made["spec"]["mode"] == "Audit"
    for sysctl in made["spec"]["sysctls"]:
        assert refusal(sysctl["name"], sysctl["value"], made["spec"]["target"]) is None
    return made


def test_what_a_pod_may_not_set_is_a_profile_for_the_workloads_pods(lab):
    pod = deploy(lab, "cart", template_of("cart"))
    lab.report(pod, exhausted())
    made = admitted_profile(lab, lab.fix(pod, "--profile").stdout)
    assert made["spec"]["target"] == "Pods"
    assert made["spec"]["podSelector"] == {"matchLabels": {"app": "cart"}}
    assert made["spec"]["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": lab.namespace}}
    assert made["spec"]["sysctls"] == [{"name": "net.ipv4.tcp_tw_reuse", "value": "1"}]


def test_with_host_network_it_is_a_profile_for_nodes_with_node_ports_reserved(lab):
    pod = deploy(lab, "edge", template_of("edge", hostNetwork=True))
    lab.report(pod, exhausted())
    done = lab.fix(pod, expect=NOTHING_TO_PRINT)
    assert "a pod with hostNetwork may set no net.*" in done.stderr
    made = admitted_profile(lab, lab.fix(pod, "--profile").stdout)
    assert made["spec"]["target"] == "Node"
    assert made["spec"]["nodeSelector"] == {"matchLabels": {"sockethealth.io/no-such-node": "true"}}
    values = {one["name"]: one["value"] for one in made["spec"]["sysctls"]}
    assert values["net.ipv4.ip_local_reserved_ports"] == "10248-10259,15021,30000-32767"


def test_what_no_sysctl_helps_is_said_with_the_process(lab):
    pod = deploy(lab, "cart", template_of("cart"))
    lab.report(pod, leaking())
    done = lab.fix(pod, expect=NOTHING_TO_PRINT)
    assert done.stdout == ""
    assert "CloseWaitLeak: no sysctl of the pod helps" in done.stderr
    assert "java" in done.stderr


def test_an_owner_above_the_workload_that_may_undo_it_is_named(lab):
    """A policy stands for any object of another kind: it is custom, and has no pod template."""
    lab.stage.policy("captain")
    policy = lab.stage.get("sockethealthpolicy", "captain")
    owner = {key: policy[key] for key in ("apiVersion", "kind")} | {"name": "captain", "uid": policy["metadata"]["uid"]}
    pod = deploy(lab, "cart", template_of("cart"))
    patch = json.dumps({"metadata": {"ownerReferences": [{**owner, "controller": True}]}})
    lab.cluster.kubectl("patch", "deployment", "cart", "-n", lab.namespace, "--type=merge", "-p", patch)
    lab.report(pod, exhausted())
    done = lab.fix(pod)
    assert yaml.safe_load(done.stdout)["kind"] == "Deployment"
    assert "SocketHealthPolicy captain controls the Deployment, and may undo the patch" in done.stderr


def test_what_is_reported_of_a_pod_that_had_its_name_before_is_not_taken_for_it(lab):
    pod = lab.stage.pod("alone")
    lab.report(pod, exhausted())
    before = json.dumps({"spec": {"podUID": "00000000-0000-0000-0000-000000000000"}})
    lab.cluster.kubectl("patch", "sockethealth", pod, "-n", lab.namespace, "--type=merge", "-p", before)
    done = lab.fix(pod, expect=2)
    assert done.stdout == ""
    assert f"what is reported of {lab.namespace}/alone is of a pod before it" in done.stderr
