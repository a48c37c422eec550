import io

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.console import Console

from sockethealth_cli import story
from sockethealth_core.resources import (
    EphemeralPorts,
    Facts,
    NodeSocketHealth,
    NodeSocketHealthStatus,
    ObjectMeta,
    SocketHealth,
    SocketHealthSpec,
    Sockets,
    Target,
)
from sockethealth_core.resources.node import Agent
from sockethealth_core.resources.sockethealth import Listener, Peer, Rates, RuleState
from sockethealth_core.units import format_time
from unit.cli.builders import NOW, closing_first, exhausted, judged, leaking, quiet

HOSTILE = "\x1b[2Jx\u202ey\nz"


def shown(renderable, width: int = 80) -> str:
    file = io.StringIO()
    Console(file=file, width=width, highlight=False, markup=False, emoji=False).print(renderable, crop=False)
    return file.getvalue()


def words(renderable) -> str:
    return " ".join(shown(renderable).split())


def of_cluster(name: str, facts: Facts, **spec) -> SocketHealth:
    item = judged(name, facts)
    return replace(
        item,
        metadata=ObjectMeta(name=name, namespace="shop"),
        spec=SocketHealthSpec(node_name="node-a", **spec),
    )


def with_status(item: SocketHealth, **fields) -> SocketHealth:
    return replace(item, status=replace(item.status, **fields))


def test_a_pod_says_its_health_and_for_how_long():
    assert words(story.of_pod(of_cluster("web", exhausted()), NOW + 750)).startswith(
        "Pod shop/web on node node-a: Critical for 12m30s"
    )


def test_a_destination_has_percent_and_time_left_and_its_name_in_the_cluster():
    item = of_cluster("web", exhausted(used=25_409, seconds=42.0))
    (finding, *others) = item.status.findings
    named = replace(finding, target=Target(address="10.0.0.9", port=6379, name="Service shop/redis"))
    text = words(story.of_pod(with_status(item, findings=[named, *others]), NOW))
    assert "Service shop/redis 25,409 90.0% 25,409 430 42s (10.0.0.9:6379)" in text


def test_ports_that_never_run_out_and_those_that_are_all_taken_are_told_apart():
    assert "430 never" in words(story.of_pod(of_cluster("web", exhausted(seconds=None)), NOW))
    assert "430 all taken" in words(story.of_pod(of_cluster("web", exhausted(seconds=0.0)), NOW))


def test_close_wait_has_age_unread_bytes_owners_and_peers():
    facts = leaking(count=80, comm="java")
    state = replace(facts.close_wait, peers=[Peer(address="fd00::9", port=8080, count=79)], receive_queue_bytes=4096)
    text = words(story.of_pod(of_cluster("web", replace(facts, close_wait=state)), NOW))
    assert "oldest at least 6m40s, 4,096 bytes never read" in text
    assert "80 held by java (pid 4711)" in text
    assert "79 closed by [fd00::9]:8080" in text


def test_a_listener_shows_what_waits_against_what_may_wait():
    listener = Listener(address="::", port=80, queue=129, backlog=128, syn_recv=7, syn_backlog=64, process="nginx")
    facts = replace(quiet(), listeners=[listener])
    assert "[::]:80 129 128 7 64 nginx" in words(story.of_pod(of_cluster("web", facts), NOW))


def test_only_rates_that_are_not_zero_are_told():
    facts = replace(quiet(), rates=Rates(active_opens=12.0, listen_overflows=0.5))
    text = words(story.of_pod(of_cluster("web", facts), NOW))
    assert "12 opened, 0.5 dropped at full accept queues" in text
    assert "sent again" not in text


def test_usable_ports_say_what_they_lack():
    ports = EphemeralPorts(low=40001, high=41000, reserved=10, listening=2, usable=988)
    text = words(story.of_pod(of_cluster("web", replace(quiet(), ephemeral_ports=ports)), NOW))
    assert "40001-41000 less 10 reserved and 2 listening: 988 for each destination" in text


def test_a_rule_whose_for_runs_is_told():
    state = RuleState(
        policy_kind="SocketHealthPolicy", policy="mine", rule="leak", state="Pending", since=format_time(NOW - 30)
    )
    text = words(story.of_pod(with_status(of_cluster("web", quiet()), evaluation=[state]), NOW))
    assert "Rule leak of mine: the condition holds, its `for` runs since 30s ago." in text


def test_a_host_network_pod_says_whose_ports_they_are():
    assert "ports and TIME_WAIT are the node's" in words(
        story.of_pod(of_cluster("web", quiet(), host_network=True), NOW)
    )


def reported(heartbeat: float, interval: float = 60.0) -> NodeSocketHealth:
    agent = Agent(version="1", heartbeat_time=format_time(heartbeat), interval_seconds=interval)
    return NodeSocketHealth(metadata=ObjectMeta(name="node-a"), status=NodeSocketHealthStatus(agent=agent))


def test_an_agent_is_silent_after_three_intervals_and_not_before():
    assert story.silence_of(reported(NOW - 180), NOW) is None
    assert story.silence_of(reported(NOW - 181), NOW) == story.Silence("node-a", format_time(NOW - 181))
    assert story.silence_of(reported(NOW - 200, interval=100), NOW) is None


def test_an_agent_that_never_reported_is_silent_since_ever():
    assert story.silence_of(NodeSocketHealth(metadata=ObjectMeta(name="node-a")), NOW) == story.Silence("node-a", None)


def test_ten_pods_with_one_fault_are_one_block_that_tells_of_the_worst():
    items = [of_cluster(f"web-{number}", leaking(count=60 + number)) for number in range(10)]
    text = words(story.of_workload("Deployment shop/web", items, [], NOW))
    assert text.count("has not called close()") == 1
    assert "web-9 holds 69 CLOSE_WAIT" in text
    assert "10 pods: web-0, web-1, web-2, web-3, web-4 ..." in text


def test_a_workload_of_which_nothing_is_reported_is_unknown():
    text = words(story.of_workload("Deployment shop/web", [], ["web-1"], NOW))
    assert text == "Deployment shop/web: Unknown Without a report: web-1."


HOSTILE_FACTS = Facts(
    sockets=Sockets(close_wait=80),
    close_wait=leaking(comm=HOSTILE).close_wait,
    listeners=[Listener(address=HOSTILE, port=1, process=HOSTILE)],
    sysctls={HOSTILE: HOSTILE},
)


@given(st.sampled_from([quiet(), exhausted(), leaking(), closing_first(), HOSTILE_FACTS]), st.integers(80, 200))
def test_every_story_fits_its_width_and_nothing_steers_the_terminal(facts, width):
    item = with_status(of_cluster("web", facts), observed_time=format_time(NOW))
    node = reported(NOW)
    for one in (
        story.of_namespace(item, NOW),
        story.of_pod(item, NOW, story.Silence(HOSTILE, None)),
        story.of_node(node, None, NOW, None),
    ):
        text = shown(one, width)
        assert max(map(len, text.splitlines())) <= width
        assert all(char.isprintable() or char == "\n" for char in text)
