"""The product under churn: for 45 seconds in `make test`, for an hour with `make soak MINUTES=60`."""

import os
import time

import pytest

from harness.cluster import OwnCluster
from harness.images import REPOSITORY
from harness.plugin import skip_or_fail
from harness.waiting import until
from product_lab import Place
from soak import record
from soak.churn import Churn, Pace
from soak.containers import Containers
from soak.judgement import judge
from soak.leftovers import leftovers
from soak.limits import MEBIBYTE, Limits
from sockethealth_core.metrics import OPERATOR_TRACKED, OPERATOR_TRANSITIONS, SYSCTL_WRITES

MINUTES = float(os.environ.get("SOCKETHEALTH_SOAK_MINUTES") or 0)
FOLDER = REPOSITORY / "dist" / "soak"
AFTERWARDS_SECONDS = 120

IS_LONG = MINUTES > 0
RUN_SECONDS = MINUTES * 60 if IS_LONG else 45.0
STEP_SECONDS = 30.0 if IS_LONG else 12.0
READING_SECONDS = 15.0 if IS_LONG else 3.0
WARM_UP_SECONDS = RUN_SECONDS / 6 if IS_LONG else 24.0
RECORDED = ("anonymous_bytes", "open_files", "threads", "log_lines", "log_bytes")
# In less than a minute a file left open for each pod would be twenty.
LIMITS = Limits(1 * MEBIBYTE) if IS_LONG else Limits(4 * MEBIBYTE, open_files_rise=8)

pytestmark = [pytest.mark.node, pytest.mark.timeout(RUN_SECONDS + AFTERWARDS_SECONDS + 300)]


@pytest.fixture(scope="module")
def journal(product):
    """The product with its sysctl writer; the folder of what that found."""
    if not isinstance(product.cluster, OwnCluster):
        skip_or_fail("A node on this machine is missing, whose processes and log files can be read.")
    return product.ensure_with_writer()


@pytest.fixture
def place(product, journal):
    place = Place(product, "test-soak")
    yield place
    place.cluster.kubectl("delete", "sysctlprofiles", "--all", check=False)
    place.delete()


def test_nothing_grows_or_fails_or_is_left_while_pods_come_and_go(product, place, journal, record_property):
    churn = Churn(place)
    containers = Containers(product.cluster, product.namespace)
    readings = []
    step, reading = Pace(STEP_SECONDS), Pace(READING_SECONDS)
    end = time.monotonic() + RUN_SECONDS
    try:
        while time.monotonic() < end:
            if step.is_due():
                churn.step()
            if reading.is_due():
                churn.look()
                readings += containers.read()
            time.sleep(max(0.0, min(step.due, reading.due, end) - time.monotonic()))
        stopped = time.monotonic()
        churn.stop()
        until(
            lambda: leftovers(place, journal) == [],
            "everything that churned to be gone",
            seconds=AFTERWARDS_SECONDS,
            poll_seconds=2,
            explain=lambda: "\n".join([*leftovers(place, journal), *containers.warnings()]),
        )
        record_property("leftovers_gone_seconds", round(time.monotonic() - stopped, 1))
        last = containers.read()
        readings += last
    finally:
        record.write_readings(FOLDER, readings, containers.warnings())
    verdicts = judge(readings, LIMITS.of, WARM_UP_SECONDS)
    record.write_verdicts(FOLDER, verdicts)
    record_property("pods_seen", churn.pods_seen)
    for one in verdicts:
        if one.figure in RECORDED:
            record_property(f"{one.container} {one.figure}", [one.start, one.end, one.most, round(one.per_hour, 1)])
    faults = [fault for one in verdicts for fault in one.faults]
    assert faults == [], "\n".join([*faults, *containers.warnings()])

    objects = product.cluster.get("sockethealths,nodesockethealths", "-A")["items"]
    assert max(one.figures.get(OPERATOR_TRACKED.name, 0) for one in last) == len(objects)
    # There was something to be quiet about.
    assert churn.pods_seen > RUN_SECONDS / STEP_SECONDS * 2
    for change in ("Raised", "Cleared"):
        assert counted(last, OPERATOR_TRANSITIONS, type="CloseWaitLeak", change=change) > 0
    for result in ("applied", "restored"):
        assert counted(last, SYSCTL_WRITES, result=result) > 0


def counted(readings, series, **labels):
    """The sum of a counter's samples with these labels, over all containers."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(
        value
        for reading in readings
        for name, value in reading.figures.items()
        if name.partition("{")[0] == series.name and all(one in name for one in wanted)
    )
