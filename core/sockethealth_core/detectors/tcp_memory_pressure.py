"""TcpMemoryPressure: the TCP buffers of a node near the mark at which the kernel shrinks them."""

from sockethealth_core.detectors.base import Advice, AnyFacts, DefaultRule, Detector, Parameters, Reading, Subject
from sockethealth_core.resources import NodeFacts
from sockethealth_core.units import format_count


def measure(facts: AnyFacts, parameters: Parameters) -> Reading | None:  # noqa: ARG001 (the detector's signature)
    """tcp_mem pages in use as percent of the pressure mark (net/ipv4/tcp.c, ``tcp_enter_memory_pressure``)."""
    if not isinstance(facts, NodeFacts) or facts.tcp_memory is None or facts.tcp_memory.pressure <= 0:
        return None
    memory = facts.tcp_memory
    evidence = {"pages": str(memory.pages), "pressure": str(memory.pressure), "high": str(memory.high)}
    return Reading(100 * memory.pages / memory.pressure, evidence=evidence)


def advise(subject: Subject, facts: AnyFacts, reading: Reading) -> Advice:  # noqa: ARG001 (the detector's signature)
    """Say what the kernel does next, and how to find who holds the memory."""
    pages, pressure, high = (format_count(float(reading.evidence.get(k, "0"))) for k in ("pages", "pressure", "high"))
    return Advice(
        f"{subject} has {pages} pages of TCP buffers in use, {reading.value:.0f}% of the pressure mark ({pressure}); "
        f"above it windows shrink, and at {high} connections are reset (TCPAbortOnMemory).",
        "Find who holds it: `ss -tm` and large Recv-Q or Send-Q, mostly an application that does not read, or "
        "thousands of idle connections with full buffers. Then give the node more memory or fewer such pods; a higher "
        "tcp_mem only moves the limit into other pods' memory.",
    )


DETECTOR = Detector(
    name="TcpMemoryPressure",
    summary="TCP buffers of the node near the kernel's pressure mark.",
    unit="tcp_mem pages in use as percent of the pressure mark",
    scope="node",
    defaults=(DefaultRule("tcp-memory", 90, 80, "1m", "Critical"),),
    measure=measure,
    advise=advise,
)
