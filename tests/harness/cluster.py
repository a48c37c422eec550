"""The clusters a test or a person asks for: our own, started here, or one that exists already."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import binaries, hostchanges, images, packages, watchdog
from harness.access import ClusterAccess
from harness.components import Components
from harness.controlplane import ControlPlane
from harness.errors import HarnessError
from harness.node import NODE_NAME, Node
from harness.progress import step
from harness.state import ClusterDir, Owner, clusters_lock, register
from harness.sweep import sweep, sweep_leftovers

EXISTING_KUBECONFIG = "SOCKETHEALTH_TEST_KUBECONFIG"
EXISTING_IMAGE = "SOCKETHEALTH_TEST_IMAGE"


class ExistingCluster(ClusterAccess):
    """A cluster named by SOCKETHEALTH_TEST_KUBECONFIG. Nothing is started or stopped in it."""

    @property
    def image(self) -> str:
        """The project's image, as SOCKETHEALTH_TEST_IMAGE names it.

        Raises:
            HarnessError: The variable is not set.
        """
        named = os.environ.get(EXISTING_IMAGE)
        if not named:
            raise HarnessError(f"Set {EXISTING_IMAGE} to an image of the project that the cluster can pull.")
        return named

    @property
    def workload_image(self) -> str:
        """An image with python3 for workloads of tests: the project's own."""
        return self.image

    @property
    def node_name(self) -> str:
        """The first node by name."""
        return str(self.get("nodes")["items"][0]["metadata"]["name"])

    def stop_apiserver(self) -> None:
        """Refused.

        Raises:
            HarnessError: Always.
        """
        raise HarnessError(f"A test that stops the API server needs the harness's own; unset {EXISTING_KUBECONFIG}.")

    start_apiserver = stop_apiserver
    restart_apiserver = stop_apiserver

    def close(self) -> None:
        """Close the clients; the cluster stays as it is."""
        self.close_clients()


class OwnCluster(ClusterAccess):
    """A cluster started here. Make one with `OwnCluster.create`, and `close` it.

    Attributes:
        directory: Where its state is.
    """

    def __init__(self, directory: ClusterDir) -> None:
        super().__init__(directory.admin_kubeconfig)
        self.directory = directory
        self._components = Components(directory)
        self._control_plane = ControlPlane(directory, self._components)
        self._node = Node(directory, self._components, self)
        self._imported: dict[str, str] = {}
        self._watchdog: subprocess.Popen[bytes] | None = None

    @classmethod
    def create(cls, name: str, owner: Owner) -> "OwnCluster":
        """Build what is missing, take away what killed runs left, and register a cluster; nothing runs yet.

        Raises:
            HarnessError: A program cannot be built, or a cluster of this name exists.
        """
        binaries.ensure(binaries.CONTROL_PLANE)
        with clusters_lock():
            sweep_leftovers()
            directory = register(name, owner)
        cluster = cls(directory)
        if owner.pid == os.getpid():
            cluster._watchdog = watchdog.start(directory)
        return cluster

    def start_control_plane(self) -> None:
        """Start API server and controllers and wait until they work.

        Raises:
            HarnessError: A component did not come up; the message has the end of its log.
        """
        with step("control plane"):
            self._control_plane.start()

    def start_node(self, *, wait_seconds: float = 240) -> None:
        """Add a node and wait until it is Ready.

        Args:
            wait_seconds: How long to wait for another test run that has the node of this machine.

        Raises:
            HarnessError: Something cannot be installed or built, the machine is taken, or a component did
                not come up.
        """
        packages.ensure()
        binaries.ensure(binaries.NODE)
        pause = images.pause_archive()
        hostchanges.claim(self.directory, wait_seconds)
        with step("node"):
            self._node.start(pause)

    @property
    def node_name(self) -> str:
        """The node's name."""
        return NODE_NAME

    @property
    def host_dir(self) -> Path:
        """A folder of this machine for tests to share with pods by hostPath."""
        return self._node.host_dir

    def ctr(self, *arguments: str) -> str:
        """Run containerd's `ctr` on the node's images and containers and return what it printed."""
        return self._node.ctr(*arguments)

    @property
    def image(self) -> str:
        """The project's image, built if its inputs changed and made available to pods.

        Raises:
            HarnessError: It cannot be built.
        """
        return self._available("project", images.project_archive)

    @property
    def workload_image(self) -> str:
        """A Debian with python3, for workloads of tests, made available to pods."""
        return self._available("workload", images.base_archive)

    def _available(self, which: str, build: Callable[[], tuple[str, Path]]) -> str:
        if which not in self._imported:
            image, archive = build()
            if not self._node.has_image(image):
                with step(f"importing {image}"):
                    self._node.import_image(archive)
            self._imported[which] = image
        return self._imported[which]

    def stop_apiserver(self) -> None:
        """End the API server without warning; the data stays."""
        self._control_plane.stop_apiserver()

    def start_apiserver(self) -> None:
        """Start the API server again, at the same address, and wait until it is ready."""
        self._control_plane.start_apiserver()

    def restart_apiserver(self) -> None:
        """Stop and start the API server."""
        self.stop_apiserver()
        self.start_apiserver()

    def audited(self, user: str) -> list[dict[str, Any]]:
        """Writes of a service account, answered so far: Events of the audit log (audit.k8s.io/v1).

        Args:
            user: its name, such as system:serviceaccount:default:operator.
        """
        lines = self._control_plane.audit_log.read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["user"]["username"] == user]

    def close(self) -> None:
        """Take the cluster away, then its watchdog."""
        self.close_clients()
        sweep(self.directory)
        self._components.reap()
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.wait()


def existing_kubeconfig() -> Path | None:
    """The kubeconfig of a cluster the tests were told to use; KUBECONFIG and ~/.kube/config never count.

    Raises:
        HarnessError: The variable names no file.
    """
    named = os.environ.get(EXISTING_KUBECONFIG)
    if not named:
        return None
    if not Path(named).is_file():
        raise HarnessError(f"{EXISTING_KUBECONFIG} names {named}, which is no file.")
    return Path(named)
