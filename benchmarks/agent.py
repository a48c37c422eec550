"""The agent's process as far as sampling goes, for a benchmark to watch from outside: sweeps on request.

Loads all that the agent's own command loads, so that its memory is the agent's. Reads one JSON command a line and
answers each with one line, {"cpu": seconds of CPU time a sweep took}.
"""

import json
import sys
import time
from pathlib import Path

from benchmarks.inhabitant import die_with
from benchmarks.node import pod_of
from sockethealth_agent import main as agent_command
from sockethealth_agent.metrics import Metrics
from sockethealth_agent.sampler import Sampler


def main() -> None:
    """Arguments: the parent's pid, the node's /proc, its ns/net file, and how much faster than real the clock goes."""
    die_with(int(sys.argv[1]))
    pace = float(sys.argv[4])
    sampler = Sampler(proc=Path(sys.argv[2]), host_netns=sys.argv[3], clock=lambda: time.monotonic() * pace)
    metrics = Metrics("benchmark", agent_command.__name__)
    for line in sys.stdin:
        pods = {uid: pod_of(uid) for uid in json.loads(line)}
        began = time.process_time()
        sweep = sampler.sweep(pods)
        metrics.swept(sweep)
        took = time.process_time() - began
        sys.stdout.write(
            json.dumps({"cpu": took, "dumps": sweep.dumps, "failed": len(sweep.failed), "pods": len(sweep.pods)}) + "\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
