"""What the operator costs: its first sight of a large cluster, and a cluster that changes all the time."""

import json
import os
import re
import secrets
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec
import urllib3

from benchmarks.apiserver import ApiServer, Item, api_server, cpu_seconds, objects, socket_health
from benchmarks.report import Missing, Report, Row, Series
from benchmarks.writes import default_watchpoints
from sockethealth_core.default_policy import DEFAULT_POLICY
from sockethealth_core.names import ANNOTATION_FINDINGS, GROUP, VERSION
from sockethealth_core.resources import encode

TITLE: Final = "the operator: first sight of 10,000 pods and 1,000 nodes, and 500 changes a second"
PODS, NODES = 10_000, 1_000
FEW, MANY = 1_000, 30_000
INDEXED: Final = (1_000, 2_000)
RUNS: Final = 3
SUSTAINED_SECONDS: Final = 30.0
CHANGES_PER_SECOND: Final = 500
TURNS_PER_SECOND: Final = 20
CANARIES_PER_SECOND: Final = 4
READY_MOST_SECONDS, RSS_MOST_MIB, FLAT_MOST, ANNOTATED_MOST_SECONDS, CORE_MOST_PERCENT = 10.0, 256.0, 1.25, 1.0, 100.0
FLAT_FROM_FEW_MOST: Final = 2.0
"""1,100 objects take a tenth of a second, and fit into the processor's caches."""
_GIVE_UP_SECONDS: Final = 180.0
_NAMESPACE: Final = "canaries"


def run() -> Report:
    """Measure.

    Raises:
        Missing: there is no API server to be had here, or a program did not do what it is there for.
    """
    with api_server() as server:
        for pid in (os.getpid(), *server.processes()):
            _go_first(pid)
        bench = _Bench(server)
        bench.install_policy()
        rows = [*bench.first_sight(), *bench.sustained()]
    return Report(
        "operator",
        TITLE,
        tuple(rows),
        (
            "Ready counts from the start of the process, its imports included, to /readyz; memory is the peak (VmHWM).",
            "The peer is a kopf operator with on.event handlers for the two kinds that only keeps the objects.",
            "Objects and changes are put into etcd, and reach the operator by the API server's lists and watches.",
            "No object has an owner, as the garbage collector would remove those of pods that are not there.",
            "A canary has 60 CLOSE_WAIT sockets of a policy with for: 0s; its Deployment's annotation is watched.",
            "The canaries' peer is a watch of them that only notes when their statuses arrive.",
            "The programs compared, and their API server, go before other work of the machine (sched(7), autogroup).",
        ),
    )


@dataclass(frozen=True)
class _Sight:
    """What it took to see everything."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


class _Bench:
    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._watchpoints = default_watchpoints()

    def install_policy(self) -> None:
        document = {
            "apiVersion": DEFAULT_POLICY.api_version,
            "kind": DEFAULT_POLICY.kind,
            "metadata": {"name": "default"},
            "spec": encode(DEFAULT_POLICY.spec),
        }
        self._server.cluster.kubectl("apply", "-f", "-", input=json.dumps(document))

    def first_sight(self) -> Iterator[Row]:
        self._sights(0, 0, 1)  # from here on the programs' files are in memory
        nothing = self._sights(0, 0, RUNS)
        few = self._sights(FEW, FEW // 10, RUNS)
        usual = self._sights(PODS, NODES, RUNS)
        kept = [self._peer("event", PODS + NODES) for _ in range(RUNS)]
        peer = Series("kopf.on.event", "s", tuple(answer["seconds"] for answer in kept))
        peer_memory = Series("kopf.on.event", "MiB", tuple(answer["rss_mib"] for answer in kept))
        many = self._sights(MANY, MANY // 10, RUNS)
        ready = Series(f"ready with {PODS:,} pods and {NODES:,} nodes", "s", tuple(one.seconds for one in usual))
        memory = Series("peak memory with these", "MiB", tuple(one.peak_mib for one in usual))
        yield Row(ready, most=READY_MOST_SECONDS)
        yield Row(ready, peer)
        yield Row(memory, most=RSS_MOST_MIB)
        yield Row(memory, peer_memory)
        each = _each(f"CPU time an object, of {MANY:,} pods", many, nothing, MANY, MANY // 10)
        yield Row(each, _each(f"of {PODS:,}", usual, nothing, PODS, NODES), most=FLAT_MOST)
        yield Row(each, _each(f"of {FEW:,}", few, nothing, FEW, FEW // 10), most=FLAT_FROM_FEW_MOST)
        yield Row(Series(f"ready with {MANY:,} pods", "s", tuple(one.seconds for one in many)))
        yield Row(Series("peak memory with these", "MiB", tuple(one.peak_mib for one in many)))
        yield from self._indexed()

    def _indexed(self) -> Iterator[Row]:
        # The same for each object would be twice the time for twice the objects.
        taken = []
        for pods in INDEXED:
            self._fill(pods, 1)
            taken.append(self._peer("index", pods + 1)["seconds"])
        yield Row(
            Series(f"kopf.index, of {INDEXED[1]:,}", "s", (taken[1],)),
            Series(f"of {INDEXED[0]:,}", "s", (taken[0],)),
        )

    def sustained(self) -> Iterator[Row]:
        self._fill(PODS, NODES)
        canaries = _Canaries(self._server)
        each = round(SUSTAINED_SECONDS * CANARIES_PER_SECOND)
        canaries.create(RUNS * each)
        depths: list[float] = []
        shares, behinds = [], []
        with _operator(self._server) as operator:
            operator.until_idle()
            with canaries.watched():
                for _ in range(RUNS):
                    cpu, began = operator.cpu_seconds(), time.monotonic()
                    depths += self._change(operator, canaries)
                    ended = time.monotonic()
                    operator.until_idle()
                    behinds.append(time.monotonic() - ended)
                    shares.append(100 * (operator.cpu_seconds() - cpu) / (time.monotonic() - began))
                canaries.wait()
        late, seen = canaries.seconds, canaries.seconds_to_a_watch
        runs = [[f"canary-{run * each + index}" for index in range(each)] for run in range(RUNS)]

        def percentiles(values: Mapping[str, float]) -> tuple[float, ...]:
            return tuple(_percentile(99, (values[name] for name in run)) for run in runs)

        yield Row(
            Series(f"CPU of one core at {CHANGES_PER_SECOND} changes/s", "%", tuple(shares)), most=CORE_MOST_PERCENT
        )
        yield Row(Series("keys that wait meanwhile", "keys", tuple(depths)))
        yield Row(Series("all done after the last change", "s", tuple(behinds)), most=1.0)
        yield Row(
            Series("status update to annotation", "s", tuple(late.values())),
            Series("to a plain watch", "s", tuple(seen.values())),
        )
        yield Row(Series("the same, 99th percentile of a run", "s", percentiles(late)), most=ANNOTATED_MOST_SECONDS)
        yield Row(
            Series("the same, 99th percentile of a run", "s", percentiles(late)),
            Series("to a plain watch", "s", percentiles(seen)),
        )
        own = {name: late[name] - seen[name] for name in late}
        yield Row(Series("of the operator's own share, 99th percentile", "s", percentiles(own)))

    def _change(self, operator: "_Operator", canaries: "_Canaries") -> list[float]:
        """Change objects at an even rate; how many keys waited at each second."""
        depths = []
        statuses = [item for item in objects(NODES, PODS, self._watchpoints) if "/sockethealths/" in item[0]]
        began = time.monotonic()
        a_turn = CHANGES_PER_SECOND // TURNS_PER_SECOND
        for turn in range(round(SUSTAINED_SECONDS * TURNS_PER_SECOND)):
            time.sleep(max(0.0, began + turn / TURNS_PER_SECOND - time.monotonic()))
            batch = [statuses[(turn * a_turn + index) % PODS] for index in range(a_turn)]
            for _, document in batch:
                document["status"]["sockets"]["established"] = 5 + turn % 10
            self._server.put(batch)
            if turn % (TURNS_PER_SECOND // CANARIES_PER_SECOND) == 0:
                canaries.fall_ill()
            if turn % TURNS_PER_SECOND == 0:
                depths.append(operator.metric("sockethealth_operator_queue_keys"))
        return depths

    def _sights(self, pods: int, nodes: int, runs: int) -> list[_Sight]:
        self._fill(pods, nodes)
        return [self._sight(pods + nodes) for _ in range(runs)]

    def _sight(self, expected: int) -> _Sight:
        with _operator(self._server) as operator:
            operator.until_idle()
            known = operator.metric("sockethealth_operator_tracked_objects")
            if known != expected:
                raise Missing(f"The operator knows {known:g} of {expected} objects.\n{operator.log()}")
            return _Sight(operator.ready_seconds, operator.cpu_seconds(), operator.memory_mib("VmHWM"))

    def _fill(self, pods: int, nodes: int) -> None:
        self._server.clear()
        if nodes:
            self._server.put(objects(nodes, pods, self._watchpoints))
        self._server.until_quiet()

    def _peer(self, how: str, expected: int) -> dict[str, float]:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "benchmarks.kopf_peer", str(os.getpid()), how,
                str(self._server.cluster.kubeconfig), str(expected),
            ],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            text=True,
            start_new_session=True,
        )  # fmt: skip
        _go_first(process.pid)
        timer = threading.Timer(_GIVE_UP_SECONDS, process.kill)
        timer.start()
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise Missing(f"The peer (kopf's {how}) saw not all of {expected} objects in {_GIVE_UP_SECONDS:g} s.")
            answer: dict[str, float] = json.loads(line)
            return answer
        finally:
            timer.cancel()
            process.kill()
            process.communicate()


def _percentile(percent: int, values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _each(what: str, sights: list[_Sight], nothing: list[_Sight], pods: int, nodes: int) -> Series:
    count, base = pods + nodes, median(one.cpu_seconds for one in nothing)
    return Series(what, "ms", tuple(1000 * (one.cpu_seconds - base) / count for one in sights))


class _Operator:
    """The operator's own program."""

    def __init__(self, server: ApiServer) -> None:
        from harness import network  # noqa: PLC0415 - see apiserver

        # Beside the control plane, which goes with everything around it, also when this process is killed.
        self._log: Path = server.cluster.directory.path / "operator.log"
        health, self._metrics = network.free_ports(2)
        began = time.monotonic()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "setpriv", "--pdeathsig", "KILL", "--", str(Path(sys.executable).parent / "sockethealth-operator"),
                    "run", f"--kubeconfig={server.cluster.kubeconfig}", f"--health-address=127.0.0.1:{health}",
                    f"--metrics-address=127.0.0.1:{self._metrics}", "--instance=bench",
                    # A new one each time: it leads at once, though the one before was killed.
                    f"--lease=default/bench-{secrets.token_hex(4)}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,
            )  # fmt: skip
        _go_first(self.process.pid)
        try:
            self._wait(lambda: _fetch(f"http://127.0.0.1:{health}/readyz") == "ok\n")
        except Missing:
            self.process.kill()
            self.process.wait()
            raise
        self.ready_seconds = time.monotonic() - began

    def _wait(self, condition: Any, every_seconds: float = 0.02) -> None:
        deadline = time.monotonic() + _GIVE_UP_SECONDS
        while True:
            with suppress(OSError):
                if condition():
                    return
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise Missing(f"The operator does not get ready.\n{self.log()}")
            time.sleep(every_seconds)

    def until_idle(self) -> None:
        """Wait until no key waits. A look at the metrics costs the operator CPU time that grows with its objects."""
        self._wait(lambda: self.metric("sockethealth_operator_leading") == 1, every_seconds=0.5)
        self._wait(lambda: self.metric("sockethealth_operator_queue_keys") == 0, every_seconds=0.5)

    def metric(self, name: str) -> float:
        text = _fetch(f"http://127.0.0.1:{self._metrics}/metrics")
        return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} "))

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.process.pid)

    def memory_mib(self, name: str) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


@contextmanager
def _operator(server: ApiServer) -> Iterator[_Operator]:
    operator = _Operator(server)
    try:
        yield operator
    finally:
        operator.process.kill()
        operator.process.wait()


class _Canaries:
    """Pods with a Deployment each, whose facts turn bad one by one."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._uids: list[str] = []
        self._ill = 0
        self._told: dict[str, float] = {}
        self._annotated: dict[str, float] = {}
        self._seen: dict[str, float] = {}

    @property
    def seconds(self) -> dict[str, float]:
        """By canary, from the status to the annotation."""
        return {name: at - self._told[name] for name, at in self._annotated.items()}

    @property
    def seconds_to_a_watch(self) -> dict[str, float]:
        """By canary, from the status to its arrival at a watch that does nothing."""
        return {name: at - self._told[name] for name, at in self._seen.items()}

    def create(self, count: int) -> None:
        kubectl = self._server.cluster.kubectl
        kubectl("create", "namespace", _NAMESPACE)
        rule = {"name": "leak", "detector": "CloseWaitLeak", "threshold": 50, "clearThreshold": 10, "for": "0s"}
        policy = {
            "apiVersion": DEFAULT_POLICY.api_version,
            "kind": "SocketHealthPolicy",
            "metadata": {"name": "canary", "namespace": _NAMESPACE},
            "spec": {"rules": [{**rule, "severity": "Warning", "parameters": {"minAge": "60s"}}]},
        }
        deployments = [_deployment(f"canary-{index}") for index in range(count)]
        _apply(kubectl, [policy, *deployments])
        found = self._server.cluster.get("deployments", "-n", _NAMESPACE)["items"]
        owners = {item["metadata"]["name"]: item["metadata"]["uid"] for item in found}
        _apply(kubectl, [_pod(f"canary-{index}", owners[f"canary-{index}"]) for index in range(count)])
        pods = self._server.cluster.get("pods", "-n", _NAMESPACE)["items"]
        uids = {item["metadata"]["name"]: item["metadata"]["uid"] for item in pods}
        self._uids = [uids[f"canary-{index}"] for index in range(count)]
        self._server.put([self._item(index, 0) for index in range(count)])
        time.sleep(1)

    def fall_ill(self) -> None:
        index, self._ill = self._ill, self._ill + 1
        if index < len(self._uids):
            self._told[f"canary-{index}"] = time.monotonic()
            self._server.put([self._item(index, 60)])

    def wait(self) -> None:
        deadline = time.monotonic() + 30
        while len(self._annotated) < len(self._told):
            if time.monotonic() > deadline:
                raise Missing(
                    f"{len(self._told) - len(self._annotated)} of {len(self._told)} canaries were never annotated."
                )
            time.sleep(0.05)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note when which status arrives and which Deployment is annotated, until the end of the block."""
        cluster = self._server.cluster
        pool = urllib3.PoolManager(ca_certs=str(cluster.ca_file))
        watches = {
            f"/apis/{GROUP}/{VERSION}/namespaces/{_NAMESPACE}/sockethealths": self._note_status,
            f"/apis/apps/v1/namespaces/{_NAMESPACE}/deployments": self._note_annotation,
        }
        open_watches = []
        for path, note in watches.items():
            response = pool.request(
                "GET",
                f"{cluster.server}{path}?watch=1",
                headers={"Authorization": f"Bearer {cluster.admin_token}"},
                preload_content=False,
            )
            thread = threading.Thread(target=_read, args=(response, note), daemon=True)
            thread.start()
            open_watches.append((response, thread))
        try:
            yield
        finally:
            for response, thread in open_watches:
                response.shutdown()
                thread.join()
            pool.clear()

    def _note_status(self, health: dict[str, Any]) -> None:
        if health["status"]["sockets"]["closeWait"]:
            self._seen.setdefault(health["metadata"]["name"], time.monotonic())

    def _note_annotation(self, deployment: dict[str, Any]) -> None:
        metadata = deployment["metadata"]
        if ANNOTATION_FINDINGS in metadata.get("annotations", {}):
            self._annotated.setdefault(metadata["name"], time.monotonic())

    def _item(self, index: int, close_wait: int) -> Item:
        status = {
            "observedTime": "2026-01-01T00:00:00Z",
            "sockets": {"closeWait": close_wait, "established": 3},
            "closeWait": {"ages": [{"olderThanSeconds": 60.0, "count": close_wait}], "oldestSeconds": 90.0},
        }
        path, document = socket_health(index, "node-0", status)
        name = f"canary-{index}"
        document["metadata"] |= {"name": name, "namespace": _NAMESPACE}
        document["spec"]["podUID"] = self._uids[index]
        return f"{path.rsplit('/', 2)[0]}/{_NAMESPACE}/{name}", document


def _read(response: urllib3.BaseHTTPResponse, note: Callable[[dict[str, Any]], None]) -> None:
    rest = b""
    with suppress(urllib3.exceptions.HTTPError):  # the end of it
        while chunk := response.read1():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                note(json.loads(line)["object"])


def _apply(kubectl: Any, documents: list[dict[str, Any]]) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": documents}
    kubectl("create", "-f", "-", input=msgspec.json.encode(listed).decode(), timeout=300)


def _deployment(name: str) -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": name}}, "spec": _pod_spec()}
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": name}}, "template": template}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": _NAMESPACE},
        "spec": spec,
    }


def _pod(name: str, owner: str) -> dict[str, Any]:
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": owner, "controller": True}
    metadata = {"name": name, "namespace": _NAMESPACE, "ownerReferences": [reference]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": _pod_spec()}


def _pod_spec() -> dict[str, Any]:
    return {
        "nodeSelector": {"sockethealth.io/no-such-node": "true"},
        "automountServiceAccountToken": False,
        "containers": [{"name": "main", "image": "none.invalid/none:1"}],
    }


def _go_first(pid: int) -> None:
    """Have other work of the machine wait for a process and its session: sched(7), "The autogroup feature"."""
    with suppress(OSError):  # no autogroups here
        Path(f"/proc/{pid}/autogroup").write_text("-10", encoding="ascii")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("KUBE")}


def _fetch(url: str) -> str:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=5) as answer:
            text: str = answer.read().decode()
    except urllib.error.HTTPError as error:
        return str(error)
    return text
