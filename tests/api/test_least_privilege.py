"""Every permission that the chart grants is one that its programs use, and they use none beside.

Agent, operator and hooks live their lives with their own tokens, through a proxy that notes what they ask for.
"""

import secrets
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.client import HTTPException, HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml

from agent_builders import Counted, facts, pod, submission
from harness import binaries, pki
from harness.cluster import existing_kubeconfig
from harness.images import REPOSITORY
from harness.waiting import until
from operator_lab import OperatorProcess, Stage, pod_template
from sockethealth_agent.kubeapi import KubeApi, from_kubeconfig
from sockethealth_agent.reporter import AgentIdentity, Reporter
from sockethealth_core.names import API_VERSION

pytestmark = pytest.mark.api

KEPT = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
CLUSTER_WIDE = "ClusterRole", "ClusterRoleBinding"
SECONDS = 60
TERMINATING = b'"NamespaceTerminating"'
"""The cause in a 403 that is no matter of permissions: other tests' namespaces are on their way out."""
_OF_THE_CONNECTION = {"connection", "transfer-encoding", "content-length", "keep-alive", "host"}


def asked_for(method, target, status):
    """What RBAC is asked for a request, as (verb, group, resource); nothing for a path that is no resource."""
    split = urlsplit(target)
    parts = unquote(split.path).strip("/").split("/")
    if parts[0] == "api" and len(parts) > 2:
        group, rest = "", parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, rest = parts[1], parts[3:]
    else:
        return []
    if rest[0] == "namespaces" and len(rest) > 2:
        rest = rest[2:]
    resource, named = "/".join([rest[0], *rest[2:]]), len(rest) > 1
    if method == "GET" and not named:
        verb = "watch" if parse_qs(split.query).get("watch", [""])[0] in {"1", "true"} else "list"
    elif method == "DELETE" and not named:
        verb = "deletecollection"
    else:
        verb = {"GET": "get", "POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}[method]
    # Who applies what is not there yet is asked for create too (KEP-555).
    return [(one, group, resource) for one in ({verb, "create"} if (method, status) == ("PATCH", 201) else {verb})]


class Recorder:
    """Notes what is asked for, by whoever uses its address; `refused` has the requests that were answered 403."""

    def __init__(self, url):
        self.url = url
        self.used = set()
        self.refused = []

    def note(self, method, target, status, said):
        if status == 403 and TERMINATING not in said:
            self.refused.append(f"{method} {target}")
        elif status < 500:
            self.used |= set(asked_for(method, target, status))


@contextmanager
def recorder(server, ca_file):
    """A plain HTTP server on the loopback that passes everything on to an API server."""
    upstream = urlsplit(server)
    trusted = ssl.create_default_context(cafile=str(ca_file))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            headers = {name: text for name, text in self.headers.items() if name.lower() not in _OF_THE_CONNECTION}
            connection = HTTPSConnection(upstream.hostname, upstream.port, context=trusted, timeout=400)
            try:
                connection.request(self.command, self.path, body=body or None, headers=headers)
                self._pass_on(connection.getresponse())
            except (OSError, HTTPException):
                self.close_connection = True
            finally:
                connection.close()

        def _pass_on(self, answer):
            said = answer.read() if answer.status == 403 else b""
            noted.note(self.command, self.path, answer.status, said)
            self.send_response(answer.status)
            for name, text in answer.getheaders():
                if name.lower() not in _OF_THE_CONNECTION:
                    self.send_header(name, text)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while chunk := said or answer.read1(1 << 20):
                said = b""
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.wfile.write(b"0\r\n\r\n")

        do_POST = do_PATCH = do_PUT = do_DELETE = do_GET  # noqa: N815 - the base class looks for these names

        def log_message(self, format, *args):  # noqa: A002 - the base class's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        listener.daemon_threads = True
        listener.block_on_close = False
        noted = Recorder(f"http://127.0.0.1:{listener.server_port}")
        thread = threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield noted
        finally:
            listener.shutdown()
            thread.join()


class Release:
    """The chart's accounts and roles in a namespace, and what they grant."""

    def __init__(self, cluster, namespace, folder):
        self.cluster, self.namespace, self.folder = cluster, namespace, folder
        self.name = f"least-{secrets.token_hex(3)}"
        values = f"fullnameOverride={self.name},admissionPolicies.create=false,crds.keep=false"
        where = ("--namespace", namespace, "--kube-version", "1.34.0")
        chart = str(REPOSITORY / "charts" / "sockethealth")
        rendered = cluster.helm("template", self.name, chart, *where, "--set", values).stdout
        documents = [one for one in yaml.safe_load_all(rendered) if one]
        self.objects = [one for one in documents if one["kind"] in KEPT]
        self.jobs = {one["metadata"]["name"]: one for one in documents if one["kind"] == "Job"}
        self.operator_arguments = next(
            one["spec"]["template"]["spec"]["containers"][0].get("args", [])
            for one in documents
            if one["kind"] == "Deployment"
        )

    def granted(self, component):
        """(verb, group, resource) that the account of a component is granted, anywhere."""
        account = f"{self.name}-{component}"
        roles = {
            (one["roleRef"]["kind"], one["roleRef"]["name"])
            for one in self.objects
            if one["kind"].endswith("Binding") and account in [subject["name"] for subject in one["subjects"]]
        }
        rules = [
            rule
            for one in self.objects
            if (one["kind"], one["metadata"]["name"]) in roles
            for rule in one.get("rules") or []
        ]
        assert rules, f"{account} is granted nothing"
        return {
            (verb, group, resource)
            for rule in rules
            for verb in rule["verbs"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }

    def kubeconfig(self, component, server):
        """A file with the token of a component, for programs that are to come by way of `server`."""
        file = self.folder / f"{component}.kubeconfig"
        account = f"{self.name}-{component}"
        token = self.cluster.token_for(account, self.namespace)
        pki.write_kubeconfig(file, account, token, server, self.cluster.ca_file)
        return file

    def arguments(self, hook):
        """What a hook's program is told."""
        container = self.jobs[f"{self.name}-{hook}"]["spec"]["template"]["spec"]["containers"][0]
        return list(container["args"])


@pytest.fixture
def release(control_plane, crds, namespace, tmp_path):
    if not existing_kubeconfig():
        binaries.ensure(("helm",))
    made = Release(control_plane, namespace, tmp_path)
    control_plane.apply(*made.objects)
    yield made
    everywhere = [one for one in made.objects if one["kind"] in CLUSTER_WIDE]
    for one in everywhere:
        control_plane.delete(f"{one['apiVersion']}/{one['kind']}", one["metadata"]["name"])


@pytest.fixture
def record(control_plane):
    with recorder(control_plane.server, control_plane.ca_file) as noted:
        yield noted


def agree(record, granted):
    """Nothing is used that is not granted, and nothing granted that is not used."""
    assert record.refused == []
    assert (record.used - granted, granted - record.used) == (set(), set())


@pytest.fixture
def stage(control_plane, release, namespace):
    with Stage.set_up(control_plane, namespace) as made:
        labels = {"sockethealth.io/stage": made.node}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": made.node, "labels": labels}}
        made.apply({**node, "spec": {"unschedulable": True}})
        yield made
        control_plane.delete("node", made.node)


def workloads(stage, count):
    """A workload of each kind, named after it, that makes so many pods, and of the CronJob one Job that is its own."""

    def template(app, **changes):
        made = pod_template(app)
        return {**made, "spec": {**made["spec"], **changes}}

    def scaled(kind, **changes):
        return {"replicas": count, "selector": {"matchLabels": {"app": kind}}, "template": template(kind, **changes)}

    here = {"nodeSelector": {"sockethealth.io/stage": stage.node}} if count else {}
    job = {"template": template("job", restartPolicy="Never")}
    of_cronjob = {"template": template("cronjob", restartPolicy="Never")}
    daemons = {name: value for name, value in scaled("daemonset", **here).items() if name != "replicas"}
    specs = {
        "Deployment": scaled("deployment"),
        "ReplicaSet": scaled("replicaset"),
        "StatefulSet": {**scaled("statefulset"), "serviceName": "none"},
        "DaemonSet": daemons,
        "Job": {**job, "suspend": not count},
        "CronJob": {"schedule": "0 0 1 1 *", "suspend": True, "jobTemplate": {"spec": of_cronjob}},
    }
    version = {"Job": "batch/v1", "CronJob": "batch/v1"}
    items = [
        {"apiVersion": version.get(kind, "apps/v1"), "kind": kind, "metadata": {"name": kind.lower()}, "spec": spec}
        for kind, spec in specs.items()
    ]
    for item in items:
        stage.apply(item)
    if count:
        uid = stage.get("cronjob", "cronjob")["metadata"]["uid"]
        owner = {"apiVersion": "batch/v1", "kind": "CronJob", "name": "cronjob", "uid": uid, "controller": True}
        metadata = {"name": "of-the-cronjob", "ownerReferences": [owner]}
        stage.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": of_cronjob})
    return [kind.lower() for kind in specs]


def test_the_operator_uses_all_that_it_is_granted_and_nothing_else(stage, release, record, control_plane, namespace):
    pods = {kind: stage.pods_of(kind)[0] for kind in workloads(stage, 1)}
    granted = release.granted("operator")
    rule = {"name": "leak", "detector": "CloseWaitLeak", "threshold": 50, "clearThreshold": 10, "for": "0s"}
    rule |= {"clearAfter": "0s", "parameters": {"minAge": "0s"}}
    of_the_cluster = (
        (
            "ClusterSocketHealthPolicy",
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}, "rules": [rule]},
        ),
        (
            "SysctlProfile",
            {
                "target": "Node",
                "nodeSelector": {"matchLabels": {"no-such": "node"}},
                "sysctls": [{"name": "net.ipv4.tcp_fin_timeout", "value": "30"}],
            },
        ),
    )
    operator = OperatorProcess(
        release.kubeconfig("operator", record.url), release.folder / "operator.log", **_lease(release)
    )
    try:
        operator.start()
        for kind, spec in of_the_cluster:
            stage.apply({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": release.name}, "spec": spec})
        stage.policy(actions={"annotate": {"workload": True, "pod": True}})
        observed = {"status": {"observedTime": "2030-03-17T17:46:40Z"}}
        control_plane.merge("nodesockethealth", stage.node, observed, subresource="status")
        for pod_name in pods.values():
            stage.report(pod_name, close_wait=200)
        for kind, pod_name in pods.items():
            stage.wait(lambda kind=kind: bool(stage.entries(kind, kind)), f"the {kind}'s annotation", operator)
            stage.wait(lambda name=pod_name: bool(stage.entries("pod", name)), f"{pod_name}'s annotation", operator)
        until(
            lambda: granted <= record.used,
            "all that is granted to be used",
            seconds=SECONDS,
            explain=lambda: f"unused: {sorted(granted - record.used)}\n{operator.log_text()}",
        )
    finally:
        operator.stop()
        for kind, _ in of_the_cluster:
            control_plane.delete(kind, release.name)
    agree(record, granted)


def _lease(release):
    """The Lease that the chart has the operator take, where it has it take one."""
    named = [one.partition("=")[2] for one in release.operator_arguments if one.startswith("--lease=")]
    return {"lease": named[0].replace("$(POD_NAMESPACE)", release.namespace)} if named else {}


def test_the_agent_uses_all_that_it_is_granted_and_nothing_else(stage, release, record):
    granted = release.granted("agent")
    stage.cluster.delete("nodesockethealth", stage.node, wait=True)
    kubeconfig = release.kubeconfig("agent", record.url)
    log = release.folder / "agent.log"
    argv = [sys.executable, "-m", "sockethealth_agent.main", f"--node-name={stage.node}", f"--kubeconfig={kubeconfig}"]
    with log.open("w") as out:
        # A killed test run leaves no agent behind.
        command = ["setpriv", "--pdeathsig=KILL", *argv, "--metrics-port=0", "--interval=0.5"]
        agent = subprocess.Popen(command, stderr=out)
    try:
        until(
            lambda: {("watch", "", "pods"), ("watch", "sockethealth.io", "nodesockethealths")} <= record.used,
            "the agent to watch",
            seconds=SECONDS,
            explain=log.read_text,
        )
    finally:
        agent.kill()
        agent.wait()
    api = KubeApi(from_kubeconfig(kubeconfig))
    identity = AgentIdentity(node_name=stage.node, version="0.0", boot_id="b", kernel="6")
    reporter = Reporter(api, identity, sink=Counted(), heartbeat_seconds=600)
    stage.pod("reported")
    first = pod("reported", stage.namespace, uid=stage.get("pod", "reported")["metadata"]["uid"])
    ended = pod("reported", stage.namespace, uid=first.uid, phase="Succeeded")

    def report(what):
        reporter.submit(what)
        until(lambda: bool(reporter.step()) and reporter.idle, "all to be written", seconds=SECONDS)

    try:
        report(submission([(first, facts(established=7))]))
        stage.cluster.delete("sockethealth", "reported", namespace=stage.namespace, wait=True)
        report(submission([(first, facts(established=700))]))
        report(submission([], known=[ended]))
    finally:
        api.close()
    agree(record, granted)


def test_the_clean_up_uses_all_that_it_is_granted_and_nothing_else(stage, release, record):
    stage.report(stage.pod("alone"))
    annotated = [(kind, kind) for kind in workloads(stage, 0)]
    for name, kind in ((f"{release.name}-operator", "Deployment"), (f"{release.name}-agent", "DaemonSet")):
        template = pod_template(name)
        spec = {"selector": {"matchLabels": {"app": name}}, "template": template}
        stage.apply({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
    for kind, name in (*annotated, ("pod", "alone")):
        annotated = {"metadata": {"annotations": {"sockethealth.io/health": "Warning"}}}
        stage.cluster.merge(kind, name, annotated, namespace=stage.namespace)
    # The definitions are shared with other tests: what is deleted at the very end is only said to be.
    arguments = [one for one in release.arguments("cleanup") if one != "--delete-crds"]
    _run(release, record, "cleanup", arguments)
    definitions = {one for one in release.granted("cleanup") if one[2] == "customresourcedefinitions"}
    assert definitions == {("delete", "apiextensions.k8s.io", "customresourcedefinitions")}
    agree(record, release.granted("cleanup") - definitions)


def test_applying_the_definitions_uses_all_that_it_is_granted_and_nothing_else(release, record):
    _run(release, record, "apply-crds", release.arguments("apply-crds"))
    agree(record, release.granted("apply-crds"))


def _run(release, record, hook, arguments):
    program = Path(sys.executable).parent / "sockethealth-operator"
    kubeconfig = release.kubeconfig(hook, record.url)
    done = subprocess.run(
        [program, *arguments, f"--kubeconfig={kubeconfig}"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
