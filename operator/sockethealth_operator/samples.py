"""From what the operator knows to Prometheus' samples, at the moment of a scrape.

Nothing is kept for an object: what is not known is not there, so series vanish with what they speak of by themselves.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final, get_args

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sockethealth_core import metrics as table
from sockethealth_core.detectors import DETECTORS
from sockethealth_core.metrics import Series
from sockethealth_core.resources import ProfileNodes, Severity
from sockethealth_operator.objects import Key
from sockethealth_operator.workqueue import WorkQueue
from sockethealth_operator.world import World

_NODE_STATES: Final = tuple(zip(ProfileNodes.__struct_fields__, ProfileNodes.__struct_encode_fields__, strict=True))
_CONDITION_STATUSES: Final = ("True", "False", "Unknown")
_Values = Iterable[tuple[tuple[str, ...], float]]


class Standing(Collector):
    """What there is to know at this moment; to be scraped on the event loop, where nothing changes meanwhile.

    Of findings, profiles and nodes only the replica that leads speaks: told by two they would count twice.

    Args:
        world: what is known.
        queue: what waits.
        present: whether the API server answers.
        leading: whether this replica does the work.
        now: epoch seconds.
    """

    def __init__(
        self,
        world: World,
        queue: WorkQueue[Key],
        present: Callable[[], bool],
        leading: Callable[[], bool],
        now: Callable[[], float],
    ) -> None:
        self._world = world
        self._queue = queue
        self._present = present
        self._leading = leading
        self._now = now

    def collect(self) -> Iterator[Metric]:
        """All families."""
        world, now = self._world, self._now()
        leading = self._leading()
        for series, values in (
            (table.FINDING, self._findings()),
            (table.FINDINGS, self._counts()),
            (table.PROFILE_CONDITION, self._conditions()),
            (table.PROFILE_NODES, self._profile_nodes()),
            (table.NODE_SILENT, (((node,), float(world.silent(node, now))) for node in world.hosts)),
        ):
            yield _family(series, values if leading else ())
        for series, value in (
            (table.OPERATOR_LEADING, leading),
            (table.OPERATOR_API_UP, self._present()),
            (table.OPERATOR_TRACKED, len(world.tracked)),
            (table.OPERATOR_POLICIES, len(world.policies)),
            (table.OPERATOR_QUEUE, len(self._queue)),
            (table.OPERATOR_QUEUE_OLDEST, self._queue.longest_wait_seconds()),
        ):
            yield _family(series, [((), float(value))])

    def _findings(self) -> _Values:
        for tracked in self._world.tracked.values():
            subject = tracked.subject
            pod = subject.name if subject.kind == "pod" else ""
            for one in tracked.judgement.findings:
                said = (one.type, one.severity, one.policy_kind, one.policy, one.rule, one.mode)
                yield (subject.namespace, pod, tracked.node, *said), one.value

    def _counts(self) -> _Values:
        tracked = self._world.tracked.values()
        found = Counter((one.type, one.severity) for each in tracked for one in each.judgement.findings)
        return [
            ((detector, severity), found[detector, severity])
            for detector in DETECTORS
            for severity in get_args(Severity)
        ]

    def _conditions(self) -> _Values:
        for name, record in self._world.profiles.items():
            for condition in record.profile.status.conditions:
                for status in _CONDITION_STATUSES:
                    yield (name, condition.type, status), float(condition.status == status)

    def _profile_nodes(self) -> _Values:
        for name, record in self._world.profiles.items():
            for field, state in _NODE_STATES:
                yield (name, state), getattr(record.profile.status.nodes, field)


def _family(series: Series, values: _Values) -> Metric:
    family = GaugeMetricFamily(series.name, series.help, labels=series.labels, unit=series.unit)
    for labels, value in values:
        family.add_metric(labels, value)
    return family
