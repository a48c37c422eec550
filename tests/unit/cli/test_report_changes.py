"""What a report says has changed."""

from dataclasses import replace

from msgspec.structs import replace as with_fields

from sockethealth_cli.report import changes
from sockethealth_cli.report.timeline import Series
from unit.cli.builders import NOW, exhausted, quiet
from unit.cli.report_builders import of, running_out, sampled

TIMES = (0.0, 10.0, 20.0, 30.0)


def series(*values, label="TIME_WAIT", unit="sockets"):
    return Series(f"test.{label}", label, unit, values)


def of_series(*several, began=20.0):
    return [(one.what, one.before, one.after, one.factor) for one in changes.of_series(TIMES, several, began)]


def test_the_largest_factor_comes_first_and_what_stays_is_left_out():
    grown = series(100, 100, 150, 200, label="ESTABLISHED")
    more = series(10, 10, 500, 1000, label="TIME_WAIT")
    same = series(50, 50, 50, 51, label="CLOSE_WAIT")
    assert of_series(grown, more, same) == [("TIME_WAIT", "10", "1,000", 100.0), ("ESTABLISHED", "100", "200", 2.0)]


def test_what_fell_is_a_change_too():
    assert of_series(series(400, 400, 0, 0)) == [("TIME_WAIT", "400", "0", None)]


def test_one_look_at_nothing_is_no_fall_and_one_peak_is_a_rise():
    times = tuple(float(second) for second in range(8))
    rates = Series("a", "opened", "per second", (20.0, 20.0, 20.0, 20.0, 20.0, 0.0, 20.0, 20.0))
    peaks = Series("b", "drops", "per second", (0.0, 0.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0))
    assert [(one.what, one.after) for one in changes.of_series(times, (rates, peaks), 4.0)] == [("Drops", "9/s")]


def test_a_spike_in_the_calm_is_not_what_was_usual():
    assert changes.of_series((0.0, 1.0, 2.0, 3.0), [series(10, 900, 10, 1000)], 3.0)[0].before == "10"


def test_a_few_sockets_are_no_change():
    assert of_series(series(0, 0, 2, 4)) == []


def test_values_that_are_not_known_are_not_taken_for_zero():
    assert of_series(series(None, 300, None, 300), series(None, None, 9, 9)) == []


def test_rates_and_percent_say_what_they_count():
    drops = series(0, 0, 3, 3, label="drops", unit="per second")
    ports = series(10, 10, 95, 95, label="worst destination", unit="percent")
    assert of_series(drops, ports) == [
        ("Worst destination", "10%", "95%", 9.5),
        ("Drops", "0/s", "3/s", None),
    ]


def test_a_destination_a_process_and_a_sysctl_that_appear_are_named_with_their_time():
    calm, trouble = sampled([quiet()] * 3), sampled([exhausted()] * 3)
    ranged = with_fields(exhausted(), ephemeral_ports=with_fields(exhausted().ephemeral_ports, low=40000, high=41000))
    samples = [
        *(replace(one, processes=("nginx (1)",)) for one in calm),
        *(
            replace(
                one,
                at=one.at + 30,
                processes=("nginx (1)", "curl (9)"),
                facts=with_fields(ranged, sysctls={"a.b": "1"}),
            )
            for one in trouble
        ),
    ]
    found = {one.what: one for one in changes.of_samples(samples, (), NOW + 30)}
    assert found["Sysctl net.ipv4.ip_local_port_range"].before == "32768 60999"
    assert found["Sysctl net.ipv4.ip_local_port_range"].after == "40000 41000"
    assert found["Sysctl a.b"].before == "the kernel's default"
    assert found["Process curl (9)"].after == "there"
    assert found["Destination 10.0.0.9:6379"].before == "not there"
    assert {one.at for one in found.values()} == {NOW + 30}
    assert "Process nginx (1)" not in found


def test_what_went_away_is_gone_and_a_list_of_many_is_cut():
    many = [f"worker ({pid})" for pid in range(40)]
    samples = sampled([quiet()] * 2)
    samples = [replace(samples[0], processes=tuple(many)), replace(samples[1], processes=())]
    found = changes.of_samples(samples, (), None)
    assert len(found) <= changes.MOST_CHANGES
    assert {one.after for one in found} == {"gone"}


def test_an_incident_compares_the_calm_with_what_came_after():
    made = running_out()
    found = {one.what: (one.before, one.after) for one in made.changes}
    assert found["TIME_WAIT, outbound"] == ("0", "26,000")
    assert found["Destination 10.0.0.9:6379"] == ("not there", "there")


def test_without_change_there_is_none():
    assert of([quiet()] * 6).changes == ()
