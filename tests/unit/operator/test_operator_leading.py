"""The work of whoever has the Lease: begun, cancelled in time, begun anew; with a played API server and clock."""

import asyncio
import logging
import time

import pytest

import virtual_time
from sockethealth_operator.api import ConflictError, ForbiddenError, NotFoundError, UnreachableError
from sockethealth_operator.election import Candidate, Terms
from sockethealth_operator.leading import Leadership, NotLeadingError
from sockethealth_operator.metrics import Metrics
from sockethealth_operator.objects import DEPLOYMENT, OURS, ObjectRef
from sockethealth_operator.writer import Writer

TERMS = Terms(duration_seconds=1, deadline_seconds=0.4, renew_seconds=0.05)
PATIENCE_SECONDS = 20


class Cluster:
    """One Lease, and an API server that answers, hangs or refuses."""

    def __init__(self, spec=None):
        self.spec, self.version = spec, 1
        self.hangs = asyncio.Event()
        self.refusal = None
        self.delay_seconds = 0.0

    async def _reached(self):
        while self.hangs.is_set():  # noqa: ASYNC110 (an Event cannot be waited for until it is cleared)
            await asyncio.sleep(0.01)
        await asyncio.sleep(self.delay_seconds)
        if self.refusal:
            raise self.refusal

    def _now(self):
        return {"metadata": {"resourceVersion": str(self.version)}, "spec": dict(self.spec)}

    async def get(self, *_):
        await self._reached()
        if self.spec is None:
            raise NotFoundError("no Lease", 404)
        return self._now()

    async def create(self, _resource, _namespace, body):
        await self._reached()
        if self.spec is not None:
            raise ConflictError("there is one", 409, "AlreadyExists")
        return self._take(body["spec"])

    async def merge(self, _resource, _namespace, _name, fields):
        await self._reached()
        if self.spec is None:
            raise NotFoundError("no Lease", 404)
        if fields["metadata"]["resourceVersion"] != str(self.version):
            raise ConflictError("another version", 409)
        return self._take(fields["spec"])

    def _take(self, spec):
        self.spec, self.version = {key: value for key, value in spec.items() if value is not None}, self.version + 1
        return self._now()

    @property
    def holder(self):
        return (self.spec or {}).get("holderIdentity")


class Work:
    """Notes when it is begun and when it is ended."""

    def __init__(self):
        self.begun, self.ended = 0, 0
        self.fails = False

    async def __call__(self):
        self.begun += 1
        try:
            if self.fails:
                raise ZeroDivisionError
            await asyncio.Event().wait()
        finally:
            self.ended += 1


def replica(cluster, name="a", terms=TERMS):
    return Leadership(cluster, ("ns", "lease"), Candidate(name, terms), virtual_time.now, time.time)


def others(holder="b"):
    return {"holderIdentity": holder, "leaseDurationSeconds": 1, "leaseTransitions": 3, "renewTime": "earlier"}


async def until(condition):
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 (what is waited for has no event)
            await asyncio.sleep(0.01)


def played(scenario, spec=None):
    """Run a scenario with a replica at work on a cluster, and end the replica after it."""

    async def run():
        cluster, work = Cluster(spec), Work()
        leadership = replica(cluster)
        task = asyncio.create_task(leadership.run(work))
        try:
            await scenario(cluster, leadership, work)
        finally:
            cluster.hangs.clear()
            task.cancel()
            await asyncio.wait({task})
        return cluster, work

    return virtual_time.run(run())


def test_without_a_lease_it_makes_one_works_and_releases_it_at_the_end():
    async def scenario(cluster, leadership, work):
        await until(lambda: work.begun)
        leadership.require()
        assert (cluster.holder, cluster.spec["leaseTransitions"]) == ("a", 0)
        version = cluster.version
        await until(lambda: cluster.version > version + 2)
        assert (work.begun, work.ended) == (1, 0), "a renewal has ended the work"

    cluster, work = played(scenario)
    assert (cluster.holder, work.ended) == (None, 1)
    assert cluster.spec["leaseTransitions"] == 0


def test_while_another_renews_it_stands_by(caplog):
    caplog.set_level(logging.INFO)

    async def scenario(cluster, leadership, work):
        for _ in range(15):
            cluster.spec["renewTime"] = f"{cluster.version}"
            cluster.version += 1
            await asyncio.sleep(0.1)
        assert work.begun == 0
        with pytest.raises(NotLeadingError):
            leadership.require()

    cluster, _ = played(scenario, others())
    assert cluster.holder == "b", "what is another's was released"
    assert [r.message for r in caplog.records] == ["Stands by: b has the Lease ns/lease."]


def test_once_another_does_not_renew_it_takes_over():
    async def scenario(cluster, _leadership, work):
        await until(lambda: work.begun)
        assert (cluster.holder, cluster.spec["leaseTransitions"]) == ("a", 4)

    played(scenario, others())


def test_cut_off_it_ends_its_work_before_another_may_take_over_and_goes_on_when_it_is_back(caplog):
    async def scenario(cluster, leadership, work):
        await until(lambda: work.begun)
        cut_off = virtual_time.now()
        cluster.hangs.set()
        await until(lambda: work.ended)
        assert virtual_time.now() - cut_off < TERMS.duration_seconds
        assert not leadership.leading
        cluster.hangs.clear()
        await until(lambda: work.begun == 2)

    played(scenario)
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("Leads no longer: the Lease ns/lease could not be renewed for 0.4 s.")


def test_an_api_server_that_is_away_costs_the_lead_and_ends_nothing_else(caplog):
    async def scenario(cluster, _leadership, work):
        await until(lambda: work.begun)
        cluster.refusal = UnreachableError("away", 0)
        await until(lambda: work.ended)
        cluster.refusal = None
        await until(lambda: work.begun == 2)
        assert cluster.holder == "a"

    played(scenario)
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1


def test_somebody_else_in_its_place_ends_its_work_at_the_next_renewal(caplog):
    async def scenario(cluster, _leadership, work):
        await until(lambda: work.begun)
        cluster.spec, cluster.version = others("c"), cluster.version + 1
        await until(lambda: work.ended)
        await until(lambda: caplog.records)

    cluster, _ = played(scenario)
    assert cluster.holder == "c"
    assert "is held by c" in caplog.text


def test_a_lease_deleted_under_it_is_made_anew_without_a_break():
    async def scenario(cluster, _leadership, work):
        await until(lambda: work.begun)
        cluster.spec = None
        await until(lambda: cluster.holder == "a")
        assert (work.begun, work.ended) == (1, 0)

    played(scenario)


def test_of_two_one_works_and_when_it_ends_the_other_follows():
    async def run():
        cluster, works = Cluster({}), [Work(), Work()]
        tasks = [asyncio.create_task(replica(cluster, name).run(work)) for name, work in zip("ab", works, strict=True)]
        await until(lambda: works[0].begun + works[1].begun)
        await asyncio.sleep(0.3)
        (first,) = (number for number, work in enumerate(works) if work.begun)
        tasks[first].cancel()
        await until(lambda: works[1 - first].begun)
        assert works[first].ended == 1
        tasks[1 - first].cancel()
        await asyncio.wait(tasks)

    virtual_time.run(run())


def test_of_an_api_server_that_takes_five_seconds_for_an_answer_the_lead_is_taken_and_held():
    async def run():
        cluster, work = Cluster(), Work()
        cluster.delay_seconds = 5.0
        task = asyncio.create_task(replica(cluster, terms=Terms()).run(work))
        await until(lambda: work.begun)
        await asyncio.sleep(600)
        assert (work.begun, work.ended, cluster.holder) == (1, 0, "a")
        task.cancel()
        await asyncio.wait({task})

    virtual_time.run(run())


def test_what_the_work_fails_with_is_not_kept_silent_and_the_lease_is_released():
    async def run():
        cluster, work = Cluster(), Work()
        work.fails = True
        with pytest.raises(ZeroDivisionError):
            await replica(cluster).run(work)
        assert cluster.holder is None

    virtual_time.run(run())


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ForbiddenError("x cannot get leases", 403), "grant get, create and patch on leases.coordination.k8s.io"),
        (NotFoundError('namespaces "ns" not found', 404), 'namespaces "ns" not found'),
    ],
)
def test_a_lease_that_cannot_be_had_is_said_once(caplog, error, sentence):
    async def scenario(cluster, _leadership, work):
        cluster.refusal = error
        await asyncio.sleep(0.4)
        assert work.begun == 0

    played(scenario)
    (record,) = (r for r in caplog.records if r.levelname == "WARNING")
    assert sentence in record.message


def test_without_the_lease_the_writer_sends_nothing():
    """Every public method of the Writer is tried; the API is None, so that a request would fail in another way."""
    leadership = replica(Cluster())
    writer = Writer(None, Metrics(), "test", lambda: 0.0, leadership.require)
    ref = ObjectRef(OURS["SocketHealth"].api_version, "SocketHealth", "shop", "web-1", "u1")
    arguments = {
        "annotations": (DEPLOYMENT, ref, {"a": "b"}),
        "announce": (type("Announced", (), {"regarding": ref})(), 0.0),
        "conditions": (ref, []),
        "judgement": (ref, {}),
        "node_spec": (ref, [], []),
        "profile_status": (ref, {}),
    }
    assert {name for name in vars(Writer) if not name.startswith("_")} == arguments.keys()
    for name, given in arguments.items():
        with pytest.raises(NotLeadingError):
            asyncio.run(getattr(writer, name)(*given))
