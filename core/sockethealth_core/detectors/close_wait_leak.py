"""CloseWaitLeak: an application does not close connections that its peers have closed."""

from sockethealth_core.detectors.base import (
    Advice,
    AnyFacts,
    DefaultRule,
    Detector,
    Parameters,
    Reading,
    Subject,
    describe,
)
from sockethealth_core.resources import Facts, Target
from sockethealth_core.units import format_count, format_duration, parse_duration

MIN_AGE = "60s"


def measure(facts: AnyFacts, parameters: Parameters) -> Reading | None:
    """CLOSE_WAIT sockets at least ``minAge`` old.

    The agent counts by the ages that policies ask for. Until it has learned of a new age, the next higher one
    it counts is used: that can only be too few, never a false alarm.
    """
    if not isinstance(facts, Facts):
        return None
    min_age = parse_duration(parameters.get("minAge", MIN_AGE))
    state = facts.close_wait
    if min_age <= 0:
        count = facts.sockets.close_wait
    else:
        known = [age for age in state.ages if age.older_than_seconds >= min_age]
        count = min(known, key=lambda age: age.older_than_seconds).count if known else 0
    peer = state.peers[0] if state.peers else None
    evidence = {
        "closeWait": str(facts.sockets.close_wait),
        "minAgeSeconds": f"{min_age:g}",
        "oldestSeconds": f"{state.oldest_seconds:.0f}",
        "receiveQueueBytes": str(state.receive_queue_bytes),
    }
    if state.owners:
        holder = {"process": state.owners[0].process, "container": state.owners[0].container}
        evidence |= {name: value for name, value in holder.items() if value}
    return Reading(count, Target(address=peer.address, port=peer.port) if peer else None, evidence)


def advise(subject: Subject, facts: AnyFacts, reading: Reading) -> Advice:
    """Name process, container, peer and age, and say that only the code can fix it."""
    state = facts.close_wait if isinstance(facts, Facts) else None
    holder = "its application"
    if state and state.owners:
        owner = state.owners[0]
        where = f" in container {owner.container}" if owner.container else ""
        # Without the process, as where the kernel does not let it be looked at, the container is known all the same.
        holder = f"process {owner.process} (pid {owner.pid}){where}" if owner.process else f"a process{where}"
    oldest = f"; the oldest is {format_duration(state.oldest_seconds)} old" if state and state.oldest_seconds else ""
    unread = (
        f", {format_count(state.receive_queue_bytes)} bytes were never read"
        if state and state.receive_queue_bytes
        else ""
    )
    peer = f" ({describe(reading.target)} closed most of them)" if reading.target else ""
    age = format_duration(float(reading.evidence.get("minAgeSeconds", "60")))
    return Advice(
        f"{subject} holds {format_count(reading.value)} CLOSE_WAIT sockets older than {age}: the peer has closed"
        f"{peer}, {holder} has not called close(){oldest}{unread}.",
        f"Fix the code of {holder}: close connections in finally or a context manager, read until end of file, and "
        "keep a pool's idle limit below the server's keep-alive time. A restart frees the sockets for a while. "
        "No timer of the kernel ends CLOSE_WAIT, and no sysctl does.",
    )


DETECTOR = Detector(
    name="CloseWaitLeak",
    summary="An application does not close connections that its peers have closed.",
    unit="CLOSE_WAIT sockets older than parameters.minAge",
    scope="pod",
    defaults=(
        DefaultRule("close-wait-warning", 50, 10, "2m", "Warning"),
        DefaultRule("close-wait-critical", 1000, 500, "2m", "Critical"),
    ),
    measure=measure,
    advise=advise,
    parameters={"minAge": MIN_AGE},
)
