"""The product on a node as a user installs it, and places with workloads for it to judge."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.cluster import ExistingCluster, OwnCluster
from harness.images import REPOSITORY
from harness.reading import NotThereError
from harness.waiting import until

RELEASE = "sockethealth"
CHART = REPOSITORY / "charts" / "sockethealth"
DEFINITIONS = sorted(file.stem + ".sockethealth.io" for file in (REPOSITORY / "crds").glob("*.yaml"))


class Product:
    """The release `sockethealth` in a namespace of its own."""

    def __init__(self, cluster: OwnCluster | ExistingCluster, image: str) -> None:
        self.cluster = cluster
        self.namespace = RELEASE
        repository, _, tag = image.rpartition(":")
        self._values: tuple[str, ...] = ()
        self._image = ("--set", f"image.repository={repository}", "--set-string", f"image.tag={tag}")

    def install(self, *values: str) -> None:
        """`helm install`, and wait until agent and operator are ready."""
        self._helm("install", "--create-namespace", *self._image, *values)
        self._values = values

    def ensure_with_writer(self) -> Path:
        """Have it installed with its sysctl writer, as it is or anew; the folder of what that found."""
        folder = self.cluster.host_dir / "journal"
        values = ("--set", "sysctls.enabled=true", "--set", f"sysctls.journalPath={folder}")
        if self.is_installed():
            if self._values == values:
                return folder
            self.uninstall()
        self.install(*values)
        return folder

    def upgrade(self, *values: str) -> None:
        """`helm upgrade` to the same chart and values, and others given, and wait as for an installation."""
        self._helm("upgrade", "--reuse-values", *values)
        self._values += values

    def uninstall(self) -> None:
        """`helm uninstall`, and wait until everything is gone."""
        self.cluster.helm("uninstall", RELEASE, "-n", self.namespace, "--wait", "--timeout", "2m")

    def is_installed(self) -> bool:
        """Whether the release exists."""
        return self.cluster.helm("status", RELEASE, "-n", self.namespace, check=False).returncode == 0

    def pods_of(self, component: str) -> list[dict[str, Any]]:
        """The running pods of a component: agent or operator."""
        pods = self.cluster.get("pods", "-n", self.namespace, "-l", _selector(component))["items"]
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def pod_of(self, component: str) -> dict[str, Any]:
        """The one running pod of a component that has one, as the agent on a single node."""
        running = self.pods_of(component)
        assert len(running) == 1, f"{len(running)} pods of {component}"
        return running[0]

    def pid_of(self, component: str, container: str, program: str) -> int | None:
        """The process on this machine that runs a program in a container of such a pod; None while there is none."""
        statuses = self.pod_of(component)["status"]["containerStatuses"]
        identity = next(one for one in statuses if one["name"] == container)["containerID"].rpartition("//")[2]
        for pid in _pids_with(identity):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if any(word.endswith(program.encode()) for word in words):
                return pid
        return None

    def logs(self) -> str:
        """What agent and operator have logged, for failure messages."""
        options = ("--tail=30", "--prefix", "--all-containers")
        shown = [
            self.cluster.kubectl("logs", "-n", self.namespace, "-l", _selector(component), *options, check=False)
            for component in ("agent", "operator")
        ]
        return "\n".join(each.stdout + each.stderr for each in shown)

    def _helm(self, *arguments: str) -> None:
        command, *rest = arguments
        self.cluster.helm(command, RELEASE, str(CHART), "-n", self.namespace, "--wait", "--timeout", "2m", *rest)
        # Helm's --wait is content with a DaemonSet whose maxUnavailable pods are missing, which here is all.
        self.await_agents()

    def await_agents(self) -> None:
        """Wait until every agent is ready."""
        self.cluster.kubectl(
            *("rollout", "status", "-n", self.namespace, f"daemonset/{RELEASE}-agent", "--timeout=90s"), timeout=100
        )


def _selector(component: str) -> str:
    return f"app.kubernetes.io/component={component}"


def pids_of(pod: dict[str, Any]) -> Iterator[int]:
    """Processes of a pod on this machine, found by its UID in their cgroups."""
    uid = pod["metadata"]["uid"]
    return _pids_with(f"pod{uid}", f"pod{uid.replace('-', '_')}")


def _pids_with(*wanted: str) -> Iterator[int]:
    """Processes in whose cgroup one of these words is."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            cgroup = (entry / "cgroup").read_text()
        except OSError:
            continue
        if any(name in cgroup for name in wanted):
            yield int(entry.name)


class Place:
    """A namespace of the cluster with the demo's scripts in it, and what tests do there."""

    def __init__(self, product: Product, namespace: str) -> None:
        self.product = product
        self.cluster = product.cluster
        self.namespace = namespace
        cluster = self.cluster
        scripts = ("create", "configmap", "scripts", "-n", namespace, f"--from-file={REPOSITORY / 'demo' / 'scripts'}")
        cluster.kubectl("create", "namespace", namespace)
        cluster.kubectl(*scripts)

    def apply(self, manifest: dict[str, Any]) -> None:
        """Create objects in the namespace."""
        self.cluster.apply(manifest, namespace=self.namespace)

    def service(self, name: str) -> str:
        """Create a Service in front of the pods labelled `app: NAME`; its address."""
        spec = {"selector": {"app": name}, "ports": [{"port": 8080}]}
        self.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
        return str(self.cluster.get("service", name, "-n", self.namespace)["spec"]["clusterIP"])

    def deployment(self, name: str, *command: str, **pod: Any) -> None:
        """Create a Deployment of one pod that runs a command; `pod` goes into its spec."""
        container = {
            "name": "main",
            "image": self.cluster.workload_image,
            "command": list(command),
            "volumeMounts": [{"name": "scripts", "mountPath": "/scripts"}],
        }
        spec = {
            "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "scripts", "configMap": {"name": "scripts"}}],
            "containers": [container],
            **pod,
        }
        labels = {"app": name}
        template = {"metadata": {"labels": labels}, "spec": spec}
        self.apply(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": name},
                "spec": {"selector": {"matchLabels": labels}, "template": template},
            }
        )

    def pod(self, app: str) -> dict[str, Any]:
        """The running pod of a Deployment."""

        def running() -> list[dict[str, Any]]:
            pods = self.cluster.get("pods", "-n", self.namespace, "-l", f"app={app}")["items"]
            return [pod for pod in pods if pod["status"]["phase"] == "Running"]

        until(lambda: len(running()) == 1, f"the pod of {app} to run", seconds=60, poll_seconds=0.3)
        return running()[0]

    def socket_health(self, pod: str) -> dict[str, Any]:
        """A pod's SocketHealth; empty while there is none."""
        try:
            return self.cluster.get("sockethealth", pod, "-n", self.namespace)
        except NotThereError:
            return {}

    def findings(self, pod: str) -> dict[str, dict[str, Any]]:
        """A pod's findings by rule."""
        return {each["rule"]: each for each in self.socket_health(pod).get("status", {}).get("findings", [])}

    def annotations(self, *what: str) -> dict[str, str]:
        """The product's annotations of an object."""
        metadata = self.cluster.get(*what, "-n", self.namespace)["metadata"]
        return {key: value for key, value in metadata.get("annotations", {}).items() if "sockethealth.io/" in key}

    def events(self, kind: str, type_: str) -> list[dict[str, Any]]:
        """The product's Events of a type (Normal or Warning) on objects of a kind."""
        items = self.cluster.get("events.events.k8s.io", "-n", self.namespace)["items"]
        return [
            item
            for item in items
            if item.get("reportingController") == "sockethealth.io/operator"
            and item["type"] == type_
            and item["regarding"]["kind"] == kind
        ]

    def until(self, condition: Callable[[], bool], what: str, *, seconds: float) -> None:
        """Wait for a condition; in vain, the message has the logs of agent and operator."""
        until(condition, what, seconds=seconds, poll_seconds=0.4, explain=self.product.logs)

    def delete(self) -> None:
        """Give the namespace up without waiting for it to go."""
        self.cluster.kubectl("delete", "namespace", self.namespace, "--wait=false", check=False)
