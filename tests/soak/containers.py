"""Figures of every container of the product, read on the machine that its node is."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import urllib3
from prometheus_client.parser import text_string_to_metric_families

from harness.cluster import OwnCluster
from soak.judgement import Reading
from sockethealth_core.metrics import NODE_SILENT, SERIES

COMPONENTS: Final = ("agent", "operator")
_METRICS_PORT: Final = re.compile(r"(.*-)?metrics")
_LOOKS: Final = 3
_PAUSE_SECONDS: Final = 0.1
_ROLLUP: Final = {"Rss": "resident_bytes", "Pss": "proportional_bytes", "Anonymous": "anonymous_bytes"}
_CGROUP_FILES: Final = ("memory.current", "memory.usage_in_bytes")
_OF_PROGRAMS: Final = {one.name for one in SERIES if one.per == "program" and one.kind != "histogram"} | {
    NODE_SILENT.name
}
_POOL: Final = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(10))


@dataclass
class Log:
    """A container's log as the kubelet writes it, of which each part is read once.

    Attributes:
        lines: whole lines so far.
        size_bytes: of them.
        warnings: those of a level above info, or that are no JSON at all, in order.
    """

    folder: Path
    lines: int = 0
    size_bytes: int = 0
    warnings: list[str] = field(default_factory=list)
    _read_bytes: dict[Path, int] = field(default_factory=dict)

    def read(self) -> None:
        """Count what has been added."""
        for file in sorted(self.folder.glob("*.log")):
            with file.open("rb") as opened:
                opened.seek(self._read_bytes.get(file, 0))
                data = opened.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read_bytes[file] = self._read_bytes.get(file, 0) + len(whole)
            self.size_bytes += len(whole)
            for line in whole.decode(errors="replace").splitlines():
                self.lines += 1
                # Time, stream and tag come first: the CRI's format of logs.
                message = line.split(" ", 3)[-1]
                if _level(message) not in {"DEBUG", "INFO"}:
                    self.warnings.append(message)


@dataclass(frozen=True)
class Container:
    """One container of the product; `name` tells it from the others."""

    name: str
    identity: str
    address: str
    ports: tuple[int, ...]
    cgroup: Path
    log: Log

    def pids(self) -> list[int]:
        """Its processes."""
        return [int(pid) for pid in (self.cgroup / "cgroup.procs").read_text().split()]


class Containers:
    """All containers of agent and operator; made when they are ready."""

    def __init__(self, cluster: OwnCluster, namespace: str) -> None:
        """Find them.

        Args:
            cluster: which is on this machine, as cgroups, /proc and log files are read here.
            namespace: of the release.
        """
        self._cluster = cluster
        self._namespace = namespace
        self._started = time.monotonic()
        self._containers = self._found()

    @property
    def names(self) -> list[str]:
        """Of all containers."""
        return [one.name for one in self._containers]

    def warnings(self) -> list[str]:
        """What was logged above level info, with the container that did."""
        return [f"{one.name}: {line}" for one in self._containers for line in one.log.warnings]

    def read(self) -> list[Reading]:
        """A reading of each.

        Raises:
            AssertionError: a pod was replaced, or a container started anew, so that what follows is another's.
        """
        states = {one["containerID"]: one for _, one in self._statuses()}
        at_seconds = time.monotonic() - self._started
        readings = []
        for one in self._containers:
            assert one.identity in states, (
                f"{one.name} is another container than at the start, of {sorted(states)}: it ended.\n"
                + "\n".join(self.warnings())
            )
            figures = {"restarts": float(states[one.identity]["restartCount"])}
            readings.append(Reading(at_seconds, one.name, figures | _figures(one)))
        return readings

    def _statuses(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        client = self._cluster.core
        selector = f"app.kubernetes.io/component in ({','.join(COMPONENTS)})"
        listed = client.list_namespaced_pod(self._namespace, label_selector=selector)
        for pod in client.api_client.sanitize_for_serialization(listed)["items"]:
            if "deletionTimestamp" not in pod["metadata"]:
                for status in pod["status"].get("containerStatuses", []):
                    yield pod, status

    def _found(self) -> list[Container]:
        statuses = list(self._statuses())
        same_name = Counter(status["name"] for _, status in statuses)
        found = []
        for pod, status in statuses:
            metadata, name = pod["metadata"], status["name"]
            spec = next(one for one in pod["spec"]["containers"] if one["name"] == name)
            identity = status["containerID"].rpartition("//")[2]
            folder = f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}"
            found.append(
                Container(
                    name if same_name[name] == 1 else f"{name} of {metadata['name']}",
                    status["containerID"],
                    pod["status"]["podIP"],
                    tuple(p["containerPort"] for p in spec["ports"] if _METRICS_PORT.fullmatch(p["name"])),
                    _cgroup(identity),
                    Log(self._cluster.directory.path / "pod-logs" / folder / name),
                )
            )
        return found


def _cgroup(identity: str) -> Path:
    """The folder of a container's memory and processes, in cgroup v1 or v2."""
    root = Path("/sys/fs/cgroup")
    for file in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            lines = [line.split(":", 2) for line in file.read_text().splitlines()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        by_controller = {name: path for _, names, path in lines for name in names.split(",") if identity in path}
        if "memory" in by_controller:
            return root / "memory" / by_controller["memory"].lstrip("/")
        if "" in by_controller:
            return root / by_controller[""].lstrip("/")
    raise AssertionError(f"No process of container {identity} runs on this machine.")


def _figures(one: Container) -> dict[str, float]:
    figures: Counter[str] = Counter()
    pids = one.pids()
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, amount = line.split(":")
            if name in _ROLLUP:
                figures[_ROLLUP[name]] += int(amount.split()[0]) * 1024
    # A request being served, or a file being read, is gone a moment later; what is kept is in every look.
    looks = []
    for look in range(_LOOKS):
        time.sleep(_PAUSE_SECONDS if look else 0)
        looks.append(_look(pids))
    one.log.read()
    return {
        **{name: float(figures[name]) for name in _ROLLUP.values()},
        "cgroup_bytes": _cgroup_bytes(one.cgroup),
        **{name: min(look[name] for look in looks) for name in looks[0]},
        "log_lines": float(one.log.lines),
        "log_bytes": float(one.log.size_bytes),
        "log_warnings": float(len(one.log.warnings)),
        **{name: value for port in one.ports for name, value in _scraped(one.address, port).items()},
    }


def _look(pids: list[int]) -> dict[str, float]:
    files = [link for pid in pids for link in _links(Path(f"/proc/{pid}/fd"))]
    return {
        "processes": float(len(pids)),
        "threads": float(sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids)),
        "open_files": float(len(files)),
        "network_namespaces_held": float(sum(link.startswith("net:[") for link in files)),
    }


def _links(folder: Path) -> Iterator[str]:
    for link in folder.iterdir():
        try:
            yield str(link.readlink())
        except FileNotFoundError:  # closed meanwhile
            continue


def _cgroup_bytes(folder: Path) -> float:
    return next(float(file.read_text()) for name in _CGROUP_FILES if (file := folder / name).exists())


def _scraped(address: str, port: int) -> dict[str, float]:
    """What a program says of itself; samples are named as in the exposition, but without the node."""
    answer = _POOL.request("GET", f"http://{address}:{port}/metrics")
    assert answer.status == 200, f"/metrics of port {port} answers {answer.status}"
    found = {}
    for family in text_string_to_metric_families(answer.data.decode()):
        for sample in family.samples:
            if sample.name in _OF_PROGRAMS:
                labels = ",".join(f'{key}="{value}"' for key, value in sample.labels.items() if key != "node")
                found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def _level(message: str) -> str:
    try:
        return str(json.loads(message)["level"])
    except (ValueError, KeyError, TypeError):
        return "not JSON"
