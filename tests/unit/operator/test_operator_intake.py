"""From watch events to keys, whatever the API server sends, and how kopf is kept quiet."""

import logging

import pytest
from prometheus_client import REGISTRY

from sockethealth_operator import handlers
from sockethealth_operator.expiring import Once
from sockethealth_operator.intake import Intake
from sockethealth_operator.metrics import Metrics
from sockethealth_operator.objects import OURS, SERVICE, WATCHED, Key
from sockethealth_operator.targets import Targets
from sockethealth_operator.workqueue import WorkQueue
from sockethealth_operator.world import World

NOW = 1_800_000_000.0


class Parts:
    def __init__(self):
        self.world, self.targets, self.metrics = World(), Targets(), Metrics()
        self.queue = WorkQueue(lambda: 0.0)
        self.intake = Intake(self.world, self.targets, self.queue, self.metrics, lambda: NOW)


@pytest.fixture
def parts():
    return Parts()


def raw(kind="SocketHealth", uid="u1", **fields):
    metadata = {"name": "web-1", "namespace": "shop", "uid": uid, "resourceVersion": "5"}
    if not OURS.get(kind, SERVICE).namespaced:
        del metadata["namespace"]
    return {"apiVersion": "sockethealth.io/v1alpha1", "kind": kind, "metadata": metadata, **fields}


def test_everything_watched_is_taken_in(parts):
    rules = {"rules": [{"name": "r", "detector": "CloseWaitLeak"}]}
    for resource in WATCHED:
        document = raw(resource.kind, spec=rules if "Policy" in resource.kind else {})
        parts.intake.event(resource, "ADDED", document)
        assert len(parts.intake.seen(resource)) == 1, resource
        parts.intake.event(resource, "DELETED", document)
        assert parts.intake.seen(resource) == {}, resource


def test_an_unreadable_object_is_counted_and_said_once(parts, caplog):
    broken = raw(status={"sockets": "none"})
    for _ in range(3):
        parts.intake.event(OURS["SocketHealth"], "MODIFIED", broken)
    samples = parts.metrics.registry.get_sample_value
    assert samples("sockethealth_operator_unreadable_objects_total", {"kind": "SocketHealth"}) == 3
    assert [record.getMessage() for record in caplog.records if "web-1" in record.getMessage()] == [
        "SocketHealth shop/web-1: Expected `object`, got `str` - at `$.status.sockets`. It is skipped until it changes."
    ]
    assert len(parts.queue) == 0
    assert REGISTRY.get_sample_value("sockethealth_operator_unreadable_objects_total") is None


def test_an_object_on_which_the_operator_fails_does_not_end_the_watch(parts, caplog, monkeypatch):
    def fail(raw, now):
        raise ZeroDivisionError(raw["metadata"]["name"])

    monkeypatch.setattr(parts.world, "observe_socket_health", fail)
    for _ in range(3):
        parts.intake.event(OURS["SocketHealth"], "MODIFIED", raw())
    errors = parts.metrics.registry.get_sample_value(
        "sockethealth_operator_handler_errors_total", {"kind": "SocketHealth"}
    )
    assert errors == 3
    assert len([record for record in caplog.records if "web-1 is skipped" in record.getMessage()]) == 1


def test_a_late_deletion_of_a_predecessor_changes_nothing(parts):
    parts.intake.event(OURS["SocketHealth"], "ADDED", raw(uid="new"))
    parts.intake.event(OURS["SocketHealth"], "DELETED", raw(uid="old"))
    assert Key("SocketHealth", "shop", "web-1") in parts.world.tracked


def test_an_object_that_is_listed_a_second_time_asks_for_a_comparison(parts):
    parts.intake.event(OURS["SocketHealth"], None, raw())
    assert not parts.intake.listed_again.is_set()
    parts.intake.event(OURS["SocketHealth"], "MODIFIED", raw())
    assert not parts.intake.listed_again.is_set()
    parts.intake.event(OURS["SocketHealth"], None, raw())
    assert parts.intake.listed_again.is_set()


def test_it_is_behind_until_every_known_object_was_seen_in_the_version_that_is_listed(parts):
    health = OURS["SocketHealth"]
    key, unknown = Key("SocketHealth", "shop", "web-1"), Key("SocketHealth", "shop", "new")
    parts.intake.event(health, "ADDED", raw())
    assert not parts.intake.behind(health, {key: 5, unknown: 9})
    assert parts.intake.behind(health, {key: 7})
    newer = raw()
    newer["metadata"]["resourceVersion"] = "8"
    parts.intake.event(health, "MODIFIED", newer)
    assert not parts.intake.behind(health, {key: 7})
    parts.intake.event(health, "DELETED", newer)
    assert not parts.intake.behind(health, {key: 9})


def test_starting_over_opens_the_queue_for_all_that_is_known(parts):
    parts.queue.close()
    parts.intake.event(OURS["SocketHealth"], "ADDED", raw())
    assert len(parts.queue) == 0, "who stands by has nothing to do"
    parts.intake.start_over()
    assert len(parts.queue) == 1


def record(message, name="kopf._cogs.clients.api"):
    return logging.LogRecord(name, logging.ERROR, __file__, 1, message, None, None)


def test_kopf_says_nothing_of_an_absent_server_and_each_other_failure_once():
    quiet = handlers.QuietKopf(Once(lambda: 0.0))
    away = "Request attempt #{}/9 failed; will retry: GET https://s/api/v1/nodes?watch=true -> ClientConnectorError(x)"
    refused = "Request attempt #{} failed; will retry: GET https://s/api/v1/{}?limit=5 -> APIForbiddenError('no')"
    assert not any(quiet.filter(record(away.format(n))) for n in range(3))
    assert [quiet.filter(record(refused.format(n, "nodes"))) for n in range(3)] == [True, False, False]
    assert quiet.filter(record(refused.format(1, "services")))
    assert quiet.filter(record("Something else"))
    assert not quiet.filter(record("Watcher for nodes.v1@None has failed: 404", "kopf._core.reactor.orchestration"))
    assert quiet.filter(record(away.format(1), name="sockethealth_operator.api"))


def test_kopf_writes_nothing_and_never_gives_up():
    settings = handlers.settings()
    assert not settings.posting.enabled
    pauses = iter(settings.networking.error_backoffs)
    assert sum(next(pauses) for _ in range(1000)) > 3600
