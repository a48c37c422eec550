"""The Debian packages that a node, and tests with Prometheus, need; installed when missing."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.errors import HarnessError
from harness.processes import run
from harness.progress import step
from harness.state import cache_dir

NODE = (
    "ca-certificates",
    "containerd",
    "runc",
    "containernetworking-plugins",
    "iptables",
    "conntrack",
    "iproute2",
    "buildah",
    "mmdebstrap",
)
MONITORING = ("prometheus", "prometheus-alertmanager")
"""Prometheus with promtool, and Alertmanager; what they depend on are libraries of their pages."""
BROWSER = ("chromium", "fonts-dejavu-core")
"""A browser for pages that people look at, and letters for it."""
_POLICY = Path("/usr/sbin/policy-rc.d")


def absent(wanted: Sequence[str] = NODE) -> list[str]:
    """Those of the packages that are not installed, in order."""
    if not shutil.which("dpkg-query"):
        return list(wanted)
    shown = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *wanted],
        capture_output=True,
        text=True,
        check=False,  # it fails when one of them is unknown, and still shows the others
    )
    installed = {line.split()[0] for line in shown.stdout.splitlines() if line.endswith(" installed")}
    return [name for name in wanted if name not in installed]


def missing_sentence(wanted: Sequence[str] = NODE) -> str | None:
    """Why the packages cannot be had here; None if they are installed or can be."""
    lacking = absent(wanted)
    if not lacking or (shutil.which("apt-get") and os.geteuid() == 0):
        return None
    return f"apt (Debian) and root are missing, to install {', '.join(lacking)}."


@contextmanager
def _no_daemons_started() -> Iterator[None]:
    """Forbid maintainer scripts to start services meanwhile, the way invoke-rc.d(8) documents it."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()


@contextmanager
def _locked() -> Iterator[None]:
    """One installation at a time: apt takes no second one, and the lanes of a test run want packages at once."""
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ensure(wanted: Sequence[str] = NODE) -> None:
    """Install what is missing, without recommended packages and without starting a daemon.

    Raises:
        HarnessError: This is no Debian, not root, or apt failed.
    """
    if not absent(wanted):
        return
    with _locked():
        _install(absent(wanted))


def _install(lacking: list[str]) -> None:
    if not lacking:
        return
    sentence = missing_sentence(lacking)
    if sentence:
        raise HarnessError(sentence)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with step(f"installing {', '.join(lacking)}", takes="up to a minute"), _no_daemons_started():
        run(["apt-get", "update", "-qq"], "Reading the package lists", env=environment)
        run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *lacking],
            "Installing packages",
            env=environment,
        )
