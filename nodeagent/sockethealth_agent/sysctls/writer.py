"""One pass of the sysctl writer: what its node is asked for, what comes of it, and the report."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from sockethealth_agent.kubeapi import ApiError, ConflictError, KubeApi, NotFoundError, segment
from sockethealth_agent.pods import PODS_PATH, PodInfo, read_pod
from sockethealth_agent.reporter import GROUP_PATH
from sockethealth_agent.sysctls.applier import Applier
from sockethealth_agent.sysctls.metrics import Sink, Unheard
from sockethealth_agent.sysctls.report import Leftover, reports
from sockethealth_agent.watching import Mirror
from sockethealth_core.names import API_VERSION, SYSCTL_FIELD_MANAGER
from sockethealth_core.resources import NodeSocketHealth, SysctlReport, encode
from sockethealth_core.resources import SysctlWriter as WriterIdentity

LOG = logging.getLogger(__name__)
COMPARE_SECONDS: Final = 600.0
"""How often what the API server holds is compared with the report, to find what someone else changed."""


class _Items(msgspec.Struct, frozen=True):
    items: list[msgspec.Raw] = []


class SysctlWriter:
    """Reads what is wanted, has it applied, and reports; `step` is one pass and needs no thread.

    With mirrors what is wanted comes from them, and stays known while the API server is away. Without, each step lists
    the node's own object and its pods.
    """

    def __init__(
        self,
        api: KubeApi,
        node_name: str,
        applier: Applier,
        *,
        identity: WriterIdentity,
        own: Mirror[NodeSocketHealth] | None = None,
        pods: Mirror[PodInfo] | None = None,
        sink: Sink | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Writes nothing yet.

        Args:
            api: its credentials need list on the node's NodeSocketHealth and pods, and patch on its status.
            node_name: whose.
            applier: what changes the node.
            identity: version and boot, for the report.
            own: from reporter.own_node; started by the caller.
            pods: from pods.pods_of; started by the caller.
            sink: told of the state of each profile.
            clock: monotonic seconds.
        """
        self._api = api
        self._node_name = node_name
        self._applier = applier
        self._identity = identity
        self._own = own
        self._pods = pods
        self._sink = sink or Unheard()
        self._clock = clock
        self._known: tuple[NodeSocketHealth | None, Mapping[str, PodInfo]] | None = None
        self._held: tuple[str | None, SysctlReport] | None = None
        self._compare_at = float("-inf")
        self._complaint = ""
        self._last = SysctlReport()

    def step(self) -> SysctlReport | None:
        """One pass. While the API server is away the last that was wanted is kept in force; the report waits.

        Returns:
            What is reported, or None while it is not known yet what is wanted.

        Raises:
            netns.NetnsStuck: the process must end.
        """
        self._look()
        if self._known is None:
            return None
        node, pods = self._known
        assigned = [] if node is None else node.spec.sysctl_profiles
        visits = self._applier.apply(assigned, pods)
        profiles = reports(assigned, visits, self._applier.leftovers(visits))
        self._sink.stands(profiles)
        report = SysctlReport(sysctl_writer=self._identity, sysctl_profiles=profiles)
        self._publish(node, report)
        return report

    def put_back(self) -> list[Leftover]:
        """Put everything back, whatever is asked for; returns what could not be. Then `withdraw`.

        Raises:
            netns.NetnsStuck: the process must end.
        """
        visits = self._applier.restore()
        leftovers = self._applier.leftovers(visits)
        self._last = SysctlReport(sysctl_profiles=reports([], visits, leftovers))
        return leftovers

    def withdraw(self) -> None:
        """Take the writer out of the node's status; what could not be put back stays in it."""
        self._publish(None if self._known is None else self._known[0], self._last)

    def _look(self) -> None:
        if self._own is not None and self._pods is not None:
            if self._own.synced.is_set() and self._pods.synced.is_set():
                self._known = self._own.items.get(self._node_name), self._pods.items
            return
        try:
            self._known = self._list_own(), self._list_pods()
        except ApiError as error:
            self._complain(f"What is wanted of node {self._node_name} cannot be read: {error}")

    def _list_own(self) -> NodeSocketHealth | None:
        selector = {"fieldSelector": f"metadata.name={self._node_name}"}
        for raw in self._list(f"{GROUP_PATH}/nodesockethealths", selector):
            return msgspec.json.decode(raw, type=NodeSocketHealth, strict=False)
        return None

    def _list_pods(self) -> dict[str, PodInfo]:
        selector = {"fieldSelector": f"spec.nodeName={self._node_name}"}
        return {pod.uid: pod for pod in map(read_pod, self._list(PODS_PATH, selector))}

    def _list(self, path: str, selector: Mapping[str, str]) -> list[bytes]:
        pages = self._api.pages(path, selector)
        return [bytes(raw) for page in pages for raw in msgspec.json.decode(page, type=_Items).items]

    def _publish(self, node: NodeSocketHealth | None, report: SysctlReport) -> None:
        if node is None:
            return  # the observer makes the object, and its first event brings the next pass
        uid = node.metadata.uid
        due = self._clock() >= self._compare_at
        if self._held is None or self._held[0] != uid or due:
            held = SysctlReport(sysctl_writer=node.status.sysctl_writer, sysctl_profiles=node.status.sysctl_profiles)
            self._held, self._compare_at = (uid, held), self._clock() + COMPARE_SECONDS
        if self._held[1] == report:
            return
        # It is not known what is held until the server has answered.
        self._held = None
        try:
            self._api.apply(
                f"{GROUP_PATH}/nodesockethealths/{segment(self._node_name)}/status",
                {
                    "apiVersion": API_VERSION,
                    "kind": "NodeSocketHealth",
                    "metadata": {"name": self._node_name, "uid": uid},
                    "status": encode(report),
                },
                manager=SYSCTL_FIELD_MANAGER,
            )
        except (NotFoundError, ConflictError):
            return  # deleted or made anew: the next pass sees what is there
        except ApiError as error:
            self._complain(f"The report of node {self._node_name} waits: {error}")
            return
        self._held = uid, report
        self._recover()

    def _complain(self, sentence: str) -> None:
        # One line until a write succeeds, however many passes it takes.
        if not self._complaint:
            LOG.warning("%s", sentence)
        self._complaint = sentence

    def _recover(self) -> None:
        if self._complaint:
            LOG.info("Reporting again.")
            self._complaint = ""
