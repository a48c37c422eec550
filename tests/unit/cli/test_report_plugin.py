"""`kubectl sockethealth report` against an API server and a Prometheus of its own on loopback."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import pytest
import yaml
from click.testing import CliRunner

from report_page import Document
from sockethealth_cli.plugin import plugin
from sockethealth_core.resources import encode
from unit.cli.builders import judged, leaking

FINDING = {
    "type": "CloseWaitLeak",
    "severity": "Warning",
    "policy_kind": "ClusterSocketHealthPolicy",
    "policy": "sockethealth-default",
    "rule": "close-wait-warning",
}


class Handler(BaseHTTPRequestHandler):
    """Both servers in one: a pod that leaks, as the API server and as Prometheus know it."""

    def do_GET(self) -> None:
        url = urlparse(self.path)
        if url.path.endswith("/query_range"):
            status, body = 200, self.series(parse_qs(url.query))
        elif url.path.endswith("/namespaces/shop/sockethealths/web"):
            status, body = 200, encode(judged("web", leaking(80)))
        else:
            name = url.path.rpartition("/")[2]
            status, body = 404, {"kind": "Status", "code": 404, "reason": "NotFound", "details": {"name": name}}
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    @staticmethod
    def series(fields: dict[str, list[str]]) -> dict:
        begin, query = float(fields["start"][0]), fields["query"][0]
        found: list[dict[str, str]] = []
        if "sockethealth_pod_sockets{" in query:
            found = [{"state": "closeWait"}]
        elif "sockethealth_finding{" in query:
            found = [FINDING]
        rows = [{"metric": labels, "values": [[begin, "80"], [begin + 15, "80"]]} for labels in found]
        return {"status": "success", "data": {"resultType": "matrix", "result": rows}}

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def servers(tmp_path) -> Iterator[list[str]]:
    """Arguments that lead to both."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "shop"}}],
            "clusters": [{"name": "here", "cluster": {"server": url}}],
            "users": [{"name": "me", "user": {}}],
        }
        file = tmp_path / "kubeconfig"
        file.write_text(yaml.safe_dump(config))
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield ["--kubeconfig", str(file), "--prometheus", url, "-o", "-"]
        finally:
            server.shutdown()
            thread.join()


def test_the_words_are_the_objects_and_the_numbers_the_series(servers):
    result = CliRunner().invoke(plugin, ["report", "pod", "web", *servers])
    assert result.exit_code == 0, result.stderr
    document = Document(result.stdout)
    (data,) = document.data
    (finding,) = data["findings"]
    assert finding["evidence"]["process"] == "java"
    assert "Fix the code of process java (pid 4711)" in document.text
    assert max(data["series"][0]["values"][:2]) == 80


@pytest.mark.parametrize("pod", [["other/gone"], ["gone", "-n", "other"]])
def test_options_may_come_first_and_a_pod_that_is_gone_has_its_series_still(servers, pod):
    result = CliRunner().invoke(plugin, [*servers, "report", "pod", *pod])
    assert result.exit_code == 0, result.stderr
    document = Document(result.stdout)
    assert document.data[0]["subject"] == {"kind": "pod", "namespace": "other", "name": "gone"}
    assert document.data[0]["findings"][0]["remedy"] == ""


def test_it_needs_a_prometheus(servers):
    result = CliRunner().invoke(plugin, ["report", "pod", "web", *servers[:2]])
    assert result.exit_code == 2
    assert "--prometheus" in result.stderr
