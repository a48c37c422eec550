import re
import string

from hypothesis import given
from hypothesis import strategies as st

from sockethealth_cli.naming import dns_name, name_all, natural_name, with_unique_names
from unit.cli.builders import netns, process

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
POD_UID = "0a1b2c3d-1111-2222-3333-444455556666"


def test_a_name_of_ip_netns_comes_before_everything_else():
    found = netns(names=("blue",), host=True, processes=(process(1, "init", pod_uid=POD_UID),))
    assert natural_name(found) == "blue"


def test_the_machines_own_is_called_host_also_when_host_network_pods_run_in_it():
    assert natural_name(netns(host=True, processes=(process(1, "init"), process(9, "x", 5, POD_UID)))) == "host"


def test_a_pods_namespace_is_named_after_its_uid_though_its_pause_process_has_none():
    found = netns(processes=(process(7, "pause", 1), process(8, "nginx", 2, POD_UID)))
    assert natural_name(found) == "pod-0a1b2c3d"
    assert found.pod_uid == POD_UID


def test_a_pod_says_more_than_the_random_name_its_runtime_gave_the_namespace():
    random_name = "cni-9c3f5a1e-0d44-7b21-93aa-0123456789ab"
    assert natural_name(netns(names=(random_name,), processes=(process(8, "nginx", 2, POD_UID),))) == "pod-0a1b2c3d"
    assert natural_name(netns(names=(random_name,))) == random_name


def test_messages_call_it_as_ip_netns_does_and_objects_by_a_valid_name():
    (named,) = name_all([netns(names=("Blue_Net",))])
    assert (named.name, named.called) == ("blue-net", "Blue_Net")


def test_another_is_named_after_its_oldest_process_not_its_lowest_pid():
    found = netns(processes=(process(12, "worker", 900), process(300, "Init_Proc", 20)))
    assert natural_name(found) == "init-proc-300"


def test_one_without_name_and_process_is_named_after_its_inode():
    assert natural_name(netns(4026532001)) == "netns-4026532001"


def test_names_that_collide_are_numbered_and_the_one_that_is_exact_keeps_its_name():
    named = with_unique_names([("Blue_Net", netns(1)), ("blue net", netns(2)), ("blue-net", netns(3))])
    assert [one.name for one in named] == ["blue-net-2", "blue-net-3", "blue-net"]


def test_a_hostile_name_becomes_a_plain_one():
    assert dns_name("\x1b[2J../Ünï") == "2j-n"
    assert dns_name("\x1b\x1b") == "netns"


@given(st.lists(st.text(st.sampled_from(string.ascii_letters + "-_.2\x1b"), max_size=80), max_size=12))
def test_every_name_is_a_dns_label_and_unique(texts):
    names = [one.name for one in with_unique_names([(text, netns(i)) for i, text in enumerate(texts)])]
    assert len(set(names)) == len(texts)
    assert all(DNS_LABEL.fullmatch(name) for name in names)


def test_the_order_of_names_does_not_depend_on_the_order_of_discovery():
    found = [netns(3, names=("b",)), netns(1, names=("a",)), netns(2, host=True)]
    assert name_all(found) == name_all(reversed(found))
    assert [one.name for one in name_all(found)] == ["host", "a", "b"]
