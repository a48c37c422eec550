"""The table of series follows Prometheus' conventions, prometheus.io/docs/practices/naming, and its bounds are true."""

import re
from typing import get_args

import pytest

from sockethealth_core.detectors import DETECTORS
from sockethealth_core.metrics import SERIES, Series, exposed_by, of_pods
from sockethealth_core.resources import ProfileNodes, ProfileState, Severity, Sockets

_RESERVED = ("le", "quantile", "job", "instance")
_BASE_UNITS = ("seconds", "ratio", "bytes")
_OTHER_UNITS = re.compile(
    r"_(milliseconds|microseconds|minutes|hours|days|percent|kilobytes|mebibytes|ms|us|ns|kb|mb)(_|$)"
)


def faults(series: Series) -> list[str]:
    """What a series breaks of the conventions."""
    name = series.name
    breaks = {
        "is not lower case words behind our prefix (colons are for recording rules)": not re.fullmatch(
            r"sockethealth(_[a-z][a-z0-9]*)+", name
        ),
        "has _total as a gauge, or lacks it as a counter": name.endswith("_total") != (series.kind == "counter"),
        "has an ending that belongs to histograms": name.endswith(("_count", "_sum", "_bucket", "_created")),
        "names its kind": set(name.split("_")) & {"gauge", "counter", "histogram", "metric"},
        "is not in a base unit": _OTHER_UNITS.search(name),
        "does not end with its unit": series.unit and not name.endswith(f"_{series.unit}"),
        "ends with a unit that the table does not name": not series.unit and name.endswith(_BASE_UNITS),
        "has wrong buckets": bool(series.buckets) != (series.kind == "histogram")
        or list(series.buckets) != sorted(set(series.buckets)),
        "has a help text that is no sentence": not re.fullmatch(r"\S.*\S\.", series.help),
        "has a label that may not be": any(
            not re.fullmatch(r"[a-z][a-z0-9_]*", label) or label in _RESERVED for label in series.labels
        ),
    }
    return [f"{name} {fault}" for fault, broken in breaks.items() if broken]


def test_every_series_follows_the_conventions():
    assert [fault for series in SERIES for fault in faults(series)] == []


@pytest.mark.parametrize(
    ("name", "kind", "unit"),
    [
        ("sockethealth_pod_opens", "counter", ""),
        ("sockethealth_pod_sockets_total", "gauge", ""),
        ("sockethealth_pod_wait_milliseconds", "gauge", ""),
        ("sockethealth_pod_used_percent", "gauge", ""),
        ("sockethealth_pod_wait_seconds", "gauge", ""),
        ("sockethealth_pod:sockets", "gauge", ""),
        ("node_sockets", "gauge", ""),
        ("sockethealth_pod_age", "gauge", "seconds"),
        ("sockethealth_pod_sockets_count", "gauge", ""),
    ],
)
def test_the_check_finds_what_breaks_them(name, kind, unit):
    assert faults(Series(name, kind, "agent", (), "Says something.", "pod", unit=unit))


def test_no_name_is_there_twice_and_every_program_has_series():
    names = [series.name for series in SERIES]
    assert len(names) == len(set(names))
    for program in ("agent", "sysctl writer", "operator"):
        assert len(exposed_by(program)) > 4


def test_kubernetes_usual_labels_come_first_and_are_complete():
    for series in of_pods():
        assert series.labels[:3] == ("namespace", "pod", "node"), series.name
    for series in SERIES:
        if series.program != "operator":
            assert "node" in series.labels, series.name


def test_bounds_are_those_of_what_is_counted():
    most = {series.name: series.most for series in SERIES}
    assert most["sockethealth_pod_sockets"] == most["sockethealth_node_sockets"] == len(Sockets.__struct_fields__)
    assert most["sockethealth_sysctl_profile_state"] == len(get_args(ProfileState))
    assert most["sockethealth_operator_profile_nodes"] == len(ProfileNodes.__struct_fields__)
    assert most["sockethealth_findings"] == len(DETECTORS) * len(get_args(Severity))
