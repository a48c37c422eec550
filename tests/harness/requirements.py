"""What a machine must have for each kind of test, and a sentence for each part that is missing."""

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from harness import binaries, packages
from harness.cluster import existing_kubeconfig

KINDS = ("kernel", "api", "node")


def _not_linux() -> str | None:
    return None if sys.platform == "linux" else "Linux is missing: this test needs its kernel or programs built for it."


def _not_root(why: str) -> str | None:
    return None if os.geteuid() == 0 else f"root is missing: {why}. Run as root to include this test."


def _no_tool(tool: str, package: str) -> str | None:
    return None if shutil.which(tool) else f"{tool} is missing. On Debian: apt-get install {package}"


def _no_binaries(names: Iterable[str]) -> str | None:
    absent = [name for name in names if binaries.find(name) is None]
    if not absent or shutil.which("go"):
        return None
    return (
        f"Go is missing, and {', '.join(absent)} must be built with it. Install Go (https://go.dev/doc/install),"
        " or point KUBEBUILDER_ASSETS to a directory that has these programs."
    )


def _no_client(name: str) -> str | None:
    return None if binaries.find(name) or shutil.which(name) else f"{name} is missing. Put it on PATH."


def _kernel() -> Iterable[str | None]:
    yield _not_linux()
    yield _not_root("network namespaces are made by root only")
    yield _no_tool("ip", "iproute2")
    yield _no_tool("ss", "iproute2")


def _api() -> Iterable[str | None]:
    yield _not_linux()
    if existing_kubeconfig():
        yield _no_client("kubectl")
        return
    yield _no_tool("openssl", "openssl")
    yield _no_binaries(binaries.CONTROL_PLANE)


def _node() -> Iterable[str | None]:
    yield from _api()
    if existing_kubeconfig():
        yield _no_client("helm")
        if not os.environ.get("SOCKETHEALTH_TEST_IMAGE"):
            yield "SOCKETHEALTH_TEST_IMAGE is missing: name an image that the existing cluster can pull."
        return
    yield _not_root("a kubelet runs as root only")
    yield _no_binaries(binaries.NODE)
    yield packages.missing_sentence()
    if not Path("/sys/fs/cgroup").is_mount() and not any(Path("/sys/fs/cgroup").glob("*/tasks")):
        yield "cgroups are missing: nothing is mounted at /sys/fs/cgroup, and pods need them."


def missing(kind: str) -> str | None:
    """The first thing missing for tests of `kind` (one of KINDS), as a sentence; None if all is there."""
    checks = {"kernel": _kernel, "api": _api, "node": _node}[kind]
    return next((sentence for sentence in checks() if sentence), None)
