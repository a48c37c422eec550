"""/proc/PID/cgroup: which pod and container a process belongs to."""

import re

from sockethealth_agent.discovery import pod_of_cgroup

_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")
_CONTAINER = re.compile(r"[0-9a-f]{64}")


def run(data: bytes) -> None:
    """Find the pod in a file, which names whatever a container's runtime chose.

    May raise nothing.

    Raises:
        AssertionError: what was found is neither a pod's UID nor a container's id, or does not stand in the file.
    """
    text = data.decode(errors="replace")
    found = pod_of_cgroup(text)
    if found is None:
        return
    assert _UID.fullmatch(found.uid), found
    assert found.uid in text.replace("_", "-"), found
    if found.container_id is not None:
        assert _CONTAINER.fullmatch(found.container_id), found
        assert found.container_id in text, found
