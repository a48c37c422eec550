"""The table of sysctls against the running kernel: scope, bounds, defaults, and how values are read and printed."""

import platform
from pathlib import Path

import pytest

from lab import LabError, netns
from sockethealth_core.sysctls import (
    DEFAULTS_BY_HASH_SIZE,
    HASH_SIZE,
    KERNEL_DEFAULTS,
    PORT_RANGE,
    RESERVED_PORTS,
    SYSCTLS,
    canonical,
    find,
    path_of,
)

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("host_sysctls_stay")]

PER_NETNS = [sysctl for sysctl in SYSCTLS if sysctl.scope == "Netns"]
NODE_WIDE = [sysctl for sysctl in SYSCTLS if sysctl.scope == "Node"]
KERNEL = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])


def by_name(sysctl):
    return sysctl.name


def on_host(name):
    return Path("/proc/sys/net") / path_of(name)


def expect_on_host(sysctl):
    if sysctl.since and tuple(map(int, sysctl.since.split("."))) > KERNEL:
        assert not on_host(sysctl.name).exists(), f"the table says that it came with Linux {sysctl.since}"
        pytest.skip(f"needs Linux {sysctl.since}")
    if sysctl.module and not Path("/proc/sys/net/netfilter/nf_conntrack_count").exists():
        pytest.skip(f"needs the kernel module {sysctl.module}")
    assert on_host(sysctl.name).is_file()


@pytest.fixture(scope="module")
def fresh():
    with netns() as made:
        yield made


@pytest.fixture
def inside(fresh):
    """Reads a sysctl in the fresh namespace."""
    return lambda name: fresh.run("cat", "/proc/sys/" + name.replace(".", "/"))


def values_of(sysctl):
    if sysctl.kind == "PortRange":
        return ["1024 65535", f"{sysctl.low} {sysctl.low + 8191}"]
    if sysctl.kind == "PortList":
        return ["1-65535", "1,8080,30000-32767,65535", ""]
    return [str(sysctl.low), str(sysctl.high)]


@pytest.mark.parametrize("sysctl", PER_NETNS, ids=by_name)
def test_a_namespace_takes_every_value_within_bounds_and_the_host_keeps_its_own(sysctl, fresh, inside):
    expect_on_host(sysctl)
    before, found = on_host(sysctl.name).read_text(), inside(sysctl.name)
    try:
        for value in values_of(sysctl):
            fresh.sysctl(sysctl.name, value + "\n")
            assert canonical(sysctl.name, inside(sysctl.name)) == value
            assert on_host(sysctl.name).read_text() == before
    finally:
        fresh.sysctl(sysctl.name, found)


@pytest.mark.parametrize("sysctl", PER_NETNS, ids=by_name)
def test_a_value_is_printed_as_it_can_be_put_back(sysctl, fresh, inside):
    expect_on_host(sysctl)
    found = inside(sysctl.name)
    fresh.sysctl(sysctl.name, canonical(sysctl.name, found) + "\n")
    assert inside(sysctl.name) == found


def _is_node_wide(name):
    # What is the node's alone may have been set on this machine.
    return (sysctl := find(name)) is not None and sysctl.scope == "Node"


@pytest.mark.parametrize("name", [name for name in KERNEL_DEFAULTS if not _is_node_wide(name)])
def test_a_fresh_namespace_has_the_tables_default(name, inside):
    sysctl = find(name)
    if sysctl is None:
        path = Path("/proc/sys") / name.replace(".", "/")
        assert path.exists() == (name != "net.ipv4.tcp_tw_recycle")
        if path.exists():
            assert inside(name).strip() == KERNEL_DEFAULTS[name]
        return
    expect_on_host(sysctl)
    assert canonical(name, inside(name)) == KERNEL_DEFAULTS[name]


@pytest.mark.parametrize("name", DEFAULTS_BY_HASH_SIZE)
def test_other_defaults_follow_from_the_hash_size(name, inside):
    if KERNEL < (6, 1):
        pytest.skip("needs Linux 6.1, which tells the hash size")
    assert inside(name).strip() == str(DEFAULTS_BY_HASH_SIZE[name](abs(int(inside(HASH_SIZE)))))


@pytest.mark.parametrize("sysctl", NODE_WIDE, ids=by_name)
def test_a_node_wide_sysctl_cannot_be_set_in_a_namespace(sysctl, fresh):
    expect_on_host(sysctl)
    before = on_host(sysctl.name).read_text()
    path = "/proc/sys/net/" + path_of(sysctl.name)
    there = fresh.run("sh", "-c", f"ls -l {path} 2>/dev/null | cut -c1-10; true").strip()
    assert there in ("", "-r--r--r--"), "absent, or read-only for all"
    if not there:
        with pytest.raises(LabError, match=r"nonexistent|No such file"):
            fresh.sysctl(sysctl.name, before)
    assert on_host(sysctl.name).read_text() == before


@pytest.mark.parametrize(
    ("name", "written", "read"),
    [
        ("net.ipv4.tcp_fin_timeout", "010", "8"),
        (PORT_RANGE, "07000 60000", "3584 60000"),
        (RESERVED_PORTS, "0100-0200", "64-128"),
    ],
)
def test_the_kernel_reads_leading_zeros_as_octal_so_no_spelling_has_any(fresh, inside, name, written, read):
    found = inside(name)
    try:
        fresh.sysctl(name, written)
        assert canonical(name, inside(name)) == read
        assert canonical(name, written) != read
        fresh.sysctl(name, canonical(name, written))
        assert canonical(name, inside(name)) == canonical(name, written)
    finally:
        fresh.sysctl(name, found)


def test_a_list_is_merged_as_the_kernel_prints_it(fresh, inside):
    fresh.sysctl(RESERVED_PORTS, "9000,9001,80-90,85-100,30000-32767,7-7")
    try:
        assert inside(RESERVED_PORTS).strip() == canonical(RESERVED_PORTS, "9000, 9001,80-90,85-100,30000-32767,7-7")
    finally:
        fresh.sysctl(RESERVED_PORTS, "\n")
