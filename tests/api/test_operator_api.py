"""The operator's own client against a real API server: what it relies on holds."""

import asyncio

import pytest

from operator_lab import Stage
from sockethealth_operator.api import Api, ConflictError, InvalidError, NotFoundError, TerminatingError
from sockethealth_operator.objects import DEPLOYMENT, EVENT, NAMESPACE, OURS, POD, ObjectRef, ref_of
from sockethealth_operator.resync import annotated_objects

pytestmark = pytest.mark.api


@pytest.fixture
def stage(control_plane, crds, namespace):
    with Stage.set_up(control_plane, namespace) as made:
        yield made


@pytest.fixture
def ask(control_plane):
    """Runs a coroutine function with a connected client."""

    def run(work):
        async def connected():
            async with await Api.connect(control_plane.kubeconfig) as api:
                return await work(api)

        return asyncio.run(connected())

    return run


def reference(stage, resource, name):
    return ref_of(resource, stage.get(str(resource), name))


def test_a_successor_of_the_same_name_is_not_annotated(stage, ask):
    stage.deployment("web", replicas=0)
    ref = reference(stage, DEPLOYMENT, "web")
    predecessor = ObjectRef(ref.api_version, ref.kind, ref.namespace, ref.name, "00000000-0000-0000-0000-000000000000")
    with pytest.raises(ConflictError):
        ask(lambda api: api.annotate(DEPLOYMENT, predecessor, {"sockethealth.io/health": "Warning"}))
    assert stage.annotations("deployment", "web") == {}
    ask(lambda api: api.annotate(DEPLOYMENT, ref, {"sockethealth.io/health": "Warning"}))
    assert stage.annotations("deployment", "web") == {"sockethealth.io/health": "Warning"}
    ask(lambda api: api.annotate(DEPLOYMENT, ref, {"sockethealth.io/health": None}))
    assert stage.annotations("deployment", "web") == {}


def test_a_status_is_applied_beside_the_agents_facts(stage, ask):
    pod = stage.pod("web-1")
    stage.report(pod, close_wait=7)
    ref = reference(stage, OURS["SocketHealth"], pod)
    ask(lambda api: api.apply(OURS["SocketHealth"], ref, {"status": {"health": "Warning"}}, "status"))
    stage.report(pod, close_wait=8)
    status = stage.status(pod)
    assert (status["health"], status["sockets"]["closeWait"]) == ("Warning", 8)


@pytest.mark.parametrize("subresource", ["", "status"])
def test_what_was_deleted_is_not_brought_back_by_a_late_write(stage, ask, subresource):
    ref = reference(stage, OURS["NodeSocketHealth"], stage.node)
    stage.cluster.delete("nodesockethealth", stage.node, wait=True)
    with pytest.raises((ConflictError, NotFoundError)):
        ask(lambda api: api.apply(OURS["NodeSocketHealth"], ref, {"spec": {"watchpoints": []}}, subresource))
    gone = stage.cluster.kubectl("get", "nodesockethealth", stage.node, check=False)
    assert "not found" in gone.stderr


def event_in(stage, name):
    return {
        "metadata": {"name": name},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "c",
        "reportingInstance": "i",
        "action": "a",
        "reason": "r",
        "type": "Normal",
        "regarding": {"kind": "Namespace", "name": stage.namespace, "namespace": stage.namespace},
    }


def test_an_object_that_exists_and_one_that_is_wrong_are_told_apart(stage, ask):
    event = event_in(stage, "twice")
    ask(lambda api: api.create(EVENT, stage.namespace, event))
    with pytest.raises(ConflictError) as again:
        ask(lambda api: api.create(EVENT, stage.namespace, event))
    assert again.value.already_exists
    with pytest.raises(InvalidError):
        ask(lambda api: api.create(EVENT, stage.namespace, event | {"metadata": {"name": "wrong"}, "type": "Loud"}))


def test_what_a_namespace_on_its_way_out_refuses_is_no_error_to_be_told_of(stage, ask, end_namespace):
    end_namespace()
    told = []

    async def create(api):
        api.on_error = told.append
        with pytest.raises(TerminatingError, match="is being terminated"):
            await api.create(EVENT, stage.namespace, event_in(stage, "late"))
        with pytest.raises(NotFoundError):
            await api.get(POD, stage.namespace, "none")

    ask(create)
    assert told == [404]


def test_kinds_that_nobody_serves_are_none(ask):
    assert ask(lambda api: api.served("no.such.example.com/v1")) == []
    assert POD in ask(lambda api: api.served("v1"))


def test_lists_of_metadata_hold_every_page(stage, ask, monkeypatch):
    monkeypatch.setattr("sockethealth_operator.api._PAGE", 2)
    for number in range(5):
        stage.pod(f"pod-{number}")

    async def names(api):
        return [item["metadata"]["name"] async for item in api.list_metadata(POD) if in_stage(item)]

    def in_stage(item):
        return item["metadata"]["namespace"] == stage.namespace

    assert ask(names) == [f"pod-{number}" for number in range(5)]


def test_only_objects_with_our_annotations_are_found(stage, ask):
    stage.deployment("ours", replicas=0)
    stage.deployment("theirs", replicas=0)
    for name, annotation in (("ours", "sockethealth.io/since"), ("theirs", "team")):
        changed = {"metadata": {"annotations": {annotation: "x"}}}
        stage.cluster.merge("deployment", name, changed, namespace=stage.namespace)

    async def found(api):
        found = [raw["metadata"] async for raw in annotated_objects(api, DEPLOYMENT)]
        return [one["name"] for one in found if one["namespace"] == stage.namespace]

    assert ask(found) == ["ours"]


def test_kopf_gets_the_same_credentials(control_plane, ask):
    connection = ask(lambda api: api.connection())
    assert connection.server == control_plane.server
    assert connection.token == control_plane.admin_token
    assert ask(lambda api: api.get(NAMESPACE, "", "default"))["metadata"]["name"] == "default"
