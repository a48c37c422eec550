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


def two_pages(path: str, query: dict[str, list[str]]) -> tuple[int, dict]:
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
        assert path == "/apis/sockethealth.io/v1alpha1/namespaces/shop/sockethealths"
        return 200, {"metadata": {}, "items": [pod("shop", "web", quiet())]}

    result = run("--kubeconfig", api(answer), "-n", "shop")
    assert "Pod shop/web is healthy" in result.stdout


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
