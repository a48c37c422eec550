"""The capacity model, held against a simulation of ports taken and given back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockethealth_core.capacity import (
    Expiry,
    PortRange,
    hold_seconds,
    parse_port_list,
    port_range,
    seconds_to_exhaustion,
)


def test_the_default_range_carries_470_connections_a_second():
    default = port_range(32768, 60999, "", [])
    assert default.usable == 28232
    assert int(default.sustainable_rate) == 470


def test_reserved_and_listening_ports_in_the_range_are_not_usable_and_count_once():
    taken = port_range(40000, 40099, "30000-40009,40050", [40005, 40060, 8080])
    assert (taken.reserved, taken.listening, taken.usable) == (11, 1, 88)


@pytest.mark.parametrize("text", ["x", "1-", "9-3", "70000", "1,,x"])
def test_a_port_list_that_is_none_is_refused_with_the_item_named(text):
    with pytest.raises(ValueError, match="port"):
        parse_port_list(text)


def test_a_port_list_reads_as_the_kernel_prints_it():
    assert parse_port_list("8080,9148-9150\n") == ((8080, 8080), (9148, 9150))
    assert parse_port_list("\n") == ()


def test_a_rate_below_the_sustainable_one_never_exhausts():
    steady = [Expiry(float(second), 100) for second in range(1, 61)]
    assert seconds_to_exhaustion(28232, 6000, 100.0, steady) is None


def test_a_fresh_burst_runs_out_when_the_rest_of_the_ports_is_taken():
    assert seconds_to_exhaustion(28232, 8232, 1000.0, [Expiry(60.0, 8232)]) == pytest.approx(20000 / (1000 - 8232 / 60))


def test_all_ports_taken_is_now_and_no_closes_is_never():
    assert seconds_to_exhaustion(100, 100, 5.0, []) == 0
    assert seconds_to_exhaustion(100, 99, 0.0, []) is None


@given(
    usable=st.integers(50, 3000),
    open_=st.integers(0, 40),
    rate=st.integers(1, 200),
    ages=st.lists(st.integers(0, 60), min_size=60, max_size=60),
)
def test_the_projection_agrees_with_a_simulation_second_by_second(usable, open_, rate, ages):
    used = open_ + sum(ages)
    expiries = [Expiry(float(second + 1), count) for second, count in enumerate(ages)]
    predicted = seconds_to_exhaustion(usable, used, float(rate), expiries)
    held, simulated = used, None
    for second in range(60):
        if held >= usable:
            simulated = second
            break
        held += rate - ages[second]
    else:
        simulated = 60 if held >= usable else None
    if simulated is None:
        assert predicted is None
    else:
        assert predicted is not None
        assert simulated - 1 <= predicted <= simulated


def test_a_range_never_has_less_than_one_port():
    assert PortRange(5, 4).usable == 1


@pytest.mark.parametrize(
    ("sysctls", "address", "seconds"),
    [
        ({}, "10.0.0.1", 60),
        ({}, "127.0.0.1", 1),
        ({}, "::1", 1),
        ({"tcp_tw_reuse": "1"}, "10.0.0.1", 1),
        ({"tcp_tw_reuse": "1", "tcp_tw_reuse_delay": "5000"}, "fd00::1", 5),
        ({"tcp_tw_reuse": "1", "tcp_timestamps": "0"}, "10.0.0.1", 60),
        ({"tcp_tw_reuse": "0"}, "127.0.0.1", 60),
    ],
)
def test_a_port_is_held_for_60_seconds_unless_reuse_is_in_force_for_the_destination(sysctls, address, seconds):
    assert hold_seconds({f"net.ipv4.{name}": value for name, value in sysctls.items()}, address) == seconds


def test_with_reuse_the_same_rate_lasts_60_times_as_long():
    assert seconds_to_exhaustion(28232, 1000, 1000.0, [Expiry(1.0, 1000)], horizon_seconds=1.0) is None
    assert seconds_to_exhaustion(28232, 1000, 1000.0, [Expiry(60.0, 1000)]) is not None
