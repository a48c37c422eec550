"""A real Prometheus and Alertmanager of this machine, for tests that want to see what people are told."""

import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import urllib3
import yaml

from harness import network
from harness.waiting import until
from product_lab import CHART, RELEASE, Product

SCRAPE_SECONDS: Final = 5
STEP_SECONDS: Final = 2
_START_SECONDS: Final = 30
_POOL: Final = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(10))


class Server:
    """One of the two programs, on a free port of the loopback."""

    def __init__(self, argv: list[str], folder: Path, ready: str) -> None:
        """Remember what to start; `ready` is the path that answers 200 when it works."""
        (self.port,) = network.free_ports(1)
        self._argv = [*argv, f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"]
        self._folder = folder
        self._ready = ready
        self._log = folder / f"{argv[0]}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it works."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                # It ends with the test run, however that ends (PR_SET_PDEATHSIG).
                ["setpriv", "--pdeathsig", "KILL", "--", *self._argv],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
            )
        until(self._answers, f"{self._argv[0]} to be ready", seconds=_START_SECONDS, explain=self._log.read_text)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def get(self, path: str, **fields: str) -> Any:
        """The decoded answer to a GET."""
        answer = _POOL.request("GET", f"http://127.0.0.1:{self.port}{path}", fields=fields)
        assert answer.status == 200, f"{path} {fields}: {answer.data.decode()}"
        return answer.json()

    def _answers(self) -> bool:
        assert self._process is None or self._process.poll() is None, self._log.read_text()
        try:
            return _POOL.request("GET", f"http://127.0.0.1:{self.port}{self._ready}").status == 200
        except urllib3.exceptions.HTTPError:
            return False


class Monitoring:
    """Prometheus with the rules of the chart, told of agent and operator as a PodMonitor would, and an Alertmanager."""

    def __init__(self, product: Product, folder: Path) -> None:
        """Remember where to write; folder is for configuration, data and logs.

        Raises:
            HarnessError: the kubeconfig has no token or no file of the certificate authority, which Prometheus needs.
        """
        self._product = product
        self._access = {
            "scheme": "https",
            "tls_config": {"ca_file": str(product.cluster.ca_file)},
            "authorization": {"credentials": product.cluster.admin_token},
        }
        self._folder = folder
        self._running = ExitStack()
        config, data = f"--config.file={folder / 'alertmanager.yaml'}", f"--storage.path={folder / 'alertmanager'}"
        self.alertmanager = Server(
            ["prometheus-alertmanager", config, data, "--cluster.listen-address="], folder, "/-/ready"
        )
        config, data = f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'prometheus'}"
        self.prometheus = Server(["prometheus", config, data], folder, "/-/ready")

    def start(self, *values: str) -> None:
        """Start both; `values` are further arguments of Helm for the rules."""
        self._write("rules.yaml", self.rules(*values))
        route = {"receiver": "nobody", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s"}
        self._write("alertmanager.yaml", {"route": route, "receivers": [{"name": "nobody"}]})
        self._write("prometheus.yaml", self._configuration())
        for server in (self.alertmanager, self.prometheus):
            self._running.callback(server.stop)
            server.start()

    def stop(self) -> None:
        """End both."""
        self._running.close()

    def rules(self, *values: str) -> dict[str, Any]:
        """The spec of the PrometheusRule that the chart renders."""
        template = ("-s", "templates/monitoring/prometheusrule.yaml", "--set", "defaultRules.create=true")
        where = ("-n", self._product.namespace, "--kube-version", "1.34.0")
        done = self._product.cluster.helm("template", RELEASE, str(CHART), *where, *template, *values)
        return dict(yaml.safe_load(done.stdout)["spec"])

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an expression at this moment."""
        answer = self.prometheus.get("/api/v1/query", query=expression)
        return list(answer["data"]["result"])

    def alerts(self, **labels: str) -> list[dict[str, Any]]:
        """What Alertmanager has been told, and what has not ended, of these labels."""
        told = self.alertmanager.get("/api/v2/alerts")
        return [alert for alert in told if labels.items() <= alert["labels"].items()]

    def _write(self, name: str, document: dict[str, Any]) -> None:
        (self._folder / name).write_text(yaml.safe_dump(document))

    def _configuration(self) -> dict[str, Any]:
        return {
            "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{STEP_SECONDS}s"},
            "rule_files": ["rules.yaml"],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{self.alertmanager.port}"]}]}]},
            "scrape_configs": [
                {
                    "job_name": "kept by the label of each target",
                    "honor_labels": True,
                    **self._access,
                    "static_configs": [
                        self._target(component, pod)
                        for component in ("agent", "operator")
                        for pod in self._product.pods_of(component)
                    ],
                }
            ],
        }

    def _target(self, component: str, pod: Mapping[str, Any]) -> dict[str, Any]:
        """A pod by way of the API server, as pods of a cluster that exists elsewhere can be reached in no other."""
        name, namespace = pod["metadata"]["name"], self._product.namespace
        port = next(
            port["containerPort"]
            for container in pod["spec"]["containers"]
            for port in container["ports"]
            if port["name"] == "metrics"
        )
        labels = {
            "__metrics_path__": f"/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy/metrics",
            "job": f"{namespace}/{RELEASE}-{component}",
            "instance": f"{pod['status']['podIP']}:{port}",
            "namespace": namespace,
            "pod": name,
            "container": component,
            "node": pod["spec"]["nodeName"],
        }
        return {"targets": [self._product.cluster.server.removeprefix("https://")], "labels": labels}
