"""The client against an HTTPS-less server of the test's own that misbehaves in the ways real ones do."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sockethealth_agent import kubeapi
from sockethealth_agent.kubeapi import (
    AwayError,
    ConfigError,
    ConflictError,
    DeniedError,
    Endpoint,
    GoneError,
    InvalidError,
    KubeApi,
    NotFoundError,
    from_kubeconfig,
    in_cluster,
)
from sockethealth_agent.pods import pods_of, read_pod
from sockethealth_agent.watching import LONGEST_BACKOFF_SECONDS, backoff_seconds


class Server(ThreadingHTTPServer):
    """Answers each request by calling the next of `answers`, or the last one again."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = []
        self.requests = []
        self.ending = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        size = int(self.headers.get("Content-Length", "0"))
        self.body = self.rfile.read(size)
        parts = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        server = self.server
        # A connection that is kept alive has one handler for all its requests.
        seen = SimpleNamespace(command=self.command, query=self.query, headers=self.headers, body=self.body)
        server.requests.append(seen)
        answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        answer(self)

    do_PATCH = do_DELETE = do_GET  # noqa: N815 - the base class looks for these names

    def say(self, status, document, **headers):
        body = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, *events):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events:
            line = json.dumps(event).encode() + b"\n"
            # In two pieces, as a proxy may cut them.
            for piece in (line[:5], line[5:]):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()

    def end_stream(self):
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    made.ending.set()
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def api(server):
    made = KubeApi(Endpoint(url=server.url))
    yield made
    made.close()


def status(code, message="the reason"):
    return {"kind": "Status", "code": code, "message": message}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, InvalidError),
        (401, DeniedError),
        (403, DeniedError),
        (404, NotFoundError),
        (409, ConflictError),
        (410, GoneError),
        (422, InvalidError),
        (429, AwayError),
        (500, AwayError),
        (503, AwayError),
    ],
)
def test_a_refusal_has_its_type_and_the_servers_words(server, api, code, kind):
    server.answers = [lambda request: request.say(code, status(code))]
    with pytest.raises(kind, match=f"GET /api/v1/pods was answered with {code}: the reason"):
        api.get("/api/v1/pods")


def test_retry_after_is_passed_on(server, api):
    server.answers = [lambda request: request.say(429, status(429), Retry_After=7)]
    with pytest.raises(AwayError) as refused:
        api.get("/x")
    assert refused.value.retry_after_seconds == 7.0


def test_a_refusal_that_is_no_status_is_quoted(server, api):
    def answer(request):
        request.send_response(502)
        request.send_header("Content-Length", "11")
        request.end_headers()
        request.wfile.write(b"bad gateway")

    server.answers = [answer]
    with pytest.raises(AwayError, match="502: bad gateway"):
        api.get("/x")


def test_no_answer_is_said_with_its_cause_and_counted(server):
    counted = []
    api = KubeApi(Endpoint(url="http://127.0.0.1:1"), on_error=counted.append)
    with pytest.raises(AwayError, match=r"GET /x: no answer from http://127\.0\.0\.1:1 .*refused"):
        api.get("/x")
    api.close()
    assert counted == [0]


def test_a_server_that_hangs_is_given_up(server, api, monkeypatch):
    monkeypatch.setattr(kubeapi, "ANSWER_SECONDS", 0.2)
    server.answers = [lambda request: request.server.ending.wait(10)]
    with pytest.raises(AwayError, match="timed out"):
        api.get("/x")


def test_a_list_comes_in_pages(server, api):
    server.answers = [
        lambda request: request.say(200, {"metadata": {"continue": "more", "resourceVersion": "5"}, "items": [1]}),
        lambda request: request.say(200, {"metadata": {"resourceVersion": "5"}, "items": [2]}),
    ]
    pages = [json.loads(page)["items"] for page in api.pages("/x", {"fieldSelector": "a=b"}, limit=1)]
    assert pages == [[1], [2]]
    assert [request.query for request in server.requests] == [
        {"fieldSelector": "a=b", "limit": "1"},
        {"fieldSelector": "a=b", "limit": "1", "continue": "more"},
    ]


def test_apply_is_forced_and_names_its_manager(server, api):
    server.answers = [lambda request: request.say(200, {})]
    api.apply("/x", {"a": 1}, manager="me")
    (request,) = server.requests
    assert request.command == "PATCH"
    assert request.query == {"fieldManager": "me", "force": "true"}
    assert request.headers["Content-Type"] == "application/apply-patch+yaml"
    assert json.loads(request.body) == {"a": 1}


def test_deleting_what_is_gone_is_no_error_and_another_object_is_spared(server, api):
    server.answers = [lambda request: request.say(404, status(404))]
    api.delete("/x", uid="u1")
    assert json.loads(server.requests[0].body)["preconditions"] == {"uid": "u1"}


def test_a_token_that_was_replaced_is_used(server, tmp_path, monkeypatch):
    token = tmp_path / "token"
    token.write_text("one\n")
    server.answers = [lambda request: request.say(200, {})]
    api = KubeApi(Endpoint(url=server.url, token_file=token))
    api.get("/x")
    token.write_text("two\n")
    api.get("/x")
    monkeypatch.setattr(kubeapi, "TOKEN_FRESH_SECONDS", -1.0)
    api.get("/x")
    api.close()
    assert [request.headers["Authorization"] for request in server.requests] == [
        "Bearer one",
        "Bearer one",
        "Bearer two",
    ]


def test_a_refused_token_is_read_again_at_once(server, tmp_path):
    token = tmp_path / "token"
    token.write_text("old")
    server.answers = [
        lambda request: request.say(401, status(401)),
        lambda request: request.say(200, {}),
    ]
    api = KubeApi(Endpoint(url=server.url, token_file=token))
    with pytest.raises(DeniedError):
        api.get("/x")
    token.write_text("new")
    api.get("/x")
    api.close()
    assert server.requests[1].headers["Authorization"] == "Bearer new"


def a_pod(name, version):
    return {"metadata": {"name": name, "namespace": "shop", "uid": f"uid-{name}", "resourceVersion": version}}


def pod_list(*names, version="10"):
    return {"metadata": {"resourceVersion": version}, "items": [a_pod(name, "1") for name in names]}


def stay_silent(request):
    request.stream()
    request.server.ending.wait(10)


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "not reached in 10 s"
        time.sleep(0.01)


@pytest.fixture
def follow(api):
    mirrors = []

    def start(**more):
        mirror = pods_of(api, "node-a")
        mirror.__dict__.update({f"_{name}": value for name, value in more.items()})
        mirrors.append(mirror)
        mirror.start()
        return mirror

    yield start
    for mirror in mirrors:
        mirror.stop()


def test_a_watch_goes_on_where_the_last_one_ended(server, follow):
    def first(request):
        request.stream(
            {"type": "ADDED", "object": a_pod("b", "11")},
            {"type": "DELETED", "object": a_pod("a", "12")},
            {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "40"}}},
        )
        request.end_stream()

    server.answers = [
        lambda request: request.say(200, pod_list("a")),
        first,
        stay_silent,
    ]
    mirror = follow()
    wait_for(lambda: len(server.requests) >= 3)
    assert set(mirror.items) == {"uid-b"}
    assert [request.query.get("resourceVersion") for request in server.requests[:3]] == [None, "10", "40"]
    assert server.requests[1].query["fieldSelector"] == "spec.nodeName=node-a"
    assert server.requests[1].query["allowWatchBookmarks"] == "true"


def test_a_version_that_is_gone_means_listing_again(server, follow):
    def gone(request):
        request.stream({"type": "ERROR", "object": status(410, "too old")})
        request.end_stream()

    server.answers = [
        lambda request: request.say(200, pod_list("a")),
        gone,
        lambda request: request.say(200, pod_list("b", version="90")),
        stay_silent,
    ]
    mirror = follow()
    wait_for(lambda: set(mirror.items) == {"uid-b"})


def test_a_silent_watch_is_taken_up_again_without_listing(server, follow):
    def silent(request):
        request.stream({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "20"}}})
        request.server.ending.wait(10)

    server.answers = [lambda request: request.say(200, pod_list("a")), silent]
    mirror = follow(silence_seconds=0.3)
    wait_for(lambda: len(server.requests) >= 3)
    assert server.requests[2].query["resourceVersion"] == "20"
    assert set(mirror.items) == {"uid-a"}


def test_pods_stay_known_and_one_line_is_logged_while_nothing_answers(server, follow, caplog):
    caplog.set_level("INFO")
    server.answers = [
        lambda request: request.say(200, pod_list("a")),
        *[lambda request: request.say(503, status(503, "starting"))] * 3,
        stay_silent,
    ]
    mirror = follow()
    wait_for(lambda: len(server.requests) >= 5)
    wait_for(lambda: len(caplog.records) >= 2)
    assert set(mirror.items) == {"uid-a"}
    said = [record.message for record in caplog.records]
    assert len(said) == 2, said
    assert said[0].startswith("/api/v1/pods cannot be watched, so what is known of it stays as it is until it can")
    assert said[1].startswith("/api/v1/pods is read again after")


def test_one_pod_of_an_unknown_shape_does_not_hide_the_others(server, follow, caplog):
    odd = {"metadata": {"name": "odd", "namespace": "shop", "uid": 7}}
    whole = pod_list("a")
    whole["items"].insert(0, odd)
    server.answers = [
        lambda request: request.say(200, whole),
        stay_silent,
    ]
    mirror = follow()
    assert mirror.synced.wait(10)
    assert set(mirror.items) == {"uid-a"}
    assert "shop/odd of /api/v1/pods is passed over" in caplog.records[0].message


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_backing_off_grows_and_is_bounded(failures, chance):
    seconds = backoff_seconds(failures, None, chance)
    assert 0.25 <= seconds <= LONGEST_BACKOFF_SECONDS
    assert backoff_seconds(failures, 99.0, chance) == 99.0


def test_a_pod_is_read_with_the_names_of_its_containers():
    raw = {
        "metadata": {"name": "web", "namespace": "shop", "uid": "u", "labels": {"a": "b"}},
        "spec": {"hostNetwork": True},
        "status": {
            "phase": "Running",
            "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
            "containerStatuses": [{"name": "app", "containerID": "containerd://abc"}, {"name": "waits"}],
            "initContainerStatuses": [{"name": "sidecar", "containerID": "cri-o://def"}],
        },
    }
    found = read_pod(json.dumps(raw).encode())
    assert found.containers == {"abc": "app", "def": "sidecar"}
    assert found.host_network
    assert found.ips == ("10.0.0.1", "fd00::1")
    assert not found.completed


@pytest.mark.parametrize(
    ("host", "url"), [("10.0.0.1", "https://10.0.0.1:6443"), ("fd00::1", "https://[fd00::1]:6443")]
)
def test_a_pods_own_credentials_are_found(tmp_path, host, url):
    (tmp_path / "token").write_text("t")
    found = in_cluster({"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "6443"}, tmp_path)
    assert found.url == url
    assert found.token_file == tmp_path / "token"


def test_missing_credentials_are_said():
    with pytest.raises(ConfigError, match="KUBERNETES_SERVICE_HOST is not set"):
        in_cluster({})
    with pytest.raises(ConfigError, match="automountServiceAccountToken"):
        in_cluster({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, Path("/nowhere"))


def kubeconfig(file, user):
    document = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://k:6443/", "certificate-authority": "ca.crt"}}],
        "users": [{"name": "u", "user": user}],
    }
    file.write_text(yaml.safe_dump(document))
    return file


def test_a_kubeconfig_is_read_with_paths_beside_it(tmp_path):
    found = from_kubeconfig(kubeconfig(tmp_path / "config", {"token": "t"}))
    assert (found.url, found.token, found.ca_file) == ("https://k:6443", "t", str(tmp_path / "ca.crt"))


def test_a_kubeconfig_that_needs_a_plugin_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="authenticates by exec"):
        from_kubeconfig(kubeconfig(tmp_path / "config", {"exec": {"command": "x"}}))


def test_a_file_that_is_no_kubeconfig_is_refused(tmp_path):
    file = tmp_path / "config"
    file.write_text("[]")
    with pytest.raises(ConfigError, match="is no kubeconfig"):
        from_kubeconfig(file)
