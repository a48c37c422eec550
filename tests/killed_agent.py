"""The node agent in children that kill themselves (SIGKILL) at a chosen moment.

Reads one JSON request a line: `phase`, a name of PHASES or null, and the `arguments` of ``sockethealth-agent``. Answers
each, once its child has ended, with the child's wait status. Imports once and forks, so that an agent costs no start of
Python; everything in the child is the program's own but the one function that kills it.
"""

import functools
import gc
import importlib
import json
import os
import signal
import sys
from ctypes import CDLL
from typing import Any

from sockethealth_agent import main as agent

PHASES: dict[str, tuple[str, str, str, str]] = {
    "discovery": ("sockethealth_agent.procfs", "read_cgroup", "after", ""),
    "entering a namespace": ("pyroute2.netns", "setns", "after", ""),
    "a dump is asked for": ("sockethealth_agent.netns", "open_diag_socket", "after", ""),
    "amid a dump": ("sockethealth_agent.inet_diag", "dump", "amid", ""),
    "fold": ("sockethealth_agent.folding:ConversationFold", "add", "after", ""),
    "owner lookup": ("sockethealth_agent.procfs", "read_comm", "before", ""),
    "a report is to be made": ("sockethealth_agent.kubeapi:KubeApi", "apply", "before", "/sockethealths/web"),
    "a report is made, without facts": ("sockethealth_agent.kubeapi:KubeApi", "apply", "after", "/sockethealths/web"),
    "facts are to be written": ("sockethealth_agent.kubeapi:KubeApi", "apply", "before", "/sockethealths/web/status"),
    "facts are written": ("sockethealth_agent.kubeapi:KubeApi", "apply", "after", "/sockethealths/web/status"),
    "heartbeat is to be written": ("sockethealth_agent.kubeapi:KubeApi", "apply", "before", "NODE/status"),
    "heartbeat is written": ("sockethealth_agent.kubeapi:KubeApi", "apply", "after", "NODE/status"),
}
"""Where a function is, its name, whether to be killed before, after or amid its work, and the end of the URL meant."""


def deadly(place: str, name: str, moment: str, path: str) -> None:
    """Have a function kill its process."""
    module, _, member = place.partition(":")
    owner = importlib.import_module(module)
    owner = getattr(owner, member) if member else owner
    function = getattr(owner, name)

    @functools.wraps(function)
    def killing(*arguments: Any, **more: Any) -> Any:
        if path and not arguments[1].endswith(path):
            return function(*arguments, **more)
        if moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = function(*arguments, **more)
        if moment == "amid":
            next(found)
        os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(owner, name, killing)


def main() -> None:
    """Answer until the input ends."""
    libc = CDLL(None)
    libc.prctl(1, signal.SIGKILL)
    # A collection in a child would touch, and so copy, everything that was loaded here.
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            libc.prctl(1, signal.SIGKILL)
            signal.alarm(120)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)
            if request["phase"] is not None:
                place, name, moment, path = PHASES[request["phase"]]
                deadly(place, name, moment, path.replace("NODE", request["node"]))
            agent.command(request["arguments"])
        sys.stdout.write(f"{os.waitpid(child, 0)[1]}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
