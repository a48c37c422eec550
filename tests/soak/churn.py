"""Workloads, leaks, profiles and policies that come and go, in a namespace of the cluster."""

import time
from typing import Any, Final

from kubernetes import client

from product_lab import Place

LEAK_SECONDS: Final = 25
_LEAKED: Final = 40
_PROFILE: Final = "soak"
_ROLLED: Final = 2
_SCALED: Final = 2
_JOBS: Final = 2
_STEPS_OF_PROFILE: Final = 4
_THRESHOLDS: Final = (20, 21)

# Leaks, closes it all as the repaired program would, and leaks again.
_LEAKS_AND_REPAIRS: Final = """
import socket, sys, time
host, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
while True:
    held = []
    while len(held) < count:
        try:
            held.append(socket.create_connection((host, 8080), timeout=10))
            held[-1].sendall(b"what have you?\\n")
        except OSError:
            time.sleep(0.2)
    time.sleep(seconds)
    for connection in held:
        connection.close()
    time.sleep(seconds)
"""


class Churn:
    """All of it. Each step starts about five pods and ends as many."""

    def __init__(self, place: Place) -> None:
        """Make what lasts: servers, a policy that is quick to judge, and Deployments to roll and to scale.

        Args:
            place: a namespace for this alone.
        """
        self._place = place
        self._apps = client.AppsV1Api(place.cluster.client())
        self._batch: Any = client.BatchV1Api(self._apps.api_client)
        self._objects = client.CustomObjectsApi(self._apps.api_client)
        self._steps = 0
        self._pods: set[str] = set()
        self._has_profile = False
        place.apply(_policy(_THRESHOLDS[0]))
        self._server = place.service("impatient")
        place.deployment("impatient", "python3", "/scripts/server.py", "--close-after=0.1")
        place.deployment("repaired", "python3", "-c", _LEAKS_AND_REPAIRS, self._server, str(_LEAKED), str(LEAK_SECONDS))
        place.deployment("rolled", "python3", "/scripts/churning_client.py", self._server, "--rate=5")
        place.deployment("scaled", "python3", "/scripts/leaking_client.py", self._server, f"--count={_LEAKED}")
        place.pod("repaired")

    @property
    def pods_seen(self) -> int:
        """How many pods there have been; those that came and went between two looks are not known."""
        return len(self._pods)

    def look(self) -> None:
        """Count the pods that are there."""
        listed = self._place.cluster.core.list_namespaced_pod(self._place.namespace)
        items = self._apps.api_client.sanitize_for_serialization(listed)["items"]
        self._pods.update(pod["metadata"]["uid"] for pod in items)

    def step(self) -> None:
        """Change something of everything, and return without waiting for it."""
        number, self._steps = self._steps, self._steps + 1
        self._scale("rolled", _ROLLED)
        self._roll("rolled", number)
        # Its pods leak for a whole step, so that they go with a finding.
        self._scale("scaled", _SCALED if number % 2 == 0 else 0)
        for one in range(_JOBS):
            self._batch.create_namespaced_job(self._place.namespace, self._job(f"visit-{number}-{one}"))
        self._edit_policy(_THRESHOLDS[number % 2])
        if number % _STEPS_OF_PROFILE == 0:
            self._place.apply(_profile(self._place.namespace))
            self._has_profile = True
        elif number % _STEPS_OF_PROFILE == _STEPS_OF_PROFILE // 2:
            self._delete_profile()

    def stop(self) -> None:
        """End all that churns; the server and the Deployments without pods stay."""
        self._delete_profile()
        for name in ("rolled", "scaled", "repaired"):
            self._scale(name, 0)
        self._batch.delete_collection_namespaced_job(self._place.namespace, propagation_policy="Background")

    def _scale(self, name: str, replicas: int) -> None:
        self._patch(name, {"spec": {"replicas": replicas}})

    def _roll(self, name: str, number: int) -> None:
        self._patch(name, {"spec": {"template": {"metadata": {"annotations": {"step": str(number)}}}}})

    def _patch(self, name: str, change: dict[str, Any]) -> None:
        self._apps.patch_namespaced_deployment(name, self._place.namespace, change)

    def _edit_policy(self, threshold: int) -> None:
        kind = ("sockethealth.io", "v1alpha1", self._place.namespace, "sockethealthpolicies", "soak")
        self._objects.patch_namespaced_custom_object(*kind, {"spec": _policy(threshold)["spec"]})

    def _delete_profile(self) -> None:
        if self._has_profile:
            kind = ("sockethealth.io", "v1alpha1", "sysctlprofiles", _PROFILE)
            self._objects.delete_cluster_custom_object(*kind)
            self._has_profile = False

    def _job(self, name: str) -> dict[str, Any]:
        visit = f"timeout 4 python3 /scripts/churning_client.py {self._server} --rate=25; true"
        container = {
            "name": "main",
            "image": self._place.cluster.workload_image,
            "command": ["sh", "-c", visit],
            "volumeMounts": [{"name": "scripts", "mountPath": "/scripts"}],
        }
        spec = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "scripts", "configMap": {"name": "scripts"}}],
            "containers": [container],
        }
        return {
            "metadata": {"name": name},
            "spec": {"ttlSecondsAfterFinished": 5, "template": {"metadata": {"labels": {"app": "job"}}, "spec": spec}},
        }


class Pace:
    """When the next of something is due, by the clock and not by how long the last one took."""

    def __init__(self, seconds: float) -> None:
        """The first is due at once."""
        self._seconds = seconds
        self.due = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is; if so, the next is due later."""
        now = time.monotonic()
        if now < self.due:
            return False
        while self.due <= now:
            self.due += self._seconds
        return True


def _policy(threshold: int) -> dict[str, Any]:
    rule = {
        "name": "leak",
        "detector": "CloseWaitLeak",
        "threshold": threshold,
        "clearThreshold": 5,
        "for": "2s",
        "clearAfter": "2s",
        "parameters": {"minAge": "2s"},
    }
    return {
        "apiVersion": "sockethealth.io/v1alpha1",
        "kind": "SocketHealthPolicy",
        "metadata": {"name": "soak"},
        "spec": {"rules": [rule], "actions": {"annotate": {"workload": True, "pod": True}, "event": {}}},
    }


def _profile(namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "sockethealth.io/v1alpha1",
        "kind": "SysctlProfile",
        "metadata": {"name": _PROFILE},
        "spec": {
            "mode": "Enforce",
            "target": "Pods",
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "podSelector": {"matchLabels": {"app": "rolled"}},
            "rollout": {"pauseSeconds": 0},
            "sysctls": [{"name": "net.ipv4.tcp_fin_timeout", "value": "33"}],
        },
    }
