"""The kubectl plugin against an API of its own on loopback, that answers as an API server does."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import pytest
import yaml
from click.testing import CliRunner

from sockethealth_cli.plugin import plugin
from sockethealth_core.resources import encode
from unit.cli.builders import exhausted, judged, leaking, quiet

NODES = "/apis/sockethealth.io/v1alpha1/nodesockethealths"
Answer = Callable[[str, dict[str, list[str]]], tuple[int, dict]]


@pytest.fixture
def api(tmp_path) -> Iterator[Callable[[Answer], str]]:
    servers = []

    def serve(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlparse(self.path)
                status, body = answer(url.path, parse_qs(url.query))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return kubeconfig(tmp_path, server.server_port)

    yield serve
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def kubeconfig(folder, port: int) -> str:
    file = folder / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "me", "user": {}}],
    }
    file.write_text(yaml.safe_dump(config))
    return str(file)


def pod(namespace: str, name: str, facts) -> dict:
    raw = encode(judged(name, facts))
    raw["metadata"] |= {"namespace": namespace, "managedFields": []}
    return raw


def run(*arguments: str):
    return CliRunner().invoke(plugin, arguments)


def reporting(name: str, mode: str) -> dict:
    return {"metadata": {"name": name}, "status": {"agent": {"reportMode": mode}}}


def two_pages(path: str, query: dict[str, list[str]]) -> tuple[int, dict]:
    if path == NODES:
        return 200, {"metadata": {}, "items": [reporting("node-a", "All")]}
    assert path == "/apis/sockethealth.io/v1alpha1/sockethealths"
    if query.get("continue") == ["page2"]:
        return 200, {"metadata": {}, "items": [pod("shop", "web", exhausted())]}
    healthy, warning = pod("a", "idle", quiet()), pod("b", "leaky", leaking())
    return 200, {"metadata": {"continue": "page2"}, "items": [healthy, warning]}


def test_the_worst_of_all_pages_comes_first(api):
    result = run("--kubeconfig", api(two_pages))
    assert result.exit_code == 0, result.stderr
    header, *rows = result.stdout.splitlines()
    assert header.split()[:3] == ["NAMESPACE", "NAME", "HEALTH"]
    assert [row.split()[:3] for row in rows[:3]] == [
        ["shop", "web", "Critical"],
        ["b", "leaky", "Warning"],
        ["a", "idle", "Healthy"],
    ]


def test_json_has_the_objects_as_the_api_server_has_them(api):
    items = json.loads(run("--kubeconfig", api(two_pages), "-o", "json").stdout)["items"]
    assert [item["metadata"]["name"] for item in items] == ["web", "leaky", "idle"]
    assert all("managedFields" in item["metadata"] for item in items)


def test_one_namespace_is_asked_for_alone(api):
    def answer(path: str, _query: dict[str, list[str]]) -> tuple[int, dict]:
        if path == NODES:
            return 403, {"kind": "Status"}
        assert path == "/apis/sockethealth.io/v1alpha1/namespaces/shop/sockethealths"
        return 200, {"metadata": {}, "items": [pod("shop", "web", quiet())]}

    result = run("--kubeconfig", api(answer), "-n", "shop")
    assert "Pod shop/web is healthy" in result.stdout
    assert result.stderr == "", "who may not see nodes is not bothered with them"


@pytest.mark.parametrize(
    ("modes", "said"),
    [
        (["All", "All"], ""),
        (["All", "Noteworthy"], "note: the agents of 1 of 2 nodes report noteworthy pods only"),
        (["Noteworthy"], "note: the agents of 1 of 1 node report noteworthy pods only"),
    ],
)
def test_where_agents_report_noteworthy_pods_only_it_is_said(api, modes, said):
    def answer(path: str, _query: dict[str, list[str]]) -> tuple[int, dict]:
        nodes = [reporting(f"node-{index}", mode) for index, mode in enumerate(modes)]
        return 200, {"metadata": {}, "items": nodes if path == NODES else [pod("shop", "web", quiet())]}

    result = run("--kubeconfig", api(answer))
    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith(said)
    assert bool(result.stderr) == bool(said)


@pytest.mark.parametrize(
    ("status", "said"),
    [(404, "install SocketHealth"), (403, "you may not list"), (500, "refused to list sockethealths.sockethealth.io")],
)
def test_a_refusal_is_a_sentence(api, status, said):
    result = run("--kubeconfig", api(lambda *_: (status, {"kind": "Status"})))
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_object_that_cannot_be_read_is_named(api):
    broken = pod("shop", "web", quiet())
    broken["status"]["sockets"]["established"] = "many"
    result = run("--kubeconfig", api(lambda *_: (200, {"metadata": {}, "items": [broken]})))
    assert result.exit_code == 2
    assert "SocketHealth shop/web" in result.stderr


def test_without_a_kubeconfig_it_says_so(tmp_path):
    result = run("--kubeconfig", str(tmp_path / "none"))
    assert result.exit_code == 2
    assert "no cluster to ask" in result.stderr


def test_a_server_that_is_away_is_told(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        port = closed.server_port
    result = run("--kubeconfig", kubeconfig(tmp_path, port))
    assert result.exit_code == 2
    assert "the API server does not answer" in result.stderr


CONTAINERS = [{"name": "app", "image": "none.invalid/none"}]
UID = "11111111-2222-3333-4444-555555555555"


def owned(kind: str, name: str, owner: dict | None = None, **fields) -> dict:
    references = [{**owner, "uid": "1", "controller": True}] if owner else []
    metadata = {"name": name, "namespace": "shop", "uid": UID, "ownerReferences": references}
    return {"kind": kind, "metadata": metadata, **fields}


def reported(facts=None) -> dict:
    raw = pod("shop", "web", facts or exhausted())
    raw["spec"] |= {"podUID": UID, "nodeName": "node-a"}
    return raw


WEB = owned(
    "Pod", "web", {"apiVersion": "apps/v1", "kind": "Deployment", "name": "front"}, spec={"containers": CONTAINERS}
)
DEPLOYMENT = owned("Deployment", "front", spec={"template": {"spec": {"containers": CONTAINERS}}})


def fixable(**answers) -> Answer:
    """A cluster with a pod, its report and its Deployment; an answer that is None is not there."""
    known = {
        "/api/v1/namespaces/shop/pods/web": WEB,
        "/apis/sockethealth.io/v1alpha1/namespaces/shop/sockethealths/web": reported(),
        "/apis/apps/v1/": {
            "kind": "APIResourceList",
            "groupVersion": "apps/v1",
            "resources": [
                {
                    "name": "deployments/status",
                    "kind": "Deployment",
                    "namespaced": True,
                    "singularName": "",
                    "verbs": [],
                },
                {"name": "deployments", "kind": "Deployment", "namespaced": True, "singularName": "", "verbs": []},
            ],
        },
        "/apis/apps/v1/namespaces/shop/deployments/front": DEPLOYMENT,
        "/version/": {"major": "1", "minor": answers.pop("minor", "34+"), "gitVersion": "v1.34.4-eks"}
        | dict.fromkeys(("buildDate", "compiler", "gitCommit", "gitTreeState", "goVersion", "platform"), ""),
    } | answers

    def answer(path: str, _query: dict[str, list[str]]) -> tuple[int, dict]:
        found = known.get(path) or known.get(f"{path}/")
        if isinstance(found, int):
            return found, {"kind": "Status"}
        return (200, found) if found else (404, {"kind": "Status", "details": {"name": path.rsplit("/", 1)[-1]}})

    return answer


def test_a_fix_is_yaml_on_standard_output_and_all_else_on_standard_error(api):
    result = run("fix", "shop/web", "--kubeconfig", api(fixable()))
    assert result.exit_code == 0, result.stderr
    made = yaml.safe_load(result.stdout)
    assert (made["apiVersion"], made["kind"], made["metadata"]["name"]) == ("apps/v1", "Deployment", "front")
    (sysctl,) = made["spec"]["template"]["spec"]["securityContext"]["sysctls"]
    assert sysctl == {"name": "net.ipv4.ip_local_port_range", "value": "10240 64999"}
    assert all(line.startswith("note: ") for line in result.stderr.splitlines())
    assert "the node's kernel is not known" in result.stderr


def test_the_kernel_of_the_node_decides_what_a_pod_may_set(api):
    node = {"metadata": {"name": "node-a"}, "status": {"agent": {"kernel": "3.10.0-1160.el7"}}}
    listening = {**DEPLOYMENT["spec"]["template"]["spec"]["containers"][0], "ports": [{"containerPort": 15021}]}
    front = owned("Deployment", "front", spec={"template": {"spec": {"containers": [listening]}}})
    answers = {
        "/apis/sockethealth.io/v1alpha1/nodesockethealths/node-a": node,
        "/apis/apps/v1/namespaces/shop/deployments/front": front,
    }
    made = yaml.safe_load(run("fix", "shop/web", "--kubeconfig", api(fixable(**answers))).stdout)
    (sysctl,) = made["spec"]["template"]["spec"]["securityContext"]["sysctls"]
    assert sysctl == {"name": "net.ipv4.ip_local_port_range", "value": "15022 64999"}


def test_what_no_sysctl_helps_prints_nothing_and_exits_with_3(api):
    answers = {"/apis/sockethealth.io/v1alpha1/namespaces/shop/sockethealths/web": reported(leaking())}
    result = run("fix", "web", "-n", "shop", "--kubeconfig", api(fixable(**answers)))
    assert (result.exit_code, result.stdout) == (3, "")
    assert "no sysctl of the pod helps" in result.stderr
    assert "java" in result.stderr


def test_a_healthy_pod_needs_no_fix(api):
    answers = {"/apis/sockethealth.io/v1alpha1/namespaces/shop/sockethealths/web": reported(quiet())}
    result = run("fix", "web", "-n", "shop", "--kubeconfig", api(fixable(**answers)))
    assert (result.exit_code, result.stdout) == (3, "")
    assert "nothing is found on pod shop/web" in result.stderr


def test_a_static_pod_is_changed_on_its_node(api):
    static = owned(
        "Pod", "web", {"apiVersion": "v1", "kind": "Node", "name": "node-a"}, spec={"containers": CONTAINERS}
    )
    result = run(
        "fix", "web", "-n", "shop", "--kubeconfig", api(fixable(**{"/api/v1/namespaces/shop/pods/web": static}))
    )
    assert (result.exit_code, result.stdout) == (3, "")
    assert "change its manifest on node node-a" in result.stderr


def test_an_owner_that_is_gone_leaves_the_pod_for_itself(api):
    answers = {"/apis/apps/v1/namespaces/shop/deployments/front": None}
    result = run("fix", "web", "-n", "shop", "--kubeconfig", api(fixable(**answers)))
    assert result.exit_code == 3
    assert "there is no deployments.apps front" in result.stderr
    assert "make pod web anew" in result.stderr


def test_owners_in_a_circle_end_somewhere(api):
    circle = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "front"}
    front = owned("Deployment", "front", circle, spec=DEPLOYMENT["spec"])
    answers = {"/apis/apps/v1/namespaces/shop/deployments/front": front}
    result = run("fix", "web", "-n", "shop", "--kubeconfig", api(fixable(**answers)))
    assert yaml.safe_load(result.stdout)["metadata"]["name"] == "front"


def test_an_owner_that_may_not_be_read_is_told(api):
    answers = {"/apis/apps/v1/namespaces/shop/deployments/front": 403}
    result = run("fix", "web", "-n", "shop", "--kubeconfig", api(fixable(**answers)))
    assert result.exit_code == 2
    assert "you may not get deployments.apps in namespace shop" in result.stderr


def test_a_version_that_is_none_is_told(api):
    result = run("fix", "web", "-n", "shop", "--kubeconfig", api(fixable(minor="")))
    assert result.exit_code == 2
    assert "v1.34.4-eks" in result.stderr


def test_a_profile_of_a_pod_without_labels_would_be_for_all_pods_and_is_refused(api):
    bare = owned("Pod", "web", spec={"containers": CONTAINERS})
    answers = {"/api/v1/namespaces/shop/pods/web": bare}
    result = run("fix", "web", "-n", "shop", "--profile", "--kubeconfig", api(fixable(**answers)))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "has no label by which a profile could select it" in result.stderr


def profile_answers(path: str, _query: dict[str, list[str]]) -> tuple[int, dict]:
    ours = "/apis/sockethealth.io/v1alpha1"
    spec = {"target": "Pods", "sysctls": [{"name": "net.core.somaxconn", "value": "8192"}]}
    one = {"kind": "SysctlProfile", "metadata": {"name": "queues"}, "spec": spec}
    change = {"where": "shop/web", "name": "net.core.somaxconn", "found": "4096", "wanted": "8192"}
    report = {"profile": "queues", "revision": "r", "state": "Audited", "changes": [change], "changesTotal": 1}
    node = {"metadata": {"name": "node-a"}, "status": {"sysctlProfiles": [report]}}
    known = {
        f"{ours}/sysctlprofiles": {"metadata": {}, "items": [one]},
        f"{ours}/sysctlprofiles/queues": one,
        f"{ours}/nodesockethealths": {"metadata": {}, "items": [node]},
    }
    return (200, known[path]) if path in known else (404, {"details": {"name": path.rsplit("/", 1)[-1]}})


def test_profiles_are_listed_and_told_one_by_one(api):
    config = api(profile_answers)
    assert run("profiles", "--kubeconfig", config).stdout.splitlines()[1].split()[:3] == ["queues", "Audit", "Pods"]
    story = run("profiles", "queues", "--kubeconfig", config).stdout
    assert "node-a Audited shop/web net.core.somaxconn 4096  8192" in story
    assert json.loads(run("profiles", "queues", "-o", "json", "--kubeconfig", config).stdout)["kind"] == "SysctlProfile"
    assert json.loads(run("profiles", "-o", "json", "--kubeconfig", config).stdout)["kind"] == "List"


def test_a_profile_that_is_not_there_is_told_with_those_that_are(api):
    result = run("profiles", "queue", "--kubeconfig", api(profile_answers))
    assert result.exit_code == 2
    assert "there is no SysctlProfile queue; there are queues" in result.stderr
