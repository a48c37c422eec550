"""`make demo`: the product at work on a real one-node cluster, with three badly behaved workloads.

Everything is real: the cluster of the test harness, the project's image and chart, pods with sockets.
"""

# ruff: noqa: INP001 - a script, not a package

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from harness import requirements
from harness.binaries import client_path
from harness.cluster import OwnCluster
from harness.errors import HarnessError
from harness.progress import say, step
from harness.state import Owner, all_clusters

HERE: Final = Path(__file__).resolve().parent
CHART: Final = HERE.parent / "charts" / "sockethealth"
CLUSTER: Final = "demo"
RELEASE: Final = "sockethealth"
NAMESPACE: Final = "sockethealth-demo"
EXPECTED: Final[Mapping[str, str]] = {
    "leaking-client": "CloseWaitLeak",
    "churning-client": "EphemeralPortExhaustion",
    "closing-server": "InboundTimeWait",
}
FINDINGS_SECONDS: Final = 180.0


def up() -> None:
    """Bring everything up, wait for the findings, and say what to look at.

    Raises:
        HarnessError: a sentence on what is missing or did not work.
    """
    lacking = requirements.missing("node")
    if lacking:
        raise HarnessError(lacking)
    cluster = _cluster()
    install(cluster, cluster.image)
    start_workloads(cluster, cluster.image)
    with step("three workloads misbehave, and are found out", takes="about a minute"):
        await_findings(cluster)
    sys.stdout.write(what_to_look_at(cluster))


def _cluster() -> OwnCluster:
    for directory in all_clusters():
        if directory.name == CLUSTER and directory.is_wanted() and directory.node_record.exists():
            say("using the demo cluster that is running")
            return OwnCluster(directory)
    cluster = OwnCluster.create(CLUSTER, Owner.nobody())
    try:
        cluster.start_control_plane()
        cluster.start_node()
    except BaseException:
        cluster.close()
        raise
    return cluster


def install(cluster: OwnCluster, image: str) -> None:
    """Install the chart with the demo's values, or upgrade to them."""
    repository, _, tag = image.rpartition(":")
    with step("helm install"):
        cluster.helm(
            *("upgrade", "--install", RELEASE, str(CHART), "--namespace", RELEASE, "--create-namespace"),
            *("--values", str(HERE / "values.yaml")),
            *("--set", f"image.repository={repository}", "--set-string", f"image.tag={tag}"),
            *("--wait", "--timeout", "3m"),
            timeout=240,
        )


def start_workloads(cluster: OwnCluster, image: str) -> None:
    """Start the three, in a namespace of their own."""

    def apply(manifest: str) -> None:
        cluster.kubectl("apply", "-f", "-", input=manifest)

    namespace, workloads = (HERE / "workloads.yaml").read_text(encoding="utf-8").split("---\n", maxsplit=1)
    apply(namespace)
    scripts = ("create", "configmap", "scripts", "-n", NAMESPACE, f"--from-file={HERE / 'scripts'}")
    apply(cluster.kubectl(*scripts, "--dry-run=client", "-o", "yaml").stdout)
    apply(workloads.replace("image: sockethealth\n", f"image: {image}\n"))


def await_findings(cluster: OwnCluster) -> None:
    """Wait for what is expected on each, and say it.

    Raises:
        HarnessError: one did not come.
    """
    shown: set[str] = set()
    deadline = time.monotonic() + FINDINGS_SECONDS
    while shown != EXPECTED.keys():
        if time.monotonic() > deadline:
            absent = ", ".join(f"{EXPECTED[name]} on {name}" for name in EXPECTED.keys() - shown)
            pods = cluster.kubectl("get", "pods,sockethealth", "-A", check=False).stdout
            raise HarnessError(f"Waited {FINDINGS_SECONDS:g} s for {absent}, in vain.\n{pods}")
        for workload, finding in _findings(cluster):
            if EXPECTED.get(workload) == finding["type"] and workload not in shown:
                shown.add(workload)
                say(f"{finding['severity']}: {finding['message']}")
        time.sleep(1)


def _findings(cluster: OwnCluster) -> list[tuple[str, dict[str, Any]]]:
    """Findings with the names of the Deployments whose pods they are on."""
    items = cluster.get("sockethealth", "-n", NAMESPACE)["items"]
    return [
        (item["metadata"]["name"].rsplit("-", 2)[0], finding)
        for item in items
        for finding in item.get("status", {}).get("findings") or []
    ]


def what_to_look_at(cluster: OwnCluster) -> str:
    """The commands that show it."""
    kubectl = shlex.quote(str(client_path("kubectl")))
    return f"""
A Kubernetes with SocketHealth and three badly behaved workloads runs on this machine. In this shell:

  export KUBECONFIG={shlex.quote(str(cluster.kubeconfig))}
  alias kubectl={kubectl}

Every pod, with its states, ports and worst finding; then each finding's numbers, message and remedy:

  kubectl get sockethealth -A
  kubectl -n {NAMESPACE} describe sockethealth

One Warning for each finding, none for Info; and the annotation on the workload:

  kubectl -n {NAMESPACE} get events --field-selector type=Warning
  kubectl -n {NAMESPACE} describe deployment leaking-client

Repair the leak, and see the finding clear:

  kubectl -n {NAMESPACE} exec deploy/leaking-client -- sh -c 'kill -USR1 1'
  kubectl -n {NAMESPACE} get sockethealth -w

`make demo-down` removes it all.
"""


def down() -> None:
    """Take the demo away, and whatever a killed run has left.

    Raises:
        HarnessError: something could not be removed.
    """
    done = subprocess.run([sys.executable, "-m", "harness", "down", CLUSTER], check=False)
    if done.returncode:
        raise HarnessError("The demo cluster could not be taken away; see above.")


def main() -> None:
    """Run `up` or `down`; a failure is a sentence on standard error."""
    commands: Mapping[str, Callable[[], None]] = {"up": up, "down": down}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit("usage: demo.py up|down")
    try:
        commands[sys.argv[1]]()
    except HarnessError as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit("demo: interrupted; `make demo-down` removes what is there.")


if __name__ == "__main__":
    main()
