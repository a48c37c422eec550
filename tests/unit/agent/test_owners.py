"""Holders by cgroup and user, where no process lets its descriptors be looked at."""

import pytest

from sockethealth_agent.folding import HeldSocket
from sockethealth_agent.owners import Owner, known_by_cgroup
from sockethealth_agent.reading import Memory, find_holders

APP, LOG = "aa" * 32, "bb" * 32
CONTAINERS = {7: APP, 70: APP, 8: LOG}


@pytest.fixture
def proc(tmp_path):
    """A /proc with processes that show who they are, and whose descriptors are gone."""

    def add(pid, uid, comm):
        entry = tmp_path / str(pid)
        entry.mkdir()
        (entry / "status").write_text(f"Name:\t{comm}\nUid:\t1\t{uid}\t1\t1\n")
        (entry / "comm").write_text(f"{comm}\n")

    add(10, 1234, "java")
    add(11, 0, "sh")
    add(20, 1234, "tail")
    add(21, 1234, "cat")
    return tmp_path


def test_a_process_whose_user_cannot_be_read_may_be_the_holder_so_nobody_is_named(proc):
    (proc / "11" / "status").write_text("Name:\tsh\nUid:\tnobody\n")
    sought = [HeldSocket(1, 1234, 7), HeldSocket(2, 1234, 8)]
    assert known_by_cgroup(sought, CONTAINERS, PIDS, proc) == {1: Owner(0, "", APP), 2: Owner(0, "", LOG)}


PIDS = {10: APP, 11: APP, 20: LOG, 21: LOG, 99: None}


@pytest.mark.parametrize(
    ("sought", "expected"),
    [
        (HeldSocket(1, 1234, 7), {1: Owner(10, "java", APP)}),
        (HeldSocket(1, 1234, 70), {1: Owner(10, "java", APP)}),
        (HeldSocket(1, 0, 7), {1: Owner(11, "sh", APP)}),
        (HeldSocket(1, 5, 7), {1: Owner(0, "", APP)}),
        (HeldSocket(1, 1234, 8), {1: Owner(0, "", LOG)}),
        (HeldSocket(1, 1234, 9), {}),
        (HeldSocket(1, 1234, None), {}),
        (HeldSocket(0, 1234, 7), {}),
    ],
)
def test_the_container_is_named_and_the_process_only_if_one_has_the_user(proc, sought, expected):
    assert known_by_cgroup([sought], CONTAINERS, PIDS, proc) == expected


def test_cgroups_are_read_only_for_sockets_that_no_process_was_found_for(proc):
    (proc / "10" / "fd").mkdir()
    (proc / "10" / "fd" / "3").symlink_to("socket:[1]")
    asked = []

    def containers():
        asked.append(1)
        return CONTAINERS

    def holders(memory, now, *sockets):
        found = find_holders(memory, sockets, PIDS, {APP: "app", LOG: "log"}, now, containers, proc)
        return {inode: (one.container, one.process, one.pid) for inode, one in found.items()}

    memory = Memory()
    held, nobodys = HeldSocket(1, 1234, 7), HeldSocket(2, 1234, 8)
    assert holders(memory, 0.0, held) == {1: ("app", "java", 10)}
    assert not asked
    assert holders(memory, 1.0, held, nobodys) == {1: ("app", "java", 10), 2: ("log", "", 0)}
    assert holders(memory, 2.0, held, nobodys)[2] == ("log", "", 0)
    assert len(asked) == 1
    (proc / "20" / "fd").mkdir()
    (proc / "20" / "fd" / "3").symlink_to("socket:[2]")
    assert holders(memory, 59.0, held, nobodys)[2] == ("log", "", 0)
    assert holders(memory, 61.0, held, nobodys)[2] == ("log", "tail", 20)
