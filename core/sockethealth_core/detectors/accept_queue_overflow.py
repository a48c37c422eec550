"""AcceptQueueOverflow: connections are dropped because nobody calls accept() in time."""

from sockethealth_core.detectors.base import (
    Advice,
    AnyFacts,
    DefaultRule,
    Detector,
    Parameters,
    Reading,
    Subject,
    describe,
    per_second,
)
from sockethealth_core.resources import Facts, Listener, Target


def measure(facts: AnyFacts, parameters: Parameters) -> Reading | None:  # noqa: ARG001 (the detector's signature)
    """ListenOverflows per second (net/ipv4/tcp_ipv4.c, ``tcp_v4_syn_recv_sock``; TcpExt in /proc/net/netstat)."""
    if not isinstance(facts, Facts):
        return None
    evidence = {"listenDropsPerSecond": f"{facts.rates.listen_drops:.2f}"}
    worst = _fullest(facts)
    if worst is None:
        return Reading(facts.rates.listen_overflows, evidence=evidence)
    evidence |= {"queue": str(worst.queue), "backlog": str(worst.backlog), "process": worst.process}
    return Reading(facts.rates.listen_overflows, Target(address=worst.address, port=worst.port), evidence)


def _fullest(facts: Facts) -> Listener | None:
    return max(facts.listeners, key=lambda one: one.queue / max(one.backlog, 1), default=None)


def advise(subject: Subject, facts: AnyFacts, reading: Reading) -> Advice:
    """Name the listener, its queue and limit, and both settings, as the lower one wins."""
    worst = _fullest(facts) if isinstance(facts, Facts) else None
    where, process = "a full accept queue", "the server"
    if worst is not None:
        process = f"process {worst.process}" if worst.process else "the server"
        where = f"the accept queue of {describe(reading.target)} ({worst.queue} waiting, backlog {worst.backlog})"
    return Advice(
        f"{subject} drops {per_second(reading.value, 'connections')} at {where}: {process} does not call accept() fast "
        "enough. Clients see slow or timed-out connects.",
        f"Look what holds {process} up: CPU limit, a blocked event loop, too few workers. For bursts raise "
        "listen(backlog) and net.core.somaxconn together, as the lower one wins, and restart the server: a socket "
        "keeps its limit until listen() is called again. More replicas share the load.",
    )


DETECTOR = Detector(
    name="AcceptQueueOverflow",
    summary="A server does not accept connections as fast as they come.",
    unit="connections dropped at accept queues per second",
    scope="pod",
    defaults=(DefaultRule("accept-queue-overflow", 0.1, 0.01, "30s", "Critical"),),
    measure=measure,
    advise=advise,
)
